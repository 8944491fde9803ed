//! Who does the work of listings and upkeep: this process at the store, or the daemon that stands before it.

use super::{
    control::Daemon,
    error::{CommandError, Result},
    session::Session,
    stores::{self, Place},
};
use crate::{
    ops::{self, Context, Reach},
    proto::Method,
};

/// A store to be looked after.
pub(crate) struct Upkeep<'s> {
    session: &'s Session,
    /// What this process knows of it.
    pub(crate) ctx: Context,
    /// The daemon, where the store is one.
    pub(crate) daemon: Option<Daemon>,
}

impl<'s> Upkeep<'s> {
    /// Looks after the repositories that match one of `patterns`; after all without any.
    pub(crate) fn new(
        session: &'s Session,
        mut ctx: Context,
        patterns: &[String],
    ) -> ops::Result<Self> {
        // What is no pattern is said here, whoever does the work.
        ctx.reach = Reach::everything().wanting(patterns)?;
        let daemon = Daemon::of(&ctx);
        Ok(Self {
            session,
            ctx,
            daemon,
        })
    }

    /// The same of the store of the settings: a folder that is not there is a mistake, not an empty store.
    pub(crate) async fn open(session: &'s Session, patterns: &[String]) -> Result<Self> {
        stores::must_be_there(session.store()?)?;
        Ok(Self::new(session, opened(session).await?, patterns)?)
    }

    /// Runs a verb within the budget: the daemon gets the request; without one it is done `here`.
    pub(crate) async fn run<M: Method>(
        &self,
        request: M,
        here: impl AsyncFnOnce(&Context) -> ops::Result<M::Report>,
    ) -> Result<M::Report> {
        let work = async {
            match &self.daemon {
                Some(daemon) => daemon.call(request).await,
                None => Box::pin(here(&self.ctx)).await,
            }
        };
        self.session.within(self.session.budget(None), work).await
    }
}

/// The daemon of the settings, for what only a daemon does.
pub(crate) async fn daemon(session: &Session, what: &str) -> Result<Daemon> {
    if stores::place(session.store()?)? != Place::Daemon {
        let shown = session.store_shown();
        return Err(CommandError::usage(format!(
            "{what} is for a daemon, and the store is {shown}"
        ))
        .hint("name one with --daemon or CACHECTL_DAEMON"));
    }
    Daemon::of(&opened(session).await?).ok_or_else(no_daemon)
}

/// What opened a daemon's URL has a way to its control API; this says so if it had not.
pub(crate) fn no_daemon() -> CommandError {
    CommandError::failed("the store is no daemon")
}

async fn opened(session: &Session) -> Result<Context> {
    let budget = session.budget(None);
    session.within(budget, session.open(budget)).await
}

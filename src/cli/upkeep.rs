//! Runs listings and upkeep: in this process on the store, or in the daemon in front of it.

use super::{
    control::Daemon,
    error::{CommandError, Result},
    session::Session,
    stores::{self, Locality},
};
use crate::{
    ops::{self, Context, Reach},
    proto::Method,
};

/// A store to manage.
pub(crate) struct Upkeep<'s> {
    session: &'s Session,
    /// The context of this process.
    pub(crate) ctx: Context,
    /// The daemon, if the store is one.
    pub(crate) daemon: Option<Daemon>,
}

impl<'s> Upkeep<'s> {
    /// Manages the repositories that match one of `patterns`; all without any.
    pub(crate) fn new(
        session: &'s Session,
        mut ctx: Context,
        patterns: &[String],
    ) -> ops::Result<Self> {
        // An invalid pattern is reported here, whichever process does the work.
        ctx.reach = Reach::everything().wanting(patterns)?;
        let daemon = Daemon::of(&ctx);
        Ok(Self {
            session,
            ctx,
            daemon,
        })
    }

    /// The same for the configured store: a missing folder is a mistake, not an empty store.
    pub(crate) async fn open(session: &'s Session, patterns: &[String]) -> Result<Self> {
        stores::must_be_there(session.store()?)?;
        Ok(Self::new(session, opened(session).await?, patterns)?)
    }

    /// Runs a verb within the budget: the daemon gets the request; without a daemon `here` runs.
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

/// The configured daemon, for operations that only a daemon supports.
pub(crate) async fn daemon(session: &Session, what: &str) -> Result<Daemon> {
    if stores::place(session.store()?)? != Locality::Daemon {
        let shown = session.store_shown();
        return Err(CommandError::usage(format!(
            "{what} needs a daemon, but the store is {shown}"
        ))
        .hint("name one with --daemon or CACHECTL_DAEMON"));
    }
    Daemon::of(&opened(session).await?).ok_or_else(no_daemon)
}

/// A store opened at a daemon's URL has access to its control API; this is the error if it had not.
pub(crate) fn no_daemon() -> CommandError {
    CommandError::failed("the store is not a daemon")
}

async fn opened(session: &Session) -> Result<Context> {
    let budget = session.budget(None);
    session.within(budget, session.open(budget)).await
}

//! Helpers for waiting: for changes, and between retries.

use std::time::Duration;

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{backoff::Backoff, store::error::Error};

/// Pauses after a refusal.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));

/// The answer of a check.
pub(super) enum Check<T> {
    Now(T),
    /// No answer yet; check again after the next change, or at this time.
    Later(Option<Instant>),
}

/// Waits until `check` has an answer; it is called at once and after every notification of all waiters.
pub(super) async fn until<T>(changed: &Notify, mut check: impl FnMut() -> Check<T>) -> T {
    loop {
        let notified = changed.notified();
        tokio::pin!(notified);
        // Before the check: a change after it must not be missed.
        notified.as_mut().enable();
        match check() {
            Check::Now(answer) => return answer,
            Check::Later(None) => notified.await,
            Check::Later(Some(at)) => {
                // Either is a reason to check again.
                let _ = timeout_at(at, notified).await;
            }
        }
    }
}

/// Pauses between attempts at something that the remote refuses.
#[derive(Default)]
pub(super) struct Rest {
    /// How often it was refused.
    pub(super) refusals: u32,
    until: Option<Instant>,
    why: Option<Error>,
}

impl Rest {
    /// Records another refusal.
    pub(super) fn refused(&mut self, why: Error) {
        self.until = Some(Instant::now() + PAUSES.pause(self.refusals));
        self.refusals += 1;
        self.why = Some(why);
    }

    /// The end of the pause; `None` if there is none.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.filter(|at| *at > Instant::now())
    }

    /// Ends the pause.
    pub(super) fn hurry(&mut self) {
        self.until = None;
    }

    /// Why it was refused last.
    pub(super) fn why(&self) -> Option<Error> {
        self.why.as_ref().map(Error::told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_rests_until_it_is_hurried() {
        let mut rest = Rest::default();
        assert!(rest.until().is_none());
        let e = Error::new(crate::store::ErrorKind::Denied, "put", "no");
        rest.refused(e);
        assert!(rest.until().is_some_and(|at| at > Instant::now()));
        rest.hurry();
        assert!(rest.until().is_none() && rest.why().is_some());
    }
}

//! Helpers for waiting: pauses between retries, and locks of tags.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    time::{Instant, timeout_at},
};

use crate::{backoff::Backoff, store::error::Error};

/// Pauses after a refusal.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));

/// The answer of a check.
pub(super) enum Check<T> {
    /// The answer.
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

const STRIPES: usize = 64;

struct Stripe {
    lock: Mutex<()>,
    turns: AtomicU64,
}

/// Locks of tags; several tags share one, which costs a short wait.
pub(super) struct TagLocks(Vec<Stripe>);

/// How often a tag had been written at some point in time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u64);

impl TagLocks {
    pub(super) fn new() -> Self {
        let stripe = || Stripe {
            lock: Mutex::new(()),
            turns: AtomicU64::new(0),
        };
        Self((0..STRIPES).map(|_| stripe()).collect())
    }

    fn stripe(&self, key: &str) -> &Stripe {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.0[hash as usize % STRIPES]
    }

    /// Holds the tag with this key while it is written.
    pub(super) async fn lock(&self, key: &str) -> MutexGuard<'_, ()> {
        let stripe = self.stripe(key);
        let guard = stripe.lock.lock().await;
        stripe.turns.fetch_add(1, Relaxed);
        guard
    }

    /// The state to pass to [`Self::if_still`] after a read.
    pub(super) fn turn(&self, key: &str) -> Turn {
        Turn(self.stripe(key).turns.load(Relaxed))
    }

    /// Holds the tag if nobody has written it since; `None` means that what was read may be outdated.
    pub(super) fn if_still(&self, key: &str, turn: Turn) -> Option<MutexGuard<'_, ()>> {
        let guard = self.stripe(key).lock.try_lock().ok()?;
        (self.turn(key) == turn).then_some(guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_before_a_write_is_old_after_it() {
        let locks = TagLocks::new();
        let key = "r/a/tags/x";
        let turn = locks.turn(key);
        assert!(locks.if_still(key, turn).is_some());
        let held = locks.lock(key).await;
        assert!(locks.if_still(key, turn).is_none());
        drop(held);
        assert!(locks.if_still(key, turn).is_none());
        assert!(locks.if_still(key, locks.turn(key)).is_some());
    }

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

//! Digests that the remote had a short while ago, so that it need not be asked for every blob of every manifest.
//!
//! The time is long enough for the publications of one export, but short enough to notice deletions: a lifecycle rule, or a
//! manual deletion, may remove a blob that was seen a minute ago, and the front would hide that. Digests seen before an outage do
//! not count after it: another server may have answered in the remote's place before the outage was noticed.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::health::Health;
use crate::{digest::Digest, lately::Lately};

/// How long a digest is remembered.
const LIFE: Duration = Duration::from_mins(1);
/// Most digests.
const MOST: usize = 50_000;

/// Digests that the remote has.
pub(super) struct Seen {
    digests: Lately<Digest>,
    health: Arc<Health>,
    /// The last outage before they were seen.
    after: Mutex<(u64, bool)>,
}

impl Seen {
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self {
            digests: Lately::new(MOST, LIFE),
            after: Mutex::new(health.turn()),
            health,
        }
    }

    /// Runs `f` on what was seen since the last outage.
    fn since_outage<T>(&self, f: impl FnOnce(&Lately<Digest>) -> T) -> T {
        // Held meanwhile: nothing of before an outage is added after it.
        let (mut after, now) = (self.after.lock(), self.health.turn());
        if *after != now {
            self.digests.clear();
            *after = now;
        }
        f(&self.digests)
    }

    /// Records that the remote has it now.
    pub(super) fn insert(&self, digest: &Digest) {
        self.since_outage(|seen| seen.insert(*digest, ()));
    }

    /// Returns true if the remote had it a short while ago.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.since_outage(|seen| seen.contains(digest))
    }

    /// Forgets digests that may have been deleted.
    pub(super) fn forget(&self, digests: &[Digest]) {
        self.since_outage(|seen| digests.iter().for_each(|digest| seen.remove(digest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_forgotten_after_a_while() {
        let seen = Seen::new(Arc::new(Health::new(String::new())));
        let d = Digest::sha256_of(b"x");
        seen.insert(&d);
        assert!(seen.contains(&d));
        tokio::time::advance(LIFE / 2).await;
        assert!(seen.contains(&d));
        tokio::time::advance(LIFE / 2).await;
        assert!(!seen.contains(&d));
        seen.insert(&d);
        seen.forget(&[d]);
        assert!(!seen.contains(&d));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_before_an_outage_does_not_count_after_it() {
        let health = Arc::new(Health::new(String::new()));
        let seen = Seen::new(health.clone());
        let d = Digest::sha256_of(b"x");
        seen.insert(&d);
        let e = crate::store::Error::new(crate::store::ErrorKind::Unavailable, "get", "no");
        let failed = health.ask("get", async { Err::<(), _>(e.unheard()) });
        failed.await.unwrap_err();
        assert!(!seen.contains(&d));
    }
}

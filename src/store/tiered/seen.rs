//! Digests that the remote had a short while ago, so that it need not be asked for every blob of every manifest.
//!
//! The time is long enough for the publications of one export, but short enough to notice deletions: a lifecycle rule, or a
//! manual deletion, may remove a blob that was seen a minute ago, and the front would hide that. Digests seen before an outage do
//! not count after it: another server may have answered in the remote's place before the outage was noticed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::health::Health;
use crate::digest::Digest;

/// Digests are forgotten after one to two of these.
const AGE: Duration = Duration::from_mins(1);
/// Maximum digests of one age.
const MOST: usize = 50_000;

struct Ages {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
    turned: Instant,
    /// The last outage before they were seen.
    after: (u64, bool),
}

/// Digests that the remote has.
pub(super) struct Seen {
    ages: Mutex<Ages>,
    health: Arc<Health>,
}

impl Seen {
    pub(super) fn new(health: Arc<Health>) -> Self {
        let ages = Ages {
            young: HashSet::new(),
            old: HashSet::new(),
            turned: Instant::now(),
            after: health.turn(),
        };
        Self {
            ages: Mutex::new(ages),
            health,
        }
    }

    fn ages(&self) -> MutexGuard<'_, Ages> {
        let mut ages = self.ages.lock();
        let now = self.health.turn();
        if ages.after != now {
            ages.young.clear();
            ages.old.clear();
            ages.after = now;
        }
        if ages.young.len() >= MOST || ages.turned.elapsed() >= AGE {
            let idle = ages.turned.elapsed() >= 2 * AGE;
            ages.old = std::mem::take(&mut ages.young);
            if idle {
                ages.old.clear();
            }
            ages.turned = Instant::now();
        }
        ages
    }

    /// Records that the remote has it now.
    pub(super) fn insert(&self, digest: &Digest) {
        self.ages().young.insert(*digest);
    }

    /// Returns true if the remote had it a short while ago.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let ages = self.ages();
        ages.young.contains(digest) || ages.old.contains(digest)
    }

    /// Forgets digests that may have been deleted.
    pub(super) fn forget(&self, digests: &[Digest]) {
        let mut ages = self.ages();
        for digest in digests {
            ages.young.remove(digest);
            ages.old.remove(digest);
        }
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
        tokio::time::advance(AGE).await;
        assert!(seen.contains(&d));
        tokio::time::advance(AGE).await;
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

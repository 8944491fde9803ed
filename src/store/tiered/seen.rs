//! What the remote was seen to have a short while ago, so that it is not asked for every blob of every manifest.
//!
//! Long enough for one export, short enough not to lean on it.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::digest::Digest;

/// Digests are forgotten after one to two of these.
const AGE: Duration = Duration::from_mins(10);
/// Most digests of one age.
const MOST: usize = 50_000;

struct Ages {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
    turned: Instant,
}

/// Digests that the remote has.
pub(super) struct Seen(Mutex<Ages>);

impl Seen {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Ages {
            young: HashSet::new(),
            old: HashSet::new(),
            turned: Instant::now(),
        }))
    }

    fn ages(&self) -> MutexGuard<'_, Ages> {
        // Nothing can panic while it is held.
        let mut ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// The remote has it now.
    pub(super) fn insert(&self, digest: &Digest) {
        self.ages().young.insert(*digest);
    }

    /// Says whether the remote had it a short while ago.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let ages = self.ages();
        ages.young.contains(digest) || ages.old.contains(digest)
    }

    /// They may be gone.
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
        let seen = Seen::new();
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
}

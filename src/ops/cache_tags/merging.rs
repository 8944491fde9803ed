//! Who may merge: it takes memory and a processor for as long as the largest tag allows, so few do it at once.
//!
//! At most [`PLACES`] merges run in the daemon, at most one of them for a repository, so that one repository leaves a place to the
//! others; whoever waits is served in order. Each takes what [`super::budget`] allows.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::{self, OwnedMutexGuard, Semaphore, SemaphorePermit};

use super::locked;
use crate::store::keys::Repo;

/// Merges that run at once.
const PLACES: usize = 2;
/// From so many locks on those that nobody holds are forgotten.
const MANY: usize = 64;

/// One lock for each key, as long as somebody holds it or waits for it.
pub(super) struct Locks<K>(Mutex<HashMap<K, Weak<sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Locks<K> {
    /// Waits for the lock of `key`.
    pub(super) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = locked(&self.0);
            if let Some(lock) = all.get(&key).and_then(Weak::upgrade) {
                lock
            } else {
                if all.len() >= MANY {
                    all.retain(|_, lock| lock.strong_count() > 0);
                }
                let lock = Arc::default();
                all.insert(key, Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}

/// The places of all merges.
pub(super) struct Merging {
    places: Semaphore,
    of_repo: Locks<Repo>,
}

/// The right to merge, until it is dropped.
pub(super) struct Place<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    _repo: OwnedMutexGuard<()>,
}

impl Default for Merging {
    fn default() -> Self {
        Self {
            places: Semaphore::new(PLACES),
            of_repo: Locks::default(),
        }
    }
}

impl Merging {
    /// Waits for a place.
    pub(super) async fn place(&self, repo: &Repo) -> Place<'_> {
        let repo = self.of_repo.lock(repo.clone()).await;
        Place {
            // Nobody closes it.
            _permit: self.places.acquire().await.ok(),
            _repo: repo,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn repo(name: &str) -> Repo {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn one_repository_cannot_hold_all_places() {
        let merging = Merging::default();
        let (a, b, c) = (repo("a"), repo("b"), repo("c"));
        let first = merging.place(&a).await;
        assert!(merging.place(&a).now_or_never().is_none());
        let second = merging.place(&b).await;
        assert!(merging.place(&c).now_or_never().is_none());
        drop(second);
        assert!(merging.place(&c).now_or_never().is_some());
        drop(first);
        assert!(merging.place(&a).now_or_never().is_some());
    }

    #[tokio::test]
    async fn locks_that_nobody_holds_are_forgotten() {
        let locks = Locks::default();
        let held = locks.lock(0).await;
        for key in 1..10 * MANY {
            drop(locks.lock(key).await);
        }
        assert!(locked(&locks.0).len() <= MANY);
        // A task that took so many locks is asked to yield, whatever they are.
        tokio::task::yield_now().await;
        assert!(locks.lock(0).now_or_never().is_none());
        drop(held);
        assert!(locks.lock(0).now_or_never().is_some());
    }
}

//! Limits concurrent merges: a merge of the largest allowed tag takes much memory and CPU time, so only a few run at once.
//!
//! At most [`PLACES`] merges run in the daemon, at most one of them for a repository, so that one repository leaves permits to the others;
//! waiting callers take turns ([`crate::fair`]). Each merge uses at most what [`super::budget`] allows. While a permit is held, only the
//! store is waited for: disputed layers are read without one ([`super::settle`]).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{self, OwnedMutexGuard};

use crate::{
    fair::{Key, Permit, Pool, Queue},
    store::keys::Repo,
};

/// Most merges that run at once.
const PLACES: usize = 2;
/// From this many locks on, unused ones are dropped.
const MANY: usize = 64;
/// The gateway that admits requests already limits how many wait.
pub(super) const UNBOUNDED: Queue = Queue {
    total: usize::MAX,
    each: usize::MAX,
};

/// One lock per key, kept as long as someone holds it or waits for it.
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
            let mut all = self.0.lock();
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

/// Permits of all merges, and of those in each repository: callers take turns.
pub(super) struct Merging {
    places: Pool,
    of_repo: Mutex<HashMap<Repo, Pool>>,
}

/// The right to merge, until it is dropped.
pub(super) struct MergePermit {
    _place: Permit,
    _of_repo: Permit,
}

impl Default for Merging {
    fn default() -> Self {
        Self {
            places: Pool::new("merging", PLACES, UNBOUNDED),
            of_repo: Mutex::default(),
        }
    }
}

impl Merging {
    /// Waits for a permit.
    pub(super) async fn place(&self, repo: &Repo, caller: &Key) -> MergePermit {
        let of_repo = self.of_repo(repo).enter_again(caller.clone()).await;
        MergePermit {
            _place: self.places.enter_again(caller.clone()).await,
            _of_repo: of_repo,
        }
    }

    /// Returns true if someone waits for a permit in a repository.
    #[cfg(test)]
    pub(super) fn is_awaited(&self, repo: &Repo) -> bool {
        self.of_repo(repo).waiting() > 0
    }

    fn of_repo(&self, repo: &Repo) -> Pool {
        let mut all = self.of_repo.lock();
        if all.len() >= MANY {
            all.retain(|_, pool| !pool.is_idle());
        }
        let new = || Pool::new("merging in a repository", 1, UNBOUNDED);
        all.entry(repo.clone()).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn repo(name: &str) -> Repo {
        name.parse().unwrap()
    }

    fn caller(name: &str) -> Key {
        Key::Principal(name.into())
    }

    #[tokio::test]
    async fn one_repository_cannot_hold_all_places() {
        let merging = Merging::default();
        let (a, b, c) = (repo("a"), repo("b"), repo("c"));
        let by = caller("one");
        let first = merging.place(&a, &by).await;
        assert!(merging.place(&a, &by).now_or_never().is_none());
        let second = merging.place(&b, &by).await;
        assert!(merging.place(&c, &by).now_or_never().is_none());
        drop(second);
        assert!(merging.place(&c, &by).now_or_never().is_some());
        drop(first);
        assert!(merging.place(&a, &by).now_or_never().is_some());
    }

    #[tokio::test]
    async fn next_place_goes_to_whoever_holds_none_however_many_another_one_waits_for() {
        let merging = Merging::default();
        let (many, honest) = (caller("many"), caller("honest"));
        let repos: Vec<Repo> = (0..20).map(|n| repo(&format!("m/{n}"))).collect();
        let first = merging.place(&repos[0], &many).await;
        let second = merging.place(&repos[1], &many).await;
        let waiting = repos.iter().chain(&repos).map(|r| merging.place(r, &many));
        let mut waiting: Vec<_> = waiting.map(Box::pin).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let own = repo("own");
        // In a repository of its own, and in one in which the other caller merges.
        let mut in_own = Box::pin(merging.place(&own, &honest));
        assert!(in_own.as_mut().now_or_never().is_none());
        drop(first);
        let in_own = in_own.as_mut().now_or_never();
        assert!(in_own.is_some());
        let mut in_other = Box::pin(merging.place(&repos[1], &honest));
        assert!(in_other.as_mut().now_or_never().is_none());
        drop(second);
        assert!(in_other.as_mut().now_or_never().is_none());
        drop(in_own);
        assert!(in_other.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn repositories_in_which_nobody_merges_are_forgotten() {
        let merging = Merging::default();
        let (by, first) = (caller("one"), repo("first"));
        let held = merging.place(&first, &by).await;
        for n in 1..10 * MANY {
            drop(merging.place(&repo(&format!("r/{n}")), &by).await);
        }
        assert!(merging.of_repo.lock().len() <= MANY);
        assert!(merging.place(&first, &by).now_or_never().is_none());
        drop(held);
    }

    #[tokio::test]
    async fn locks_that_nobody_holds_are_forgotten() {
        let locks = Locks::default();
        let held = locks.lock(0).await;
        for key in 1..10 * MANY {
            drop(locks.lock(key).await);
        }
        assert!(locks.0.lock().len() <= MANY);
        // Tokio makes a task yield after taking this many locks, whichever they are.
        tokio::task::yield_now().await;
        assert!(locks.lock(0).now_or_never().is_none());
        drop(held);
        assert!(locks.lock(0).now_or_never().is_some());
    }
}

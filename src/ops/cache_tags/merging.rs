//! Who may merge: it takes memory and a processor for as long as the largest tag allows, so few do it at once.
//!
//! At most [`PLACES`] merges run in the daemon, at most one of them for a repository, so that one repository leaves a place to the
//! others; those who wait take turns by caller ([`crate::fair`]). Each takes what [`super::budget`] allows. Nothing is waited for in a
//! place but the store: layers that parts contradict each other about are read without one ([`super::settle`]).

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

/// Merges that run at once.
const PLACES: usize = 2;
/// From so many locks on those that nobody holds are forgotten.
const MANY: usize = 64;
/// Whoever admitted a request bounds how many wait.
pub(super) const UNBOUNDED: Queue = Queue {
    total: usize::MAX,
    each: usize::MAX,
};

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

/// The places of all merges, and of those of each repository: callers take them in turn.
pub(super) struct Merging {
    places: Pool,
    of_repo: Mutex<HashMap<Repo, Pool>>,
}

/// The right to merge, until it is dropped.
pub(super) struct Place {
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
    /// Waits for a place.
    pub(super) async fn place(&self, repo: &Repo, caller: &Key) -> Place {
        let of_repo = self.of_repo(repo).enter_again(caller.clone()).await;
        Place {
            _place: self.places.enter_again(caller.clone()).await,
            _of_repo: of_repo,
        }
    }

    /// Says whether somebody waits for a place in a repository.
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
        // In a repository of its own, and in one that the other one merges in.
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
        // A task that took so many locks is asked to yield, whatever they are.
        tokio::task::yield_now().await;
        assert!(locks.lock(0).now_or_never().is_none());
        drop(held);
        assert!(locks.lock(0).now_or_never().is_some());
    }
}

//! Locks of tags, which also tell whether a tag was written since it was read.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{Mutex, MutexGuard};

const STRIPES: usize = 64;

#[derive(Default)]
struct Stripe {
    lock: Mutex<()>,
    writes: AtomicU64,
}

/// Several tags share one lock, which costs a short wait.
pub(super) struct TagLocks(Vec<Stripe>);

impl TagLocks {
    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Stripe::default()).collect())
    }

    fn stripe(&self, key: &str) -> &Stripe {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.0[hash as usize % STRIPES]
    }

    /// Holds the tag with this key while it is written.
    pub(super) async fn lock(&self, key: &str) -> MutexGuard<'_, ()> {
        let stripe = self.stripe(key);
        let guard = stripe.lock.lock().await;
        stripe.writes.fetch_add(1, Relaxed);
        guard
    }

    /// How often the tag was written so far, to be passed to [`Self::if_still`] after a read.
    pub(super) fn writes(&self, key: &str) -> u64 {
        self.stripe(key).writes.load(Relaxed)
    }

    /// Holds the tag if nobody has written it since; `None` means that what was read may be outdated.
    pub(super) fn if_still(&self, key: &str, writes: u64) -> Option<MutexGuard<'_, ()>> {
        let guard = self.stripe(key).lock.try_lock().ok()?;
        (self.writes(key) == writes).then_some(guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_before_a_write_is_old_after_it() {
        let locks = TagLocks::new();
        let key = "r/a/tags/x";
        let before = locks.writes(key);
        assert!(locks.if_still(key, before).is_some());
        let held = locks.lock(key).await;
        assert!(locks.if_still(key, before).is_none());
        drop(held);
        assert!(locks.if_still(key, before).is_none());
        assert!(locks.if_still(key, locks.writes(key)).is_some());
    }
}

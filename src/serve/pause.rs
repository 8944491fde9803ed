//! The moment in which a prune has exclusive use of the store: new requests wait, and promises to clients are remembered.
//!
//! A request holds a pass only for its work on the store. While its body arrives, or it waits for a permit, it holds none, so a
//! slow client delays nobody: its data is part of the unfinished uploads, which no prune touches.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock},
    time::{Instant, timeout},
};

mod promises;

use super::admission::{Key, Ticket};
use crate::{
    digest::Digest,
    ops::prune::doors::{Doors, Promised},
    store::marked::MIN_GRACE,
};
use promises::Promises;

/// Maximum wait for requests that work on the store: new ones wait meanwhile.
const RUNNING: Duration = Duration::from_secs(10);

/// The work in progress on a daemon's store, and what its clients were promised.
pub struct Pause {
    began: Instant,
    lock: Arc<RwLock<()>>,
    working: Arc<Mutex<Working>>,
    promises: Mutex<Promises>,
    on_shut: Box<dyn Fn() + Send + Sync>,
}

impl Default for Pause {
    fn default() -> Self {
        Self::telling(|| {})
    }
}

#[derive(Default)]
struct Working {
    next: u64,
    /// The oldest first.
    all: BTreeMap<u64, String>,
}

/// Work on the store, until this is dropped.
pub struct Pass {
    _inside: OwnedRwLockReadGuard<()>,
    working: Arc<Mutex<Working>>,
    number: u64,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.working.lock().all.remove(&self.number);
    }
}

impl Pause {
    /// Calls `on_shut` each time a prune gets exclusive use of the store: to clear what is remembered of the store.
    pub fn telling(on_shut: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            began: Instant::now(),
            lock: Arc::default(),
            working: Arc::default(),
            promises: Mutex::default(),
            on_shut: Box::new(on_shut),
        }
    }

    /// Begins work on the store, once no prune has exclusive use of it; `what` describes the work for the log of a waiting
    /// prune. Meanwhile the request of `ticket` gives its permit to others. One request must not hold two passes at once.
    pub async fn pass(&self, ticket: Option<&Ticket>, what: impl FnOnce() -> String) -> Pass {
        let free = self.lock.clone().try_read_owned();
        let inside = match (free, ticket) {
            (Ok(inside), _) => inside,
            (Err(_), Some(ticket)) => ticket.aside(self.lock.clone().read_owned()).await,
            (Err(_), None) => self.lock.clone().read_owned().await,
        };
        let mut working = self.working.lock();
        working.next += 1;
        let number = working.next;
        working.all.insert(number, what());
        drop(working);
        Pass {
            _inside: inside,
            working: self.working.clone(),
            number,
        }
    }

    /// Notes that `client` was told that a blob or manifest exists, so it may name it later without sending it.
    pub fn promise(&self, client: &Key, digest: &Digest) {
        self.promises.lock().make(client, digest);
    }

    /// Notes that a manifest published by `client` names these digests: they are kept as long as the manifest is.
    ///
    /// Builds of one user, or unauthenticated builds from one address, count as one client, so what one of them names is no
    /// longer promised to the others. That is harmless: in the worst case that manifest is removed within the hour, a `prune
    /// --now` follows, and the push of another build is refused and has to be repeated.
    pub fn named<'d>(&self, client: &Key, digests: impl IntoIterator<Item = &'d Digest>) {
        let mut promises = self.promises.lock();
        for digest in digests {
            promises.forget(client, digest);
        }
    }
}

#[async_trait]
impl Doors for Pause {
    async fn shut(&self) -> Result<Box<dyn Send>, String> {
        if let Ok(alone) = timeout(RUNNING, self.lock.clone().write_owned()).await {
            (self.on_shut)();
            return Ok(Box::new(alone));
        }
        let working = self.working.lock();
        let oldest = working.all.values().next();
        Err(format!(
            "{} has been running for over {}s; try again when it has ended",
            oldest.map_or("a request", String::as_str),
            RUNNING.as_secs()
        ))
    }

    fn promised(&self) -> Promised {
        self.promises.lock().now()
    }

    fn noted_for(&self) -> Option<Duration> {
        Some(self.began.elapsed()).filter(|age| *age < MIN_GRACE)
    }

    async fn enter(&self, what: String) -> Box<dyn Send> {
        Box::new(self.pass(None, || what).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_of_the_store_ends_when_a_prune_has_it_to_itself() {
        let count = Arc::new(Mutex::new(0));
        let counted = count.clone();
        let pause = Pause::telling(move || *counted.lock() += 1);
        let pass = pause.pass(None, || "a push".to_owned()).await;
        assert!(pause.shut().await.is_err());
        assert_eq!(*count.lock(), 0);
        drop(pass);
        let _alone = pause.shut().await.unwrap();
        assert_eq!(*count.lock(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn running_requests_end_and_new_ones_are_held() {
        let pause = Pause::default();
        let running = pause.pass(None, || "first".to_owned()).await;
        let mut shutting = pause.shut();
        assert!(futures_util::poll!(&mut shutting).is_pending());
        let mut held = Box::pin(pause.pass(None, || "second".to_owned()));
        assert!(futures_util::poll!(&mut held).is_pending());
        drop(running);
        let shut = shutting.await.unwrap();
        assert!(futures_util::poll!(&mut held).is_pending());
        drop(shut);
        drop(held.await);
        assert!(pause.working.lock().all.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_named_and_the_others_go_on() {
        let pause = Pause::default();
        let _running = pause.pass(None, || "a copy".to_owned()).await;
        let began = Instant::now();
        let why = pause.shut().await.err().unwrap();
        assert!(why.starts_with("a copy has been running"), "{why}");
        assert_eq!(began.elapsed().as_secs(), RUNNING.as_secs());
        drop(pause.pass(None, String::new).await);
    }

    #[tokio::test]
    async fn no_number_of_promises_keeps_a_prune_away() {
        let pause = Pause {
            promises: Mutex::new(Promises::with_room(10)),
            ..Pause::default()
        };
        let digests = (0..100_u8).map(|n| Digest::sha256_of(&[n]));
        for digest in digests.clone() {
            pause.promise(&Key::Socket, &digest);
        }
        let _shut = pause.shut().await.unwrap();
        let promised = pause.promised();
        assert!(digests.into_iter().all(|digest| promised(&digest)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_is_noted_for_as_long_as_this_runs_or_an_hour() {
        let pause = Pause::default();
        tokio::time::advance(MIN_GRACE / 2).await;
        assert_eq!(pause.noted_for(), Some(MIN_GRACE / 2));
        tokio::time::advance(MIN_GRACE / 2).await;
        assert_eq!(pause.noted_for(), None);
    }
}

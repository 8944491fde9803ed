//! How much happens at once at a store, and how fast.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// At most this much of unused bandwidth is saved up.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second, shared by all who take.
#[derive(Debug)]
struct Bucket {
    bytes_per_sec: u64,
    /// When all that was taken so far is paid for.
    paid_at: Mutex<Instant>,
}

impl Bucket {
    fn new(bytes_per_sec: u64) -> Self {
        Self {
            bytes_per_sec: bytes_per_sec.max(1),
            paid_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until what others took before is paid for, and takes `bytes`. Fair: first come, first served.
    async fn take(&self, bytes: u64) {
        let turn = {
            let mut paid_at = self.paid_at.lock();
            let now = Instant::now();
            let turn = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
            let cost = bytes as f64 / self.bytes_per_sec as f64;
            // Capped at about a year, so that tiny rates cannot overflow.
            *paid_at = turn + Duration::from_secs_f64(cost.min(3e7));
            turn
        };
        sleep_until(turn).await;
    }
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations at once; at least 1.
    pub concurrency: usize,
    /// Whether a download lasts until its stream is dropped, or only until that is there: where others decide how fast it is read, and how
    /// many there are.
    pub with_streams: bool,
    /// Bytes per second, in each direction; `None`: no limit.
    pub bandwidth: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 16,
            with_streams: true,
            bandwidth: None,
        }
    }
}

/// Limits as they are kept, for all repositories of a store together.
///
/// A stream that is not read holds its place, unless streams do not count: a caller that opens more streams than are allowed at once
/// before reading the first deadlocks. Downloads are slowed piece by piece; an upload waits its turn and then goes at the link's speed,
/// so the limit holds over several uploads, not within one.
#[derive(Debug)]
pub struct Limiter {
    places: Arc<Semaphore>,
    pub(super) with_streams: bool,
    down: Option<Bucket>,
    up: Option<Bucket>,
}

impl Limiter {
    /// Keeps to `limits`.
    pub fn new(limits: Limits) -> Self {
        let concurrency = limits.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(concurrency)),
            with_streams: limits.with_streams,
            down: limits.bandwidth.map(Bucket::new),
            up: limits.bandwidth.map(Bucket::new),
        }
    }

    /// Waits for a place among the operations.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn send(&self, bytes: u64) {
        if let Some(bucket) = &self.up {
            bucket.take(bytes).await;
        }
    }

    /// Waits until `bytes` that came may be passed on.
    pub(super) async fn receive(&self, bytes: u64) {
        if let Some(bucket) = &self.down {
            bucket.take(bytes).await;
        }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

//! Limits on the concurrency and bandwidth of a store.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// At most this much unused bandwidth is saved up.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second, shared by all users.
#[derive(Debug)]
struct Bucket {
    bytes_per_sec: u64,
    /// When everything taken so far has been paid for.
    paid_at: Mutex<Instant>,
}

impl Bucket {
    fn new(bytes_per_sec: u64) -> Self {
        Self {
            bytes_per_sec: bytes_per_sec.max(1),
            paid_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until what others took before has been paid for, and takes `bytes`. Fair: first come, first served.
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
    /// Maximum number of concurrent operations; at least 1.
    pub concurrency: usize,
    /// Whether a download counts until its stream is dropped, or only until the stream exists: for cases where others control
    /// how fast streams are read, and how many there are.
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

/// The limits in force, for all repositories of a store together.
///
/// A stream that is not read holds its permit, unless streams do not count: a caller that opens more streams than the limit
/// before reading the first deadlocks. Downloads are slowed down piece by piece; an upload waits for its turn and then runs at
/// the speed of the link, so the limit holds over several uploads, but not within one.
#[derive(Debug)]
pub struct Limiter {
    places: Arc<Semaphore>,
    pub(super) with_streams: bool,
    down: Option<Bucket>,
    up: Option<Bucket>,
}

impl Limiter {
    /// Enforces `limits`.
    pub fn new(limits: Limits) -> Self {
        let concurrency = limits.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(concurrency)),
            with_streams: limits.with_streams,
            down: limits.bandwidth.map(Bucket::new),
            up: limits.bandwidth.map(Bucket::new),
        }
    }

    /// Waits for a permit for an operation.
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

    /// Waits until `bytes` that were received may be passed on.
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

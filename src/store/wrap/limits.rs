//! Limits on the concurrency and bandwidth of a store.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::width::{Place, Width};
use crate::store::{Body, pace::Pace};

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
/// before reading the first deadlocks. Transfers to and from another machine are slowed down piece by piece. What is written to a
/// folder waits for its turn, and is then written at once.
#[derive(Debug)]
pub struct Limiter {
    places: Arc<Width>,
    pub(super) with_streams: bool,
    down: Option<Pace>,
    /// Kilobytes that downloads may ask for before they have been read: what nobody reads yet fills the buffers of connections
    /// at the link's own speed. `None` without a limit, or where others control how fast streams are read.
    asked: Option<Arc<Semaphore>>,
    up: Option<Arc<Pace>>,
}

impl Limiter {
    /// Enforces `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            places: Width::new(limits.concurrency, limits.concurrency),
            with_streams: limits.with_streams,
            down: limits.bandwidth.map(Pace::new),
            asked: limits
                .bandwidth
                .filter(|_| limits.with_streams)
                .map(|rate| Arc::new(Semaphore::new(kilobytes(rate) as usize))),
            up: limits.bandwidth.map(|rate| Arc::new(Pace::new(rate))),
        }
    }

    /// The number of concurrent operations, which errors reduce.
    pub fn places(&self) -> Arc<Width> {
        self.places.clone()
    }

    /// Waits for a permit for an operation.
    pub(super) async fn place(&self) -> Place {
        self.places.place().await
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn send(&self, bytes: u64) {
        if let Some(pace) = &self.up {
            pace.take(bytes).await;
        }
    }

    /// A body that is sent no faster than allowed.
    pub(super) fn paced(&self, body: &Body) -> Body {
        match &self.up {
            Some(pace) => body.paced(pace.clone()),
            None => body.clone(),
        }
    }

    /// Waits until `bytes` may be asked for, while the result lives: at most what may be received in a second, or one request.
    pub(super) async fn ask(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let asked = self.asked.clone()?;
        let rate = self.down.as_ref()?.bytes_per_sec();
        let permits = kilobytes(bytes.min(rate));
        let permit = asked.acquire_many_owned(permits).await;
        Some(permit.expect("the semaphore is never closed"))
    }

    /// Waits until `bytes` that were received may be passed on.
    pub(super) async fn receive(&self, bytes: u64) {
        if let Some(pace) = &self.down {
            pace.take(bytes).await;
        }
    }
}

/// Rounded up; no more than a semaphore has.
fn kilobytes(bytes: u64) -> u32 {
    const MOST: u64 = 1 << 28;
    bytes.div_ceil(1000).clamp(1, MOST) as u32
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

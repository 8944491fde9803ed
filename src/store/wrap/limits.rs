//! Limits on the concurrency and bandwidth of a store.

use std::sync::Arc;

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
    up: Option<Arc<Pace>>,
}

impl Limiter {
    /// Enforces `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            places: Width::new(limits.concurrency, limits.concurrency),
            with_streams: limits.with_streams,
            down: limits.bandwidth.map(Pace::new),
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

    /// Waits until `bytes` that were received may be passed on.
    pub(super) async fn receive(&self, bytes: u64) {
        if let Some(pace) = &self.down {
            pace.take(bytes).await;
        }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

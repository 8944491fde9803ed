//! How long a connection has had no request, so that one which only holds its place can be closed when others wait for one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// So long may a connection be without a whole request while others wait for its place.
const PATIENCE: Duration = Duration::from_secs(5);

/// Told again and again while somebody waits for a place.
pub(super) type Crowded = watch::Sender<()>;

/// The requests of a connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    requests: usize,
    /// When the last of them ended.
    since: Instant,
}

/// One request, until the last byte of its answer.
pub(super) struct Request(Activity);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            requests: 0,
            since: Instant::now(),
        })))
    }

    /// Begins a request.
    pub(super) fn request(&self) -> Request {
        self.state().requests += 1;
        Request(self.clone())
    }

    /// Waits until others want the place of this connection, it has had no request for [`PATIENCE`], and its caller holds
    /// more places than one who waits, or waits itself.
    pub(super) async fn is_in_the_way(
        &self,
        crowded: &mut watch::Receiver<()>,
        holds_too_many: impl Fn() -> bool,
    ) {
        loop {
            if crowded.changed().await.is_err() {
                // Nobody waits any more, ever.
                return std::future::pending().await;
            }
            let is_idle = {
                let state = self.state();
                state.requests == 0 && state.since.elapsed() > PATIENCE
            };
            if is_idle && holds_too_many() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.since = Instant::now();
    }
}

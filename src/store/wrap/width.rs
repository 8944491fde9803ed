//! How many requests run at once: fewer after the store was overloaded, more while that moves more bytes.
//!
//! A round is as many requests as may run at once. A refusal or a timeout halves the number, once a round; other rounds raise
//! it by half again, as long as requests wait. Beyond the number at the beginning they do so only if they moved more bytes per
//! second than the best round before.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::store::{Error, ErrorKind};

/// More bytes per second than this, compared with the best round, justify more requests.
const GAIN: f64 = 1.05;

/// The number of requests that run at once, shared by those that count.
#[derive(Debug)]
pub struct Width {
    places: Arc<Semaphore>,
    first: usize,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: usize,
    /// Places that must not be used again when they become free.
    surplus: usize,
    round: Round,
    /// Bytes per second of the best round so far.
    best: f64,
    /// Halved in this round.
    halved: bool,
}

#[derive(Debug)]
struct Round {
    began: Instant,
    ended: usize,
    bytes: u64,
}

impl Round {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            ended: 0,
            bytes: 0,
        }
    }
}

/// A request's place among those that run at once.
#[derive(Debug)]
pub struct Place {
    width: Arc<Width>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Width {
    /// Begins with `first` at once, at least 1; never more than `most`.
    pub fn new(first: usize, most: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let first = first.clamp(1, most);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(first)),
            first,
            most,
            state: Mutex::new(State {
                now: first,
                surplus: 0,
                round: Round::new(),
                best: 0.0,
                halved: false,
            }),
        })
    }

    /// Waits for a place.
    pub async fn place(self: &Arc<Self>) -> Place {
        let permit = self.places.clone().acquire_owned().await;
        Place {
            width: self.clone(),
            permit: Some(permit.expect("the semaphore is never closed")),
        }
    }

    /// Notes that requests moved bytes.
    pub fn moved(&self, bytes: u64) {
        self.state.lock().round.bytes += bytes;
    }

    /// Notes that a request failed: if the store may be overloaded, fewer run at once from now on.
    pub fn failed(&self, error: &Error) {
        let kinds = [
            ErrorKind::Throttled,
            ErrorKind::Timeout,
            ErrorKind::Unavailable,
        ];
        if !kinds.contains(&error.kind) {
            return;
        }
        let mut state = self.state.lock();
        if state.halved || state.now == 1 {
            return;
        }
        state.surplus += state.now.div_ceil(2);
        state.now /= 2;
        state.halved = true;
        // What was too much now may be right later.
        state.best = 0.0;
        state.round = Round::new();
        tracing::debug!(at_once = state.now, %error, "Fewer requests at once");
    }

    /// How many may run at once now.
    pub fn now(&self) -> usize {
        self.state.lock().now
    }

    fn ended(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.state.lock();
        // A place goes to the next request that waits for one; if none does, more places would change nothing.
        let wanted = if state.surplus > 0 {
            state.surplus -= 1;
            permit.forget();
            false
        } else {
            drop(permit);
            self.places.available_permits() == 0
        };
        state.round.ended += 1;
        if state.round.ended < state.now {
            return;
        }
        let round = std::mem::replace(&mut state.round, Round::new());
        state.halved = false;
        if !wanted || state.now == self.most {
            return;
        }
        let rate = round.bytes as f64 / round.began.elapsed().as_secs_f64().max(1e-3);
        let limit = if rate > state.best * GAIN {
            state.best = rate;
            self.most
        } else if state.now < self.first {
            self.first
        } else {
            return;
        };
        let more = state.now.div_ceil(2).min(limit - state.now);
        state.now += more;
        let kept = more.min(state.surplus);
        state.surplus -= kept;
        self.places.add_permits(more - kept);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.width.ended(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    /// Requests of 1 MB over a link of `rate` bytes per second, of which each connection gets at most `each`.
    async fn run(width: &Arc<Width>, count: usize, rate: f64, each: f64) {
        join_all((0..count).map(async |_| {
            let _place = width.place().await;
            let now = width.now() as f64;
            sleep(Duration::from_secs_f64(1e6 / each.min(rate / now))).await;
            width.moved(1_000_000);
        }))
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn more_run_at_once_while_that_moves_more_and_no_longer() {
        let width = Width::new(4, 64);
        run(&width, 400, 100e6, 5e6).await;
        // 20 connections fill the link; one step more is needed to see it.
        assert!((20..=45).contains(&width.now()), "{}", width.now());
        let width = Width::new(4, 64);
        run(&width, 100, 10e6, 5e6).await;
        assert!(width.now() <= 9, "{}", width.now());
        let width = Width::new(4, 16);
        run(&width, 400, 1e9, 5e6).await;
        assert_eq!(width.now(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_halve_it_once_a_round_and_other_errors_do_not() {
        let width = Width::new(16, 16);
        let of = |kind| Error::new(kind, "put", "x");
        width.failed(&of(ErrorKind::Denied));
        width.failed(&of(ErrorKind::Corrupt));
        assert_eq!(width.now(), 16);
        let running: Vec<_> = join_all((0..16).map(|_| width.place())).await;
        for _ in 0..3 {
            width.failed(&of(ErrorKind::Throttled));
        }
        assert_eq!(width.now(), 8);
        drop(running);
        assert_eq!(width.places.available_permits(), 8);
        width.failed(&of(ErrorKind::Timeout));
        assert_eq!(width.now(), 4);
        for _ in 0..100 {
            width.failed(&of(ErrorKind::Timeout));
            let _place = width.place().await;
        }
        assert_eq!(width.now(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_recovers_to_where_it_began_whatever_moves() {
        let width = Width::new(16, 32);
        width.failed(&Error::new(ErrorKind::Throttled, "stat", "x"));
        assert_eq!(width.now(), 8);
        join_all((0..100).map(async |_| {
            let _place = width.place().await;
            sleep(Duration::from_millis(1)).await;
        }))
        .await;
        assert_eq!(width.now(), 16);
    }
}

//! One direction of the link: a rate that all connections share, each in its turn.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::flow::Flow;

/// What a thread that runs late may catch up; more is lost, and reported.
const CATCH_UP: Duration = Duration::from_millis(20);

pub struct Lane {
    /// Bytes per second.
    rate: f64,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    /// Connections with a piece to send, in turn.
    turns: VecDeque<Arc<Flow>>,
    traffic: Traffic,
}

/// The time for which bytes are counted together.
const SLOT: Duration = Duration::from_millis(100);

/// Traffic since the last report.
struct Traffic {
    since: Instant,
    /// Bytes sent in each [`SLOT`].
    slots: Vec<u64>,
    /// The link stood still for this long although pieces waited, because this process did not get to run.
    lost: Duration,
}

impl Traffic {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            slots: Vec::new(),
            lost: Duration::ZERO,
        }
    }

    fn add(&mut self, bytes: usize, at: Instant) {
        let slot = at.saturating_duration_since(self.since).as_millis() / SLOT.as_millis();
        let slot = usize::try_from(slot).expect("a report is read within years");
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += bytes as u64;
    }
}

impl Lane {
    pub fn new(rate: u64) -> Self {
        let state = State {
            turns: VecDeque::new(),
            traffic: Traffic::new(),
        };
        Self {
            rate: rate as f64,
            state: Mutex::new(state),
            work: Condvar::new(),
        }
    }

    /// Gives a connection its turn.
    pub fn queue(&self, flow: &Arc<Flow>) {
        self.state
            .lock()
            .expect("no thread panics while it holds the lock")
            .turns
            .push_back(flow.clone());
        self.work.notify_one();
    }

    /// Sends what is queued, at the rate; each piece arrives `delay` later.
    pub fn send_forever(&self, delay: Duration) {
        let mut free_at = Instant::now();
        let mut state = self.state.lock().expect("as above");
        loop {
            let Some(flow) = state.turns.pop_front() else {
                state = self.work.wait(state).expect("as above");
                free_at = free_at.max(Instant::now());
                continue;
            };
            let now = Instant::now();
            if let Some(late) = now.checked_duration_since(free_at + CATCH_UP) {
                state.traffic.lost += late;
                free_at += late;
            }
            let (piece, more) = flow.take();
            free_at += Duration::from_secs_f64(piece.len() as f64 / self.rate);
            state.traffic.add(piece.len(), free_at);
            flow.sent(free_at + delay, piece);
            if more {
                state.turns.push_back(flow);
            }
            drop(state);
            thread::sleep(free_at.saturating_duration_since(Instant::now()));
            state = self.state.lock().expect("as above");
        }
    }

    /// The traffic since the last report, as JSON: the bytes of each tenth of a second, and the seconds lost.
    pub fn report(&self) -> String {
        let mut state = self.state.lock().expect("as above");
        let traffic = std::mem::replace(&mut state.traffic, Traffic::new());
        let lost = traffic.lost.as_secs_f64();
        format!(r#"{{"tenths":{:?},"lost":{lost:.3}}}"#, traffic.slots)
    }
}

//! One direction of one connection: pieces that wait for their turn, pieces on their way, and the window.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};

pub struct Flow {
    state: Mutex<State>,
    changed: Condvar,
    window: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// With the time at which each arrives.
    sent: VecDeque<(Instant, Vec<u8>)>,
    /// When the sender gets to know that bytes arrived, and how many.
    acknowledged: VecDeque<(Instant, usize)>,
    on_their_way: usize,
    stopped: bool,
}

impl Flow {
    pub fn new(window: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            window,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the lock")
    }

    /// Waits until the window has room, and returns how many bytes; `None` if nobody receives any more.
    pub fn room(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            while let Some((known, bytes)) = state.acknowledged.front().copied()
                && known <= now
            {
                state.on_their_way -= bytes;
                state.acknowledged.pop_front();
            }
            if state.stopped {
                return None;
            }
            if state.on_their_way < self.window {
                return Some(self.window - state.on_their_way);
            }
            state = match state.acknowledged.front().map(|(known, _)| *known - now) {
                Some(wait) => self.changed.wait_timeout(state, wait).expect("as above").0,
                None => self.changed.wait(state).expect("as above"),
            };
        }
    }

    /// Adds a piece, an empty one at the end; returns true if it is the only one that waits.
    pub fn push(&self, piece: Vec<u8>) -> bool {
        let mut state = self.state();
        state.on_their_way += piece.len();
        state.waiting.push_back(piece);
        state.waiting.len() == 1
    }

    /// The next piece whose turn it is, and whether more wait.
    pub fn take(&self) -> (Vec<u8>, bool) {
        let mut state = self.state();
        let piece = state.waiting.pop_front().unwrap_or_default();
        (piece, !state.waiting.is_empty())
    }

    /// Notes that a piece was sent, and when it arrives.
    pub fn sent(&self, due: Instant, piece: Vec<u8>) {
        self.state().sent.push_back((due, piece));
        self.changed.notify_all();
    }

    /// Waits for the next piece that was sent.
    pub fn next_sent(&self) -> (Instant, Vec<u8>) {
        let mut state = self.state();
        loop {
            if let Some(piece) = state.sent.pop_front() {
                return piece;
            }
            state = self.changed.wait(state).expect("as above");
        }
    }

    /// Notes that bytes arrived, which their sender will know at `known`.
    pub fn arrived(&self, bytes: usize, known: Instant) {
        self.state().acknowledged.push_back((known, bytes));
        self.changed.notify_all();
    }

    /// Ends the reading.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}

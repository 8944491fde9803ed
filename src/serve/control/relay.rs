//! Progress events of a verb, kept until a stream takes them: limited in number, and never blocking.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::{
    progress::{Phase, Watch},
    proto::{event, v1},
};

/// Maximum number of waiting events; a client that reads them more slowly misses some.
const MOST: usize = 1000;

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Begin(Phase, Option<u64>),
    Advance(Phase, u64),
    End(Phase),
    Warning(String),
}

/// A watcher.
#[derive(Debug, Default)]
pub(super) struct Relay(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// Warnings that were dropped for lack of room.
    lost: u64,
}

impl Relay {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock())
    }

    fn push(&self, event: Event) {
        self.with(|state| {
            if state.events.len() < MOST {
                state.events.push_back(event);
            } else if matches!(event, Event::Warning(_)) {
                state.lost += 1;
            }
        });
    }

    /// Takes at most `most` of the waiting events, in order.
    pub(super) fn take(&self, most: usize) -> Vec<v1::Progress> {
        self.with(|state| {
            let n = state.events.len().min(most);
            let mut taken: Vec<v1::Progress> = state.events.drain(..n).map(message).collect();
            if state.events.is_empty() && state.lost > 0 && n < most {
                let lost = std::mem::take(&mut state.lost);
                taken.push(event::warning(format!(
                    "{lost} more warnings, see the daemon's log"
                )));
            }
            taken
        })
    }
}

fn message(event: Event) -> v1::Progress {
    match event {
        Event::Begin(phase, total) => event::begin(phase, total),
        Event::Advance(phase, bytes) => event::advance(phase, bytes),
        Event::End(phase) => event::end(phase),
        Event::Warning(message) => event::warning(message),
    }
}

impl Watch for Relay {
    fn begin(&self, phase: Phase, total_bytes: Option<u64>) {
        self.push(Event::Begin(phase, total_bytes));
    }

    fn advance(&self, phase: Phase, bytes: u64) {
        let added = self.with(|state| {
            // Search back to where the phase began: from there on one number is enough.
            for event in state.events.iter_mut().rev() {
                match event {
                    Event::Advance(p, sum) if *p == phase => {
                        *sum = sum.saturating_add(bytes);
                        return true;
                    }
                    Event::Begin(p, _) | Event::End(p) if *p == phase => return false,
                    _ => {}
                }
            }
            false
        });
        if !added {
            self.push(Event::Advance(phase, bytes));
        }
    }

    fn end(&self, phase: Phase) {
        self.push(Event::End(phase));
    }

    fn warn(&self, message: &str) {
        tracing::warn!("{message}");
        self.push(Event::Warning(message.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_phase_are_added_up_until_it_ends() {
        let relay = Relay::default();
        relay.begin(Phase::Upload, Some(10));
        relay.advance(Phase::Upload, 1);
        relay.warn("w");
        relay.advance(Phase::Pack, 5);
        relay.advance(Phase::Upload, 2);
        relay.end(Phase::Upload);
        relay.begin(Phase::Upload, None);
        relay.advance(Phase::Upload, 4);
        let want = [
            event::begin(Phase::Upload, Some(10)),
            event::advance(Phase::Upload, 3),
            event::warning("w".into()),
            event::advance(Phase::Pack, 5),
            event::end(Phase::Upload),
            event::begin(Phase::Upload, None),
            event::advance(Phase::Upload, 4),
        ];
        let mut all = relay.take(2);
        all.extend(relay.take(100));
        assert_eq!(all, want);
        assert_eq!(relay.take(100), []);
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let relay = Relay::default();
        for i in 0..MOST + 7 {
            relay.warn(&format!("w{i}"));
        }
        assert_eq!(relay.take(MOST).len(), MOST);
        let last = relay.take(5);
        assert_eq!(
            last,
            [event::warning(
                "7 more warnings, see the daemon's log".into()
            )]
        );
    }
}

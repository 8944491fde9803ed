//! Converts progress to messages, and replays messages to a [`Watch`].

use super::v1;
use crate::progress::{Phase, Watch};

const PHASES: [(Phase, v1::Phase); 7] = [
    (Phase::Resolve, v1::Phase::Resolve),
    (Phase::Scan, v1::Phase::Scan),
    (Phase::Pack, v1::Phase::Pack),
    (Phase::Upload, v1::Phase::Upload),
    (Phase::Restore, v1::Phase::Restore),
    (Phase::Place, v1::Phase::Place),
    (Phase::Publish, v1::Phase::Publish),
];

fn to_wire(phase: Phase) -> i32 {
    let found = PHASES.iter().find(|(p, _)| *p == phase);
    found.map_or(v1::Phase::Unspecified, |(_, wire)| *wire) as i32
}

/// `None` for a phase of a later version: nothing depends on it.
fn from_wire(phase: i32) -> Option<Phase> {
    let found = PHASES.iter().find(|(_, wire)| *wire as i32 == phase);
    found.map(|(p, _)| *p)
}

/// Turns what a [`Watch`] receives into messages.
pub mod event {
    use super::{Phase, to_wire, v1};
    use v1::progress::{Advance, Begin, Event};

    fn of(event: Event) -> v1::Progress {
        v1::Progress { event: Some(event) }
    }

    /// A phase begins.
    pub fn begin(phase: Phase, total_bytes: Option<u64>) -> v1::Progress {
        of(Event::Begin(Begin {
            phase: to_wire(phase),
            total_bytes,
        }))
    }

    /// This many more bytes.
    pub fn advance(phase: Phase, bytes: u64) -> v1::Progress {
        of(Event::Advance(Advance {
            phase: to_wire(phase),
            bytes,
        }))
    }

    /// A phase ended.
    pub fn end(phase: Phase) -> v1::Progress {
        of(Event::End(to_wire(phase)))
    }

    /// A warning.
    pub fn warning(message: String) -> v1::Progress {
        of(Event::Warning(message))
    }
}

/// Passes a message on to `watch`.
pub fn replay(message: v1::Progress, watch: &dyn Watch) {
    use v1::progress::Event;
    match message.event {
        Some(Event::Begin(begin)) => {
            if let Some(phase) = from_wire(begin.phase) {
                watch.begin(phase, begin.total_bytes);
            }
        }
        Some(Event::Advance(advance)) => {
            if let Some(phase) = from_wire(advance.phase) {
                watch.advance(phase, advance.bytes);
            }
        }
        Some(Event::End(phase)) => {
            if let Some(phase) = from_wire(phase) {
                watch.end(phase);
            }
        }
        Some(Event::Warning(message)) => watch.warn(&message),
        // Of a later version.
        None => {}
    }
}

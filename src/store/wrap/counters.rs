//! Counts of what a store is asked and what it answers.

use std::cell::Cell;

use parking_lot::Mutex;
use tracing::{Span, debug_span};

use crate::{
    artifact::Manifest,
    store::{Error, ErrorKind},
};

/// Where a store is, seen from who serves from it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// On this machine.
    #[default]
    Local,
    /// Behind a network.
    Remote,
}

impl Tier {
    /// Its name, as metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

tokio::task_local! {
    /// The store that last had what was asked of it.
    static ANSWERED: Cell<Option<Tier>>;
}

/// Runs `work` and says which store was the last that had, or took, what it was asked for; `None` where none was asked.
///
/// Streams count when they open. Work that `work` leaves to other tasks is not seen; who waits for such says so by
/// [`answered`].
pub async fn watched<T>(work: impl Future<Output = T>) -> (T, Option<Tier>) {
    let asked = async {
        let value = work.await;
        (value, ANSWERED.with(Cell::get))
    };
    ANSWERED.scope(Cell::new(None), asked).await
}

/// Runs `work` unseen by [`watched`]: what it asks a store for is not what the caller is answered with.
pub async fn unwatched<T>(work: impl Future<Output = T>) -> T {
    watched(work).await.0
}

/// Notes for [`watched`] that a store of `tier` had what was asked for.
pub fn answered(tier: Tier) {
    // Outside of it nobody wants to know.
    let _ = ANSWERED.try_with(|last| last.set(Some(tier)));
}

/// An operation that is counted, and is a span of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Stat,
    Get,
    Put,
    Resolve,
    Publish,
    Tags,
}

impl Op {
    /// What a refusal calls it, if it writes.
    pub(super) fn as_write(self) -> Option<&'static str> {
        match self {
            Self::Put => Some("put"),
            Self::Publish => Some("publish"),
            _ => None,
        }
    }

    pub(super) fn span(self, tier: Tier) -> Span {
        let tier = tier.as_str();
        match self {
            Self::Stat => debug_span!("store stat", tier),
            Self::Get => debug_span!("store get", tier),
            Self::Put => debug_span!("store put", tier),
            Self::Resolve => debug_span!("store resolve", tier),
            Self::Publish => debug_span!("store publish", tier),
            Self::Tags => debug_span!("store tags", tier),
        }
    }
}

/// Counts of one operation at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OpSnapshot {
    /// Times that it was asked for.
    pub requests: u64,
    /// Times that there was no such thing.
    pub misses: u64,
    /// Times that it failed.
    pub errors: u64,
}

/// All counts at one moment. Bytes are those of blobs and manifests, not of the wire.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// `stat`.
    pub stat: OpSnapshot,
    /// `get`, until its stream opened.
    pub get: OpSnapshot,
    /// `put`.
    pub put: OpSnapshot,
    /// `resolve`.
    pub resolve: OpSnapshot,
    /// `publish`.
    pub publish: OpSnapshot,
    /// `tags`.
    pub tags: OpSnapshot,
    /// Bytes that came from the store.
    pub bytes_in: u64,
    /// Bytes that went to the store.
    pub bytes_out: u64,
    /// Puts that moved bytes.
    pub stored: u64,
    /// Puts of what was there.
    pub existed: u64,
    /// Bytes of those.
    pub existed_bytes: u64,
    /// Publications whose expectation did not hold.
    pub conflicts: u64,
    /// Streams that ended with an error.
    pub broken_streams: u64,
    /// Reads that found content that does not match its digest or size.
    pub corrupt_reads: u64,
    /// Writes of content that does not.
    pub corrupt_writes: u64,
}

impl Snapshot {
    fn of(&mut self, op: Op) -> &mut OpSnapshot {
        match op {
            Op::Stat => &mut self.stat,
            Op::Get => &mut self.get,
            Op::Put => &mut self.put,
            Op::Resolve => &mut self.resolve,
            Op::Publish => &mut self.publish,
            Op::Tags => &mut self.tags,
        }
    }

    /// Counts damage: a page for whoever runs the store, so a size that a reader only claims is none.
    fn corrupt(&mut self, error: &Error, in_write: bool) {
        if error.kind == ErrorKind::Corrupt && !error.other_size {
            let count = if in_write {
                &mut self.corrupt_writes
            } else {
                &mut self.corrupt_reads
            };
            *count += 1;
        }
    }
}

/// Running counts, shared by whoever shows them.
#[derive(Debug, Default)]
pub struct Counters {
    tier: Tier,
    seen: Mutex<Snapshot>,
}

impl Counters {
    /// Counts of a store of that tier.
    pub fn of(tier: Tier) -> Self {
        Self {
            tier,
            ..Self::default()
        }
    }

    /// Where the store is.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        *self.seen.lock()
    }

    /// Counts what an operation said beside its outcome.
    pub(super) fn add(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.seen.lock());
    }

    /// Counts an operation by its outcome: whether it was a miss, or why it failed.
    pub(super) fn count(&self, op: Op, outcome: Result<bool, &Error>) {
        if outcome.is_ok_and(|is_miss| !is_miss) {
            answered(self.tier);
        }
        let mut seen = self.seen.lock();
        let counts = seen.of(op);
        counts.requests += 1;
        match outcome {
            Ok(is_miss) => counts.misses += u64::from(is_miss),
            Err(e) => {
                counts.errors += 1;
                seen.corrupt(e, op.as_write().is_some());
            }
        }
    }

    /// Counts a stream that ended with an error.
    pub(super) fn stream_broke(&self, e: &Error) {
        let mut seen = self.seen.lock();
        seen.broken_streams += 1;
        seen.corrupt(e, false);
    }

    /// Counts the bytes of a manifest that was read.
    pub(super) fn manifest_came(&self, manifest: &Manifest) {
        self.seen.lock().bytes_in += manifest.bytes.len() as u64;
    }
}

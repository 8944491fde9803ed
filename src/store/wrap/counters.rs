//! Counts of a store's requests and results.

use std::cell::Cell;

use parking_lot::Mutex;
use tracing::{Span, debug_span};

use crate::{
    artifact::Manifest,
    store::{Error, ErrorKind},
};

/// Where a store is, from the point of view of the process that serves from it.
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
    /// The tier of the store that last had the requested content.
    static ANSWERED: Cell<Option<Tier>>;
}

/// Runs `work` and returns the tier of the last store that had, or accepted, the requested content; `None` if no store was
/// asked.
///
/// Streams count when they open. Work that `work` leaves to other tasks is not seen; a caller that waits for it calls
/// [`answered`].
pub async fn watched<T>(work: impl Future<Output = T>) -> (T, Option<Tier>) {
    let asked = async {
        let value = work.await;
        (value, ANSWERED.with(Cell::get))
    };
    ANSWERED.scope(Cell::new(None), asked).await
}

/// Runs `work` unseen by [`watched`]: its requests to stores do not provide the caller's answer.
pub async fn unwatched<T>(work: impl Future<Output = T>) -> T {
    watched(work).await.0
}

/// Notes for [`watched`] that a store of `tier` had the requested content.
pub fn answered(tier: Tier) {
    // Outside of it nobody is interested.
    let _ = ANSWERED.try_with(|last| last.set(Some(tier)));
}

/// An operation, with counts and a span in its request.
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
    /// Its name in refusals, if it writes.
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

/// Counts of one operation at one time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OpSnapshot {
    /// Number of requests.
    pub requests: u64,
    /// Number of negative results.
    pub misses: u64,
    /// Number of failures.
    pub errors: u64,
}

/// All counts at one time. Bytes are those of blobs and manifests, not of the network.
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
    /// Bytes read from the store.
    pub bytes_in: u64,
    /// Bytes written to the store.
    pub bytes_out: u64,
    /// Puts that transferred bytes.
    pub stored: u64,
    /// Puts of existing content.
    pub existed: u64,
    /// Bytes of those.
    pub existed_bytes: u64,
    /// Publications whose condition did not hold.
    pub conflicts: u64,
    /// Streams that ended with an error.
    pub broken_streams: u64,
    /// Reads that found content that does not match its digest or size.
    pub corrupt_reads: u64,
    /// Writes of such content.
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

    /// Counts damage, which alerts the store's operators; so a mere mismatch with the size that a reader claims does not count.
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

/// Running counts, shared with those that show them.
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

    /// The current counts.
    pub fn snapshot(&self) -> Snapshot {
        *self.seen.lock()
    }

    /// Counts details of an operation beside its outcome.
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

//! Limits of a reader of one table, and counting its memory in steps of negligible cost.

use super::cost;
use crate::{
    artifact::wire::Malformed,
    memory::{Exhausted, MemoryBudget, Reservation},
};

/// Entries, or objects, between two checks of [`Reading::stopped`].
const STEPS: u32 = 4096;
/// Bytes that are reserved at once for allocations of entries.
const RESERVED_AT_ONCE: u64 = 64 << 10;

/// Limits of a reader, and when to stop.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Number of entries that the snapshot's config promises: a table with another number is refused before its entries are read.
    pub entries: u64,
    /// The budget shared by everything that is read at the same time.
    pub memory: &'a MemoryBudget,
    /// Returns true if the table is no longer wanted; called every few thousand entries.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

/// Why a table of contents was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// It is not a table of contents, has a later version, is too large, or contradicts itself.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It exceeds the budget.
    #[error(transparent)]
    Memory(#[from] Exhausted),
    /// [`Reading::stopped`] returned true.
    #[error("reading it was aborted")]
    Stopped,
}

pub(super) type Result<T> = std::result::Result<T, NotRead>;

/// Counts the memory of a table.
pub(super) struct Meter<'a> {
    pub(super) reading: &'a Reading<'a>,
    reserved: Reservation,
    /// Bytes of `reserved` that are not used yet.
    left: u64,
    steps: u32,
}

impl<'a> Meter<'a> {
    /// Reserves memory known before decoding: for the payload, the table, and the promised entries.
    pub(super) fn new(reading: &'a Reading<'a>, payload: u64) -> Result<Self> {
        let entries = reading.entries;
        let bytes = payload + cost::TABLE + entries * cost::ENTRY;
        Ok(Self {
            reading,
            reserved: reading.memory.reserve(entries, bytes)?,
            left: 0,
            steps: 0,
        })
    }

    /// Counts bytes that are about to be allocated.
    pub(super) fn take(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.left {
            let more = (bytes - self.left).next_multiple_of(RESERVED_AT_ONCE);
            self.reserved.grow(more)?;
            self.left += more;
        }
        self.left -= bytes;
        Ok(())
    }

    /// Counts a list before it is allocated.
    pub(super) fn list<T>(&mut self, count: usize, each: u64) -> Result<Vec<T>> {
        self.take(count as u64 * each)?;
        Ok(Vec::with_capacity(count))
    }

    pub(super) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps < STEPS {
            return Ok(());
        }
        self.steps = 0;
        if (self.reading.stopped)() {
            return Err(NotRead::Stopped);
        }
        Ok(())
    }

    /// The reservation that the table keeps once its payload is freed.
    pub(super) fn finish(mut self, payload: u64) -> Reservation {
        self.reserved.shrink(payload + self.left);
        self.reserved
    }
}

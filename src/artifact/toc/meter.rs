//! Counting what the reading of one table takes, in steps that cost nothing beside the reading.

use super::{
    cost,
    read::{NotRead, Reading, Result},
};
use crate::memory::Reservation;

/// Entries, or objects, between two looks at [`Reading::stopped`].
const STEPS: u32 = 4096;
/// What is reserved at once for what entries own.
const RESERVED_AT_ONCE: u64 = 64 << 10;

/// Counts what a table takes.
pub(super) struct Meter<'a> {
    pub(super) reading: &'a Reading<'a>,
    reserved: Reservation,
    /// Bytes of `reserved` that nothing was counted on yet.
    left: u64,
    steps: u32,
}

impl<'a> Meter<'a> {
    /// Reserves what is known before anything is decoded: the payload, the table, the entries that were promised.
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

    /// Counts a list of things before it is allocated.
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

    /// What the table keeps once its payload is gone.
    pub(super) fn finish(mut self, payload: u64) -> Reservation {
        self.reserved.shrink(payload + self.left);
        self.reserved
    }
}

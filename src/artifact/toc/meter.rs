//! Counting the memory for reading one table, in steps of negligible cost.

use super::{
    cost,
    read::{NotRead, Reading, Result},
};
use crate::memory::Reservation;

/// Entries, or objects, between two checks of [`Reading::stopped`].
const STEPS: u32 = 4096;
/// Bytes that are reserved at once for allocations of entries.
const RESERVED_AT_ONCE: u64 = 64 << 10;

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

//! Memory budgets: one shared limit on the memory of all untrusted documents that are read at the same time.
//!
//! A reader reserves before it allocates. The decoded value keeps its [`Reservation`], which returns the bytes when dropped.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Number of names whose manifests may be in memory at once: up to 4 MiB each.
const MANIFESTS: usize = 8;

/// Bytes for the tables of one command, whatever they list: with the other memory of a command they stay within 256 MB.
const COMMAND_BYTES: u64 = 224_000_000;
/// Additional bytes for configs, and for what is kept of each snapshot beside its tables. No writer relies on them.
const COMMAND_STATE_BYTES: u64 = 12_000_000;
/// Additional bytes for each entry that they list.
const COMMAND_BYTES_PER_ENTRY: u64 = 250;
/// Maximum number of entries that count for that.
const COMMAND_ENTRIES: u64 = 2_000_000;

/// A budget in bytes; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Limit,
    taken: Mutex<Taken>,
    manifests: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes: u64,
    per_entry: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    bytes: u64,
    entries: u64,
}

/// A reservation that exceeds the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough memory: {} of {} MB are in use",
    taken / 1_000_000,
    limit / 1_000_000
)]
pub struct Exhausted {
    /// The budget in bytes.
    pub limit: u64,
    /// Bytes that were already reserved.
    pub taken: u64,
}

impl MemoryBudget {
    /// The budget of one run of the command line: 224 MB for tables, 12 MB for other state, and 250 bytes for each entry that
    /// is read, of at most two million.
    pub fn of_command() -> Self {
        Self::new(Limit {
            bytes: COMMAND_BYTES + COMMAND_STATE_BYTES,
            per_entry: COMMAND_BYTES_PER_ENTRY,
        })
    }

    /// A budget of `bytes` for all calls of a daemon together.
    pub fn shared(bytes: u64) -> Self {
        Self::new(Limit {
            bytes,
            per_entry: 0,
        })
    }

    fn new(limit: Limit) -> Self {
        Self(Arc::new(Inner {
            limit,
            taken: Mutex::default(),
            manifests: Arc::new(Semaphore::new(MANIFESTS)),
        }))
    }

    /// Waits for one of eight permits to have manifests of unknown size in memory. A holder never waits for another permit.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = self.0.manifests.clone().acquire_owned().await;
        turn.expect("it is never closed")
    }

    /// Returns true if strangers share it: then a reservation that fails now may succeed later.
    pub fn is_shared(&self) -> bool {
        self.0.limit.per_entry == 0
    }

    /// Returns true if a command could read `entries` whose tables take `bytes`, with nothing else in memory.
    pub fn fits_a_command(entries: u64, bytes: u64) -> bool {
        let budget = Self::new(Limit {
            bytes: COMMAND_BYTES,
            per_entry: COMMAND_BYTES_PER_ENTRY,
        });
        budget.reserve(entries, bytes).is_ok()
    }

    /// Reserves `bytes` for tables of `entries`.
    ///
    /// # Errors
    /// Too little of the budget is left; then nothing is reserved.
    pub fn reserve(&self, entries: u64, bytes: u64) -> Result<Reservation, Exhausted> {
        let mut reservation = self.nothing();
        self.add(&mut reservation, Taken { bytes, entries })?;
        Ok(reservation)
    }

    /// An empty reservation, which may grow.
    pub fn nothing(&self) -> Reservation {
        Reservation {
            budget: Some(self.clone()),
            taken: Taken::default(),
        }
    }

    /// Bytes that are reserved.
    pub fn taken(&self) -> u64 {
        self.0.taken.lock().bytes
    }

    fn add(&self, to: &mut Reservation, more: Taken) -> Result<(), Exhausted> {
        let Limit { bytes, per_entry } = self.0.limit;
        let mut taken = self.0.taken.lock();
        let entries = taken.entries.saturating_add(more.entries);
        let limit = bytes + per_entry * entries.min(COMMAND_ENTRIES);
        let after = taken.bytes.saturating_add(more.bytes);
        if after > limit {
            let taken = taken.bytes;
            return Err(Exhausted { limit, taken });
        }
        *taken = Taken {
            bytes: after,
            entries,
        };
        to.taken.bytes += more.bytes;
        to.taken.entries += more.entries;
        Ok(())
    }

    fn give_back(&self, less: Taken) {
        let mut taken = self.0.taken.lock();
        taken.bytes = taken.bytes.saturating_sub(less.bytes);
        taken.entries = taken.entries.saturating_sub(less.entries);
    }
}

/// A part of a budget, returned when this is dropped.
///
/// It is independent of the value that it accompanies: copies are not counted, and all reservations compare equal.
#[derive(Debug, Default)]
pub struct Reservation {
    budget: Option<MemoryBudget>,
    taken: Taken,
}

impl Reservation {
    /// Reserves `bytes` more.
    ///
    /// # Errors
    /// Too little of the budget is left; the existing reservation is unchanged.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Exhausted> {
        self.grow_of(0, bytes)
    }

    /// Reserves `bytes` more, for `entries`.
    ///
    /// # Errors
    /// Too little of the budget is left; the existing reservation is unchanged.
    pub fn grow_of(&mut self, entries: u64, bytes: u64) -> Result<(), Exhausted> {
        let Some(budget) = self.budget.clone() else {
            return Ok(());
        };
        budget.add(self, Taken { bytes, entries })
    }

    /// Returns `bytes` of it.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.taken.bytes);
        self.taken.bytes -= bytes;
        if let Some(budget) = &self.budget {
            budget.give_back(Taken { bytes, entries: 0 });
        }
    }

    /// The number of reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.taken.bytes
    }
}

impl Clone for Reservation {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Reservation {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Reservation {}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_budget_ends_at_its_limit_and_takes_back_what_is_dropped() {
        let budget = MemoryBudget::shared(100);
        let mut first = budget.reserve(5, 60).unwrap();
        let refused = budget.clone().reserve(0, 41).unwrap_err();
        assert_eq!((refused.limit, refused.taken), (100, 60));
        first.grow(40).unwrap();
        assert!(first.grow(1).is_err());
        first.shrink(50);
        assert_eq!(budget.taken(), 50);
        drop(first);
        assert_eq!(budget.taken(), 0);
        assert!(budget.reserve(0, 100).is_ok());
    }

    #[test]
    fn a_command_may_take_more_for_each_entry_up_to_two_million() {
        assert!(MemoryBudget::fits_a_command(0, 224_000_000));
        assert!(!MemoryBudget::fits_a_command(0, 224_000_001));
        assert!(MemoryBudget::fits_a_command(1_000_000, 474_000_000));
        assert!(!MemoryBudget::fits_a_command(1_000_000, 474_000_001));
        assert!(!MemoryBudget::fits_a_command(u64::MAX, 724_000_001));
    }

    #[test]
    fn a_copy_of_what_is_reserved_gives_nothing_back() {
        let budget = MemoryBudget::shared(100);
        let first = budget.reserve(0, 60).unwrap();
        drop(first.clone());
        assert_eq!(budget.taken(), 60);
    }
}

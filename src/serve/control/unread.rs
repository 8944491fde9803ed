//! Reports that their clients have not read yet: they count towards the memory of all calls, of which one caller may use a
//! quarter.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tonic::Status;

use super::MEMORY_BYTES;
use crate::{
    memory::{MemoryBudget, Reservation},
    serve::admission::Key,
};

/// Bytes that the unread reports of one caller may take.
const MOST_OF_ONE: u64 = MEMORY_BYTES / 4;
/// Memory of a message for each byte on the wire (measured: 12 MB for 3.3 MB of `List`).
const BYTES_PER_BYTE: u64 = 4;

/// The unread reports of all calls.
pub(super) struct Unread {
    memory: MemoryBudget,
    callers: Mutex<HashMap<Key, u64>>,
}

/// Memory for one report, until it is dropped: when the report was read or abandoned.
pub(super) struct Kept {
    unread: Arc<Unread>,
    key: Key,
    bytes: u64,
    _room: Reservation,
}

impl Unread {
    /// No reports yet; they count towards `memory`.
    pub(super) fn within(memory: MemoryBudget) -> Arc<Self> {
        Arc::new(Self {
            memory,
            callers: Mutex::default(),
        })
    }

    /// Reserves memory for a report of `wire_bytes` of the caller `key`.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is too little memory, or that caller's other reports take too much.
    pub(super) fn keep(self: &Arc<Self>, key: &Key, wire_bytes: u64) -> Result<Kept, Status> {
        let bytes = wire_bytes.saturating_mul(BYTES_PER_BYTE);
        let mut callers = self.callers.lock();
        let own = callers.get(key).copied().unwrap_or(0);
        if own > 0 && own.saturating_add(bytes) > MOST_OF_ONE {
            return Err(Status::resource_exhausted(
                "this caller has not read the reports of its other calls yet: read or end those calls, then try again",
            ));
        }
        let room = self.memory.reserve(0, bytes).map_err(|full| {
            let (used, limit) = (full.taken / 1_000_000, full.limit / 1_000_000);
            Status::resource_exhausted(format!(
                "no memory for the report: {used} of {limit} MB for all calls are in use; try again when other calls have ended, or select fewer repositories"
            ))
        })?;
        *callers.entry(key.clone()).or_default() += bytes;
        drop(callers);
        Ok(Kept {
            unread: self.clone(),
            key: key.clone(),
            bytes,
            _room: room,
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut callers = self.unread.callers.lock();
        if let Some(own) = callers.get_mut(&self.key) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                callers.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn key(name: &str) -> Key {
        Key::Principal(name.into())
    }

    #[test]
    fn unread_reports_of_one_caller_have_a_quarter_and_those_of_all_the_whole() {
        let memory = MemoryBudget::shared(MEMORY_BYTES);
        let unread = Unread::within(memory.clone());
        let quarter = MOST_OF_ONE / BYTES_PER_BYTE;
        let first = unread.keep(&key("a"), quarter).unwrap();
        let refused = unread.keep(&key("a"), 1).err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let _others = ["b", "c", "d"].map(|name| unread.keep(&key(name), quarter).unwrap());
        assert!(unread.keep(&key("e"), 1).is_err());
        drop(first);
        // A single report may be longer than that.
        let long = unread.keep(&key("a"), quarter).unwrap();
        drop(long);
        assert_eq!(memory.taken(), 3 * MOST_OF_ONE);
        assert_eq!(unread.callers.lock().len(), 3);
    }
}

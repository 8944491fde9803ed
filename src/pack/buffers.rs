//! Buffers that are used again: touching the pages of a new one costs more than what is done with them.

use parking_lot::Mutex;

/// A bounded collection of empty buffers.
#[derive(Debug, Default)]
pub struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
    limit: usize,
}

impl Buffers {
    /// Keeps at most `limit` buffers.
    pub fn new(limit: usize) -> Self {
        Self {
            spare: Mutex::default(),
            limit,
        }
    }

    /// An empty buffer with at least this capacity.
    pub fn take(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.spare.lock().pop().unwrap_or_default();
        buffer.reserve_exact(capacity);
        buffer
    }

    /// Keeps a buffer for later, unless there are enough.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.lock();
        if spare.len() < self.limit {
            spare.push(buffer);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_empty_and_no_more_than_the_limit_are_kept() {
        let buffers = Buffers::new(1);
        let mut first = buffers.take(1000);
        first.extend_from_slice(b"of the last frame");
        let at = first.as_ptr();
        buffers.give_back(first);
        buffers.give_back(Vec::with_capacity(1000));
        let again = buffers.take(500);
        assert!(again.is_empty() && again.as_ptr() == at);
        assert!(buffers.spare.lock().is_empty());
        assert!(buffers.take(2000).capacity() >= 2000);
    }
}

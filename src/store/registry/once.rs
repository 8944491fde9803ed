//! Messages that are logged once per process.

use std::sync::atomic::{AtomicBool, Ordering};

/// Guards a message that is logged once per process.
#[derive(Debug, Default)]
pub(super) struct Once(AtomicBool);

impl Once {
    /// True the first time.
    pub(super) fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

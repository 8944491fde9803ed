//! What is said once a process.

use std::sync::atomic::{AtomicBool, Ordering};

/// Says something once a process.
#[derive(Debug, Default)]
pub(super) struct Once(AtomicBool);

impl Once {
    /// True the first time.
    pub(super) fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

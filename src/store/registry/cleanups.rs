//! Cancellations of uploads, which run in the background.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::task::Task;

/// Maximum number of concurrent cancellations; the oldest is abandoned for a new one.
const MAX_CLEANUPS: usize = 16;

/// Cancellations that run in the background and end with the store.
#[derive(Debug, Default)]
pub(super) struct Cleanups(Mutex<VecDeque<Task<()>>>);

impl Cleanups {
    pub(super) fn add(&self, task: Task<()>) {
        let mut all = self.0.lock();
        if all.len() >= MAX_CLEANUPS {
            all.pop_front();
        }
        all.push_back(task);
    }
}

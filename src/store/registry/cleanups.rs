//! Cancellations of uploads, which run beside the work.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::task::Task;

/// Most cancellations under way; the oldest is given up for a new one.
const MAX_CLEANUPS: usize = 16;

/// Cancellations that run beside the work and end with the store.
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

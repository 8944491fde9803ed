//! Reading many documents within one budget of memory.

use std::collections::VecDeque;

use futures_util::{StreamExt as _, stream::FuturesOrdered};

use super::{Error, Result};

/// Reads items in order, several ahead. Those that do not fit into memory beside the others are read one by one, each after the previous
/// one is dropped.
pub(super) struct InTurn<T, F, R: Future> {
    rest: VecDeque<T>,
    running: FuturesOrdered<R>,
    read: F,
    at_once: usize,
}

impl<T: Clone, O, F: Fn(T) -> R, R: Future<Output = Result<O>>> InTurn<T, F, R> {
    pub(super) fn new(items: impl IntoIterator<Item = T>, at_once: usize, read: F) -> Self {
        Self {
            rest: items.into_iter().collect(),
            running: FuturesOrdered::new(),
            read,
            at_once: at_once.max(1),
        }
    }

    /// The next item and its content: `Memory` only if it does not fit even alone. The caller drops the previous result first.
    pub(super) async fn next(&mut self) -> Option<(T, Result<O>)> {
        loop {
            while self.running.len() < self.at_once
                && let Some(item) = self.rest.get(self.running.len())
            {
                self.running.push_back((self.read)(item.clone()));
            }
            match self.running.next().await? {
                Err(Error::Memory { .. }) if self.at_once > 1 => {
                    self.at_once = 1;
                    // Run them to completion: a dropped read may keep its memory until its thread notices.
                    while self.running.next().await.is_some() {}
                }
                read => return Some((self.rest.pop_front()?, read)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBudget;

    #[tokio::test]
    async fn what_finds_no_room_beside_others_of_its_reading_is_read_alone() {
        let budget = MemoryBudget::shared(100);
        let read = |bytes: u64| {
            let budget = budget.clone();
            async move {
                let room = budget.reserve(0, bytes);
                tokio::task::yield_now().await;
                let what = bytes.to_string();
                room.map_err(|why| Error::Memory { what, why })
            }
        };
        let mut reads = InTurn::new([60, 70, 101, 80], 4, read);
        let mut fit = Vec::new();
        while let Some((bytes, read)) = reads.next().await {
            fit.push((bytes, read.is_ok()));
        }
        assert_eq!(fit, [(60, true), (70, true), (101, false), (80, true)]);
    }
}

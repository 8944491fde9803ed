//! State of a pool: holders, waiters, and whose turn it is.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::{Key, Permit};

#[derive(Default)]
pub(super) struct State {
    pub(super) places: usize,
    /// Number of the `places` reserved for callers with fewer than `few`.
    pub(super) reserved: usize,
    pub(super) few: usize,
    pub(super) taken: usize,
    /// Number of the `taken` slots that were granted as reserved ones, which leaves as many of the others free.
    pub(super) taken_reserved: usize,
    pub(super) waiting: usize,
    pub(super) callers: HashMap<Key, Caller>,
    pub(super) next: u64,
    /// Number of grants so far.
    pub(super) grants: u64,
    /// Whether the last of them went to a named caller.
    pub(super) last_was_named: bool,
}

#[derive(Default)]
pub(super) struct Caller {
    pub(super) held: usize,
    /// Number of its last grant; 0 if unknown.
    last: u64,
    pub(super) waiting: VecDeque<Waiter>,
}

pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) grant: oneshot::Sender<Permit>,
}

/// Grants to send once the state is no longer locked.
pub(super) type Grants = Vec<(oneshot::Sender<Permit>, Permit)>;

impl State {
    /// Returns true if an unreserved slot is free once `more` slots have been released.
    fn has_open(&self, more: usize) -> bool {
        let open = self.taken - self.taken_reserved;
        // More slots may be in use than the pool has, after it was shrunk.
        open < self.places - self.reserved + more && self.taken < self.places + more
    }

    pub(super) fn may_take(&self, held: usize) -> bool {
        let has_reserved = self.taken_reserved < self.reserved && self.taken < self.places;
        self.has_open(0) || (has_reserved && held < self.few)
    }

    /// Returns true if a caller with `held` slots could get the released slot, reserved or not.
    pub(super) fn would_grant(&self, held: usize, is_reserved: bool) -> bool {
        if is_reserved {
            let is_enough = self.taken_reserved <= self.reserved && self.taken <= self.places;
            return is_enough && held < self.few;
        }
        self.has_open(1)
    }

    /// Takes a slot for `key`, who must be allowed to have one; returns true if it is a reserved one.
    pub(super) fn take(&mut self, key: &Key) -> bool {
        let is_reserved = !self.has_open(0);
        self.taken += 1;
        self.taken_reserved += usize::from(is_reserved);
        self.grants += 1;
        self.last_was_named = key.is_named();
        let caller = self.callers.entry(key.clone()).or_default();
        caller.held += 1;
        caller.last = self.grants;
        is_reserved
    }

    /// The caller whose turn it is, of those that may have a slot.
    pub(super) fn next(&self) -> Option<Key> {
        let crowd_has_half = self.crowd_has_half();
        let waiting = self.callers.iter().filter_map(|(key, caller)| {
            let first = caller.waiting.front()?;
            let is_after_named = crowd_has_half && !key.is_named();
            let order = (is_after_named, caller.held, caller.last, first.ticket);
            self.may_take(caller.held).then_some((order, key))
        });
        let (_, key) = waiting.min_by_key(|(order, _)| *order)?;
        Some(key.clone())
    }

    /// Returns true if one more slot for callers without a name would exceed their half while a named caller waits.
    fn crowd_has_half(&self) -> bool {
        let crowd = self.callers.iter().filter(|(key, _)| !key.is_named());
        let held: usize = crowd.map(|(_, caller)| caller.held).sum();
        2 * (held + 1) > self.places + usize::from(self.last_was_named)
    }

    pub(super) fn pop(&mut self, key: &Key) -> Option<Waiter> {
        let waiter = self.callers.get_mut(key)?.waiting.pop_front()?;
        self.waiting -= 1;
        Some(waiter)
    }

    pub(super) fn tidy(&mut self, key: &Key) {
        let is_gone = |c: &Caller| c.held == 0 && c.waiting.is_empty();
        if self.callers.get(key).is_some_and(is_gone) {
            self.callers.remove(key);
        }
    }

    /// Makes space in a full queue for `key` by refusing the newest waiter of the caller with the most waiters (considering only
    /// callers without a name if those have over half of the queue); `false` if that caller is `key`.
    pub(super) fn make_room(&mut self, key: &Key) -> bool {
        let own = self.callers.get(key).map_or(0, |c| c.waiting.len());
        let crowd = self.callers.iter().filter(|(key, _)| !key.is_named());
        let crowd: usize = crowd.map(|(_, caller)| caller.waiting.len()).sum();
        let has_over_half = 2 * crowd > self.waiting;
        let gives_way = |of: &Key, waiting: usize| {
            let is_enough = waiting > own + 1 || (key.is_named() && !of.is_named() && waiting > 0);
            is_enough && !(has_over_half && of.is_named())
        };
        let all = self.callers.iter();
        let most = all
            .filter(|(of, c)| gives_way(of, c.waiting.len()))
            .max_by_key(|(of, c)| (c.waiting.len(), !of.is_named()));
        let Some(most) = most.map(|(key, _)| key.clone()) else {
            return false;
        };
        // The receiver notices when the sender is dropped.
        let refused = self.callers.get_mut(&most).map(|c| c.waiting.pop_back());
        self.waiting -= usize::from(refused.flatten().is_some());
        self.tidy(&most);
        true
    }
}

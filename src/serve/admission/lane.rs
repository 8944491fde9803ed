//! Clients that the daemon waits for: they hold no shared permit, only memory, so their number is limited.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use tokio::time::Instant;

use super::{Connection, Key, connection::WaitsForClient};
use crate::{fair::lines, metrics::LaneMetrics};

/// A limited number of clients that send slowly or do not read. A new entry is always admitted: if there is no room, the oldest
/// entry of the caller with most entries is cut; if callers without a name have over half of the lane, the oldest of theirs
/// ([`Key::is_named`]).
#[derive(Clone)]
pub struct Lane(Arc<Shared>);

struct Shared {
    most: usize,
    state: Mutex<State>,
    counts: LaneMetrics,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    next: u64,
}

struct Entry {
    key: Key,
    cut: Arc<Cut>,
}

/// Whether an entry was cut, and whom to wake then.
#[derive(Default)]
pub(super) struct Cut {
    done: AtomicBool,
    waker: AtomicWaker,
}

impl Cut {
    pub(super) fn cut(&self) {
        self.done.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Ready when it is cut; wakes only the task that asked last.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_cut() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Returns when it is cut. Cancel-safe.
    pub(super) async fn done(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// An entry of a lane, which leaves when dropped.
#[must_use]
pub struct Parked {
    shared: Arc<Shared>,
    number: u64,
    cut: Arc<Cut>,
    /// Set while its request waits for the client.
    waits: Option<WaitsForClient>,
}

impl Lane {
    /// A lane for `most` entries.
    pub fn new(most: usize) -> Self {
        Self::counted(most, LaneMetrics::default())
    }

    /// The same, counted in `counts`.
    pub fn counted(most: usize, counts: LaneMetrics) -> Self {
        Self(Arc::new(Shared {
            most,
            state: Mutex::default(),
            counts,
        }))
    }

    /// Admits one more, and cuts another one if there is no room.
    pub fn park(&self, key: Key) -> Parked {
        let cut = Arc::new(Cut::default());
        let mut state = self.0.state.lock();
        let number = state.next;
        state.next += 1;
        state.entries.insert(
            number,
            Entry {
                key,
                cut: cut.clone(),
            },
        );
        let victim = (state.entries.len() > self.0.most)
            .then(|| state.longest_of_most())
            .flatten();
        let victim = victim.and_then(|number| state.entries.remove(&number));
        self.0.show(&state);
        drop(state);
        if let Some(victim) = victim {
            self.0.counts.cut.inc();
            if lines::may_write(&victim.key) {
                tracing::info!(caller = ?victim.key, "Too many slow clients: aborted one");
            }
            victim.cut.cut();
        }
        Parked {
            shared: self.0.clone(),
            number,
            cut,
            waits: None,
        }
    }

    /// The same for a request that has been waiting only for its client since that moment, on this connection.
    pub fn park_on(&self, key: Key, connection: &Connection, since: Instant) -> Parked {
        let mut parked = self.park(key);
        parked.waits = Some(connection.wait_for_client(since));
        parked
    }

    /// The same for a slow upload.
    pub(super) fn park_upload(&self, key: Key, connection: &Connection) -> Parked {
        let mut parked = self.park(key);
        parked.waits = Some(connection.wait_for_upload(Instant::now()));
        parked
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.0.state.lock().entries.len()
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn longest_of_most(&self) -> Option<u64> {
        let crowd = self.entries.values().filter(|e| !e.key.is_named()).count();
        let is_crowded = 2 * crowd > self.entries.len();
        let mut callers: HashMap<&Key, (usize, u64)> = HashMap::new();
        let may_go = |entry: &Entry| !(is_crowded && entry.key.is_named());
        for (number, entry) in self.entries.iter().filter(|(_, e)| may_go(e)) {
            let (count, longest) = callers.entry(&entry.key).or_insert((0, *number));
            *count += 1;
            *longest = (*longest).min(*number);
        }
        let most = callers
            .into_values()
            .max_by_key(|(count, longest)| (*count, std::cmp::Reverse(*longest)));
        most.map(|(_, longest)| longest)
    }
}

impl Shared {
    fn show(&self, state: &State) {
        let count = i64::try_from(state.entries.len()).unwrap_or(i64::MAX);
        self.counts.clients.set(count);
    }
}

impl Parked {
    /// Returns true if its request waits for the client.
    pub(super) fn waits(&self) -> bool {
        self.waits.is_some()
    }

    /// Returns true if it was cut.
    pub fn is_cut(&self) -> bool {
        self.cut.is_cut()
    }

    /// Ready when it is cut; wakes only the task that asked last.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        self.cut.poll(cx)
    }

    /// Returns when it is cut. Cancel-safe.
    pub async fn cut(&self) {
        self.cut.done().await;
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.entries.remove(&self.number);
        self.shared.show(&state);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn key(name: &str) -> Key {
        Key::Principal(name.into())
    }

    #[test]
    fn longest_of_whoever_has_most_is_cut_for_one_more() {
        let lane = Lane::new(3);
        let one = lane.park(key("one"));
        let mut many: Vec<_> = (0..2).map(|_| lane.park(key("many"))).collect();
        let new = lane.park(key("new"));
        assert!(many.remove(0).cut().now_or_never().is_some());
        assert!(!one.is_cut() && !many[0].is_cut() && !new.is_cut());
        assert_eq!(lane.len(), 3);
        drop((one, many, new));
        assert!(lane.is_empty());
    }

    #[test]
    fn nobody_with_a_name_is_cut_while_a_crowd_without_has_over_half() {
        let lane = Lane::new(4);
        let address = |n: u8| Key::address([10, 0, 0, n].into());
        let named = [lane.park(key("a")), lane.park(key("a"))];
        let crowd: Vec<_> = (0..9).map(|n| lane.park(address(n))).collect();
        assert!(named.iter().all(|p| !p.is_cut()));
        let cut: Vec<bool> = crowd.iter().map(Parked::is_cut).collect();
        assert_eq!(cut, [[true; 7].as_slice(), &[false; 2]].concat());
        // The third one has most, and unnamed callers have no more than their half.
        let third = lane.park(key("a"));
        assert!(named[0].is_cut() && !named[1].is_cut() && !third.is_cut());
        assert!(crowd[7..].iter().all(|p| !p.is_cut()));
    }

    #[test]
    fn of_callers_with_as_many_the_longest_there_is_cut() {
        let lane = Lane::new(2);
        let (first, second) = (lane.park(key("a")), lane.park(key("b")));
        let third = lane.park(key("c"));
        assert!(first.is_cut() && !second.is_cut() && !third.is_cut());
    }
}

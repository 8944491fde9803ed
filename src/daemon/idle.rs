//! Connections for which the daemon does nothing: they are closed when others wait for a slot.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::serve::admission::{Connection, Demand, Key, Pool, Rest};

/// While others wait for a slot, the daemon waits at most this long for the client of a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often connections are checked.
const LOOK: Duration = Duration::from_millis(500);

/// All open connections of some listeners.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    all: HashMap<u64, (Key, Connection)>,
}

/// A connection in the list, which is removed when this is dropped.
pub(super) struct Opened(Open, u64);

impl Open {
    pub(super) fn add(&self, key: Key, connection: Connection) -> Opened {
        let mut state = self.0.lock();
        let number = state.next;
        state.next += 1;
        state.all.insert(number, (key, connection));
        Opened(self.clone(), number)
    }

    /// Makes room for connections that wait in `places`, as long as it is polled; never returns.
    pub(super) async fn make_room(&self, places: &Pool) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            if places.waiting() > 0 {
                self.close_idle(places.demand());
            }
        }
    }

    fn close_idle(&self, demand: HashMap<Key, Demand>) {
        let mut idle = Vec::new();
        for (number, (key, connection)) in &self.0.lock().all {
            if let Some((rest, since)) = connection.rests().filter(|(_, s)| *s >= PATIENCE) {
                idle.push(((rest, since), key.clone(), *number));
            }
        }
        // The last one is closed first: one that nobody would miss, and of those the one that has been idle longest.
        idle.sort_by_key(|(order, ..)| *order);
        let mut candidates: HashMap<Key, Vec<Candidate>> = HashMap::new();
        for ((rest, _), key, number) in idle {
            let candidate = Candidate {
                number,
                is_upload: rest == Rest::Sending,
            };
            candidates.entry(key).or_default().push(candidate);
        }
        for number in in_the_way(demand, candidates) {
            let found = self.0.lock().all.remove(&number);
            if let Some((caller, connection)) = found {
                tracing::debug!(
                    ?caller,
                    "Idle connection closed: other connections wait for a slot"
                );
                connection.hang_up();
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.0.lock().all.remove(&self.1);
    }
}

/// A connection that may be closed.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    number: u64,
    /// An upload arrives on it, slowly.
    is_upload: bool,
}

impl Candidate {
    /// By how many its caller must exceed the waiting one. For an upload, enough that it does not reconnect and take the slot
    /// again.
    fn least(self) -> usize {
        if self.is_upload { 2 } else { 1 }
    }
}

/// Which of the `candidates` are closed: one per waiting connection, of the caller with most, which must have more than the
/// waiting caller or be waiting itself. Callers with fewest are served first, as with free slots.
fn in_the_way(
    mut demand: HashMap<Key, Demand>,
    mut candidates: HashMap<Key, Vec<Candidate>>,
) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let waiting = demand.iter().filter(|(_, d)| d.waiting > 0);
        let Some((waiter, holds)) = waiting
            .map(|(key, d)| (key.clone(), d.held))
            .min_by_key(|(_, held)| *held)
        else {
            return found;
        };
        let held = |key: &Key| demand.get(key).map_or(0, |d| d.held);
        let gives_way = |key: &Key, all: &[Candidate]| {
            all.last().is_some_and(|last| {
                let is_own = *key == waiter && !last.is_upload;
                is_own || held(key) >= holds + last.least()
            })
        };
        let most = candidates
            .iter()
            .filter(|(key, all)| gives_way(key, all))
            .map(|(key, _)| key.clone())
            .max_by_key(|key| held(key));
        let number = most.as_ref().and_then(|m| candidates.get_mut(m)?.pop());
        if let Some(caller) = demand.get_mut(&waiter) {
            if number.is_some() {
                caller.held += 1;
                caller.waiting -= 1;
            } else {
                // No caller has more than this one.
                caller.waiting = 0;
            }
        }
        if let Some(caller) = most.and_then(|m| demand.get_mut(&m)) {
            caller.held = caller.held.saturating_sub(1);
        }
        found.extend(number.map(|candidate| candidate.number));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn key(name: &str) -> Key {
        Key::Principal(name.into())
    }

    /// Callers by name, with slots held and requests waiting; returns how many connections of each are closed.
    fn closed(callers: &[(&str, usize, usize)]) -> Vec<usize> {
        closed_of(callers, false)
    }

    /// The same if all of them carry slow uploads.
    fn closed_of(callers: &[(&str, usize, usize)], is_upload: bool) -> Vec<usize> {
        let candidate = move |number| Candidate { number, is_upload };
        let numbers =
            move |at: usize, held: usize| (0..held).map(move |n| candidate((at * 1000 + n) as u64));
        let demand = callers
            .iter()
            .map(|(name, held, waiting)| {
                let (held, waiting) = (*held, *waiting);
                (key(name), Demand { held, waiting })
            })
            .collect();
        let candidates = callers
            .iter()
            .enumerate()
            .map(|(at, (name, held, _))| (key(name), numbers(at, *held).collect()))
            .collect();
        let found = in_the_way(demand, candidates);
        let of = |at| found.iter().filter(|n| **n as usize / 1000 == at).count();
        (0..callers.len()).map(of).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_keeps_its_place_for_ever_and_an_idle_connection_for_a_while() {
        for (is_upload, ends) in [(true, false), (false, true)] {
            let places = super::super::listen::places(1);
            let (open, connection) = (Open::default(), Connection::default());
            let _opened = open.add(key("first"), connection.clone());
            let _place = places.enter(key("first")).await.unwrap();
            let _request = is_upload.then(|| connection.begin());
            let _slow = is_upload.then(|| connection.wait_for_upload(Instant::now()));
            let waits = places.enter(key("second"));
            assert_eq!(places.waiting(), 1);
            let ended = tokio::select! {
                biased;
                () = connection.ends() => true,
                () = open.make_room(&places) => unreachable!("it ends never"),
                () = tokio::time::sleep(4 * PATIENCE) => false,
            };
            assert_eq!(ended, ends);
            drop(waits);
        }
    }

    #[test]
    fn one_connection_of_the_caller_with_most_gives_way_for_each_who_waits() {
        let calm = [("many", 96, 0), ("some", 15, 0), ("honest", 0, 1)];
        assert_eq!(closed(&calm), [1, 0, 0]);
        assert_eq!(closed(&[("many", 96, 0), ("honest", 0, 3)]), [3, 0]);
        // A waiting caller gets no more than the others; beyond that it only replaces its own connections.
        assert_eq!(closed(&[("a", 5, 0), ("b", 4, 9)]), [1, 4]);
    }

    #[test]
    fn slow_uploads_give_way_only_to_who_holds_fewer_all_the_same_afterwards() {
        let closed = |callers: &[_]| closed_of(callers, true);
        assert_eq!(
            closed(&[("many", 8, 0), ("some", 6, 0), ("new", 0, 2)]),
            [2, 0, 0]
        );
        // Callers with equal numbers would only take turns.
        assert_eq!(
            closed(&[("one", 1, 0), ("another", 1, 0), ("new", 0, 5)]),
            [0, 0, 0]
        );
        assert_eq!(closed(&[("many", 4, 3), ("new", 0, 9)]), [2, 0]);
        // Not even for its own.
        assert_eq!(closed(&[("many", 9, 2), ("few", 3, 0)]), [0, 0]);
    }

    #[test]
    fn whoever_waits_and_has_most_gives_way_to_itself_alone() {
        assert_eq!(closed(&[("many", 9, 2), ("few", 3, 0)]), [2, 0]);
        assert_eq!(closed(&[("many", 9, 2), ("few", 3, 1)]), [3, 0]);
    }
}

//! Slots that are shared fairly between callers.
//!
//! A single caller may have every slot except a few that are reserved for callers with almost none. While several wait, the next
//! free slot goes to the caller with the fewest; among these to the one whose last grant is longest ago, and then to the one that
//! has waited longest: many requests of few callers do not delay the first request of another. The queue is bounded: if it is
//! full, the newest waiter of the caller with the most waiters is refused.
//!
//! Anybody can have many addresses, so callers without a name ([`Key::is_named`]) also form a group, the crowd: while a named
//! caller waits, the whole crowd gets at most half of the slots (of an odd number, the last slot alternates between crowd and
//! named callers). If the crowd has more than half of a full queue, a new waiter displaces one of the crowd. Within its half each
//! member is a caller like any other, and while no named caller waits, the crowd may have every slot.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

mod state;
mod waiting;

use super::Key;
use crate::metrics::Admitted;
use state::{Caller, Grants, State, Waiter};
use waiting::{Asked, QueuedWaiter};

/// Longest time that a request waits for a slot before it is refused: registry clients fail a build after a few quick errors, but
/// never while they wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// A caller with fewer slots than this may take reserved ones.
const FEW: usize = 4;

/// How many requests may wait for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Of all callers together.
    pub total: usize,
    /// Of one caller.
    pub each: usize,
}

/// A caller's use of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Slots that it holds.
    pub held: usize,
    /// Its requests that wait for one.
    pub waiting: usize,
}

/// No slot was free in time, or too many requests wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for a place ({pool})")]
pub struct Full {
    /// Name of the pool.
    pub pool: &'static str,
}

/// A slot, which is freed when this is dropped.
pub struct Permit {
    pool: Arc<Shared>,
    key: Key,
    is_reserved: bool,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({}, {:?})", self.pool.name, self.key)
    }
}

/// A named set of slots. Cloning returns another handle of the same slots.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    name: &'static str,
    queue: Queue,
    state: Mutex<State>,
    counts: Admitted,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Grants free slots to the callers whose turn it is.
    fn grant(self: &Arc<Self>, state: &mut State) -> Grants {
        let mut grants = Grants::new();
        while let Some(key) = state.next() {
            let Some(waiter) = state.pop(&key) else { break };
            if waiter.grant.is_closed() {
                state.tidy(&key);
                continue;
            }
            let is_reserved = state.take(&key);
            let pool = self.clone();
            let permit = Permit {
                pool,
                key,
                is_reserved,
            };
            grants.push((waiter.grant, permit));
        }
        self.show(state);
        grants
    }

    fn show(&self, state: &State) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.counts.taken.set(gauge(state.taken));
        self.counts.waiting.set(gauge(state.waiting));
    }

    fn full(&self) -> Full {
        self.counts.refused.inc();
        tracing::debug!(pool = self.name, "No place was free");
        Full { pool: self.name }
    }
}

/// Sends grants; a slot whose waiter is gone is freed by being dropped.
fn send(grants: Grants) {
    for (grant, permit) in grants {
        drop(grant.send(permit));
    }
}

impl Pool {
    /// `places` slots (at least one) under `name`, which metrics and refusals show. One in eight is reserved for callers with
    /// fewer than four, if there are enough.
    pub fn new(name: &'static str, places: usize, queue: Queue) -> Self {
        let pool = Self(Arc::new(Shared {
            name,
            queue,
            state: Mutex::new(State {
                few: FEW,
                ..State::default()
            }),
            counts: Admitted::default(),
        }));
        pool.resize(places);
        pool
    }

    /// The same, with `spare` additional slots for callers that hold none. Must be called before the pool is used.
    #[must_use]
    pub fn with_spare(self, spare: usize) -> Self {
        let mut state = self.0.state();
        state.places += spare;
        state.reserved = spare;
        state.few = 1;
        drop(state);
        self
    }

    /// The same, with the reserved slots for callers that hold fewer than `few`. Must be called before the pool is used.
    #[must_use]
    pub fn few(self, few: usize) -> Self {
        self.0.state().few = few;
        self
    }

    /// The same, with metrics in `counts`. Must be called before the pool is used.
    #[must_use]
    pub fn counted(self, counts: Admitted) -> Self {
        let state = std::mem::take(&mut *self.0.state());
        Self(Arc::new(Shared {
            name: self.0.name,
            queue: self.0.queue,
            state: Mutex::new(state),
            counts,
        }))
    }

    /// Takes a slot for `key`, waiting for at most 30 s; it is in the queue from the moment of the call. Cancel-safe.
    ///
    /// # Errors
    /// [`Full`] if none was free in time, or the queue is full.
    pub fn enter(&self, key: Key) -> impl Future<Output = Result<Permit, Full>> + Send + use<> {
        let asked = self.ask(key, Some(self.0.queue));
        let shared = self.0.clone();
        async move {
            let waiting = match asked {
                Asked::Taken(permit) => return Ok(permit),
                Asked::Refused => return Err(shared.full()),
                Asked::Queued(waiting) => waiting,
            };
            match tokio::time::timeout(PATIENCE, waiting).await {
                Ok(Some(permit)) => Ok(permit),
                Ok(None) | Err(_) => Err(shared.full()),
            }
        }
    }

    /// Takes a slot for `key` if it need not wait for one.
    pub fn enter_now(&self, key: Key) -> Option<Permit> {
        let mut state = self.0.state();
        let held = state.callers.get(&key).map_or(0, |c| c.held);
        if state.waiting > 0 || !state.may_take(held) {
            return None;
        }
        let is_reserved = state.take(&key);
        self.0.show(&state);
        drop(state);
        let pool = self.0.clone();
        Some(Permit {
            pool,
            key,
            is_reserved,
        })
    }

    /// Takes a slot again for a request that released its own for a while: it waits as long as necessary, and does not count
    /// towards the queue's limits, since the admission limits the number of such requests. Cancel-safe.
    pub async fn enter_again(&self, key: Key) -> Permit {
        loop {
            match self.ask(key.clone(), None) {
                Asked::Taken(permit) => return permit,
                Asked::Queued(waiting) => {
                    // `None` means that it was refused to make space in a full queue.
                    if let Some(permit) = waiting.await {
                        return permit;
                    }
                }
                Asked::Refused => tokio::task::yield_now().await,
            }
        }
    }

    fn ask(&self, key: Key, bounds: Option<Queue>) -> Asked {
        if let Some(permit) = self.enter_now(key.clone()) {
            return Asked::Taken(permit);
        }
        let mut state = self.0.state();
        if let Some(Queue { total, each }) = bounds {
            let own = state.callers.get(&key).map_or(0, |c| c.waiting.len());
            if own >= each || (state.waiting >= total && !state.make_room(&key)) {
                return Asked::Refused;
            }
        }
        let (grant, granted) = oneshot::channel();
        let ticket = state.next;
        state.next += 1;
        state.waiting += 1;
        let waiter = Waiter { ticket, grant };
        let caller = state.callers.entry(key.clone()).or_default();
        caller.waiting.push_back(waiter);
        // It may be its turn although others wait, since they hold too many.
        let grants = self.0.grant(&mut state);
        drop(state);
        send(grants);
        Asked::Queued(QueuedWaiter {
            shared: self.0.clone(),
            key,
            ticket,
            granted,
        })
    }

    /// Returns true if this is the only handle: nobody holds a slot, waits for one or is about to.
    pub fn is_idle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Slots in use.
    pub fn taken(&self) -> usize {
        self.0.state().taken
    }

    /// Waiting requests.
    pub fn waiting(&self) -> usize {
        self.0.state().waiting
    }

    /// The held and awaited slots of each caller.
    pub fn demand(&self) -> HashMap<Key, Demand> {
        let state = self.0.state();
        let of = |c: &Caller| Demand {
            held: c.held,
            waiting: c.waiting.len(),
        };
        let all = state.callers.iter();
        all.map(|(key, caller)| (key.clone(), of(caller))).collect()
    }

    /// How many more slots are in use than the pool has, after it was shrunk.
    pub fn surplus(&self) -> usize {
        let state = self.0.state();
        state.taken.saturating_sub(state.places)
    }

    /// Returns true if `key` could get that slot if it were released: reserved ones are not for everybody.
    pub fn would_grant(&self, key: &Key, place: &Permit) -> bool {
        let state = self.0.state();
        let held = state.callers.get(key).map_or(0, |caller| caller.held);
        state.would_grant(held, place.is_reserved)
    }

    /// Resizes the pool; when shrinking, busy slots are removed as they are released.
    pub fn resize(&self, places: usize) {
        let mut state = self.0.state();
        let spare = if state.few == 1 { state.reserved } else { 0 };
        state.places = places.max(1) + spare;
        if spare == 0 {
            state.reserved = state.places / 8;
        }
        let grants = self.0.grant(&mut state);
        drop(state);
        send(grants);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.taken -= 1;
        state.taken_reserved -= usize::from(self.is_reserved);
        if let Some(caller) = state.callers.get_mut(&self.key) {
            caller.held -= 1;
        }
        state.tidy(&self.key);
        let grants = self.pool.grant(&mut state);
        drop(state);
        send(grants);
    }
}

#[cfg(test)]
mod tests;

//! Bytes in transit between clients and the daemon: they hold no work permit, since the client sets their pace.
//!
//! Transfer slots are shared like all permits. But a slot may be held for hours, so a waiting caller gets one at the expense of
//! the caller that holds most: its youngest transfer is cut, which loses least. No transfer is cut while there is room for the
//! waiting caller, or for a caller that has some and more than half as many; and each caller causes at most one cut per
//! [`GRACE`].

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, timeout};

use super::{Demand, Full, Key, Permit, Pool, lane::Cut};
use crate::fair::lines;

/// A caller waits this long for a transfer to end by itself before another one is cut for it: those on a fast link end soon.
const GRACE: Duration = Duration::from_secs(3);

/// Transfer slots; clones share them.
#[derive(Clone)]
pub struct Transfers(Arc<Shared>);

struct Shared {
    places: Pool,
    /// After this long a transfer may be cut for a caller that has only one fewer.
    longest: Option<Duration>,
    cut: Counter,
    moving: Mutex<Moving>,
}

#[derive(Default)]
struct Moving {
    next: u64,
    /// By age.
    all: BTreeMap<u64, Entry>,
    /// When a transfer was last cut for a caller; old entries are forgotten.
    made_room: HashMap<Key, Instant>,
    /// Cut just now, but not yet given back.
    leaving: usize,
}

struct Entry {
    key: Key,
    since: Instant,
    cut: Arc<Cut>,
    place: Permit,
}

/// A transfer, until it is dropped.
#[must_use]
pub struct Transfer {
    shared: Arc<Shared>,
    number: u64,
    cut: Arc<Cut>,
}

impl Transfers {
    /// Transfers that hold these `places`; cut ones are counted in `cut`. If callers have equally many, a transfer that has
    /// lasted for `longest` gives way to a caller without any.
    pub fn new(places: Pool, longest: Option<Duration>, cut: Counter) -> Self {
        Self(Arc::new(Shared {
            places,
            longest,
            cut,
            moving: Mutex::default(),
        }))
    }

    /// Their slots.
    pub fn places(&self) -> &Pool {
        &self.0.places
    }

    /// Begins a transfer if a slot is free.
    pub fn enter_now(&self, key: &Key) -> Option<Transfer> {
        let place = self.0.places.enter_now(key.clone())?;
        Some(self.begin(key, place))
    }

    /// Begins a transfer, waiting at most 30 s for a slot. Cancel-safe.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn enter(&self, key: &Key) -> Result<Transfer, Full> {
        let place = self.granted(key, self.0.places.enter(key.clone())).await?;
        Ok(self.begin(key, place))
    }

    /// Resumes a transfer that gave its slot back for a while, however long it has to wait for another. Cancel-safe.
    pub async fn enter_again(&self, key: &Key) -> Transfer {
        let again = self.0.places.enter_again(key.clone());
        let place = self.granted(key, again).await;
        self.begin(key, place)
    }

    /// Waits for a grant, and makes room for it.
    async fn granted<T>(&self, key: &Key, granted: impl Future<Output = T>) -> T {
        let mut granted = pin!(granted);
        loop {
            match timeout(GRACE, &mut granted).await {
                Ok(granted) => return granted,
                Err(_) => self.0.make_room(key),
            }
        }
    }

    fn begin(&self, key: &Key, place: Permit) -> Transfer {
        let cut = Arc::new(Cut::default());
        let entry = Entry {
            key: key.clone(),
            since: Instant::now(),
            cut: cut.clone(),
            place,
        };
        let mut moving = self.0.moving.lock();
        let number = moving.next;
        moving.next += 1;
        moving.all.insert(number, entry);
        drop(moving);
        Transfer {
            shared: self.0.clone(),
            number,
            cut,
        }
    }
}

impl Shared {
    /// Cuts a transfer for one more of `key`, if another caller has to give way; and as many as exceed the limit, if that was
    /// reduced.
    fn make_room(&self, key: &Key) {
        let mut moving = self.moving.lock();
        let mut shares = Shares::new(self.places.demand(), key);
        let surplus = self.places.surplus().saturating_sub(moving.leaving);
        moving.made_room.retain(|_, at| at.elapsed() < GRACE);
        if moving.made_room.contains_key(key) {
            return;
        }
        let mut victims = Vec::new();
        while victims.len() <= surplus {
            let gives_way = |entry: &Entry| {
                let is_old = self.longest.is_some_and(|l| entry.since.elapsed() >= l);
                shares.gives_way(&entry.key, is_old)
                    && (surplus > 0 || self.places.would_grant(key, &entry.place))
            };
            let most = moving.all.iter().filter(|(_, entry)| gives_way(entry));
            let most = most.max_by_key(|(number, entry)| (shares.held(&entry.key), **number));
            let most = most.map(|(number, _)| *number);
            let Some(victim) = most.and_then(|number| moving.all.remove(&number)) else {
                break;
            };
            shares.has_fewer(&victim.key);
            victims.push(victim);
        }
        if !victims.is_empty() {
            moving.made_room.insert(key.clone(), Instant::now());
        }
        let leaving = victims.len();
        moving.leaving += leaving;
        drop(moving);
        for victim in victims {
            self.cut.inc();
            if lines::may_write(&victim.key) {
                tracing::info!(caller = ?victim.key, transfers = self.places.name(), "Aborted a transfer in favor of a caller with fewer");
            }
            victim.cut.cut();
            // The next one gets its slot.
            drop(victim);
        }
        self.moving.lock().leaving -= leaving;
    }
}

/// The share of each caller, from the point of view of a caller that wants one more.
struct Shares<'k> {
    of: HashMap<Key, Demand>,
    key: &'k Key,
    /// Callers without a name have, or would have, over half.
    is_crowded: bool,
}

impl<'k> Shares<'k> {
    fn new(of: HashMap<Key, Demand>, key: &'k Key) -> Self {
        let all: usize = of.values().map(|demand| demand.held).sum();
        let crowd = of.iter().filter(|(key, _)| !key.is_named());
        let crowd: usize = crowd.map(|(_, demand)| demand.held).sum();
        let is_crowded = 2 * (crowd + usize::from(!key.is_named())) > all;
        Self {
            of,
            key,
            is_crowded,
        }
    }

    fn held(&self, key: &Key) -> usize {
        self.of.get(key).map_or(0, |demand| demand.held)
    }

    fn has_fewer(&mut self, key: &Key) {
        if let Some(demand) = self.of.get_mut(key) {
            demand.held = demand.held.saturating_sub(1);
        }
    }

    fn gives_way(&self, other: &Key, is_old: bool) -> bool {
        if self.is_crowded && other.is_named() != self.key.is_named() {
            // Named callers are entitled to their half.
            return self.key.is_named();
        }
        if self.is_crowded && self.key.is_named() {
            // There is a caller without a name.
            return false;
        }
        let own = self.held(self.key) + usize::from(!is_old);
        // A difference of one does not matter: a caller that holds some waits until others hold clearly more.
        let least = if self.held(self.key) == 0 {
            own
        } else {
            2 * own
        };
        self.held(other) > least
    }
}

impl Transfer {
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

impl Drop for Transfer {
    fn drop(&mut self) {
        let entry = self.shared.moving.lock().all.remove(&self.number);
        // Not under the lock: the next one gets its slot immediately.
        drop(entry);
    }
}

#[cfg(test)]
mod tests;

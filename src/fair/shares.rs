//! Shares of a resource that is limited for all callers together, and that each may hold for long.
//!
//! A caller may hold at most as much as it leaves free for all others: half if it is alone; so there is always some left for the
//! next caller. Callers without a name ([`Key::is_named`]), of which a client can use many, count as one caller together, and
//! share its part in the same way: a single one of them gets a third of the total.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use super::Key;

/// The shared resource. Cloning returns another handle of the same.
#[derive(Clone)]
pub struct Shares(Arc<Mutex<State>>);

struct State {
    most: u64,
    taken: u64,
    of: HashMap<Key, u64>,
    /// The amount held by all callers without a name.
    unnamed: u64,
}

/// Why nothing was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Nothing is left at all.
    All,
    /// The caller has its share; others may have more.
    Caller,
}

/// A held part of the resource, which is freed when this is dropped.
pub struct Share {
    shares: Shares,
    caller: Option<Key>,
    amount: u64,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of {:?})", self.amount, self.caller)
    }
}

impl Share {
    /// Its holder; `None`: nobody in particular.
    pub fn caller(&self) -> Option<&Key> {
        self.caller.as_ref()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.shares.0.lock();
        state.taken -= self.amount;
        let Some(caller) = &self.caller else { return };
        if !caller.is_named() {
            state.unnamed -= self.amount;
        }
        if let Some(held) = state.of.get_mut(caller) {
            *held -= self.amount;
            if *held == 0 {
                state.of.remove(caller);
            }
        }
    }
}

impl Shares {
    /// A resource with `most` for all together.
    pub fn new(most: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            most,
            taken: 0,
            of: HashMap::new(),
            unnamed: 0,
        })))
    }

    /// Changes the total to `most`; held shares stay.
    pub fn limit(&self, most: u64) {
        self.0.lock().most = most;
    }

    /// Takes `amount` for `caller`; for nobody in particular (`None`) only the total is limited.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn take(&self, caller: Option<Key>, amount: u64) -> Result<Share, Refused> {
        let mut state = self.0.lock();
        let left = state.most.saturating_sub(state.taken);
        if amount > left {
            return Err(Refused::All);
        }
        if let Some(caller) = &caller {
            let own = state.of.get(caller).copied().unwrap_or(0);
            // One caller without a name must leave as much for the others without a name.
            let beside = if caller.is_named() { 0 } else { state.unnamed };
            if beside.saturating_add(own).saturating_add(amount) > left {
                return Err(Refused::Caller);
            }
        }
        Ok(self.hold(&mut state, caller, amount))
    }

    /// Counts `amount` that `caller` already holds, regardless of how much is left.
    pub fn count(&self, caller: Option<Key>, amount: u64) -> Share {
        self.hold(&mut self.0.lock(), caller, amount)
    }

    fn hold(&self, state: &mut State, caller: Option<Key>, amount: u64) -> Share {
        state.taken = state.taken.saturating_add(amount);
        if let Some(caller) = &caller {
            if !caller.is_named() {
                state.unnamed = state.unnamed.saturating_add(amount);
            }
            let held = state.of.entry(caller.clone()).or_default();
            *held = held.saturating_add(amount);
        }
        Share {
            shares: self.clone(),
            caller,
            amount,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::Principal(name.into())
    }

    fn address(n: u8) -> Key {
        Key::address([10, 0, 0, n].into())
    }

    /// Takes as much as `caller` is given.
    fn fill(shares: &Shares, caller: Option<&Key>) -> (Vec<Share>, Refused) {
        let mut held = Vec::new();
        loop {
            match shares.take(caller.cloned(), 1) {
                Ok(share) => held.push(share),
                Err(refused) => return (held, refused),
            }
        }
    }

    #[test]
    fn each_caller_leaves_as_much_as_it_has_and_gets_more_when_something_is_free() {
        let shares = Shares::new(100);
        let (first, refused) = fill(&shares, Some(&key("a")));
        assert_eq!((first.len(), refused), (50, Refused::Caller));
        let (second, refused) = fill(&shares, Some(&key("b")));
        assert_eq!((second.len(), refused), (25, Refused::Caller));
        // What is nobody's takes the rest.
        let (rest, refused) = fill(&shares, None);
        assert_eq!((rest.len(), refused), (25, Refused::All));
        assert_eq!(shares.take(Some(key("c")), 1).unwrap_err(), Refused::All);
        drop((first, rest));
        assert_eq!(fill(&shares, Some(&key("a"))).0.len(), 38);
        drop(second);
        let state = shares.0.lock();
        assert!(state.of.is_empty() && state.taken == 0);
    }

    #[test]
    fn any_number_of_addresses_are_one_caller_beside_those_with_a_name() {
        let shares = Shares::new(100);
        let (first, refused) = fill(&shares, Some(&address(0)));
        assert_eq!((first.len(), refused), (34, Refused::Caller));
        let others: Vec<_> = (1..=255)
            .map(|n| fill(&shares, Some(&address(n))).0)
            .collect();
        assert_eq!(others[0].len(), 11);
        assert_eq!(shares.0.lock().unnamed, 50);
        assert_eq!(fill(&shares, Some(&key("a"))).0.len(), 25);
        drop((first, others));
        assert_eq!(shares.0.lock().unnamed, 0);
    }

    #[test]
    fn where_there_is_less_for_all_a_caller_gets_less() {
        let shares = Shares::new(100);
        let held = shares.take(Some(key("a")), 20).unwrap();
        shares.limit(40);
        assert_eq!(shares.take(Some(key("a")), 1).unwrap_err(), Refused::Caller);
        shares.limit(10);
        assert_eq!(shares.take(Some(key("b")), 1).unwrap_err(), Refused::All);
        drop(held);
        assert!(shares.take(Some(key("b")), 5).is_ok());
    }

    #[test]
    fn what_is_there_anyway_is_counted_whatever_is_left() {
        let shares = Shares::new(10);
        let before = shares.count(None, 12);
        assert_eq!(shares.take(Some(key("a")), 1).unwrap_err(), Refused::All);
        drop(before);
        assert!(shares.take(Some(key("a")), 10).is_ok());
    }
}

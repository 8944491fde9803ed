//! A map with a limited size whose entries expire.

use std::{collections::HashMap, hash::Hash, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Remembers each entry for a while. If there are too many, the older half is removed.
#[derive(Debug)]
pub struct Lately<K, V = ()> {
    most: usize,
    life: Duration,
    known: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Hash + Eq, V: Clone> Lately<K, V> {
    /// An empty map: at most `most` entries, each for `life`.
    pub fn new(most: usize, life: Duration) -> Self {
        Self {
            most,
            life,
            known: Mutex::default(),
        }
    }

    /// Inserts or replaces an entry, whose lifetime starts now.
    pub fn insert(&self, key: K, value: V) {
        if self.life.is_zero() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= self.most && !known.contains_key(&key) {
            let mut ages: Vec<Instant> = known.values().map(|(at, _)| *at).collect();
            let middle = ages.len() / 2;
            let middle = *ages.select_nth_unstable(middle).1;
            known.retain(|_, (at, _)| *at > middle);
        }
        known.insert(key, (Instant::now(), value));
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<V> {
        let known = self.known.lock();
        let (at, value) = known.get(key)?;
        (at.elapsed() < self.life).then(|| value.clone())
    }

    /// Returns true if there is a value for a key.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Removes a key.
    pub fn remove(&self, key: &K) {
        self.known.lock().remove(key);
    }

    /// Removes all entries.
    pub fn clear(&self) {
        self.known.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_mins(5);

    #[tokio::test(start_paused = true)]
    async fn entries_are_forgotten_in_time() {
        let lately = Lately::new(10, LIFE);
        lately.insert("a", 1);
        tokio::time::advance(LIFE / 2).await;
        assert_eq!(lately.get(&"a"), Some(1));
        lately.insert("a", 2);
        tokio::time::advance(LIFE / 10 * 9).await;
        assert_eq!(lately.get(&"a"), Some(2));
        tokio::time::advance(LIFE / 10).await;
        assert_eq!(lately.get(&"a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_kept_and_those_inserted_first_go() {
        let lately = Lately::new(4, LIFE);
        for key in [1, 2, 3, 4, 1, 5] {
            lately.insert(key, ());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let kept = [1, 2, 3, 4, 5].map(|key| lately.contains(&key));
        assert_eq!(kept, [true, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_more_even_of_one_moment() {
        let lately = Lately::new(4, LIFE);
        for key in 0..100 {
            lately.insert(key, ());
            assert!(lately.known.lock().len() <= 4 && lately.contains(&key));
        }
    }

    #[test]
    fn what_shall_be_forgotten_is() {
        let lately = Lately::new(3, Duration::MAX);
        lately.insert(1, ());
        lately.insert(2, ());
        lately.remove(&1);
        assert!(!lately.contains(&1) && lately.contains(&2));
        lately.clear();
        assert!(!lately.contains(&2));
        let never = Lately::new(3, Duration::ZERO);
        never.insert(1, ());
        assert!(!never.contains(&1));
    }
}

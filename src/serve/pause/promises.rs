//! Digests that clients were told exist, and that they may still name.
//!
//! Each digest is remembered with its client until the client names it, as long as there is room. Further digests are
//! remembered in a Bloom filter, which forgets nothing early: a prune keeps a few blobs too many, never one too few. So a
//! client that asks for very many blobs cannot prevent pruning.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use tokio::time::{Duration, Instant};

use crate::{
    digest::Digest, ops::prune::doors::Promised, serve::admission::Key, store::marked::MIN_GRACE,
};

/// Digests that are remembered individually, one entry per client: some tens of bytes each.
const MAX_EXACT: usize = 1 << 18;
/// When there is no room for more, expired promises are searched for at most this often.
const TIDY: Duration = Duration::from_mins(1);
/// Bits of a filter, 2 MiB, and how many a digest sets: with a million digests, one in 500 others is a false positive.
const BITS: u32 = 1 << 24;
const PROBES: u32 = 4;

pub(super) struct Promises {
    /// How many can be remembered individually.
    room: usize,
    /// Digest and client, both hashed.
    made: HashMap<(u64, u64), Instant>,
    tidied: Option<Instant>,
    /// Hashes of digests for which there was no room.
    more: Option<Filter>,
    /// The same for earlier ones, the last of which has not expired yet.
    before: Option<Filter>,
    /// Secret, so that nobody can choose digests that collide.
    hasher: RandomState,
}

impl Default for Promises {
    fn default() -> Self {
        Self::with_room(MAX_EXACT)
    }
}

impl Promises {
    pub(super) fn with_room(room: usize) -> Self {
        Self {
            room,
            made: HashMap::new(),
            tidied: None,
            more: None,
            before: None,
            hasher: RandomState::new(),
        }
    }

    /// Remembers that `client` was told that `digest` exists.
    pub(super) fn make(&mut self, client: &Key, digest: &Digest) {
        let key = (self.hash(digest), self.hash(client));
        let now = Instant::now();
        if self.made.len() >= self.room && !self.made.contains_key(&key) {
            let is_due = |at: Instant| now - at > TIDY;
            if self.tidied.is_none_or(is_due) {
                self.tidied = Some(now);
                self.made.retain(|_, at| now - *at < MIN_GRACE);
            }
            if self.made.len() >= self.room {
                self.add(key.0, now);
                return;
            }
        }
        self.made.insert(key, now);
    }

    fn add(&mut self, digest: u64, now: Instant) {
        if self
            .more
            .as_ref()
            .is_some_and(|f| now - f.began >= MIN_GRACE)
        {
            // Everything added before this one began has expired.
            self.before = self.more.take();
        }
        let more = self.more.get_or_insert_with(|| Filter::new(now));
        more.add(digest, now);
    }

    /// Forgets the promise of `digest` to `client`, if it is remembered individually.
    pub(super) fn forget(&mut self, client: &Key, digest: &Digest) {
        self.made.remove(&(self.hash(digest), self.hash(client)));
    }

    /// The current promises.
    pub(super) fn now(&mut self) -> Promised {
        let now = Instant::now();
        for filter in [&mut self.more, &mut self.before] {
            filter.take_if(|f| now - f.last >= MIN_GRACE);
        }
        let valid = self.made.iter().filter(|(_, at)| now - **at < MIN_GRACE);
        let digests: HashSet<u64> = valid.map(|((digest, _), _)| *digest).collect();
        let filters = [self.more.clone(), self.before.clone()];
        let hasher = self.hasher.clone();
        Box::new(move |digest| {
            let digest = hasher.hash_one(digest);
            let mut filters = filters.iter().flatten();
            digests.contains(&digest) || filters.any(|f| f.may_have(digest))
        })
    }

    fn hash(&self, of: &impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(of)
    }
}

/// A Bloom filter of the digests of some period.
#[derive(Clone)]
struct Filter {
    bits: Vec<u64>,
    began: Instant,
    last: Instant,
}

impl Filter {
    fn new(began: Instant) -> Self {
        Self {
            bits: vec![0; BITS as usize / 64],
            began,
            last: began,
        }
    }

    fn add(&mut self, digest: u64, now: Instant) {
        for (word, bit) in probes(digest) {
            self.bits[word] |= bit;
        }
        self.last = now;
    }

    fn may_have(&self, digest: u64) -> bool {
        probes(digest).all(|(word, bit)| self.bits[word] & bit != 0)
    }
}

/// The word and bit of each probe.
fn probes(digest: u64) -> impl Iterator<Item = (usize, u64)> {
    // Two halves generate any number of probes (Kirsch and Mitzenmacher, "Less Hashing, Same Performance").
    let (first, step) = (digest as u32, (digest >> 32) as u32 | 1);
    (0..PROBES).map(move |n| {
        let at = first.wrapping_add(n.wrapping_mul(step)) % BITS;
        (at as usize / 64, 1 << (at % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::sha256_of(&n.to_le_bytes())
    }

    fn key(name: &str) -> Key {
        Key::Principal(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_lasts_until_its_client_names_it_or_an_hour() {
        let mut promises = Promises::default();
        let (a, b) = (key("a"), key("b"));
        promises.make(&a, &digest(1));
        promises.make(&b, &digest(1));
        promises.make(&a, &digest(2));
        promises.forget(&a, &digest(1));
        promises.forget(&a, &digest(2));
        let promised = promises.now();
        assert!(promised(&digest(1)) && !promised(&digest(2)));
        tokio::time::advance(MIN_GRACE).await;
        assert!(!promises.now()(&digest(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn promises_beyond_those_remembered_one_by_one_are_kept_as_well_for_an_hour() {
        const ROOM: usize = 100;
        let almost = Duration::from_secs(MIN_GRACE.as_secs() - 1);
        let mut promises = Promises::with_room(ROOM);
        for n in 0..ROOM {
            promises.make(&key("many"), &digest(n));
        }
        let more = ROOM..ROOM + 10_000;
        for n in more.clone() {
            promises.make(&key("other"), &digest(n));
        }
        let promised = promises.now();
        assert!(
            (0..ROOM)
                .step_by(10)
                .chain(more.clone())
                .all(|n| promised(&digest(n)))
        );
        let strange = (100_000..110_000).filter(|n| promised(&digest(*n)));
        assert!(strange.count() < 10);
        // In the following hour one more begins the next filter; the contents of the first one still expire at their own time.
        tokio::time::advance(almost).await;
        for n in 0..ROOM {
            promises.make(&key("many"), &digest(n));
        }
        promises.make(&key("other"), &digest(more.start));
        tokio::time::advance(Duration::from_secs(2)).await;
        promises.make(&key("other"), &digest(more.end));
        let promised = promises.now();
        assert!(promised(&digest(more.start)) && promised(&digest(more.end)));
        tokio::time::advance(almost).await;
        let promised = promises.now();
        assert!(!promised(&digest(more.start)) && promised(&digest(more.end)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!promises.now()(&digest(more.end)));
        assert!(promises.more.is_none() && promises.before.is_none());
    }
}

//! The blobs in front: their sizes, last uses, and pins.
//!
//! Kept in memory; at the start the files' times are taken as their last use. A pinned blob is never evicted, and pinning waits
//! while the blob is being removed: if it exists afterwards, it stays.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::wait::{Check, until};
use crate::{digest::Digest, store::StoredBlob};

/// Minimum size of a file on disk, and its unit of allocation.
const BLOCK: u64 = 4096;
/// Blobs of up to this many bytes (manifests, configs) are evicted last: they cost little, and without them the others are
/// useless.
const SMALL_BYTES: u64 = 64 << 10;

struct Known {
    size: u64,
    used: u64,
}

/// Uses by this process are later than all earlier ones.
const FIRST_USE: u64 = 1 << 32;

#[derive(Default)]
struct Table {
    known: HashMap<Digest, Known>,
    bytes: u64,
    /// Counts uses: the higher, the later.
    clock: u64,
    pins: HashMap<Digest, u32>,
    /// About to be removed.
    claimed: HashSet<Digest>,
}

/// All blobs in front.
#[derive(Default)]
pub(super) struct Uses {
    table: Mutex<Table>,
    released: Notify,
}

/// Whether needed blobs are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pinned {
    /// They stay.
    Stay,
    /// They are removed too.
    Too,
}

/// A candidate for eviction, in the state when it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) digest: Digest,
    pub(super) size: u64,
    used: u64,
}

fn on_disk(size: u64) -> u64 {
    size.next_multiple_of(BLOCK).max(BLOCK)
}

impl Uses {
    /// Adds the blobs existing at the start.
    pub(super) fn seed(&self, mut blobs: Vec<StoredBlob>) {
        blobs.sort_by_key(|b| b.modified);
        let mut table = self.table.lock();
        for (at, blob) in (1..).zip(blobs) {
            let size = on_disk(blob.size);
            if let Entry::Vacant(free) = table.known.entry(blob.digest) {
                free.insert(Known { size, used: at });
                table.bytes += size;
            }
        }
    }

    /// Records that a blob was stored or read.
    pub(super) fn used(&self, digest: &Digest, size: u64) {
        let mut table = self.table.lock();
        table.clock += 1;
        let known = Known {
            size: on_disk(size),
            used: FIRST_USE + table.clock,
        };
        table.bytes += known.size;
        if let Some(before) = table.known.insert(*digest, known) {
            table.bytes -= before.size;
        }
    }

    /// Records that a blob does not exist.
    pub(super) fn forget(&self, digest: &Digest) {
        let mut table = self.table.lock();
        if let Some(known) = table.known.remove(digest) {
            table.bytes -= known.size;
        }
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.table.lock().bytes
    }

    /// Keeps a blob, existing or not yet stored, until the pin is dropped.
    pub(super) async fn pin(self: &Arc<Self>, digest: &Digest) -> Pin {
        let take = || {
            let mut table = self.table.lock();
            if table.claimed.contains(digest) {
                return Check::Later(None);
            }
            *table.pins.entry(*digest).or_default() += 1;
            Check::Now(())
        };
        until(&self.released, take).await;
        Pin {
            uses: self.clone(),
            digest: *digest,
        }
    }

    /// Returns true if it is pinned.
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.table.lock().pins.contains_key(digest)
    }

    /// The candidates for eviction, in the preferred order.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let table = self.table.lock();
        let mut all: Vec<Candidate> = table
            .known
            .iter()
            .filter(|(digest, _)| !table.pins.contains_key(digest))
            .map(|(digest, known)| Candidate {
                digest: *digest,
                size: known.size,
                used: known.used,
            })
            .collect();
        drop(table);
        all.sort_unstable_by_key(|c| (c.size <= SMALL_BYTES, c.used));
        all
    }

    /// Prevents the `candidates` that have not changed from being pinned until the claim is dropped.
    pub(super) fn claim(self: &Arc<Self>, candidates: &[Candidate]) -> Claim {
        let mut table = self.table.lock();
        let mut claimed = Vec::new();
        for c in candidates {
            let same = table.known.get(&c.digest).is_some_and(|k| k.used == c.used);
            if same && !table.pins.contains_key(&c.digest) && table.claimed.insert(c.digest) {
                claimed.push(*c);
            }
        }
        Claim {
            uses: self.clone(),
            claimed,
        }
    }

    /// As [`Self::claim`], regardless of their last use; includes unknown blobs, and with `Pinned::Too` needed ones.
    pub(super) fn claim_all(self: &Arc<Self>, digests: &[Digest], pinned: Pinned) -> Claim {
        let mut table = self.table.lock();
        let mut claimed = Vec::new();
        for digest in digests {
            let free = pinned == Pinned::Too || !table.pins.contains_key(digest);
            if free && table.claimed.insert(*digest) {
                let size = table.known.get(digest).map_or(0, |k| k.size);
                claimed.push(Candidate {
                    digest: *digest,
                    size,
                    used: 0,
                });
            }
        }
        Claim {
            uses: self.clone(),
            claimed,
        }
    }
}

/// Keeps a blob while it lives.
pub(super) struct Pin {
    uses: Arc<Uses>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut table = self.uses.table.lock();
        if let Some(count) = table.pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                table.pins.remove(&self.digest);
            }
        }
    }
}

/// Blobs that are about to be removed.
pub(super) struct Claim {
    uses: Arc<Uses>,
    claimed: Vec<Candidate>,
}

impl Claim {
    pub(super) fn digests(&self) -> Vec<Digest> {
        self.claimed.iter().map(|c| c.digest).collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.claimed.iter().map(|c| c.size).sum()
    }

    /// Records that they were removed.
    pub(super) fn removed(&self) {
        for c in &self.claimed {
            self.uses.forget(&c.digest);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.uses.table.lock();
        for c in &self.claimed {
            table.claimed.remove(&c.digest);
        }
        drop(table);
        self.uses.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::entry::Time;

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    fn uses() -> Arc<Uses> {
        let blob = |n, size, secs| StoredBlob {
            digest: d(n),
            size,
            modified: Time { secs, nanos: 0 },
        };
        let blobs = vec![
            blob(1, 1 << 20, 50),
            blob(2, 1 << 20, 40),
            blob(3, 100, 10),
            blob(4, 1 << 20, 60),
        ];
        let uses = Arc::new(Uses::default());
        uses.seed(blobs);
        uses
    }

    fn order(uses: &Uses) -> Vec<Digest> {
        uses.candidates().iter().map(|c| c.digest).collect()
    }

    #[test]
    fn what_was_not_used_longest_goes_first_and_small_blobs_last() {
        let uses = uses();
        assert_eq!(uses.bytes(), (3 << 20) + BLOCK);
        assert_eq!(order(&uses), [d(2), d(1), d(4), d(3)]);
        uses.used(&d(2), 1 << 20);
        assert_eq!(order(&uses), [d(1), d(4), d(2), d(3)]);
        assert_eq!(uses.bytes(), (3 << 20) + BLOCK);
    }

    #[tokio::test]
    async fn a_pinned_or_newly_used_blob_is_not_claimed() {
        let uses = uses();
        let all = uses.candidates();
        let pin = uses.pin(&d(1)).await;
        uses.used(&d(4), 1 << 20);
        let claim = uses.claim(&all);
        assert_eq!(claim.digests(), [d(2), d(3)]);
        drop(pin);
        assert!(!order(&uses).is_empty());
        claim.removed();
        assert_eq!(uses.bytes(), 2 << 20);
    }

    #[tokio::test]
    async fn who_pins_waits_until_a_removal_is_over() {
        let uses = uses();
        let claim = uses.claim(&uses.candidates());
        let second = d(2);
        let mut pin = Box::pin(uses.pin(&second));
        assert!(pin.as_mut().now_or_never().is_none());
        drop(claim);
        let _pin = pin.await;
        assert!(uses.is_pinned(&d(2)));
    }
}

//! What the manifests of one repository grant, as of one listing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    KNOWN_FOR, Seen, UNKNOWN_FOR,
    grants::{Grants, key},
};
use crate::digest::Digest;

/// Memory that a manifest takes besides its digests, in digests of 16 bytes.
const PER_MANIFEST: usize = 12;

/// What all manifests of a repository say about a digest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    is_manifest: bool,
    is_granted: bool,
    is_doubted: bool,
    is_merged_config: bool,
    /// Some manifest borrows a config.
    is_borrowed: bool,
    /// It was doubted before.
    is_recorded: bool,
}

impl Verdict {
    /// Adds what one manifest says.
    pub(super) fn hear(&mut self, grants: &Grants, digest: &Digest) {
        let key = key(digest);
        self.is_granted |= grants.grants(&key);
        self.is_doubted |= grants.doubts(&key);
        self.is_merged_config |= grants.merged_config == Some(*digest);
        self.is_borrowed |= grants.borrows_config;
    }

    /// Whether it is visible, given whether an older release linked it.
    pub(super) fn seen(self, is_linked: bool) -> Seen {
        if self.is_manifest {
            Seen::Named
        } else if self.is_doubtful() {
            Seen::Not
        } else if is_linked {
            Seen::Linked
        } else if self.is_granted || self.is_merged_config {
            Seen::Named
        } else {
            Seen::Not
        }
    }

    fn is_doubtful(self) -> bool {
        self.is_doubted || self.is_recorded || (self.is_merged_config && self.is_borrowed)
    }

    /// Returns true if it would be visible without a manifest that doubts it.
    pub(super) fn hangs_on_a_doubt(self, is_linked: bool) -> bool {
        let shown = is_linked || self.is_granted || self.is_merged_config;
        shown && !self.is_manifest && !self.is_recorded && self.is_doubtful()
    }
}

/// A repository's manifests at one time, with what each grants.
#[derive(Clone)]
pub(super) struct Memo {
    /// When the listing began.
    listed_at: Instant,
    manifests: HashMap<Digest, Arc<Grants>>,
    /// Those that did not fit into memory.
    lacking: HashSet<Digest>,
    /// What was doubted before.
    doubted: HashSet<Digest>,
    keys: usize,
}

impl Memo {
    /// The manifests of a new listing that began then, with the grants that an older one knew.
    pub(super) fn listed(
        listed_at: Instant,
        manifests: &[Digest],
        doubted: HashSet<Digest>,
        older: Option<&Self>,
    ) -> Self {
        let mut memo = Self {
            listed_at,
            manifests: HashMap::new(),
            lacking: HashSet::new(),
            doubted,
            keys: 0,
        };
        for digest in manifests {
            if let Some(grants) = older.and_then(|m| m.manifests.get(digest)) {
                memo.keys += grants.keys();
                memo.manifests.insert(*digest, grants.clone());
            }
        }
        memo
    }

    pub(super) fn holds(&self, manifest: &Digest) -> bool {
        self.manifests.contains_key(manifest)
    }

    /// Returns true if it was listed.
    pub(super) fn knows(&self, manifest: &Digest) -> bool {
        self.holds(manifest) || self.lacking.contains(manifest)
    }

    pub(super) fn add(&mut self, manifest: Digest, grants: Grants) {
        self.keys += grants.keys();
        if let Some(older) = self.manifests.insert(manifest, Arc::new(grants)) {
            self.keys -= older.keys();
        }
    }

    /// The manifests that doubt a digest, or may.
    pub(super) fn doubters(&self, digest: &Digest) -> Vec<Digest> {
        let key = key(digest);
        let all = self.manifests.iter();
        all.filter(|(_, grants)| grants.doubts(&key) || grants.borrows_config)
            .map(|(manifest, _)| *manifest)
            .collect()
    }

    /// Returns true if it remembers that a manifest grants or doubts anything.
    pub(super) fn hears(&self, manifest: &Digest) -> bool {
        let grants = self.manifests.get(manifest);
        grants.is_some_and(|grants| **grants != Grants::default())
    }

    /// The configs of caches that the daemon merged.
    pub(super) fn merged_configs(&self) -> impl Iterator<Item = Digest> {
        self.manifests.values().filter_map(|g| g.merged_config)
    }

    pub(super) fn doubt(&mut self, digest: Digest) {
        self.doubted.insert(digest);
    }

    /// Records a manifest that does not fit into memory.
    pub(super) fn lacks(&mut self, manifest: Digest) {
        self.lacking.insert(manifest);
    }

    /// How many digests it holds.
    pub(super) fn keys(&self) -> usize {
        let records = self.manifests.len() + self.lacking.len() + self.doubted.len();
        self.keys + PER_MANIFEST * records
    }

    pub(super) fn listed_at(&self) -> Instant {
        self.listed_at
    }

    /// Adds what is remembered about a digest.
    pub(super) fn ask(&self, digest: &Digest, verdict: &mut Verdict) {
        verdict.is_manifest |= self.knows(digest);
        verdict.is_recorded |= self.doubted.contains(digest);
        for grants in self.manifests.values() {
            verdict.hear(grants, digest);
        }
    }

    /// The verdict on a digest without reading more; `None` if some manifests are not remembered.
    pub(super) fn whole(&self, digest: &Digest) -> Option<Verdict> {
        if !self.lacking.is_empty() {
            return None;
        }
        let mut verdict = Verdict::default();
        self.ask(digest, &mut verdict);
        Some(verdict)
    }

    /// As [`Self::whole`], if the listing is recent enough for its answer.
    pub(super) fn recent(&self, digest: &Digest, is_linked: bool) -> Option<Seen> {
        let seen = self.whole(digest)?.seen(is_linked);
        let limit: Duration = match seen {
            Seen::Not => UNKNOWN_FOR,
            Seen::Named | Seen::Linked => KNOWN_FOR,
        };
        (self.listed_at.elapsed() < limit).then_some(seen)
    }
}

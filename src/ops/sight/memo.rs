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

/// What a manifest takes beside its digests, in digests of 16 bytes.
const PER_MANIFEST: usize = 12;

/// What the manifests of a repository say of a digest, put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    is_manifest: bool,
    is_granted: bool,
    is_doubted: bool,
    is_merged_config: bool,
    /// Some manifest borrows a config.
    is_borrowed: bool,
}

impl Verdict {
    /// Adds what one manifest says.
    pub(super) fn hear(&mut self, grants: &Grants, digest: &Digest) {
        let key = key(digest);
        self.is_granted |= grants.grants(&key);
        self.is_doubted |= grants.doubts(&key);
        self.is_merged_config |= grants.merged_config == Some(key);
        self.is_borrowed |= grants.borrows_config;
    }

    pub(super) fn seen(self) -> Seen {
        let by_merge = self.is_merged_config && !self.is_borrowed;
        if self.is_manifest || (!self.is_doubted && (self.is_granted || by_merge)) {
            Seen::Named
        } else {
            Seen::Not
        }
    }
}

/// A repository's manifests at a time, with what each grants.
pub(super) struct Memo {
    listed_at: Instant,
    manifests: HashMap<Digest, Arc<Grants>>,
    /// Those that there was no room for.
    lacking: HashSet<Digest>,
    keys: usize,
}

impl Memo {
    /// The manifests of a new listing, as far as an older one knew them.
    pub(super) fn listed(manifests: &[Digest], older: Option<&Self>) -> Self {
        let mut memo = Self {
            listed_at: Instant::now(),
            manifests: HashMap::new(),
            lacking: HashSet::new(),
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

    pub(super) fn add(&mut self, manifest: Digest, grants: Grants) {
        self.keys += grants.keys();
        self.manifests.insert(manifest, Arc::new(grants));
    }

    /// Notes a manifest that there is no room for.
    pub(super) fn lacks(&mut self, manifest: Digest) {
        self.lacking.insert(manifest);
    }

    /// How many digests it holds.
    pub(super) fn keys(&self) -> usize {
        self.keys + PER_MANIFEST * (self.manifests.len() + self.lacking.len())
    }

    pub(super) fn listed_at(&self) -> Instant {
        self.listed_at
    }

    /// Adds what is remembered of a digest.
    pub(super) fn ask(&self, digest: &Digest, verdict: &mut Verdict) {
        verdict.is_manifest |= self.manifests.contains_key(digest) || self.lacking.contains(digest);
        for grants in self.manifests.values() {
            verdict.hear(grants, digest);
        }
    }

    /// What is known of a digest without another look; `None` where some manifests are not remembered.
    pub(super) fn whole(&self, digest: &Digest) -> Option<Verdict> {
        if !self.lacking.is_empty() {
            return None;
        }
        let mut verdict = Verdict::default();
        self.ask(digest, &mut verdict);
        Some(verdict)
    }

    /// As [`Self::whole`], if the listing is recent enough for what it says.
    pub(super) fn recent(&self, digest: &Digest) -> Option<Verdict> {
        let verdict = self.whole(digest)?;
        let limit: Duration = match verdict.seen() {
            Seen::Not => UNKNOWN_FOR,
            Seen::Named | Seen::Linked => KNOWN_FOR,
        };
        (self.listed_at.elapsed() < limit).then_some(verdict)
    }
}

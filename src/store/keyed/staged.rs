//! Manifests that were stored ahead of their publication: a tag of one needs no other request.

use std::{sync::Arc, time::Duration};

use crate::{digest::Digest, lately::Lately};

/// Most of them that are remembered; others are stored again.
const MOST: usize = 64;
/// How long one is remembered: far below the grace time after which a sweep removes an unreachable blob.
const LIFE: Duration = Duration::from_mins(1);

/// The digests of staged manifests; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Staged(Arc<Lately<Digest>>);

impl Default for Staged {
    fn default() -> Self {
        Self(Arc::new(Lately::new(MOST, LIFE)))
    }
}

impl Staged {
    pub(super) fn add(&self, digest: Digest) {
        self.0.insert(digest, ());
    }

    /// Returns true for a staged manifest, once: if publishing it fails, the next attempt stores it again.
    pub(super) fn take(&self, digest: &Digest) -> bool {
        let was_staged = self.0.contains(digest);
        self.0.remove(digest);
        was_staged
    }
}

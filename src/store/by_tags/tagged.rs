//! Manifests that the CLI's own tags were seen to lead to.
//!
//! The command line writes straight to the store and leaves no record of its manifests, and a digest alone proves nothing: every
//! repository's manifests lie in one. Clients ask for a tag first and then for the digest that it had, so what a tag led to is remembered.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{digest::Digest, store::record::Manifested};

/// Most that are remembered; then all are forgotten.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct ByTag(Mutex<HashMap<Digest, Manifested>>);

impl ByTag {
    pub(super) fn saw(&self, digest: &Digest, known: Manifested) {
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(*digest, known);
    }

    pub(super) fn known(&self, digest: &Digest) -> Option<Manifested> {
        self.0.lock().get(digest).cloned()
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.0.lock().remove(digest);
    }
}

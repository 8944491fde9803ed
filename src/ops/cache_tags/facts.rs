//! Facts about a manifest that depend only on its bytes, found once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{CacheTags, Sized, layers, readable};
use crate::{
    artifact::{
        Manifest,
        buildkit::{self, CacheManifest},
    },
    digest::Digest,
    store::{Pointer, Repository, Result},
    task,
};

/// Approximate limit of the memory for all remembered facts.
const MAX_BYTES: usize = 16 << 20;
/// Approximate memory for the facts of a manifest, and for each of its layers.
const FACTS_BYTES: usize = 300;
const LAYER_BYTES: usize = 100;

/// The facts about a manifest.
#[derive(Debug)]
pub(super) struct Facts {
    /// Whether cachectl merged it.
    pub(super) is_merged: bool,
    /// The blobs that its readers need; `None` if it is not a cache.
    pub(super) contents: Option<Contents>,
}

/// The blobs that a cache is made of, whether or not the store has them all.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) config: Sized,
    layers: BTreeSet<Sized>,
}

impl Contents {
    fn of(cache: &CacheManifest) -> Self {
        let config = cache.config();
        Self {
            config: (config.digest, config.size),
            layers: layers(cache),
        }
    }

    pub(super) fn all(&self) -> BTreeSet<Sized> {
        let mut all = self.layers.clone();
        all.insert(self.config);
        all
    }
}

impl Facts {
    fn of(manifest: &Manifest) -> Self {
        let cache = readable(manifest);
        Self {
            is_merged: cache.is_some() && buildkit::is_merged(manifest),
            contents: cache.as_ref().map(Contents::of),
        }
    }

    fn bytes(&self) -> usize {
        let layers = self.contents.as_ref().map_or(0, |c| c.layers.len());
        FACTS_BYTES + layers * LAYER_BYTES
    }
}

/// By digest and media type: the same bytes mean something else under another media type.
#[derive(Default)]
pub(super) struct Known {
    all: HashMap<(Digest, String), Arc<Facts>>,
    bytes: usize,
}

impl CacheTags {
    /// The known facts about a manifest.
    pub(super) fn known_facts(&self, digest: &Digest, media_type: &str) -> Option<Arc<Facts>> {
        let key = (*digest, media_type.to_owned());
        self.facts.lock().all.get(&key).cloned()
    }

    /// The facts about a manifest, which is read if they are unknown.
    pub(super) async fn facts(&self, repo: &Repository, at: &mut Pointer) -> Result<Arc<Facts>> {
        if let Some(known) = self.known_facts(&at.digest, &at.media_type) {
            return Ok(known);
        }
        let manifest = match &at.manifest {
            Some(manifest) => manifest,
            None => at.manifest.insert(repo.manifest_at(at).await?),
        };
        Ok(self.facts_of(manifest).await)
    }

    /// The same for a manifest that was already read.
    pub(super) async fn facts_of(&self, manifest: &Manifest) -> Arc<Facts> {
        if let Some(known) = self.known_facts(&manifest.digest, &manifest.media_type) {
            return known;
        }
        let key = (manifest.digest, manifest.media_type.clone());
        let manifest = manifest.clone();
        let read = task::parse(manifest.bytes.len(), move || Facts::of(&manifest));
        let facts = Arc::new(read.await);
        let mut known = self.facts.lock();
        if known.bytes + facts.bytes() > MAX_BYTES {
            *known = Known::default();
        }
        known.bytes += facts.bytes();
        if let Some(same) = known.all.insert(key, facts.clone()) {
            known.bytes -= same.bytes();
        }
        facts
    }
}

//! A cache as one builder pushed it: its manifest and its config together.

use std::collections::HashMap;

use super::{CacheConfig, CacheManifest, CacheRecord, Chain, chains::Chains};
use crate::{
    artifact::{
        Descriptor,
        fold::dated::is_ahead,
        wire::{Result, bad},
    },
    digest::Digest,
    entry::Time,
};

/// One pushed cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its manifest: which blobs it has.
    pub manifest: CacheManifest,
    /// Its config: what the blobs are results of.
    pub config: CacheConfig,
    /// When it was pushed last, by the store's clock; `None`: unknown, and earlier than every known time.
    pub pushed: Option<Time>,
}

impl Part {
    /// Combines a manifest with the bytes of its config.
    ///
    /// # Errors
    /// When the bytes are not those that the manifest names, or not a config that BuildKit would read.
    pub fn read(manifest: CacheManifest, config: &[u8]) -> Result<Self> {
        let named = manifest.config();
        if named.size != config.len() as u64 || !named.digest.matches(config) {
            return bad(format!(
                "the bytes are not those of cache config {}",
                named.digest
            ));
        }
        let config = CacheConfig::read(config)?;
        Ok(Self {
            manifest,
            config,
            pushed: None,
        })
    }

    /// The same part, pushed at `time`.
    #[must_use]
    pub fn pushed_at(self, time: Option<Time>) -> Self {
        Self {
            pushed: time,
            ..self
        }
    }

    /// Returns true if it has a result that is dated later than it can have been made.
    pub fn is_ahead(&self) -> bool {
        let Some(pushed) = self.pushed else {
            return false;
        };
        let made = self.config.records().iter().flat_map(|r| {
            let chains = r.chains.iter().map(|c| c.created_at);
            r.results.iter().map(|r| r.created_at).chain(chains)
        });
        made.into_iter().any(|at| is_ahead(at, pushed))
    }

    /// For each record the number of results whose blobs are all in `blobs`.
    pub(super) fn usable_results(&self, blobs: &HashMap<Digest, Descriptor>) -> Vec<usize> {
        let mut chains = Chains::default();
        let layers = self.config.layers();
        let of_layers = chains.of_layers(layers);
        let whole = chains.whole(|blob| blobs.contains_key(blob));
        let listed = |c: &Chain| {
            // One of no layers brings nothing that could be reused.
            !c.layers.is_empty()
                && c.layers
                    .iter()
                    .all(|l| blobs.contains_key(&layers[*l].blob))
        };
        let usable = |r: &CacheRecord| {
            let results = r.results.iter().filter(|r| whole[of_layers[r.layer]]);
            results.count() + r.chains.iter().filter(|c| listed(c)).count()
        };
        self.config.records().iter().map(usable).collect()
    }
}

//! The size of a cache, and whether an export would replace a large cache by a small one.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::{Part, descriptors};
use crate::digest::Digest;

/// How much a cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Cache keys, with or without results.
    pub records: usize,
    /// Results whose blobs are all named by the manifest: these an importer can use.
    pub results: usize,
    /// Results that need a blob which the manifest does not name (or not in a form that BuildKit can use).
    pub lost_results: usize,
    /// Layers of the config: one blob may be several layers.
    pub layers: usize,
    /// Distinct blobs of the manifest.
    pub blobs: usize,
    /// Distinct blobs that the config names and the manifest does not.
    pub lost_blobs: usize,
    /// Stored bytes of the manifest's distinct blobs.
    pub bytes: u64,
    /// Bytes of the config, of which BuildKit's importer takes 1 MiB at most.
    pub config_bytes: u64,
    /// Bytes of the manifest, with the same limit.
    pub manifest_bytes: u64,
}

impl Extent {
    /// Measures a cache.
    pub fn of(part: &Part) -> Self {
        let sizes = sizes(part);
        let usable = descriptors::usable(&[part], part.manifest.form());
        let results = part.usable_results(&usable).iter().sum();
        let all: usize = part
            .config
            .records()
            .iter()
            .map(|r| r.results.len() + r.chains.len())
            .sum();
        let named: HashSet<Digest> = part.config.layers().iter().map(|l| l.blob).collect();
        Self {
            records: part.config.records().len(),
            results,
            lost_results: all - results,
            layers: part.config.layers().len(),
            blobs: sizes.len(),
            lost_blobs: named.iter().filter(|b| !sizes.contains_key(b)).count(),
            bytes: sizes
                .values()
                .fold(0, |sum: u64, size| sum.saturating_add(*size)),
            config_bytes: part.manifest.config().size,
            manifest_bytes: part.manifest.manifest().bytes.len() as u64,
        }
    }
}

fn sizes(part: &Part) -> HashMap<Digest, u64> {
    part.manifest
        .layers()
        .iter()
        .map(|l| (l.digest, l.size))
        .collect()
}

/// An export that would replace a bigger cache by a small part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrink {
    /// What would be replaced.
    pub old: Extent,
    /// What would replace it.
    pub new: Extent,
    /// Blobs of the new one that the old one does not have.
    pub own_blobs: usize,
}

impl fmt::Display for Shrink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new, own) = (&self.old, &self.new, self.own_blobs);
        write!(
            f,
            "a cache of {} blobs and {} results would become one of {} and {}, {own} of the blobs new",
            old.blobs, old.results, new.blobs, new.results
        )
    }
}

/// Returns the shrink if replacing `old` by `new` would lose much and add little (buildkit-cache.md, rule 10: a builder that only
/// imported its layers and exports without the same import writes 1 blob where there were 4).
///
/// It is a shrink if `new` has less than half of the blobs or less than half of the usable results of `old`, **and** at most half
/// of its blobs are its own. A different build under the same name, however small, has its own blobs and is not a shrink; neither
/// is one that lost some stages and kept most.
pub fn shrinks(old: &Part, new: &Part) -> Option<Shrink> {
    let before = sizes(old);
    let own_blobs = sizes(new)
        .keys()
        .filter(|b| !before.contains_key(b))
        .count();
    let (old, new) = (Extent::of(old), Extent::of(new));
    let less = new.blobs * 2 < old.blobs || new.results * 2 < old.results;
    (less && own_blobs * 2 <= new.blobs).then_some(Shrink {
        old,
        new,
        own_blobs,
    })
}

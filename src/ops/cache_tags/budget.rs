//! How much the parts of one tag may have together.
//!
//! Whoever may push chooses what a merge costs: so each part is weighed before it is read, and again before it is kept. BuildKit reads
//! merged documents of less than 1 MiB, some ten thousand keys, so what goes beyond this would hardly be in them.

use crate::artifact::buildkit::{CacheManifest, Part};

/// Parts that are read at most: their digests fit one record.
pub(super) const MAX_PARTS: usize = 200;
/// Bytes of all manifests and configs.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// Records of all configs.
pub(super) const MAX_RECORDS: usize = 100_000;
/// Links between them.
const MAX_LINKS: usize = 400_000;
/// Layers of all manifests and configs: whether each is there is asked whenever the tag is read.
const MAX_LAYERS: usize = 40_000;
/// Records of both sides of all comparisons that one push may cost; parts that were not compared stay.
const MAX_COMPARED: usize = 500_000;

/// What is left of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    parts: usize,
    bytes: u64,
    records: usize,
    links: usize,
    layers: usize,
    compared: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            parts: MAX_PARTS,
            bytes: MAX_BYTES,
            records: MAX_RECORDS,
            links: MAX_LINKS,
            layers: MAX_LAYERS,
            compared: MAX_COMPARED,
        }
    }
}

impl Budget {
    /// Says whether a part may be read, by its manifest alone. The first always may.
    pub(super) fn admits(&self, cache: &CacheManifest) -> bool {
        let fits =
            self.parts > 0 && bytes(cache) <= self.bytes && cache.layers().len() <= self.layers;
        fits || self.is_whole()
    }

    fn is_whole(&self) -> bool {
        self.parts == MAX_PARTS
    }

    /// Takes what a part needs; `false`, and takes nothing, if that is not left. The first takes what there is.
    pub(super) fn take(&mut self, part: &Part) -> bool {
        let records = part.config.records();
        let links = records.iter().map(|r| {
            let chained: usize = r.chains.iter().map(|c| c.layers.len()).sum();
            let inputs: usize = r.inputs.iter().map(Vec::len).sum();
            chained + inputs
        });
        let layers = part.manifest.layers().len() + part.config.layers().len();
        let (links, records) = (links.sum::<usize>(), records.len());
        let bytes = bytes(&part.manifest);
        let fits = self.parts > 0
            && bytes <= self.bytes
            && records <= self.records
            && links <= self.links
            && layers <= self.layers;
        if !fits && !self.is_whole() {
            return false;
        }
        self.parts -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.records = self.records.saturating_sub(records);
        self.links = self.links.saturating_sub(links);
        self.layers = self.layers.saturating_sub(layers);
        true
    }

    /// Takes what it costs to compare two parts; `false` if that is not left.
    pub(super) fn compare(&mut self, one: &Part, other: &Part) -> bool {
        let records = one.config.records().len() + other.config.records().len();
        match self.compared.checked_sub(records) {
            Some(left) => {
                self.compared = left;
                true
            }
            None => false,
        }
    }
}

fn bytes(cache: &CacheManifest) -> u64 {
    (cache.manifest().bytes.len() as u64).saturating_add(cache.config().size)
}

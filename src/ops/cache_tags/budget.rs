//! Limits on the total size of one tag's parts.
//!
//! Any pusher can determine what a merge costs, so each part is weighed before it is read, and again before it is kept. BuildKit reads
//! merged documents of less than 1 MiB, some ten thousand keys, so records beyond these limits would hardly fit into them.

use std::collections::HashSet;

use crate::artifact::buildkit::{CacheManifest, Part};

/// Most parts that are read: their digests fit into one record.
pub(super) const MAX_PARTS: usize = 200;
/// Most bytes of all manifests and configs.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// Most records of all configs.
pub(super) const MAX_RECORDS: usize = 100_000;
/// Most links between them.
const MAX_LINKS: usize = 400_000;
/// Most distinct layers of all manifests and configs: each one is looked up whenever the tag is read.
const MAX_LAYERS: usize = 40_000;
/// A whole budget, as the unit in which shares are compared.
const ALL: u64 = 1_000_000;
/// Above this share a part is heavy.
const HEAVY: u64 = ALL / 8;
/// Most records compared during one push, counting both sides; parts that were not compared stay.
const MAX_COMPARED: usize = 500_000;

/// How much of each budget a part takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    bytes: u64,
    records: usize,
    links: usize,
    layers: usize,
}

impl Weight {
    /// A lower bound, known from its manifest alone.
    pub(super) fn at_least(cache: &CacheManifest) -> Self {
        // A layer is looked up once, however often it is named.
        let layers: HashSet<_> = cache.layers().iter().map(|l| (l.digest, l.size)).collect();
        Self {
            bytes: bytes(cache),
            layers: layers.len(),
            ..Self::default()
        }
    }

    pub(super) fn of(part: &Part) -> Self {
        let records = part.config.records();
        let links = records.iter().map(|r| {
            let chained: usize = r.chains.iter().map(|c| c.layers.len()).sum();
            let inputs: usize = r.inputs.iter().map(Vec::len).sum();
            chained + inputs
        });
        let layers: HashSet<_> = part.config.layers().iter().map(|l| l.blob).collect();
        let known = Self::at_least(&part.manifest);
        Self {
            records: records.len(),
            links: links.sum(),
            layers: known.layers + layers.len(),
            ..known
        }
    }

    /// Returns true if it takes more than half of a budget: then it is not merged with others.
    pub(super) fn is_over_half(&self) -> bool {
        self.strain() > ALL / 2
    }

    /// The largest of its shares, in millionths of a budget.
    fn strain(&self) -> u64 {
        let of = |used: u64, most: u64| used.saturating_mul(ALL) / most;
        of(self.bytes, MAX_BYTES)
            .max(of(self.records as u64, MAX_RECORDS as u64))
            .max(of(self.links as u64, MAX_LINKS as u64))
            .max(of(self.layers as u64, MAX_LAYERS as u64))
    }
}

/// The weights of the parts chosen so far, and the comparisons left.
///
/// The first part stays; of the others the heavy ones are dropped, the heaviest first, so that no part displaces lighter ones. If none is
/// heavy, the part pushed longest ago is dropped, so that the next honest push displaces a flood of small parts.
#[derive(Debug)]
pub(super) struct Budget {
    weights: Vec<Weight>,
    compared: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            weights: Vec::new(),
            compared: MAX_COMPARED,
        }
    }
}

impl Budget {
    /// Returns true if one more part is worth reading: false if it would certainly be the one to drop.
    pub(super) fn admits(&self, cache: &CacheManifest) -> bool {
        if self.weights.len() >= MAX_PARTS {
            return false;
        }
        let least = Weight::at_least(cache);
        self.fits(Some(&least))
            || self
                .heaviest()
                .is_some_and(|(_, most)| most > least.strain())
    }

    pub(super) fn add(&mut self, part: &Part) {
        self.weights.push(Weight::of(part));
    }

    /// Drops one part if the limits are exceeded; returns its position among the remaining parts. Call it until it returns `None`.
    pub(super) fn let_go(&mut self) -> Option<usize> {
        if self.weights.len() < 2 || self.fits(None) {
            return None;
        }
        let oldest = self.weights.len() - 1;
        let at = self.heaviest().map_or(oldest, |(at, _)| at);
        self.weights.remove(at);
        Some(at)
    }

    fn fits(&self, more: Option<&Weight>) -> bool {
        let mut all = Weight::default();
        for weight in self.weights.iter().chain(more) {
            all.bytes = all.bytes.saturating_add(weight.bytes);
            all.records += weight.records;
            all.links += weight.links;
            all.layers += weight.layers;
        }
        all.bytes <= MAX_BYTES
            && all.records <= MAX_RECORDS
            && all.links <= MAX_LINKS
            && all.layers <= MAX_LAYERS
    }

    /// The heaviest of the heavy parts that may be dropped (the last of equal ones), with its strain. The first part may not be dropped,
    /// unless it takes more than half of a budget.
    fn heaviest(&self) -> Option<(usize, u64)> {
        let stays = self.weights.first().is_some_and(|w| !w.is_over_half());
        let strains = self.weights.iter().map(Weight::strain).enumerate();
        strains
            .skip(usize::from(stays))
            .filter(|(_, strain)| *strain > HEAVY)
            .max_by_key(|(at, strain)| (*strain, *at))
    }

    /// Deducts the cost of comparing two parts; `false` if too little is left.
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

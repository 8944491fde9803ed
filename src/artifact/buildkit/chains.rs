//! Layer chains by content: two layers are equal if their blobs and everything below them are the same.

use std::collections::HashMap;

use super::CacheLayer;
use crate::digest::{Digest, Sha256, Sha256Hasher};

/// Names a chain by its topmost layer.
pub(super) type ChainId = usize;

/// A blob on a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) blob: Digest,
    /// The layer below; `None` at the bottom.
    pub(super) parent: Option<ChainId>,
    /// Layers below.
    pub(super) depth: usize,
    /// Hash of all blobs from the bottom to here: the same in every process, unlike the id.
    pub(super) hash: Sha256,
}

/// Chains, each once; a chain comes after the chains below it.
#[derive(Debug, Default)]
pub(super) struct Chains {
    links: Vec<Link>,
    ids: HashMap<(Option<ChainId>, Digest), ChainId>,
}

impl Chains {
    pub(super) fn get(&self, id: ChainId) -> &Link {
        &self.links[id]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// The chain of each layer of a config, its parents included.
    pub(super) fn of_layers(&mut self, layers: &[CacheLayer]) -> Vec<ChainId> {
        let mut known: Vec<Option<ChainId>> = vec![None; layers.len()];
        let mut climb = Vec::new();
        for start in 0..layers.len() {
            let mut next = Some(start);
            while let Some(at) = next.filter(|at| known[*at].is_none()) {
                climb.push(at);
                next = layers[at].parent;
            }
            while let Some(at) = climb.pop() {
                let parent = layers[at].parent.and_then(|p| known[p]);
                known[at] = Some(self.push(parent, layers[at].blob));
            }
        }
        known.into_iter().flatten().collect()
    }

    /// The chain of blobs, base first; `None` for none.
    pub(super) fn of_list(&mut self, blobs: impl IntoIterator<Item = Digest>) -> Option<ChainId> {
        blobs
            .into_iter()
            .fold(None, |below, blob| Some(self.push(below, blob)))
    }

    fn push(&mut self, parent: Option<ChainId>, blob: Digest) -> ChainId {
        if let Some(id) = self.ids.get(&(parent, blob)) {
            return *id;
        }
        let below = parent.map(|p| &self.links[p]);
        let mut hasher = Sha256Hasher::default();
        if let Some(below) = below {
            hasher.update(&below.hash.0);
        }
        hasher.update(blob.to_string().as_bytes());
        let link = Link {
            blob,
            parent,
            depth: below.map_or(0, |b| b.depth + 1),
            hash: hasher.finish(),
        };
        let id = self.links.len();
        self.links.push(link);
        self.ids.insert((parent, blob), id);
        id
    }

    /// For each chain whether all its blobs pass.
    pub(super) fn whole(&self, has: impl Fn(&Digest) -> bool) -> Vec<bool> {
        let mut whole: Vec<bool> = Vec::with_capacity(self.links.len());
        for link in &self.links {
            let below = link.parent.is_none_or(|p| whole[p]);
            whole.push(below && has(&link.blob));
        }
        whole
    }
}

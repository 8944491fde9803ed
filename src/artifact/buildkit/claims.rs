//! What manifests say of one layer, where they do not agree.
//!
//! A merged manifest describes each layer once, so of two claims about one layer at most one can be served. A part whose claim is
//! another is served without that layer; nobody else loses anything by what it says.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{CacheManifest, Form, Part, descriptors, merge::ranked};
use crate::{artifact::Descriptor, digest::Digest};

/// What is said of a layer, besides its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// OCI's name of the media type.
    pub media_type: String,
    /// Digest of the plain tar; `None` where a manifest does not say it.
    pub diff_id: Option<Digest>,
}

impl Claim {
    fn of(layer: &Descriptor) -> Self {
        Self {
            media_type: descriptors::layer_type(&layer.media_type, Form::Image).to_owned(),
            diff_id: descriptors::diff_id(layer),
        }
    }

    fn agrees(&self, other: &Self) -> bool {
        let differ = matches!((self.diff_id, other.diff_id), (Some(a), Some(b)) if a != b);
        !differ && self.media_type == other.media_type
    }
}

/// One claim about each layer on which parts do not agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Digest, Claim>);

impl Claims {
    /// The claims of the parts that were pushed last: what holds where nobody knows better, until the next push.
    pub fn of_last_pushed(parts: &[Part]) -> Self {
        let mut first: HashMap<Digest, Claim> = HashMap::new();
        let mut disputed = BTreeMap::new();
        for layer in ranked(parts).iter().flat_map(|p| p.manifest.layers()) {
            let claim = Claim::of(layer);
            let Some(known) = first.get_mut(&layer.digest) else {
                first.insert(layer.digest, claim);
                continue;
            };
            if !known.agrees(&claim) {
                disputed.insert(layer.digest, known.clone());
            }
            // Who says nothing of the plain tar agrees with the next one that does.
            if known.diff_id.is_none() && known.media_type == claim.media_type {
                known.diff_id = claim.diff_id;
            }
        }
        Self(disputed)
    }

    /// The layers that are disputed, sorted.
    pub fn layers(&self) -> impl Iterator<Item = Digest> {
        self.0.keys().copied()
    }

    /// Puts what is known of a disputed layer in the place of what was said of it.
    pub fn prove(&mut self, layer: &Digest, claim: Claim) {
        if let Some(place) = self.0.get_mut(layer) {
            *place = claim;
        }
    }

    /// The layers of which a manifest says something else.
    pub fn denied_by(&self, manifest: &CacheManifest) -> HashSet<Digest> {
        let layers = manifest.layers().iter();
        let denied = layers.filter(|l| {
            let claim = self.0.get(&l.digest);
            claim.is_some_and(|claim| !claim.agrees(&Claim::of(l)))
        });
        denied.map(|l| l.digest).collect()
    }
}

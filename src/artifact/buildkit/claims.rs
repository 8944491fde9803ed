//! Contradicting claims of manifests about a layer.
//!
//! A merged manifest describes each layer once, so of two claims about a layer at most one can be served. A part with a different
//! claim is served without that layer; its claim does not affect other parts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry};

use super::{CacheManifest, Form, Part, descriptors, merge::ranked};
use crate::{artifact::Descriptor, digest::Digest};

/// A claim about a layer, besides its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// OCI's name of the media type.
    pub media_type: String,
    /// Digest of the plain tar; `None` if a manifest does not state it.
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

/// The layers about which parts contradict each other, each with the right claim once that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Digest, Option<Claim>>);

impl Claims {
    /// The layers that `parts` dispute. Until the right claim is known ([`Self::prove`]), no claim is believed: a build that
    /// trusts a wrong claim fails, and one that finds nothing continues.
    ///
    /// A claim counts if its layer is stored (not in `lost`), and if BuildKit could use it: a part that contradicts itself about
    /// a layer makes no claim about it.
    pub fn disputed(parts: &[Part], lost: &HashSet<(Digest, u64)>) -> Self {
        let mut first: HashMap<Digest, Claim> = HashMap::new();
        let mut disputed = BTreeMap::new();
        for (digest, word) in ranked(parts).iter().flat_map(|p| here(&p.manifest, lost)) {
            let claim = Claim::of(&word);
            match first.entry(digest) {
                Entry::Vacant(place) => {
                    place.insert(claim);
                }
                Entry::Occupied(known) if !known.get().agrees(&claim) => {
                    disputed.insert(digest, None);
                }
                Entry::Occupied(_) => {}
            }
        }
        Self(disputed)
    }

    /// For each part, the disputed layers that it makes a claim about, with their sizes; the part pushed last first.
    pub fn by_part(
        &self,
        parts: &[Part],
        lost: &HashSet<(Digest, u64)>,
    ) -> Vec<BTreeSet<(Digest, u64)>> {
        let claimed = |part: &&Part| {
            let words = here(&part.manifest, lost).map(|(digest, word)| (digest, word.size));
            words.filter(|(d, _)| self.0.contains_key(d)).collect()
        };
        ranked(parts).iter().map(claimed).collect()
    }

    /// The disputed layers, sorted.
    pub fn layers(&self) -> impl Iterator<Item = Digest> {
        self.0.keys().copied()
    }

    /// Records the right claim about a disputed layer.
    pub fn prove(&mut self, layer: &Digest, claim: Claim) {
        if let Some(place) = self.0.get_mut(layer) {
            *place = Some(claim);
        }
    }

    /// The layers about which a manifest makes a wrong claim, or one that is not known to be right.
    pub fn denied_by(&self, manifest: &CacheManifest) -> HashSet<Digest> {
        let layers = manifest.layers().iter();
        let denied = layers.filter(|l| {
            let disputed = self.0.get(&l.digest);
            disputed.is_some_and(|known| !known.as_ref().is_some_and(|k| k.agrees(&Claim::of(l))))
        });
        denied.map(|l| l.digest).collect()
    }
}

/// The claims of a manifest about layers that are stored.
fn here(
    manifest: &CacheManifest,
    lost: &HashSet<(Digest, u64)>,
) -> impl Iterator<Item = (Digest, Descriptor)> {
    let words = descriptors::said(manifest).into_iter();
    words.filter(|(digest, word)| {
        !manifest.elsewhere().contains(digest) && !lost.contains(&(*digest, word.size))
    })
}

//! What manifests say of one layer, where they do not agree.
//!
//! A merged manifest describes each layer once, so of two claims about one layer at most one can be served. A part whose claim is
//! another is served without that layer; nobody else loses anything by what it says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry};

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

/// The layers on which parts do not agree, each with what it is, once that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Digest, Option<Claim>>);

impl Claims {
    /// What `parts` do not agree on. Nobody is right before it is known ([`Self::prove`]): a build that believes what is wrong fails, and
    /// one that finds nothing goes on.
    ///
    /// A claim counts if it is about a layer that is here, so not among `lost`, and if BuildKit could use it: a part that contradicts
    /// itself about a layer says nothing of it.
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

    /// The disputed layers of which each part claims something, with their sizes; the part pushed last first.
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

    /// The layers that are disputed, sorted.
    pub fn layers(&self) -> impl Iterator<Item = Digest> {
        self.0.keys().copied()
    }

    /// Says what a disputed layer is.
    pub fn prove(&mut self, layer: &Digest, claim: Claim) {
        if let Some(place) = self.0.get_mut(layer) {
            *place = Some(claim);
        }
    }

    /// The layers of which a manifest says something that is not so, or that nobody knows.
    pub fn denied_by(&self, manifest: &CacheManifest) -> HashSet<Digest> {
        let layers = manifest.layers().iter();
        let denied = layers.filter(|l| {
            let disputed = self.0.get(&l.digest);
            disputed.is_some_and(|known| !known.as_ref().is_some_and(|k| k.agrees(&Claim::of(l))))
        });
        denied.map(|l| l.digest).collect()
    }
}

/// What a manifest says of layers that are here.
fn here(
    manifest: &CacheManifest,
    lost: &HashSet<(Digest, u64)>,
) -> impl Iterator<Item = (Digest, Descriptor)> {
    let words = descriptors::said(manifest).into_iter();
    words.filter(|(digest, word)| {
        !manifest.elsewhere().contains(digest) && !lost.contains(&(*digest, word.size))
    })
}

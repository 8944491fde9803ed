//! Joins parts into one manifest: CPU work without I/O.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Sized, layers, readable};
use crate::{
    artifact::{
        Descriptor, Manifest,
        buildkit::{Claims, Limits, Part, merge},
    },
    digest::Digest,
};

/// A manifest, and its config if that was created with it.
pub(super) struct Joined {
    pub(super) manifest: Manifest,
    pub(super) config: Option<(Descriptor, Bytes)>,
}

/// The result of joining parts.
pub(super) struct Outcome {
    /// `None` if nothing of them can be used.
    pub(super) result: Option<Joined>,
    /// Number of parts served without layers that are missing here.
    pub(super) pruned: Vec<Digest>,
    /// Whether several parts were merged.
    pub(super) is_merge: bool,
    /// Number of records that did not fit.
    pub(super) dropped_records: u64,
}

/// One manifest of all parts, without layers that are lost, that a part describes wrongly, or that are said to be elsewhere.
pub(super) fn join(parts: Vec<Part>, lost: &HashSet<Sized>, claims: &Claims) -> Outcome {
    let mut outcome = Outcome {
        result: None,
        pruned: Vec::new(),
        is_merge: false,
        dropped_records: 0,
    };
    let mut whole = Vec::with_capacity(parts.len());
    for part in parts {
        let digest = part.manifest.manifest().digest;
        let part = without(part, lost, claims);
        if part.as_ref().map(|p| p.manifest.manifest().digest) != Some(digest) {
            outcome.pruned.push(digest);
        }
        whole.extend(part);
    }
    match &whole[..] {
        [] => {}
        // The creation time is the builder's claim, which readers would compare with their own times.
        [one] if !one.is_ahead() => {
            outcome.result = Some(Joined {
                manifest: one.manifest.manifest().clone(),
                config: None,
            });
        }
        _ => {
            let merged = merge(&whole, Limits::default());
            outcome.is_merge = true;
            outcome.dropped_records = merged.dropped.records as u64;
            if merged.results > 0 {
                outcome.result = Some(Joined {
                    manifest: merged.manifest,
                    config: Some((merged.config, merged.config_bytes.into())),
                });
            }
        }
    }
    outcome
}

/// A part without layers that are lost, that it describes wrongly, or that are said to be elsewhere.
pub(super) fn without(part: Part, lost: &HashSet<Sized>, claims: &Claims) -> Option<Part> {
    let mut absent = claims.denied_by(&part.manifest);
    absent.extend(part.manifest.elsewhere());
    let named = layers(&part.manifest).into_iter();
    let gone = named.filter(|layer| lost.contains(layer));
    absent.extend(gone.map(|(digest, _)| digest));
    let pruned = part.manifest.without(&absent);
    if pruned.digest == part.manifest.manifest().digest {
        return Some(part);
    }
    readable(&pruned).map(|manifest| Part { manifest, ..part })
}

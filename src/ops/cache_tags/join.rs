//! Parts as one manifest: work for a processor alone.

use std::collections::HashSet;

use bytes::Bytes;

use super::readable;
use crate::{
    artifact::{
        Descriptor, Manifest,
        buildkit::{Limits, Part, merge},
    },
    digest::Digest,
};

/// A manifest, and its config where that was made with it.
pub(super) struct Joined {
    pub(super) manifest: Manifest,
    pub(super) config: Option<(Descriptor, Bytes)>,
}

/// What became of some parts.
pub(super) struct Outcome {
    /// `None` if nothing of them can be used.
    pub(super) result: Option<Joined>,
    /// Parts that are served without layers that are not here.
    pub(super) pruned: Vec<Digest>,
    /// Whether several parts were put together.
    pub(super) is_merge: bool,
    /// Records that found no room.
    pub(super) dropped_records: u64,
}

/// One manifest of all parts, without what was lost and without what is said to be elsewhere.
pub(super) fn join(parts: Vec<Part>, lost: &HashSet<Digest>) -> Outcome {
    let mut outcome = Outcome {
        result: None,
        pruned: Vec::new(),
        is_merge: false,
        dropped_records: 0,
    };
    let mut whole = Vec::with_capacity(parts.len());
    for part in parts {
        let absent = part.manifest.elsewhere().union(lost).copied().collect();
        let pruned = part.manifest.without(&absent);
        let digest = part.manifest.manifest().digest;
        if pruned.digest == digest {
            whole.push(part);
            continue;
        }
        outcome.pruned.push(digest);
        whole.extend(readable(&pruned).map(|manifest| Part { manifest, ..part }));
    }
    match &whole[..] {
        [] => {}
        [one] => {
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

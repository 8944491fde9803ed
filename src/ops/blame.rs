//! Finds the packs to blame for files with wrong content although the frames match the packs' own tables of contents.

use std::collections::HashSet;

use super::{Context, verify::contents::Reader};
use crate::{
    artifact::snapshot::{At, Snapshot},
    digest::Digest,
};

/// Reads `files` again, object by object, as far as needed to tell which packs do not hold the objects that they list. Packs at the indexes
/// `spent` were not read for them; files of packs that are `known` to be damaged are already explained. Returns the packs to blame, with
/// reasons.
///
/// A pack that holds an object with different bytes is to blame, otherwise the pack that lists the file: cachectl writes neither.
pub(super) async fn blame(
    ctx: &Context,
    snapshot: &Snapshot,
    files: Vec<At>,
    spent: &HashSet<usize>,
    known: &HashSet<Digest>,
) -> Vec<(Digest, String)> {
    let mut found: Vec<(Digest, String)> = Vec::new();
    if files.is_empty() {
        return found;
    }
    let places = snapshot.objects_outside(spent);
    let mut reader = Reader::new(ctx, snapshot);
    for at in files {
        let lists = snapshot.packs[at.pack].digest();
        let is_known = |d: &Digest| known.contains(d) || found.iter().any(|(f, _)| f == d);
        let objects: Option<Vec<(usize, usize)>> = snapshot
            .object_ids(at)
            .map(|id| places.get(&id).copied())
            .collect();
        let Some(objects) = objects else { continue };
        let mut holders = objects.iter().map(|(p, _)| snapshot.packs[*p].digest());
        if is_known(&lists) || holders.any(|d| is_known(&d)) {
            continue;
        }
        let mut hasher = snapshot.entry(at).content.hasher();
        let mut wrong = None;
        for (pack, object) in objects {
            match reader.object(pack, object).await {
                Ok(Ok(bytes)) => hasher.update(&bytes),
                Ok(Err(why)) => {
                    wrong = Some((snapshot.packs[pack].digest(), why));
                    break;
                }
                Err(e) => {
                    tracing::debug!(error = %e, "Could not determine which pack is damaged");
                    return found;
                }
            }
        }
        let e = snapshot.entry(at);
        match wrong {
            Some((pack, why)) => found.push((pack, told(&why))),
            None if hasher.finish() != e.content => {
                let why = format!("the content of `{}` differs", e.entry.path);
                found.push((lists, told(&why)));
            }
            // It had wrong content once. Other such files are not checked: each may be as long as a pack.
            None => return found,
        }
    }
    found
}

fn told(why: &str) -> String {
    format!("does not hold what it lists: {why}; the next export from this node replaces it")
}

//! Which packs are to blame for files that came wrong in frames that are right by the packs' own tables of contents.

use std::collections::HashSet;

use super::{Context, verify::contents::Reader};
use crate::{
    artifact::snapshot::{At, Snapshot},
    digest::{Digest, Sha256Hasher},
};

/// Reads `files` again, object by object, as far as that is needed to say which packs do not hold what they list; packs at the indexes
/// `spent` were not read for them, and files of packs that are `known` to be damaged have an explanation. The packs to blame, with why.
///
/// A pack that holds an object of other bytes is to blame, else the pack that lists the file: no writer of ours makes either.
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
        let mut hasher = Sha256Hasher::default();
        let mut wrong = None;
        for (pack, object) in objects {
            match reader.object(pack, object).await {
                Ok(Ok(bytes)) => hasher.update(&bytes),
                Ok(Err(why)) => {
                    wrong = Some((snapshot.packs[pack].digest(), why));
                    break;
                }
                Err(e) => {
                    tracing::debug!(error = %e, "Not looked for the pack to blame");
                    return found;
                }
            }
        }
        let e = snapshot.entry(at);
        match wrong {
            Some((pack, why)) => found.push((pack, told(&why))),
            None if hasher.finish() != e.content => {
                let why = format!("the content of `{}` is another", e.entry.path);
                found.push((lists, told(&why)));
            }
            // It came wrong once. Others that did are not looked at: each may be as long as a pack.
            None => return found,
        }
    }
    found
}

fn told(why: &str) -> String {
    format!("does not hold what it lists: {why}; the next export from this node replaces it")
}

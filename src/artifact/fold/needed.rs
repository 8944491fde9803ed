//! Which packs a snapshot needs.
//!
//! A table of contents claims what its pack holds, and anyone who may write a name can add one that claims the content of other
//! packs. So a pack stays as long as a live entry may be read from it, however many other packs claim the same; only a claim of a
//! pack written by this very process is known to be true.

use std::collections::{HashMap, HashSet};

use crate::{
    artifact::{
        snapshot::{At, Pack, Snapshot},
        toc::{Object, ObjectId, TocEntry},
    },
    digest::Digest,
    entry::EntryPath,
};

/// Removes packs from which no live entry can be read.
pub(super) fn drop_needless(snapshot: &mut Snapshot) {
    drop_covered(snapshot, &HashSet::new());
}

/// Removes the packs without live entries whose needed objects are all also in `own`, the packs that this writer created. The
/// snapshot is closed, and stays closed.
pub fn drop_covered(snapshot: &mut Snapshot, own: &HashSet<Digest>) {
    // A pack with live entries always stays.
    if snapshot.packs.iter().all(is_live) {
        return;
    }
    let is_own: Vec<bool> = snapshot
        .packs
        .iter()
        .map(|p| own.contains(&p.digest()))
        .collect();
    let mut needed: HashSet<ObjectId> = snapshot
        .live()
        .flat_map(|(at, _)| snapshot.object_ids(at))
        .collect();
    let mut stays = others_of_the_same(snapshot, &is_own, &mut needed);
    let mut covered: HashSet<ObjectId> = HashSet::new();
    for (pack, _) in snapshot.packs.iter().zip(&is_own).filter(|(_, own)| **own) {
        covered.extend(pack.toc.objects.iter().map(Object::id));
    }
    for ((pack, stays), is_own) in snapshot.packs.iter().zip(&mut stays).zip(is_own) {
        let may_be_had = |id: ObjectId| needed.contains(&id) && (is_own || !covered.contains(&id));
        *stays |= is_live(pack) || pack.toc.objects.iter().any(|o| may_be_had(o.id()));
    }
    let mut stays = stays.into_iter();
    snapshot.packs.retain(|_| stays.next().unwrap_or(true));
}

fn is_live(pack: &Pack) -> bool {
    pack.live.iter().any(|live| *live)
}

/// The packs with an entry that has the path and content of another writer's live entry, but different objects: one of the two is
/// wrong. Their objects are `needed` too.
fn others_of_the_same(
    snapshot: &Snapshot,
    is_own: &[bool],
    needed: &mut HashSet<ObjectId>,
) -> Vec<bool> {
    let mut stays = vec![false; snapshot.packs.len()];
    if stays.len() < 2 {
        return stays;
    }
    let live: HashMap<&EntryPath, (At, &TocEntry)> = snapshot
        .live()
        .filter(|(at, e)| !e.objects.is_empty() && !is_own[at.pack])
        .map(|(at, e)| (&e.entry.path, (at, e)))
        .collect();
    for (pack, p) in snapshot.packs.iter().enumerate() {
        for (entry, e) in p.toc.entries.iter().enumerate() {
            let Some((at, held)) = live.get(&e.entry.path) else {
                continue;
            };
            let other = At { pack, entry };
            if other == *at || !e.is_file_of(held) || p.barred.contains(&entry) {
                continue;
            }
            if !snapshot.object_ids(other).eq(snapshot.object_ids(*at)) {
                stays[pack] = true;
                needed.extend(snapshot.object_ids(other));
            }
        }
    }
    stays
}

//! Assembles the snapshot that an export publishes from the base, the kept and the packed entries.

use std::collections::{HashMap, HashSet};

use super::{Choice, Options};
use crate::{
    artifact::{
        config::{Fingerprint, RootMeta},
        name::SnapshotName,
        snapshot::{At, Pack, Snapshot},
    },
    digest::Digest,
    entry::EntryPath,
};

/// Entries that were only moved to another pack keep their day of last use, unless the job used them.
pub(super) fn date_merged(
    packs: &mut [Pack],
    base: Option<&Snapshot>,
    choice: &Choice,
    used: impl Fn(usize) -> bool,
    today: u32,
) {
    let Some(base) = base else { return };
    let local = choice.local.iter().map(|(i, at)| (*at, used(*i)));
    let remote = choice.remote.iter().map(|at| (*at, false));
    let days: HashMap<&EntryPath, u32> = local
        .chain(remote)
        .map(|(at, used)| {
            (
                &base.entry(at).entry.path,
                if used { today } else { base.day(at) },
            )
        })
        .collect();
    for pack in packs {
        for (day, e) in pack.days.iter_mut().zip(&pack.toc.entries) {
            if let Some(known) = days.get(&e.entry.path) {
                *day = *known;
            }
        }
    }
}

/// The snapshot of this writer's content: for Go kinds including the whole base, for folders the tree alone.
pub(super) fn assemble(
    options: &Options,
    name: &SnapshotName,
    base: Option<&Snapshot>,
    kept: &[(At, bool)],
    new_packs: Vec<Pack>,
    today: u32,
) -> Snapshot {
    let is_go = options.source.kind().is_go();
    let print = options.source.fingerprint();
    let mut fingerprint = Fingerprint {
        gates: Vec::new(),
        traits: print.traits,
    };
    fingerprint.add_gates(Some(print.gate).filter(|g| !g.is_empty()));
    let mut packs = base.map(|b| b.packs.clone()).unwrap_or_default();
    if let Some(base) = base.filter(|_| is_go) {
        fingerprint.add_gates(base.fingerprint.gates.iter().cloned());
        let replaced: HashSet<_> = new_packs
            .iter()
            .flat_map(|p| p.toc.entries.iter().zip(&p.live))
            .filter(|(_, live)| **live)
            .map(|(e, _)| &e.entry.path)
            .collect();
        let gone = base
            .live()
            .filter(|(_, e)| replaced.contains(&e.entry.path));
        for (at, _) in gone {
            packs[at.pack].live[at.entry] = false;
        }
    } else {
        for pack in &mut packs {
            pack.live.fill(false);
            pack.days.fill(0);
        }
    }
    for (at, used) in kept {
        let pack = &mut packs[at.pack];
        pack.live[at.entry] = true;
        if is_go && *used {
            pack.days[at.entry] = today;
        }
    }
    for new in new_packs {
        // Content that was dropped and is packed again gives the same pack.
        match packs.iter_mut().find(|p| p.digest() == new.digest()) {
            Some(same) => *same = new,
            None => packs.push(new),
        }
    }
    packs.sort_by_key(Pack::order);
    Snapshot {
        name: name.clone(),
        fingerprint,
        packs,
        merge: options.merge && !is_go,
        folded: base.map(|b| b.folded.clone()).unwrap_or_default(),
        root: options.source.root_meta().map(|meta| RootMeta {
            mode: meta.mode,
            mtime: (meta.mtime.secs, meta.mtime.nanos),
        }),
        created: None,
        published: None,
    }
}

/// Returns true if `mine` has anything for a reader that `head` does not have.
pub(super) fn differs(mine: &Snapshot, head: Option<&Snapshot>) -> bool {
    let Some(head) = head else { return true };
    let same =
        |(a, b): (&Pack, &Pack)| a.digest() == b.digest() && a.live == b.live && a.days == b.days;
    mine.packs.len() != head.packs.len()
        || !mine.packs.iter().zip(&head.packs).all(same)
        || mine.fingerprint.gates != head.fingerprint.gates
        // The root folder's time alone is not a change: every file created in it changes that.
        || head.root.is_some_and(|root| mine.root.is_some_and(|mine| mine.mode != root.mode))
}

/// Stored bytes of the packs that need not be sent again.
pub(super) fn kept_bytes(base: Option<&Snapshot>, mine: &Snapshot) -> u64 {
    let Some(base) = base else { return 0 };
    let had: HashSet<Digest> = base.packs.iter().map(Pack::digest).collect();
    mine.packs
        .iter()
        .filter(|p| had.contains(&p.digest()))
        .map(|p| p.layer.descriptor.size)
        .sum()
}

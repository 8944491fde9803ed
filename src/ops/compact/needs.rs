//! How much of each pack live entries need.

use std::collections::{HashMap, HashSet};

use crate::artifact::{
    snapshot::{At, Snapshot},
    toc::Toc,
};

/// What is needed of each pack. Several packs may claim to hold the same object, and some claims may be false: no pack counts as useless
/// because of another pack's claim.
pub(super) struct Needs {
    /// Stored bytes of the objects that are read from this pack because it is the first that holds them.
    pub(super) first: Vec<u64>,
    /// Stored bytes of all needed objects in it.
    pub(super) needed: Vec<u64>,
    /// The same for entries that this node lacks, counted once per entry.
    pub(super) remote_cost: Vec<u64>,
    /// The packs that list an entry or hold some of its content.
    pub(super) users: HashMap<At, HashSet<usize>>,
}

impl Needs {
    pub(super) fn of(
        base: &Snapshot,
        shares: &[Shares],
        stays: impl Fn(&At) -> bool,
        is_local: impl Fn(&At) -> bool,
    ) -> Self {
        let objects = base.objects();
        let again = base.objects_again(&objects);
        let count = base.packs.len();
        let mut all = Self {
            first: vec![0; count],
            needed: vec![0; count],
            remote_cost: vec![0; count],
            users: HashMap::new(),
        };
        let mut counted = HashSet::new();
        for (at, _) in base.live().filter(|(at, _)| stays(at)) {
            let packs = all.users.entry(at).or_default();
            packs.insert(at.pack);
            for id in base.object_ids(at) {
                let Some(first) = objects.get(&id) else {
                    continue;
                };
                let others = again.get(&id).into_iter().flatten();
                for place @ (pack, i) in std::iter::once(first).chain(others) {
                    packs.insert(*pack);
                    let object = base.packs[*pack].toc.objects[*i];
                    let stored = shares[*pack].of(object.len, object.frame);
                    if counted.insert(*place) {
                        all.needed[*pack] += stored;
                        all.first[*pack] += if place == first { stored } else { 0 };
                    }
                    if !is_local(&at) {
                        all.remote_cost[*pack] += stored;
                    }
                }
            }
        }
        all
    }
}

/// Stored bytes of a pack's objects: a frame's are shared out by length. Headers and the table of contents, most of a pack of
/// tiny files, go with the objects.
pub(super) struct Shares {
    /// Of each frame: stored bytes, and the sum of its objects' lengths.
    frames: Vec<(u64, u64)>,
}

impl Shares {
    pub(super) fn new(toc: &Toc) -> Self {
        let mut frames: Vec<(u64, u64)> = toc.frames.iter().map(|f| (f.len.into(), 0)).collect();
        for o in &toc.objects {
            frames[o.frame as usize].1 += u64::from(o.len);
        }
        Self { frames }
    }

    pub(super) fn of(&self, len: u32, frame: u32) -> u64 {
        let (stored, objects) = self.frames[frame as usize];
        u64::from(len) * stored / objects.max(1)
    }

    pub(super) fn total(&self) -> u64 {
        let with_objects = self.frames.iter().filter(|(_, objects)| *objects > 0);
        with_objects.map(|(stored, _)| stored).sum()
    }
}

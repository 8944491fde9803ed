//! Which entries are dropped so that a union's packs stay below a size.
//!
//! Least recently used first; within a day by path, so that every writer of a name picks the same ones. Entries that belong
//! together (an action and its output, the files of one module version) are dropped together.

use std::collections::{BTreeMap, HashMap};

use super::{GO_BUILD, Rules, close, kill};
use crate::{
    artifact::{
        snapshot::{At, Places, Snapshot},
        toc::{Toc, TocEntry},
    },
    entry::EntryPath,
};

/// Stored bytes of a pack's objects: a frame's bytes are distributed by length, so headers of tiny files count with their
/// contents.
struct Shares {
    /// Of each frame: stored bytes, and the sum of its objects' lengths.
    frames: Vec<(u64, u64)>,
    /// Each entry's share of everything but content: the table of contents and the pack's footer.
    of_entry: u64,
}

impl Shares {
    fn new(toc: &Toc, size: u64) -> Self {
        let mut frames: Vec<(u64, u64)> = toc.frames.iter().map(|f| (f.len.into(), 0)).collect();
        for o in &toc.objects {
            frames[o.frame as usize].1 += u64::from(o.len);
        }
        let contents: u64 = total_of(&frames);
        let entries = toc.entries.len().max(1) as u64;
        Self {
            frames,
            of_entry: size.saturating_sub(contents).div_ceil(entries),
        }
    }

    fn of(&self, len: u32, frame: u32) -> u64 {
        let (stored, objects) = self.frames[frame as usize];
        (u64::from(len) * stored).div_ceil(objects.max(1))
    }
}

fn total_of(frames: &[(u64, u64)]) -> u64 {
    let with_objects = frames.iter().filter(|(_, objects)| *objects > 0);
    with_objects.map(|(stored, _)| stored).sum()
}

/// What each entry of a snapshot costs.
struct Costs<'a> {
    snapshot: &'a Snapshot,
    objects: Places,
    shares: Vec<Shares>,
    by_path: HashMap<&'a EntryPath, At>,
}

impl<'a> Costs<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let shares = |p: &super::Pack| Shares::new(&p.toc, p.layer.descriptor.size);
        Self {
            snapshot,
            objects: snapshot.objects(),
            shares: snapshot.packs.iter().map(shares).collect(),
            by_path: snapshot.live().map(|(at, e)| (&e.entry.path, at)).collect(),
        }
    }

    fn of(&self, at: At) -> u64 {
        let toc = &self.snapshot.packs[at.pack].toc;
        let of_object = |o: &u32| {
            self.objects.get(&toc.object(*o)).map_or(0, |(pack, i)| {
                let o = self.snapshot.packs[*pack].toc.objects[*i];
                self.shares[*pack].of(o.len, o.frame)
            })
        };
        let contents: u64 = self.snapshot.entry(at).objects.iter().map(of_object).sum();
        contents + self.shares[at.pack].of_entry
    }

    /// The live entry that an entry needs.
    fn needed(&self, e: &TocEntry) -> Option<At> {
        self.by_path.get(e.entry.needs.as_ref()?).copied()
    }

    fn packs_of(&self, at: At) -> impl Iterator<Item = usize> {
        let toc = &self.snapshot.packs[at.pack].toc;
        let objects = self.snapshot.entry(at).objects.iter();
        let of_object = move |o: &u32| self.objects.get(&toc.object(*o)).map(|(pack, _)| *pack);
        objects.filter_map(of_object).chain([at.pack])
    }
}

/// Entries that are dropped together.
#[derive(Default)]
struct Group {
    day: u32,
    size: u64,
    members: Vec<At>,
}

/// Returns true if an entry has a day of its own: an output of a Go build stays as long as an action names it.
fn is_tracked(needs: Option<&EntryPath>, rules: Rules) -> bool {
    rules != GO_BUILD || needs.is_some()
}

/// The group of an entry: an action alone, or all files of one version of a module.
fn key_of(path: &EntryPath, rules: Rules) -> &[u8] {
    let path = path.as_bytes();
    if rules == GO_BUILD {
        return path;
    }
    let name = path.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    match path[name..].iter().rposition(|b| *b == b'.') {
        Some(dot) => &path[..name + dot],
        None => path,
    }
}

fn groups<'a>(costs: &Costs<'a>, rules: Rules) -> BTreeMap<&'a [u8], Group> {
    let mut groups: BTreeMap<&[u8], Group> = BTreeMap::new();
    for (at, e) in costs.snapshot.live() {
        if is_tracked(e.entry.needs.as_ref(), rules) {
            let group = groups.entry(key_of(&e.entry.path, rules)).or_default();
            group.day = group.day.max(costs.snapshot.day(at));
            group.size += costs.of(at) + costs.needed(e).map_or(0, |at| costs.of(at));
            group.members.push(at);
        }
    }
    groups
}

/// The position of an entry among those that may be dropped: the lowest is dropped first.
pub type Rank = (u32, Vec<u8>);

/// The rank of an entry used on `day`; `None` if it is dropped together with another one.
pub fn rank(path: &EntryPath, needs: Option<&EntryPath>, day: u32, rules: Rules) -> Option<Rank> {
    is_tracked(needs, rules).then(|| (day, key_of(path, rules).to_vec()))
}

/// The rank of the entry that would be dropped first.
pub fn lowest(snapshot: &Snapshot, rules: Rules) -> Option<Rank> {
    let costs = Costs::new(snapshot);
    let groups = groups(&costs, rules).into_iter();
    groups.map(|(key, g)| (g.day, key.to_vec())).min()
}

/// Stored bytes of the live entries in the packs that `which` selects, each output counted once.
pub fn cost(snapshot: &Snapshot, which: impl Fn(usize) -> bool) -> u64 {
    let costs = Costs::new(snapshot);
    let live = snapshot.live().filter(|(at, _)| which(at.pack));
    live.map(|(at, _)| costs.of(at)).sum()
}

/// Drops the least recently used entries until the rest costs at most `limit`; entries larger than that are dropped first.
pub fn shrink(snapshot: &mut Snapshot, limit: u64, rules: Rules) {
    let costs = Costs::new(snapshot);
    let mut total: u64 = snapshot.live().map(|(at, _)| costs.of(at)).sum();
    let mut ranked: Vec<_> = groups(&costs, rules)
        .into_iter()
        .map(|(key, g)| ((g.size <= limit, g.day, key), g.size, g.members))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    let mut leave = Vec::new();
    for (_, size, members) in ranked {
        if total <= limit {
            break;
        }
        // Outputs shared by several actions are counted for each of them: some entries too many are dropped, never too few.
        total = total.saturating_sub(size);
        leave.extend(members);
    }
    for at in leave {
        kill(snapshot, at);
    }
    close(snapshot, rules);
}

/// Drops packs of which less than half is needed, with their live entries, until all packs together have at most `limit` bytes.
///
/// A fold with an older head brings back such packs, although their kept entries had been moved to another pack.
pub(super) fn drop_dead_weight(snapshot: &mut Snapshot, limit: u64, rules: Rules) {
    while snapshot.stored_bytes() > limit {
        let costs = Costs::new(snapshot);
        let mut needed = vec![0_u64; snapshot.packs.len()];
        let mut counted = std::collections::HashSet::new();
        for (at, _) in snapshot.live() {
            for id in snapshot.object_ids(at) {
                if let Some((pack, i)) = costs.objects.get(&id)
                    && counted.insert((*pack, *i))
                {
                    let o = snapshot.packs[*pack].toc.objects[*i];
                    needed[*pack] += costs.shares[*pack].of(o.len, o.frame);
                }
            }
        }
        let share = |p: &usize| {
            let all = total_of(&costs.shares[*p].frames).max(1);
            needed[*p].saturating_mul(1000) / all
        };
        let worst = (0..needed.len())
            .filter(|p| share(p) < 500)
            .min_by_key(|p| (share(p), *p));
        let Some(worst) = worst else { return };
        let in_it = |at: At| costs.packs_of(at).any(|p| p == worst);
        let leave: Vec<At> = snapshot
            .live()
            .filter(|(at, e)| in_it(*at) || costs.needed(e).is_some_and(in_it))
            .map(|(at, _)| at)
            .collect();
        for at in leave {
            kill(snapshot, at);
        }
        // Other packs claim to hold the rest of it: to stay within a limit, that claim must suffice.
        snapshot.packs.remove(worst);
        close(snapshot, rules);
    }
}

//! Folding: combines the content of two writers of a name into one snapshot; and the closure check that every snapshot must pass.

use std::{
    cell::{Cell, OnceCell},
    collections::{HashMap, HashSet},
};

pub mod barred;
pub mod contained;
pub mod dated;
pub mod replaced;
pub mod size;

mod needed;

use super::{
    config::Folded,
    snapshot::{At, Pack, Snapshot},
    toc::{Object, ObjectId, TocEntry},
};
use crate::{
    digest::Digest,
    entry::{EntryPath, Kind},
};

pub use contained::remember;
pub use needed::drop_covered;

/// Days for which a snapshot remembers the side tags that it contains, once they are no longer listed.
const FOLDED_DAYS: u32 = 7;

/// How snapshots of a kind behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// A union: nothing is dropped because one writer lacks it.
    Union {
        /// A file that needs nothing is live exactly when a live one needs it (outputs of a Go build cache).
        outputs_by_need: bool,
    },
    /// A tree: the content of its last writer.
    Tree,
}

const GO_BUILD: Rules = Rules::Union {
    outputs_by_need: true,
};

/// An entry that could not be kept, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Died {
    /// Its path.
    pub path: EntryPath,
    /// Why.
    pub why: &'static str,
}

/// Maximum number of dropped entries that one closing reports; a malicious snapshot may have millions.
const MAX_DIED: usize = 10_000;

fn note(died: &mut Vec<Died>, path: &EntryPath, why: &'static str) {
    if died.len() < MAX_DIED {
        died.push(Died {
            path: path.clone(),
            why,
        });
    }
}

/// Folds `side` onto `head`. For two unions the result does not depend on the order; for more, the live entries do not (but the
/// packs from which they are read may).
///
/// `side_tag` is recorded in the result. For trees `side` is the later publication; with [`Snapshot::merge`] its paths replace
/// those of the head and the rest stays. If one of two unions was made before a replacement of the name, only the other is used
/// ([`replaced`]).
pub fn fold(
    head: &Snapshot,
    side: &Snapshot,
    side_tag: Option<&str>,
    today: u32,
    rules: Rules,
) -> Snapshot {
    let mut out = match rules {
        Rules::Tree if !side.merge => {
            let mut replaced = one_alone(side, head);
            replaced.published = head.published.max(side.published);
            // Do not bring back what the replacement removed.
            if replaced::marks(side).max() <= replaced::marks(head).max() {
                add_dead_packs(&mut replaced, head);
            }
            replaced
        }
        _ if replaced::is_replaced(head, side, rules) => one_alone(side, head),
        _ if replaced::is_replaced(side, head, rules) => one_alone(head, side),
        _ => Snapshot {
            published: head.published.max(side.published),
            ..union(head, side, rules)
        },
    };
    out.name.clone_from(&head.name);
    out.created = head.created.max(side.created);
    let folded = side_tag.map(|tag| Folded::new(tag, today));
    remember(&mut out, folded, today);
    close(&mut out, rules);
    out
}

/// The content of `one`; of the other only the side tags that it contained.
fn one_alone(one: &Snapshot, other: &Snapshot) -> Snapshot {
    let mut out = one.clone();
    out.folded.extend(other.folded.iter().cloned());
    out
}

/// Adds the packs of `other` without their entries: their objects can be used in addition to those that the packs of `out` claim
/// to hold. Closing drops the useless ones.
fn add_dead_packs(out: &mut Snapshot, other: &Snapshot) {
    let known: HashSet<Digest> = out.packs.iter().map(Pack::digest).collect();
    for pack in other.packs.iter().filter(|p| !known.contains(&p.digest())) {
        let count = pack.toc.entries.len();
        out.packs.push(Pack {
            live: vec![false; count],
            days: vec![0; count],
            ..pack.clone()
        });
    }
    out.packs.sort_by_key(Pack::order);
}

fn union(head: &Snapshot, side: &Snapshot, rules: Rules) -> Snapshot {
    let mut out = head.clone();
    out.root = side.root.or(head.root);
    if rules == Rules::Tree {
        let replaced: HashSet<&EntryPath> = side.live().map(|(_, e)| &e.entry.path).collect();
        for pack in &mut out.packs {
            for (live, e) in pack.live.iter_mut().zip(&pack.toc.entries) {
                *live &= !replaced.contains(&e.entry.path);
            }
        }
    }
    let places: HashMap<_, _> = out
        .packs
        .iter()
        .enumerate()
        .map(|(i, p)| (p.digest(), i))
        .collect();
    for pack in &side.packs {
        match places.get(&pack.digest()) {
            Some(i) => join(&mut out.packs[*i], pack),
            None => out.packs.push(pack.clone()),
        }
    }
    out.packs.sort_by_key(Pack::order);
    out.folded.extend(side.folded.iter().cloned());
    let gates = side.fingerprint.gates.iter().cloned();
    out.fingerprint.add_gates(gates);
    // If two writers' traits differ, the snapshot has entries of both, so the trait is meaningless.
    out.fingerprint
        .traits
        .retain(|k, v| side.fingerprint.traits.get(k) == Some(v));
    out
}

fn join(pack: &mut Pack, other: &Pack) {
    for (i, live) in other.live.iter().enumerate().filter(|(_, live)| **live) {
        let day = if pack.live[i] {
            pack.days[i].max(other.days[i])
        } else {
            other.days[i]
        };
        pack.live[i] |= live;
        pack.days[i] = day;
    }
}

/// Makes a snapshot consistent: one live entry per path, each with all its objects in the listed packs, links and needs met, and
/// no entry below a non-directory. Packs that no live entry needs are removed ([`needed`]). Entries that cannot be resolved are
/// dropped; the first ten thousand of them are returned.
pub fn close(snapshot: &mut Snapshot, rules: Rules) -> Vec<Died> {
    let mut died = Vec::new();
    if rules == GO_BUILD {
        forget_outputs(snapshot);
    }
    let by_path = one_live_entry_a_path(snapshot);
    objects_are_there(snapshot, &mut died);
    match rules {
        GO_BUILD => outputs_follow_actions(snapshot, &mut died),
        Rules::Union { .. } => needs_are_met(snapshot, &mut died),
        Rules::Tree => tree_holds(snapshot, by_path, &mut died),
    }
    needed::drop_needless(snapshot);
    died
}

fn kill(snapshot: &mut Snapshot, at: At) {
    snapshot.packs[at.pack].live[at.entry] = false;
    snapshot.packs[at.pack].days[at.entry] = 0;
}

/// Of two live entries with the same path the later one wins: by time (for an action entry: its own), then by the needed entry,
/// then by content; of two equal ones that of the first pack. The day of last use is the latest of all. Returns the winners, sorted by path.
fn one_live_entry_a_path(snapshot: &mut Snapshot) -> Vec<At> {
    fn rank(e: &TocEntry) -> impl Ord + '_ {
        (
            e.entry.meta.mtime,
            &e.entry.needs,
            e.content,
            e.entry.meta.mode,
            e.entry.kind.content_len(),
        )
    }
    let (mut losers, mut days) = (Vec::new(), Vec::new());
    let mut by_path = snapshot.live_by_path();
    let entry = |at: &At| snapshot.entry(*at);
    by_path.dedup_by(|at, held| {
        if entry(at).entry.path != entry(held).entry.path {
            return false;
        }
        if rank(entry(at)) > rank(entry(held)) {
            std::mem::swap(at, held);
        }
        losers.push(*at);
        days.push((*held, snapshot.day(*at)));
        true
    });
    for (at, day) in days {
        let held = &mut snapshot.packs[at.pack].days[at.entry];
        *held = day.max(*held);
    }
    for at in losers {
        kill(snapshot, at);
    }
    by_path
}

fn objects_are_there(snapshot: &mut Snapshot, died: &mut Vec<Died>) {
    let held = Held::new(snapshot);
    let mut dead = Vec::new();
    for (at, e) in snapshot.live() {
        if !held.has_all_of(at) {
            note(died, &e.entry.path, "a pack with its content is missing");
            dead.push(at);
        }
    }
    for at in dead {
        kill(snapshot, at);
    }
}

/// The objects that the packs of a snapshot list.
struct Held<'a> {
    snapshot: &'a Snapshot,
    /// By id; only entries with objects in other packs need it.
    all: OnceCell<HashSet<ObjectId>>,
}

impl<'a> Held<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            all: OnceCell::new(),
        }
    }

    /// Returns true if the packs list all objects of an entry.
    fn has_all_of(&self, at: At) -> bool {
        let toc = &self.snapshot.packs[at.pack].toc;
        let is_own = |index: u32| toc.objects.len() > index as usize;
        let mut objects = toc.entries[at.entry].objects.iter();
        objects.all(|index| is_own(*index) || self.all().contains(&toc.object(*index)))
    }

    fn all(&self) -> &HashSet<ObjectId> {
        self.all.get_or_init(|| {
            let packs = self.snapshot.packs.iter();
            packs.flat_map(|p| &p.toc.objects).map(Object::id).collect()
        })
    }
}

/// Drops entries whose needed entry is missing.
fn needs_are_met(snapshot: &mut Snapshot, died: &mut Vec<Died>) {
    let there: HashSet<&EntryPath> = snapshot.live().map(|(_, e)| &e.entry.path).collect();
    let dead: Vec<At> = snapshot
        .live()
        .filter(|(_, e)| matches!(&e.entry.needs, Some(needs) if !there.contains(needs)))
        .map(|(at, _)| at)
        .collect();
    for at in dead {
        note(
            died,
            &snapshot.entry(at).entry.path,
            "the file that it needs is missing",
        );
        kill(snapshot, at);
    }
}

/// Outputs become live exactly if a live action names them, each once, whatever their marks were before; an action without its
/// output is dropped. An output has no day of its own: it stays as long as the actions that name it.
fn outputs_follow_actions(snapshot: &mut Snapshot, died: &mut Vec<Died>) {
    let held = Held::new(snapshot);
    let mut outputs: HashMap<&EntryPath, Option<At>> = snapshot
        .live()
        .filter_map(|(_, e)| Some((e.entry.needs.as_ref()?, None)))
        .collect();
    for (pack, p) in snapshot.packs.iter().enumerate() {
        for (entry, e) in p.toc.entries.iter().enumerate() {
            let at = At { pack, entry };
            if let Some(place @ None) = outputs.get_mut(&e.entry.path)
                && e.entry.needs.is_none()
                && !p.barred.contains(&entry)
                && held.has_all_of(at)
            {
                *place = Some(at);
            }
        }
    }
    let dead: Vec<At> = snapshot
        .live()
        .filter(|(_, e)| matches!(&e.entry.needs, Some(n) if outputs[n].is_none()))
        .map(|(at, _)| at)
        .collect();
    let live: Vec<At> = outputs.into_values().flatten().collect();
    for at in dead {
        note(
            died,
            &snapshot.entry(at).entry.path,
            "the output that it names is missing",
        );
        kill(snapshot, at);
    }
    for at in live {
        snapshot.packs[at.pack].live[at.entry] = true;
    }
}

/// Marks all outputs as dead: [`outputs_follow_actions`] marks the needed ones as live.
fn forget_outputs(snapshot: &mut Snapshot) {
    for pack in &mut snapshot.packs {
        for (i, e) in pack.toc.entries.iter().enumerate() {
            if e.entry.needs.is_none() {
                pack.live[i] = false;
                pack.days[i] = 0;
            }
        }
    }
}

/// `by_path`: the live entries, and some that were live, sorted by path.
fn tree_holds(snapshot: &mut Snapshot, mut by_path: Vec<At>, died: &mut Vec<Died>) {
    by_path.retain(|at| snapshot.packs[at.pack].live[at.entry]);
    let tree = Tree::new(snapshot, by_path);
    let mut dead = Vec::new();
    for (at, e) in snapshot.live() {
        let path = &e.entry.path;
        let why = match &e.entry.kind {
            _ if !tree.is_under_folders(path) => Some("its parent is not a folder"),
            Kind::Hardlink(to)
                if !tree.kind(to.as_bytes()).is_some_and(Kind::is_file)
                    || !tree.is_under_folders(to) =>
            {
                Some("the target of the hard link is missing")
            }
            _ => None,
        };
        if let Some(why) = why {
            note(died, path, why);
            dead.push(at);
        }
    }
    for at in dead {
        kill(snapshot, at);
    }
}

/// The live entries of a snapshot with one live entry per path, to be looked up by path.
struct Tree<'a> {
    snapshot: &'a Snapshot,
    by_path: Vec<At>,
    /// The folder looked at last, and whether only folders are above and at it: entries of one folder mostly follow each other.
    last: Cell<(&'a [u8], bool)>,
}

impl<'a> Tree<'a> {
    fn new(snapshot: &'a Snapshot, by_path: Vec<At>) -> Self {
        Self {
            snapshot,
            by_path,
            last: Cell::new((b"", true)),
        }
    }

    fn kind(&self, path: &[u8]) -> Option<&'a Kind> {
        let entry = |at: &At| &self.snapshot.entry(*at).entry;
        let found = self
            .by_path
            .binary_search_by(|at| entry(at).path.as_bytes().cmp(path));
        found.ok().map(|i| &entry(&self.by_path[i]).kind)
    }

    /// Returns true if no entry above the path is anything but a folder.
    fn is_under_folders(&self, path: &'a EntryPath) -> bool {
        let parent = path.folder();
        if self.last.get().0 != parent {
            self.last.set((parent, self.are_folders(parent)));
        }
        self.last.get().1
    }

    fn are_folders(&self, mut path: &[u8]) -> bool {
        while !path.is_empty() {
            if self.kind(path).is_some_and(|k| !matches!(k, Kind::Dir)) {
                return false;
            }
            path = above(path);
        }
        true
    }
}

/// The path of the folder that contains `path`; empty at the top.
fn above(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    &path[..end]
}

/// Drops entries of a union: those unused for more than `max_age` days, then the least recently used ones until the stored share
/// of the live ones is at most `max_bytes`, then packs that are mostly dead weight while all packs together exceed that. Returns
/// the number of dropped entries.
pub fn expire(
    snapshot: &mut Snapshot,
    today: u32,
    max_age: u32,
    max_bytes: Option<u64>,
    rules: Rules,
) -> u64 {
    let before = snapshot.live().count() as u64;
    let tracked = |e: &TocEntry| rules != GO_BUILD || e.entry.needs.is_some();
    let old: Vec<At> = snapshot
        .live()
        .filter(|(at, e)| tracked(e) && snapshot.day(*at).saturating_add(max_age) < today)
        .map(|(at, _)| at)
        .collect();
    for at in old {
        kill(snapshot, at);
    }
    close(snapshot, rules);
    if let Some(limit) = max_bytes {
        size::shrink(snapshot, limit, rules);
        size::drop_dead_weight(snapshot, limit, rules);
    }
    before - snapshot.live().count() as u64
}

#[cfg(test)]
mod tests;

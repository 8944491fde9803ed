//! Which entries of a snapshot to restore, and what is in their places now.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::super::{LeftOut, Result};
use crate::{
    artifact::{
        snapshot::{At, Snapshot},
        toc::TocEntry,
    },
    entry::{Entry, EntryPath, Kind},
    fs,
    source::{
        Known, KnownContent, NothingKnown, Source, Standing,
        index::NodeIndex,
        own::{self, OwnWithin},
        place,
    },
};

/// The other names that the snapshot gives to its files.
pub(super) struct Links<'a>(HashMap<&'a EntryPath, Vec<&'a EntryPath>>);

impl<'a> Links<'a> {
    pub(super) fn of(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut names: HashMap<_, Vec<_>> = HashMap::new();
        for entry in entries {
            if let Kind::Hardlink(to) = &entry.kind {
                names.entry(to).or_default().push(&entry.path);
            }
        }
        Self(names)
    }

    /// Returns true if the file at the entry's path has hard links outside the snapshot: changing its owner, permissions or times would
    /// change them there too, for example in a store that shares files by hard links.
    pub(super) fn is_shared(&self, root: &fs::Dir, entry: &Entry) -> crate::source::Result<bool> {
        let stat_of = |path: &EntryPath| match root.open_parent_if_there(path)? {
            Some(dir) => dir.stat(path.name()),
            None => Ok(None),
        };
        let Some(stat) = stat_of(&entry.path)?.filter(|s| !s.is_dir() && s.nlink > 1) else {
            return Ok(false);
        };
        let mut ours = 1;
        for other in self.0.get(&entry.path).into_iter().flatten() {
            let other = stat_of(other)?;
            ours += u64::from(other.is_some_and(|o| (o.dev, o.ino) == (stat.dev, stat.ino)));
        }
        Ok(stat.nlink > ours)
    }
}

/// What is already in place of a snapshot, and what is missing.
pub(super) struct Survey {
    /// Entries to be in the target at the end, sorted by path: the admitted ones of the snapshot.
    pub(super) entries: Vec<At>,
    /// For each of them: what is in its place now.
    pub(super) standing: Vec<Standing>,
    /// Entries that may not be restored.
    pub(super) refused: Vec<LeftOut>,
    /// Entries left alone although the snapshot has them: the rest is complete without them.
    pub(super) spared: Vec<LeftOut>,
    /// Cachectl's own folders in the target.
    pub(super) own: OwnWithin,
    /// The node index lists just the files among `entries`, and proved the content of each.
    pub(super) is_as_indexed: bool,
    /// Paths left alone with everything below them: folders and mount points that block entries of the snapshot.
    pub(super) in_the_way: HashSet<Box<[u8]>>,
    /// The same of entries for which something else is kept ([`Standing::Keep`]); only for a mirroring import.
    pub(super) kept: HashSet<Box<[u8]>>,
}

/// Compares the snapshot with the target. Blocks.
pub(super) fn survey(
    source: &dyn Source,
    snapshot: &Snapshot,
    index: Option<&NodeIndex>,
    mirror: bool,
) -> Result<Survey> {
    let mut entries: Vec<At> = Vec::new();
    let mut refused = Vec::new();
    for (at, e) in snapshot.live() {
        let content = e.entry.kind.is_file().then_some(&e.content);
        match source.kind().admit(&e.entry, content) {
            Ok(()) => entries.push(at),
            Err(why) => refused.push(LeftOut {
                what: e.entry.path.to_string(),
                why,
            }),
        }
    }
    let path = |at: &At| &snapshot.entry(*at).entry.path;
    entries.sort_unstable_by(|a, b| path(a).cmp(path(b)));
    one_in_each_place(source, snapshot, &mut entries);
    let root = fs::Dir::open_if_there(source.root())?;
    let own = source.own();
    let guard = own.guard(root.as_ref());
    let spared = spare(source, snapshot, &mut entries, guard, root.as_ref());
    let known = index.map(Proven::by);
    let standing = match &root {
        None => vec![Standing::Absent; entries.len()],
        Some(root) => stand(source, snapshot, &entries, root, known.as_ref())?,
    };
    let files = entries
        .iter()
        .filter(|at| snapshot.entry(**at).entry.kind.is_file());
    let is_as_indexed = known.is_some_and(|known| known.are_all(files.count()));
    let mut survey = Survey {
        entries,
        standing,
        refused,
        spared,
        own,
        is_as_indexed,
        in_the_way: HashSet::new(),
        kept: HashSet::new(),
    };
    if let Some(root) = &root {
        survey.spare_what_is_blocked(source, snapshot, root, mirror)?;
    }
    if mirror {
        let all = survey.entries.iter().zip(&survey.standing);
        let kept = all.filter(|(_, standing)| **standing == Standing::Keep);
        survey.kept = kept.map(|(at, _)| source.place(path(at)).into()).collect();
    }
    Ok(survey)
}

impl Survey {
    /// Drops entries whose places are taken by something that must not be removed ([`place::stays`]), with all entries below them and links
    /// to them.
    fn spare_what_is_blocked(
        &mut self,
        source: &dyn Source,
        snapshot: &Snapshot,
        root: &fs::Dir,
        mirror: bool,
    ) -> Result<()> {
        let keep = |path: &[u8], is_dir: bool| source.keeps(path, is_dir);
        let mut gone: HashSet<&EntryPath> = HashSet::new();
        let mut folders: Vec<&EntryPath> = Vec::new();
        for (at, standing) in self.entries.iter().zip(&self.standing) {
            let entry = &snapshot.entry(*at).entry;
            let is_dir = entry.kind == Kind::Dir;
            let why = match standing {
                Standing::Blocked(why) => Some((*why).to_owned()),
                Standing::Other => {
                    let Some(parent) = root.open_parent_if_there(&entry.path)? else {
                        continue;
                    };
                    match parent.stat(entry.path.name())?.filter(fs::Stat::is_dir) {
                        Some(_) if is_dir => None,
                        _ => place::stays(&parent, &entry.path, &self.own, &keep, mirror)?,
                    }
                }
                _ => continue,
            };
            if let Some(why) = why {
                gone.insert(&entry.path);
                folders.extend(is_dir.then_some(&entry.path));
                self.spared.push(LeftOut {
                    what: entry.path.to_string(),
                    why,
                });
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let paths = self
            .entries
            .iter()
            .map(|at| &snapshot.entry(*at).entry.path);
        let is_below = |path: &&EntryPath| {
            let mut above = folders.iter().map(|folder| folder.as_bytes());
            above.any(|folder| place::is_below(path.as_bytes(), folder))
        };
        gone.extend(paths.filter(is_below).collect::<Vec<_>>());
        self.in_the_way = gone.iter().map(|p| source.place(p).into()).collect();
        let all = self.entries.drain(..).zip(self.standing.drain(..));
        let left: Vec<_> = all
            .filter(|(at, _)| is_left(&snapshot.entry(*at).entry, &gone, &mut self.spared))
            .collect();
        (self.entries, self.standing) = left.into_iter().unzip();
        Ok(())
    }
}

/// Drops entries whose places other entries take: several names of one program, of which one is enough. `entries` are in order.
fn one_in_each_place(source: &dyn Source, snapshot: &Snapshot, entries: &mut Vec<At>) {
    let place = |at: &At| source.place(&snapshot.entry(*at).entry.path);
    entries.dedup_by(|later, held| {
        let same = place(later) == place(held);
        if same {
            *held = *later;
        }
        same
    });
}

/// Returns true if an entry can still be restored without the `gone` ones: false if it is one of them, or a link to one.
fn is_left(entry: &Entry, gone: &HashSet<&EntryPath>, spared: &mut Vec<LeftOut>) -> bool {
    if gone.contains(&entry.path) {
        return false;
    }
    let Kind::Hardlink(to) = &entry.kind else {
        return true;
    };
    let stays = !gone.contains(to);
    if !stays {
        spared.push(LeftOut {
            what: entry.path.to_string(),
            why: format!("it is a hard link to `{to}`, which is not restored"),
        });
    }
    stays
}

/// Drops what an import leaves alone: excluded paths (not reported unless everything is excluded), cachectl's own folders, and links to
/// either.
fn spare(
    source: &dyn Source,
    snapshot: &Snapshot,
    entries: &mut Vec<At>,
    mut guard: own::Guard<'_>,
    root: Option<&fs::Dir>,
) -> Vec<LeftOut> {
    // Go's caches have a fixed layout, in which no such folder occurs.
    if source.kind().is_go() {
        return Vec::new();
    }
    let mut gone: HashSet<&EntryPath> = HashSet::new();
    let mut own: Vec<&EntryPath> = Vec::new();
    for at in entries.iter() {
        let entry = &snapshot.entry(*at).entry;
        let is_dir = entry.kind == Kind::Dir;
        if source.excludes(&entry.path, is_dir)
            || is_dir && excludes_all_below(source, &entry.path) && is_folder(root, &entry.path)
        {
            gone.insert(&entry.path);
        } else if guard.forbids(&entry.path, is_dir) {
            gone.insert(&entry.path);
            own.push(&entry.path);
        }
    }
    let mut spared = Vec::new();
    if let Some(first) = own.first() {
        let others = match own.len() {
            1 => String::new(),
            n => format!(", as do {} more entries of the snapshot", n - 1),
        };
        spared.push(LeftOut {
            what: first.to_string(),
            why: format!("it belongs to one of cachectl's own folders{others}"),
        });
    }
    if !entries.is_empty() && own.is_empty() && gone.len() == entries.len() {
        spared.push(LeftOut {
            what: "everything".to_owned(),
            why: "--exclude matches everything in the snapshot".to_owned(),
        });
    }
    entries.retain(|at| is_left(&snapshot.entry(*at).entry, &gone, &mut spared));
    spared
}

/// Returns true if everything in a folder is excluded, but not the folder itself (`logs/**`): then an existing one keeps its mode and time.
fn excludes_all_below(source: &dyn Source, folder: &EntryPath) -> bool {
    // An arbitrary name: a pattern that matches it without matching everything is very unlikely.
    let below = folder.join(b"0f3c-whatever-lies-in-it");
    below.is_ok_and(|below| source.excludes(&below, false))
}

fn is_folder(root: Option<&fs::Dir>, path: &EntryPath) -> bool {
    let stat = root.and_then(|root| root.open_parent_if_there(path).ok()?);
    let stat = stat.and_then(|dir| dir.stat(path.name()).ok()?);
    stat.is_some_and(|s| s.is_dir())
}

fn is_mount_point(root: &fs::Dir, entry: &Entry) -> fs::Result<bool> {
    match root.open_parent_if_there(&entry.path)? {
        Some(dir) if entry.kind != Kind::Dir => dir.is_mount_point(entry.path.name()),
        _ => Ok(false),
    }
}

/// The node index, and how many files it proved.
struct Proven<'a> {
    index: &'a NodeIndex,
    files: AtomicUsize,
}

impl<'a> Proven<'a> {
    fn by(index: &'a NodeIndex) -> Self {
        Self {
            index,
            files: AtomicUsize::new(0),
        }
    }

    /// Returns true if it proved `files` different files and lists no other.
    fn are_all(&self, files: usize) -> bool {
        self.files.load(Ordering::Relaxed) == files && self.index.len() == files
    }
}

impl Known for Proven<'_> {
    fn content(&self, path: &EntryPath, stat: &fs::Stat) -> Option<KnownContent> {
        let found = self.index.content(path, stat);
        if found.is_some() {
            self.files.fetch_add(1, Ordering::Relaxed);
        }
        found
    }
}

fn stand(
    source: &dyn Source,
    snapshot: &Snapshot,
    entries: &[At],
    root: &fs::Dir,
    known: Option<&Proven<'_>>,
) -> Result<Vec<Standing>> {
    // A fresh node commonly has an empty folder.
    if root.list()?.is_empty() {
        return Ok(vec![Standing::Absent; entries.len()]);
    }
    let known: &dyn Known = match known {
        Some(known) => known,
        None => &NothingKnown,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = entries.len().div_ceil(threads).max(1);
    let links = Links::of(entries.iter().map(|at| &snapshot.entry(*at).entry));
    let judge = |places: &mut fs::Parents<'_>, at: &At| {
        let TocEntry { entry, content, .. } = snapshot.entry(*at);
        let content = entry.kind.is_file().then_some(content);
        Ok(match source.standing(places, entry, content, known)? {
            // It is a mount point with the right content.
            Standing::SameContent if is_mount_point(root, entry)? => Standing::Keep,
            // The file has hard links outside the snapshot, which must not change: a copy replaces it.
            Standing::SameContent if links.is_shared(root, entry)? => Standing::Other,
            standing => standing,
        })
    };
    let parts: Vec<crate::source::Result<Vec<Standing>>> = std::thread::scope(|scope| {
        let judge = &judge;
        let spawned: Vec<_> = entries
            .chunks(part)
            .map(|chunk| {
                scope.spawn(move || {
                    let mut places = fs::Parents::new(root);
                    chunk.iter().map(|at| judge(&mut places, at)).collect()
                })
            })
            .collect();
        spawned
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
            .collect()
    });
    let mut all = Vec::with_capacity(entries.len());
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

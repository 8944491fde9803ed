//! The walk through the download tree.

use std::{collections::HashMap, path::Path};

use super::{
    MODE, fits,
    path::{self, ModFile, Part},
    zip::MAX_ZIP_BYTES,
};
use crate::{
    entry::{Entry, EntryPath, Meta, Time},
    fs::{self, Dir, Stat, missing_is_none},
    source::{Item, Known, Result, Scan, Skipped, stable::open_parent, threads::in_threads},
};

/// Folders below this depth are not entered: no module path is that long.
const MAX_DEPTH: usize = 64;
/// From this many folders on, the work is distributed to threads.
const SHARE_OUT: usize = 64;

/// Times of versions' locks, by path without `.lock`.
pub(super) type Locks = HashMap<Box<[u8]>, Time>;

#[derive(Default)]
struct Found {
    items: Vec<Item>,
    skipped: Vec<Skipped>,
    locks: Vec<(Box<[u8]>, Time)>,
}

/// The carried files, sorted by path, and the locks.
pub(super) fn scan(root: &Path, known: &dyn Known) -> Result<(Scan, Locks)> {
    let Some(root) = Dir::open_if_there(root)? else {
        return Ok(Default::default());
    };
    let start = EntryPath::new(*b"cache/download").expect("it is a valid path");
    let mut all = vec![Found::default()];
    let mut folders = vec![start];
    // Breadth first, until there is work for all threads; a tree that is a single path ends here.
    for _ in 0..4 {
        if folders.is_empty() || folders.len() >= SHARE_OUT {
            break;
        }
        let mut below = Vec::new();
        for folder in &folders {
            if let Some(dir) = open(folder, &mut all[0], || open_below(&root, folder)) {
                below.extend(enter(&dir, folder, known, &mut all[0])?);
            }
        }
        folders = below;
    }
    all.extend(in_threads(&folders, 16, |folders| {
        let mut found = Found::default();
        for folder in folders {
            if let Some(dir) = open(folder, &mut found, || open_below(&root, folder)) {
                walk(&dir, folder, known, &mut found, 0)?;
            }
        }
        Ok(vec![found])
    })?);

    let mut scan = Scan::default();
    let mut locks = Locks::new();
    for found in all {
        scan.items.extend(found.items);
        scan.skipped.extend(found.skipped);
        locks.extend(found.locks);
    }
    scan.items
        .sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
    scan.skipped.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok((scan, locks))
}

/// Opens a folder name by name from the root; no link is followed.
fn open_below(root: &Dir, folder: &EntryPath) -> fs::Result<Dir> {
    open_parent(root, folder)?.open_dir(folder.name())
}

/// Opens a folder; `None` if it vanished, and if it cannot be read, which is reported.
fn open(
    folder: &EntryPath,
    found: &mut Found,
    open: impl FnOnce() -> fs::Result<Dir>,
) -> Option<Dir> {
    match missing_is_none(open()) {
        Ok(dir) => dir,
        Err(e) => {
            found.skipped.push(Skipped {
                path: folder.to_string(),
                why: e.to_string(),
            });
            None
        }
    }
}

fn walk(
    dir: &Dir,
    folder: &EntryPath,
    known: &dyn Known,
    found: &mut Found,
    depth: usize,
) -> Result<()> {
    for below in enter(dir, folder, known, found)? {
        if depth < MAX_DEPTH
            && let Some(dir) = open(&below, found, || dir.open_dir(below.name()))
        {
            walk(&dir, &below, known, found, depth + 1)?;
        }
    }
    Ok(())
}

/// Collects the carried files of one folder; returns the folders in it.
fn enter(
    dir: &Dir,
    folder: &EntryPath,
    known: &dyn Known,
    found: &mut Found,
) -> Result<Vec<EntryPath>> {
    let mut below = Vec::new();
    for name in dir.list()? {
        // A name that is too long is not Go's.
        let Ok(path) = folder.join(&name.name) else {
            continue;
        };
        match name.is_dir {
            Some(true) => below.push(path),
            Some(false) => file(dir, path, known, found)?,
            None => match dir.stat(&name.name)? {
                Some(s) if s.is_dir() => below.push(path),
                _ => file(dir, path, known, found)?,
            },
        }
    }
    Ok(below)
}

fn file(dir: &Dir, path: EntryPath, known: &dyn Known, found: &mut Found) -> Result<()> {
    if let Some(stem) = path.as_bytes().strip_suffix(b".lock") {
        if let Some(stat) = dir.stat(path.name())? {
            found.locks.push((stem.into(), stat.mtime));
        }
        return Ok(());
    }
    let Some(file) = path::parse(path.as_bytes()) else {
        return Ok(());
    };
    let Some(stat) = dir.stat(path.name())?.filter(Stat::is_file) else {
        return Ok(());
    };
    let is_zip = matches!(file, ModFile(_, Part::Zip));
    if !fits(&file, stat.size) {
        // Go recreates truncated small files; files that are too large it cannot use, so report them.
        if stat.size > 0 {
            let limit = if is_zip {
                MAX_ZIP_BYTES
            } else {
                super::limit(&file)
            };
            found.skipped.push(Skipped {
                path: path.to_string(),
                why: format!("it has {} bytes, at most {limit} are expected", stat.size),
            });
        }
        return Ok(());
    }
    // The packed size of a zip is the size of its stored form.
    let proven = is_zip.then(|| known.content(&path, &stat)).flatten();
    let size = proven.map_or(stat.size, |k| k.len);
    let meta = Meta {
        mode: MODE,
        ..Meta::default()
    };
    found.items.push(Item {
        entry: Entry::file(path, size, meta),
        stat,
        claim: None,
        complete: !is_zip || proven.is_some(),
    });
    Ok(())
}

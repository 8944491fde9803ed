//! Removing files from a target that are not in the snapshot.

use std::{collections::HashSet, io};

use rustix::io::Errno;

use super::{Keep, Placement, is_errno, tree_order};
use crate::{
    entry::EntryPath,
    fs::{self, Dir, Parents},
    source::{Result, walk},
};

/// Removes every name that is neither an entry nor a folder above one, unless `keep` returns true; folders with kept contents
/// stay.
///
/// `loosen` makes a folder (its path, `None` for the target) writable; `removed` counts, also when it fails.
pub(super) fn run(
    plan: &Placement<'_>,
    target: &Dir,
    keep: &Keep<'_>,
    mut loosen: impl FnMut(Option<EntryPath>, &Dir) -> Result<()>,
    removed: &mut u64,
) -> Result<()> {
    let mut wanted: HashSet<&[u8]> = HashSet::new();
    for entry in plan.entries {
        let path = entry.path.as_bytes();
        wanted.insert(path);
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            wanted.insert(&path[..at]);
        }
    }
    let found = walk::walk(
        target,
        plan.own,
        &|path, is_dir| !keep(path, is_dir),
        &|found, out| {
            if !wanted.contains(found.path.as_bytes()) {
                out.items.push((found.path.clone(), found.stat.is_dir()));
            }
            Ok(())
        },
    )?;
    let mut extra = found.items;
    extra.sort_unstable_by(|a, b| tree_order(b.0.as_bytes(), a.0.as_bytes()));
    let mut parents = Parents::new(target);
    for (path, is_dir) in extra {
        let Some(dir) = parents.of(&path)? else {
            continue;
        };
        plan.leave.ask()?;
        let gone = match remove(dir, &path, is_dir) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                loosen(path.parent(), dir)?;
                remove(dir, &path, is_dir)?
            }
            other => other?,
        };
        *removed += u64::from(gone);
    }
    Ok(())
}

/// Removes a name; returns false if it is a mount point, or a folder with kept contents.
fn remove(dir: &Dir, path: &EntryPath, is_dir: bool) -> fs::Result<bool> {
    let gone = if is_dir {
        dir.remove_dir(path.name())
    } else {
        dir.remove_file(path.name())
    };
    match gone {
        Ok(()) => Ok(true),
        Err(e) if is_errno(&e, &[Errno::NOTEMPTY, Errno::EXIST, Errno::BUSY]) => Ok(false),
        Err(e) => Err(e),
    }
}

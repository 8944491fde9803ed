//! Restoring a tree: it is staged next to or inside its target, and renamed into place when it is complete.
//!
//! - Holds: the staging folder and its lock, the tree in it, the moves into the target, the removal of unwanted files.
//! - Enters: a target path, files from many threads, the snapshot's entries.
//! - Leaves: a target in which every name has either its old or its new content, whenever the process is killed.
//! - Deliberately absent: packs, digests (staged content has been verified), the choice of what to restore.
//!
//! ```text
//! <holder>/.cachectl-tmp-<random>/   the target's parent (target absent) or the target itself
//!     lock                           locked while its process lives; if it is free, the next run removes the folder
//!     new/                           the new tree
//!     old-<n>                        files and folders that were replaced, removed at the end
//! ```

mod leave;
mod mirror;
mod moves;
mod slow;
mod staging;
mod tree;
mod way;

use super::own::OwnWithin;
use crate::{
    entry::{Entry, EntryPath, Time},
    fs::Dir,
};

pub use leave::Leave;
pub use staging::Staging;
pub use tree::StageTree;
pub use way::stays;

/// A tree to be put into place.
pub struct Placement<'a> {
    /// All entries of the snapshot that the target is to have: sorted by path, unique.
    ///
    /// Folders, symbolic and hard links are created from their entries alone, if the target lacks them.
    pub entries: &'a [&'a Entry],
    /// For each of `entries`: whether a complete file is staged for it. Files that are not staged already exist in the target.
    pub staged: &'a [bool],
    /// The time of change that an entry gets (links and folders; files got theirs when they were staged).
    pub mtime: &'a dyn Fn(&Entry) -> Time,
    /// Order in which single files become visible, lower first.
    pub rank: &'a dyn Fn(&EntryPath) -> u8,
    /// Removes everything not in `entries`, unless this returns true (path, whether it is a folder; a kept folder is kept with
    /// all its contents); `None` keeps everything. A folder in the way of a file or link is removed if [`stays`] allows it.
    pub mirror: Option<&'a Keep<'a>>,
    /// Cachectl's own folders in the target, which are never removed.
    pub own: &'a OwnWithin,
    /// Permission, checked before each name is changed.
    pub leave: &'a Leave,
}

/// Returns true if a name (path, whether it is a folder) must be kept.
pub type Keep<'a> = dyn Fn(&[u8], bool) -> bool + Sync + 'a;

/// What a placement did.
#[derive(Debug)]
pub struct Placed {
    /// The target.
    pub target: Dir,
    /// Number of renames; 1 if the whole target was new.
    pub moves: u64,
    /// Names that the mirror removed.
    pub removed: u64,
}

/// Compares paths so that a folder comes directly before its contents: `/` sorts before any other byte.
fn tree_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // No path contains NUL.
    let key = |path: &[u8]| path.get(same).map(|b| if *b == b'/' { 0 } else { *b });
    key(a).cmp(&key(b))
}

/// Returns true if `path` is below the folder `above`.
pub fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.len() > above.len() && path[above.len()] == b'/' && path.starts_with(above)
}

/// Returns true if an operation failed with one of these.
fn is_errno(e: &crate::fs::Error, errnos: &[rustix::io::Errno]) -> bool {
    errnos
        .iter()
        .any(|errno| e.source.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests;

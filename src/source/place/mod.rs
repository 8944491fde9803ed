//! Putting a tree back: it is staged beside or inside its target, and renamed into place when all of it is there.
//!
//! - Holds: the staging folder and its lock, the tree in it, the moves into the target, the removal of what is no longer wanted.
//! - Enters: a target path, files from many threads, the snapshot's entries.
//! - Leaves: a target in which every name has its old content or its new one, whenever the process is killed.
//! - Deliberately absent: packs, digests (what is staged has been verified), the choice of what to restore.
//!
//! ```text
//! <holder>/.cachectl-tmp-<random>/   the target's parent (target absent) or the target itself
//!     lock                           held while we live; free: left by a dead run, removed by the next
//!     new/                           the tree as it will be
//!     old-<n>                        what had to make way, removed at the end
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

/// What is to be put into place.
pub struct Placement<'a> {
    /// All entries of the snapshot that the target is to have: sorted by path, unique.
    ///
    /// Folders, symbolic and hard links are made from their entries alone, where the target lacks them.
    pub entries: &'a [&'a Entry],
    /// For each of `entries`: a file that is staged, complete. Files that are not staged stand in the target already.
    pub staged: &'a [bool],
    /// The time of change that an entry gets (links and folders; files got theirs when they were staged).
    pub mtime: &'a dyn Fn(&Entry) -> Time,
    /// Order in which single files become visible, lower first.
    pub rank: &'a dyn Fn(&EntryPath) -> u8,
    /// Removes what is not among `entries`, unless this says it is to be kept (path, whether it is a folder; a kept folder is
    /// kept whole); `None` keeps everything. A folder in the way of a file or link goes as far as [`stays`] lets it.
    pub mirror: Option<&'a Keep<'a>>,
    /// Cachectl's own folders in the target, which nothing removes.
    pub own: &'a OwnWithin,
    /// Asked before each name is changed.
    pub leave: &'a Leave,
}

/// Returns true if a name (path, whether it is a folder) is to be kept.
pub type Keep<'a> = dyn Fn(&[u8], bool) -> bool + Sync + 'a;

/// What a placement did.
#[derive(Debug)]
pub struct Placed {
    /// The target.
    pub target: Dir,
    /// Renames that it took; 1 where the whole target was new.
    pub moves: u64,
    /// Names that the mirror removed.
    pub removed: u64,
}

/// Compares paths so that a folder comes directly before all that it holds: `/` sorts before any other byte.
fn tree_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    // NUL is in no path.
    let key = |b: &u8| if *b == b'/' { 0 } else { *b };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Returns true if `path` lies below the folder `above`.
pub fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.len() > above.len() && path[above.len()] == b'/' && path.starts_with(above)
}

/// Opens the folders that hold entries, remembering the last: entries in tree order mostly share it.
struct Parents<'a> {
    root: &'a Dir,
    last: Option<(Option<EntryPath>, Dir)>,
}

impl<'a> Parents<'a> {
    fn new(root: &'a Dir) -> Self {
        Self { root, last: None }
    }

    /// The folder that holds `path`; `None` where there is none, or a link or a file on the way.
    fn of(&mut self, path: &EntryPath) -> crate::fs::Result<Option<&Dir>> {
        let parent = path.parent();
        if self.last.as_ref().is_none_or(|(p, _)| *p != parent) {
            self.last = self
                .root
                .open_parent_if_there(path)?
                .map(|dir| (parent, dir));
        }
        Ok(self.last.as_ref().map(|(_, dir)| dir))
    }
}

/// Returns true if an operation failed with one of these.
fn is_errno(e: &crate::fs::Error, errnos: &[rustix::io::Errno]) -> bool {
    errnos
        .iter()
        .any(|errno| e.source.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests;

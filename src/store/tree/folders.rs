//! The folders of a tree: opened below its root without following links, created with the root's own permission bits.
//!
//! The root itself may be a link, like any path given by a user. Below it, a link could lead a writing process, perhaps root's,
//! to other users' files.

use std::{io, path::Path};

use super::{Tree, split};
use crate::{
    entry::EntryPath,
    fs::{self, Dir, Lock, LockMode},
};

/// Permission bits that folders inherit from the root; with the setgid bit files belong to its group.
const FOLDER_BITS: u32 = 0o2777;
/// The owner's permissions in any case: without them we could not continue.
const OWN_BITS: u32 = 0o700;
/// A root accessible to one user only.
const PRIVATE: u32 = 0o700;

impl Tree {
    /// Opens the folder `key`; `None` if it does not exist.
    ///
    /// # Errors
    /// Errors of the system, and a link on the way.
    pub(super) fn dir_if_there(&self, key: &str) -> fs::Result<Option<Dir>> {
        let Some(root) = Dir::open_if_there(self.root())? else {
            return Ok(None);
        };
        let key = key.trim_end_matches('/');
        if key.is_empty() {
            return Ok(Some(root));
        }
        let refused = |e: crate::entry::PathRefused| {
            let e = io::Error::new(io::ErrorKind::InvalidInput, e);
            fs::Error::new("open folder", self.path(key), e)
        };
        let path = EntryPath::new(key.as_bytes()).map_err(refused)?;
        match root.open_below(&path) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // The error for a link does not distinguish it from a file on every system.
            Err(e) => match link_on(&root, &path)? {
                Some(at) => Err(fs::Error::new("use", at, is_a_link())),
                None if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
                None => Err(e),
            },
        }
    }

    /// Opens the folder `key`.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; as [`Self::dir_if_there`].
    pub(in crate::store) fn dir(&self, key: &str) -> fs::Result<Dir> {
        let missing = || fs::Error::new("open folder", self.path(key), io::ErrorKind::NotFound);
        self.dir_if_there(key)?.ok_or_else(missing)
    }

    /// Opens the folder `key`; creates it and those above it if missing, and syncs each folder that got a new name.
    pub(super) fn make_dir(&self, key: &str) -> fs::Result<Dir> {
        if let Some(dir) = self.dir_if_there(key)? {
            return Ok(dir);
        }
        self.make_root()?;
        let mut dir = Dir::open(self.root())?;
        let bits = dir.stat_self()?.mode() & FOLDER_BITS | OWN_BITS;
        for name in key.split('/').filter(|name| !name.is_empty()) {
            let name = name.as_bytes();
            let made = match dir.make_dir(name, bits) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
                Err(e) => return Err(e),
            };
            let next = dir.open_dir(name).map_err(|e| explained(&dir, name, e))?;
            if made {
                set_bits(&next, bits)?;
                dir.sync()?;
            }
            dir = next;
        }
        Ok(dir)
    }

    /// Creates the root if missing, with those above it.
    fn make_root(&self) -> fs::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let root = self.root();
        if let Some(above) = root.parent() {
            fs::make_dirs(above)?;
        }
        let mut builder = std::fs::DirBuilder::new();
        if self.private {
            builder.mode(PRIVATE);
        }
        match builder.create(root) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(fs::Error::new("create folder", root, e))
            }
            _ => Ok(()),
        }
    }

    /// Takes the lock with the file at `key` if it is free, creating the file if missing.
    pub(super) fn try_lock(&self, key: &str, mode: LockMode) -> fs::Result<Option<Lock>> {
        let (folder, name) = split(key);
        let dir = self.make_dir(folder)?;
        let bits = file_bits(&dir)?;
        let file = dir.lock_file(name.as_bytes(), bits)?;
        Lock::try_file(file, &self.path(key), mode)
    }

    /// As [`Self::try_lock`], for an existing file that need not be writable: nothing is created.
    pub(super) fn try_existing_lock(&self, key: &str, mode: LockMode) -> fs::Result<Option<Lock>> {
        let (folder, name) = split(key);
        let file = self.dir(folder)?.open_file(name.as_bytes())?;
        Lock::try_file(file, &self.path(key), mode)
    }
}

/// Permission bits of a file that other users with access may read and replace as we do.
pub(super) fn file_bits(dir: &Dir) -> fs::Result<u32> {
    Ok(dir.stat_self()?.mode() & 0o666 | 0o600)
}

/// The umask of one user must not lock out another one who has access by the root's bits.
fn set_bits(dir: &Dir, bits: u32) -> fs::Result<()> {
    if dir.stat_self()?.mode() & FOLDER_BITS == bits {
        return Ok(());
    }
    dir.set_own_mode(bits)
}

fn explained(dir: &Dir, name: &[u8], e: fs::Error) -> fs::Error {
    let found = dir.stat(name).ok().flatten();
    if found.is_some_and(|stat| is_link(&stat)) {
        fs::Error::new("use", dir.at(name), is_a_link())
    } else {
        e
    }
}

fn is_link(stat: &fs::Stat) -> bool {
    stat.file_type() == rustix::fs::FileType::Symlink
}

fn is_a_link() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is a symbolic link, which is not followed inside a store; bind-mount the other folder instead (mount --bind)",
    )
}

/// The first link on the way to `path`.
fn link_on(root: &Dir, path: &EntryPath) -> fs::Result<Option<std::path::PathBuf>> {
    let mut dir = root.try_clone()?;
    for name in path.names() {
        match dir.stat(name)? {
            Some(stat) if is_link(&stat) => return Ok(Some(dir.at(name))),
            Some(stat) if stat.is_dir() => dir = dir.open_dir(name)?,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Warns about a root that another user could change during the work of a process that may write everywhere.
pub(super) fn warn_of_owner(root: &Path) {
    if !fs::is_root() {
        return;
    }
    let owner = Dir::open(root).and_then(|d| d.stat_self()).map(|s| s.uid);
    if let Ok(owner @ 1..) = owner {
        tracing::warn!(target: "cachectl::insecure", store = %root.display(), owner, "This process is root, and the store's folder belongs to another user, who can change what is restored from it");
    }
}

//! Folders and names several levels below an open folder, without following links.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags},
    io::Errno,
};

use super::{DIR_FLAGS, Dir, Error, File, OWN_MARK, Result, Stat, missing_is_none};
use crate::entry::EntryPath;

/// Set once the kernel (before 5.6) or a seccomp filter has refused `openat2`.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

impl Dir {
    /// Opens the folder at `path` below this one; a link anywhere in the path is an error.
    pub fn open_below(&self, path: &EntryPath) -> Result<Self> {
        let shown = || self.path.join(path.as_path());
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match rustix::fs::openat2(&self.fd, path.as_path(), DIR_FLAGS, Mode::empty(), how) {
                Ok(fd) => return Ok(Self { fd, path: shown() }),
                Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {
                    NO_OPENAT2.store(true, Ordering::Relaxed);
                }
                Err(e) => return Err(Error::new("open folder", shown(), e)),
            }
        }
        self.open_name_by_name(path)
    }

    /// As [`Dir::open_below`]; `None` if it does not exist or is not a folder, such as a link.
    pub fn open_below_if_there(&self, path: &EntryPath) -> Result<Option<Self>> {
        match self.open_below(path) {
            Err(e) if e.source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
            other => missing_is_none(other),
        }
    }

    fn open_name_by_name(&self, path: &EntryPath) -> Result<Self> {
        let mut names = path.names();
        // A path has at least one name.
        let mut dir = self.open_dir(names.next().unwrap_or(b"."))?;
        for name in names {
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    /// Opens the folder that contains `path`.
    pub fn open_parent(&self, path: &EntryPath) -> Result<Self> {
        match path.parent() {
            Some(parent) => self.open_below(&parent),
            None => self.try_clone(),
        }
    }

    /// As [`Dir::open_parent`]; `None` if it does not exist, or a link or file is in the path.
    pub fn open_parent_if_there(&self, path: &EntryPath) -> Result<Option<Self>> {
        match path.parent() {
            Some(parent) => self.open_below_if_there(&parent),
            None => self.try_clone().map(Some),
        }
    }

    /// Exchanges `name` here with `other` in `dir` atomically: both names exist at all times.
    ///
    /// # Errors
    /// `InvalidInput` or `Unsupported` if the file system does not support it.
    pub fn exchange(&self, name: &[u8], dir: &Dir, other: &[u8]) -> Result<()> {
        rustix::fs::renameat_with(&self.fd, name, &dir.fd, other, RenameFlags::EXCHANGE)
            .map_err(|e| Error::new("exchange with", dir.at(other), e))
    }

    /// Creates an unnamed file in this folder's file system; the folder itself does not change.
    ///
    /// # Errors
    /// Those of `create`; or the file system does not support it (`Unsupported`, `IsADirectory`).
    pub fn nameless_file(&self) -> Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, ".", flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => Ok(fd.into()),
            Err(e) => Err(Error::new("create an unnamed file in", &self.path, e)),
        }
    }

    /// Sets the permission bits of the file or folder `name`.
    ///
    /// # Errors
    /// System errors; or a link in its place (`InvalidInput`).
    pub fn set_mode(&self, name: &[u8], mode: u32) -> Result<()> {
        let err = |e: std::io::Error| Error::new("set mode of", self.at(name), e);
        // Linux before 6.6 has no `fchmodat` that does not follow links: use a handle and its name in /proc instead.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(|e| err(e.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| err(e.into()))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink {
            return Err(err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "it is a link",
            )));
        }
        let by_handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let mode = Mode::from_raw_mode(mode);
        match rustix::fs::chmod(by_handle, mode) {
            // No /proc here (a bare chroot).
            Err(Errno::NOENT | Errno::NOTDIR) => {
                rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty())
            }
            other => other,
        }
        .map_err(|e| err(e.into()))
    }

    /// Returns true if something is mounted on `name`, even the same file system.
    pub fn is_mount_point(&self, name: &[u8]) -> Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let mount_root = StatxAttributes::MOUNT_ROOT;
        if let Ok(found) = rustix::fs::statx(&self.fd, name, flags, StatxFlags::empty())
            && found.stx_attributes_mask.contains(mount_root)
        {
            return Ok(found.stx_attributes.contains(mount_root));
        }
        // Linux before 5.8, or a seccomp filter. Files of an overlay may have another device than their folder.
        let dev = self.stat_self()?.dev;
        let stat = self.stat(name)?.filter(Stat::is_dir);
        Ok(stat.is_some_and(|stat| stat.dev != dev))
    }

    /// Removes `name` and, if it is a folder, everything below it, at any depth; read-only folders are made writable first. Links
    /// are not followed.
    ///
    /// # Errors
    /// System errors; or it contains a mount point or a folder with cachectl's mark (`ResourceBusy`), which stays unchanged.
    pub fn remove_tree(&self, name: &[u8]) -> Result<()> {
        let Some(stat) = self.stat(name)? else {
            return Ok(());
        };
        if !stat.is_dir() {
            return self.remove_file(name);
        }
        self.is_not_mounted(name)?;
        let top = self.open_to_empty(name, stat.mode())?;
        while top.empty_into(&top, 0)? {}
        drop(top);
        self.remove_dir(name)
    }

    fn is_not_mounted(&self, name: &[u8]) -> Result<()> {
        if self.is_mount_point(name)? {
            return Err(busy(self.at(name), "it is a mount point"));
        }
        Ok(())
    }

    /// Empties this folder; folders too deep for open handles are moved up into `top`, which must then be emptied again (`true`).
    fn empty_into(&self, top: &Dir, depth: usize) -> Result<bool> {
        const DEEPEST: usize = 64;
        let mut moved = false;
        let children = self.list()?;
        if children.iter().any(|child| *child.name == *OWN_MARK) {
            return Err(busy(&self.path, "it belongs to cachectl"));
        }
        for child in children {
            let Some(stat) = self.stat(&child.name)? else {
                continue;
            };
            if !stat.is_dir() {
                self.remove_file(&child.name)?;
                continue;
            }
            self.is_not_mounted(&child.name)?;
            if depth == DEEPEST {
                if stat.mode() & 0o700 != 0o700 {
                    let _ = self.set_mode(&child.name, 0o700);
                }
                let up = format!(".deep-{:016x}", fastrand::u64(..));
                self.rename(&child.name, top, up.as_bytes())?;
                moved = true;
            } else {
                let dir = self.open_to_empty(&child.name, stat.mode())?;
                moved |= dir.empty_into(top, depth + 1)?;
                drop(dir);
                self.remove_dir(&child.name)?;
            }
        }
        Ok(moved)
    }

    fn open_to_empty(&self, name: &[u8], mode: u32) -> Result<Self> {
        if mode & 0o700 != 0o700 {
            // Another user's folder cannot be changed; the following operation then reports the real error.
            let _ = self.set_mode(name, 0o700);
        }
        self.open_dir(name)
    }
}

fn busy(path: impl Into<std::path::PathBuf>, why: &str) -> Error {
    let e = std::io::Error::new(std::io::ErrorKind::ResourceBusy, why);
    Error::new("remove", path, e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_blocks_does_not_say_what_is_free() {
        let free = |path: &str| Dir::open(path).unwrap().free_bytes().unwrap();
        assert!(free(env!("CARGO_MANIFEST_DIR")).is_some());
        assert_eq!(free("/proc"), None);
    }

    type Open = fn(&Dir, &EntryPath) -> Result<Dir>;

    fn path(p: &str) -> EntryPath {
        EntryPath::new(p.as_bytes()).unwrap()
    }

    #[test]
    fn below_is_opened_without_following_links_either_way() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::fs::write(temp.path().join("f"), b"").unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("l")).unwrap();
        let root = Dir::open(temp.path()).unwrap();
        for open in [Dir::open_below as Open, Dir::open_name_by_name as Open] {
            open(&root, &path("a/b")).unwrap();
            assert!(open(&root, &path("l/b")).is_err());
            assert!(open(&root, &path("l")).is_err());
            assert!(open(&root, &path("f")).is_err());
            assert!(open(&root, &path("x")).is_err());
        }
        for there in ["l/b", "f/x", "x", "l"] {
            assert!(root.open_below_if_there(&path(there)).unwrap().is_none());
        }
        assert!(root.open_parent_if_there(&path("l/x")).unwrap().is_none());
        assert!(root.open_parent_if_there(&path("x")).unwrap().is_some());
    }

    #[test]
    fn mode_is_set_on_files_and_folders_but_through_no_link() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("f"), b"").unwrap();
        std::os::unix::fs::symlink("f", temp.path().join("l")).unwrap();
        let root = Dir::open(temp.path()).unwrap();
        root.set_mode(b"f", 0o640).unwrap();
        assert!(root.set_mode(b"l", 0o777).is_err());
        assert_eq!(root.stat(b"f").unwrap().unwrap().mode(), 0o640);
        assert!(root.set_mode(b"gone", 0o777).is_err());
    }

    #[test]
    fn a_tree_deeper_than_any_number_of_handles_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        root.make_dir(b"t", 0o755).unwrap();
        let mut dir = root.open_dir(b"t").unwrap();
        for _ in 0..1500 {
            dir.make_dir(b"d", 0o755).unwrap();
            dir = dir.open_dir(b"d").unwrap();
        }
        dir.create_file(b"f", 0o400).unwrap();
        root.remove_tree(b"t").unwrap();
        assert_eq!(root.list().unwrap(), []);
    }

    #[test]
    fn a_tree_that_holds_a_marked_folder_is_not_removed_with_it() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("t/a/store/blobs")).unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let store = root.open_below(&path("t/a/store")).unwrap();
        store.mark_own().unwrap();
        for _ in 0..2 {
            let e = root.remove_tree(b"t").unwrap_err();
            assert!(e.to_string().contains("t/a/store"), "{e}");
            assert_eq!(store.list().unwrap().len(), 2);
        }
    }
}

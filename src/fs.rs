//! File access by directory handles: no path of an entry is ever resolved from the root of the file system, and no link is followed.
//!
//! Every error names the operation and the path. All calls block.

use std::{
    ffi::{CStr, OsStr},
    fmt,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    Access, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps,
};

mod attrs;
mod beneath;
mod cached;
mod limit;
mod own;
mod parents;
mod sparse;

pub use attrs::{
    is_root, remove_xattr, set_open_mode, set_open_owner, set_xattr, user_id, xattr, xattr_names,
};
pub use cached::{Cached, open_cached, read_cached};
pub use limit::{open_files, raise_open_files};
pub use own::{OWN_MARK, make_own_dirs};
pub use parents::Parents;
pub use sparse::{SMALLEST_HOLE, data_runs, may_be_sparse};

use crate::entry::Time;

/// An I/O error with the operation and path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} `{}`: {source}", path.display())]
pub struct Error {
    /// The operation: "open", "write" …
    pub what: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl Error {
    /// The system's kind of error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Builds one.
    pub fn new(what: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self {
            what,
            path: path.into(),
            source: source.into(),
        }
    }
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, Error>;

/// The `stat` of a name, without following links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Type and permission bits, as in `st_mode`.
    pub raw_mode: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or metadata; cannot be set.
    pub ctime: Time,
}

impl fmt::Debug for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Stat({}:{} mode {:o} size {})",
            self.dev, self.ino, self.raw_mode, self.size
        )
    }
}

impl Stat {
    /// The type of the file.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.raw_mode)
    }

    /// Returns true if it is a folder.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Returns true if it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    /// Permission bits, `0o7777` at most.
    pub fn mode(&self) -> u32 {
        self.raw_mode & 0o7777
    }

    #[allow(clippy::unnecessary_cast, reason = "narrower on other machines")]
    fn from_raw(s: &rustix::fs::Stat) -> Self {
        Self {
            dev: s.st_dev,
            ino: s.st_ino,
            raw_mode: s.st_mode,
            nlink: s.st_nlink as u64,
            uid: s.st_uid,
            gid: s.st_gid,
            size: s.st_size as u64,
            blocks: s.st_blocks as u64,
            mtime: Time {
                secs: s.st_mtime,
                nanos: s.st_mtime_nsec as u32,
            },
            ctime: Time {
                secs: s.st_ctime,
                nanos: s.st_ctime_nsec as u32,
            },
        }
    }
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirName {
    /// The name's bytes.
    pub name: Box<[u8]>,
    /// Whether it is a folder, if the listing shows it (`None`: use `stat`).
    pub is_dir: Option<bool>,
}

/// An open folder; its path is for messages only.
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dir({})", self.path.display())
    }
}

const DIR_FLAGS: OFlags = OFlags::DIRECTORY
    .union(OFlags::CLOEXEC)
    .union(OFlags::RDONLY);

impl Dir {
    /// Opens a folder by its path, following links, since a user's path may contain them.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match rustix::fs::open(&path, DIR_FLAGS, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(e) => Err(Error::new("open folder", path, e)),
        }
    }

    /// Opens a folder by its path; `None` if it does not exist.
    pub fn open_if_there(path: impl Into<PathBuf>) -> Result<Option<Self>> {
        missing_is_none(Self::open(path))
    }

    /// Opens the folder `name` in this one; a link in its place is an error.
    pub fn open_dir(&self, name: &[u8]) -> Result<Self> {
        let path = self.at(name);
        match rustix::fs::openat(&self.fd, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(e) => Err(Error::new("open folder", path, e)),
        }
    }

    /// Another handle of the same folder.
    pub fn try_clone(&self) -> Result<Self> {
        match self.fd.try_clone() {
            Ok(fd) => Ok(Self {
                fd,
                path: self.path.clone(),
            }),
            Err(e) => Err(Error::new("duplicate handle of", &self.path, e)),
        }
    }

    /// The folder's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it, for messages.
    pub fn at(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    /// Creates the folder `name`; the umask applies.
    pub fn make_dir(&self, name: &[u8], mode: u32) -> Result<()> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))
            .map_err(|e| Error::new("create folder", self.at(name), e))
    }

    /// Opens the folder `name`, creating it first if missing.
    pub fn open_or_make_dir(&self, name: &[u8], mode: u32) -> Result<Self> {
        match self.open_dir(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match self.make_dir(name, mode) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
                self.open_dir(name)
            }
            other => other,
        }
    }

    /// Creates the file `name` for writing (and reading back); an existing name, even a link, is an error. The umask applies.
    pub fn create_file(&self, name: &[u8], mode: u32) -> Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => Ok(fd.into()),
            Err(e) => Err(Error::new("create", self.at(name), e)),
        }
    }

    /// Opens the file `name` to lock it, created with the permission bits `mode` if missing; a link in its place is an error.
    ///
    /// Another user's file that we may only read is sufficient for `flock`.
    pub fn lock_file(&self, name: &[u8], mode: u32) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        loop {
            match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
                Ok(fd) => return Ok(fd.into()),
                Err(rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::ACCESS) => return self.open_file(name),
                Err(e) => return Err(Error::new("open lock", self.at(name), e)),
            }
            match self.create_file(name, mode) {
                Ok(file) => {
                    set_file_mode(&file, mode)
                        .map_err(|e| Error::new("set mode of", self.at(name), e))?;
                    return Ok(file);
                }
                // Another process was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sets the permission bits of the folder itself.
    pub fn set_own_mode(&self, mode: u32) -> Result<()> {
        rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode))
            .map_err(|e| Error::new("set mode of", &self.path, e))
    }

    /// Sets the time of change of this folder itself.
    pub fn set_own_mtime(&self, mtime: Time) -> Result<()> {
        set_file_mtime(&self.fd, mtime).map_err(|e| Error::new("set time of", &self.path, e))
    }

    /// Opens the file `name` for reading; a link in its place is an error, a fifo does not block.
    pub fn open_file(&self, name: &[u8]) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(fd.into()),
            Err(e) => Err(Error::new("open", self.at(name), e)),
        }
    }

    /// As [`Self::open_file`], for writing as well.
    pub fn open_to_write(&self, name: &[u8]) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(fd.into()),
            Err(e) => Err(Error::new("open", self.at(name), e)),
        }
    }

    /// `stat` of `name`, not following a link; `None` if it does not exist.
    pub fn stat(&self, name: &[u8]) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => Ok(Some(Stat::from_raw(&s))),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(Error::new("stat", self.at(name), e)),
        }
    }

    /// `stat` of the folder itself.
    pub fn stat_self(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.fd)
            .map(|s| Stat::from_raw(&s))
            .map_err(|e| Error::new("stat", &self.path, e))
    }

    /// All names in it except `.` and `..`, sorted by bytes.
    pub fn list(&self) -> Result<Vec<DirName>> {
        let err = |e| Error::new("list", &self.path, e);
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(&self.fd).map_err(err)? {
            let item = item.map_err(err)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let is_dir = match item.file_type() {
                FileType::Unknown => None,
                t => Some(t == FileType::Directory),
            };
            names.push(DirName {
                name: name.into(),
                is_dir,
            });
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The target of the link `name`.
    pub fn read_link(&self, name: &[u8]) -> Result<Box<[u8]>> {
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map(|c| CStr::to_bytes(&c).into())
            .map_err(|e| Error::new("read link", self.at(name), e))
    }

    /// Creates the symbolic link `name`; an existing name is an error.
    pub fn symlink(&self, target: &[u8], name: &[u8]) -> Result<()> {
        rustix::fs::symlinkat(target, &self.fd, name)
            .map_err(|e| Error::new("create link", self.at(name), e))
    }

    /// Creates `name` in `to_dir` as a hard link to the file `from` of this folder; links are not followed.
    pub fn hard_link(&self, from: &[u8], to_dir: &Dir, name: &[u8]) -> Result<()> {
        rustix::fs::linkat(&self.fd, from, &to_dir.fd, name, AtFlags::empty())
            .map_err(|e| Error::new("create hard link", to_dir.at(name), e))
    }

    /// Renames `from` here to `to` in `to_dir`, replacing an existing file.
    pub fn rename(&self, from: &[u8], to_dir: &Dir, to: &[u8]) -> Result<()> {
        rustix::fs::renameat(&self.fd, from, &to_dir.fd, to)
            .map_err(|e| Error::new("rename to", to_dir.at(to), e))
    }

    /// Renames `from` here to `to` in `to_dir`; an existing name is an error, if the file system can detect it.
    pub fn rename_new(&self, from: &[u8], to_dir: &Dir, to: &[u8]) -> Result<()> {
        rustix::fs::renameat_with(&self.fd, from, &to_dir.fd, to, RenameFlags::NOREPLACE)
            .map_err(|e| Error::new("rename to", to_dir.at(to), e))
    }

    /// Removes the file or link `name`; its absence is no error.
    pub fn remove_file(&self, name: &[u8]) -> Result<()> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes the empty folder `name`; its absence is no error.
    pub fn remove_dir(&self, name: &[u8]) -> Result<()> {
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, name: &[u8], flags: AtFlags) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, flags) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::new("remove", self.at(name), e)),
        }
    }

    /// Sets owner and group of `name`, not following a link.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(uid),
            rustix::fs::Gid::from_raw(gid),
        );
        rustix::fs::chownat(
            &self.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| Error::new("set owner of", self.at(name), e))
    }

    /// Sets access and modification time of `name`, not following a link.
    pub fn set_mtime(&self, name: &[u8], mtime: Time) -> Result<()> {
        rustix::fs::utimensat(
            &self.fd,
            name,
            &timestamps(mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| Error::new("set time of", self.at(name), e))
    }

    /// Writes the folder's names to stable storage.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|e| Error::new("sync", &self.path, e))
    }

    /// Bytes that an ordinary user can still write to this file system; `None` if it does not report blocks at all (ramfs, some
    /// FUSE and network file systems).
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        let s = rustix::fs::fstatvfs(&self.fd)
            .map_err(|e| Error::new("stat file system of", &self.path, e))?;
        Ok((s.f_blocks > 0).then(|| s.f_bavail.saturating_mul(s.f_frsize)))
    }

    /// Size of the folder's file system in bytes.
    pub fn total_bytes(&self) -> Result<u64> {
        let s = rustix::fs::fstatvfs(&self.fd)
            .map_err(|e| Error::new("stat file system of", &self.path, e))?;
        Ok(s.f_blocks.saturating_mul(s.f_frsize))
    }

    /// The handle, for calls that this type does not wrap.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn timestamps(mtime: Time) -> Timestamps {
    let t = Timespec {
        tv_sec: mtime.secs,
        tv_nsec: i64::from(mtime.nanos),
    };
    Timestamps {
        last_access: t,
        last_modification: t,
    }
}

/// Sets access and modification time of an open file or folder.
pub fn set_file_mtime(file: impl AsFd, mtime: Time) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(mtime))?)
}

/// Reserves disk space for the first `bytes` of an open file, whose length does not change. Does nothing if the file system does
/// not support it.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

/// Sets the permission bits of an open file.
pub fn set_file_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// `stat` of an open file.
pub fn stat_file(file: &File) -> io::Result<Stat> {
    Ok(Stat::from_raw(&rustix::fs::fstat(file)?))
}

/// Turns "no such file" into `None`.
pub fn missing_is_none<T>(r: Result<T>) -> Result<Option<T>> {
    match r {
        Ok(v) => Ok(Some(v)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Reads a whole file of at most `limit` bytes; `None` if it does not exist.
///
/// # Errors
/// System errors; or the file is longer than `limit`.
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = File::open(path).map_err(|e| Error::new("open", path, e));
    missing_is_none(file.and_then(|file| read_limited(file, path, limit)))
}

/// Reads an open file of at most `limit` bytes to its end; `path` is for messages.
///
/// # Errors
/// System errors; or the file is longer than `limit` (`InvalidData`).
pub fn read_limited(file: File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    use io::Read as _;
    // Allocate the whole size at once: growing would temporarily use twice as much.
    let known = file.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::with_capacity(known.min(limit) as usize + 1);
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::new("read", path, e))?;
    if bytes.len() as u64 > limit {
        let e = io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {limit} bytes"),
        );
        return Err(Error::new("read", path, e));
    }
    Ok(bytes)
}

/// Creates a folder and those above it.
pub fn make_dirs(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::new("create folder", path, e))
}

/// Checks that this user may create files in the folder `path`, or in the nearest existing folder above it. Writes nothing.
pub fn may_write(path: &Path) -> Result<()> {
    let mut folder = path;
    loop {
        match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
            Err(rustix::io::Errno::NOENT) => {}
            done => return done.map_err(|e| Error::new("write to folder", folder, e)),
        }
        // For a relative path, stop at the working directory.
        match folder.parent().map(|above| above.as_os_str().is_empty()) {
            None => return Ok(()),
            Some(true) => folder = Path::new("."),
            Some(false) => folder = folder.parent().unwrap_or(folder),
        }
    }
}

/// How durable a written file must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives a kill; a power failure may lose it.
    Rename,
    /// On stable storage when the call returns.
    Sync,
}

/// Writes `bytes` to `path` so that a reader sees either the old or the new content.
pub fn write_atomic(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    write_parts_atomic(path, &[bytes], durability)
}

/// The same for content in parts.
pub fn write_parts_atomic(path: &Path, parts: &[&[u8]], durability: Durability) -> Result<()> {
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(|e| Error::new("create a temporary file in", dir, e))?;
    for bytes in parts {
        temp.write_all(bytes)
            .map_err(|e| Error::new("write", path, e))?;
    }
    if durability == Durability::Sync {
        temp.as_file()
            .sync_all()
            .map_err(|e| Error::new("sync", path, e))?;
    }
    temp.persist(path)
        .map_err(|e| Error::new("rename to", path, e.error))?;
    if durability == Durability::Sync {
        Dir::open(dir)?.sync()?;
    }
    Ok(())
}

/// An advisory lock on a file, held until dropped (or the process ends).
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// How a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Several holders at once.
    Shared,
    /// A single holder.
    Exclusive,
}

impl Lock {
    /// Takes the lock on `path`, waiting as long as necessary; the file is created if missing.
    pub fn wait(path: &Path, mode: LockMode) -> Result<Self> {
        let file = Self::file(path)?;
        let op = match mode {
            LockMode::Shared => rustix::fs::FlockOperation::LockShared,
            LockMode::Exclusive => rustix::fs::FlockOperation::LockExclusive,
        };
        loop {
            match rustix::fs::flock(&file, op) {
                Ok(()) => return Ok(Self { file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::new("lock", path, e)),
            }
        }
    }

    /// Takes the lock on `path` if it is free; `None` if not.
    pub fn try_now(path: &Path, mode: LockMode) -> Result<Option<Self>> {
        Self::try_file(Self::file(path)?, path, mode)
    }

    /// `stat` of the locked file: another file may exist at its path by now.
    pub fn stat(&self) -> io::Result<Stat> {
        stat_file(&self.file)
    }

    /// Takes the lock on an open file if it is free; `None` if not. `path` is for messages.
    pub fn try_file(file: File, path: &Path, mode: LockMode) -> Result<Option<Self>> {
        let op = match mode {
            LockMode::Shared => rustix::fs::FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => rustix::fs::FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, op) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(Error::new("lock", path, e)),
        }
    }

    fn file(path: &Path) -> Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::new("open lock", path, e))
    }
}

//! The staged tree, written by many threads at once.

use std::{collections::HashMap, fs::File, sync::Arc};

use parking_lot::Mutex;

use crate::{
    entry::{Entry, EntryPath, Time},
    fs::{self, Dir, Result},
    source::{meta::Carry, walk, xattr},
};

/// Maximum number of open folders, if the limit of open files allows it; enough for the 256 of a Go build cache.
const MOST_OPEN: u64 = 320;

/// A tree of files that nobody else uses yet. Folders above a file are created with it.
#[derive(Debug)]
pub struct StageTree {
    root: Dir,
    carry: Carry,
    /// Permission bits that new files lose to the umask.
    lost: u32,
    open: Mutex<HashMap<Box<[u8]>, Arc<Dir>>>,
    /// Open folders at most.
    most_open: usize,
}

impl StageTree {
    pub(super) fn new(root: Dir, carry: Carry, lost: u32) -> Self {
        Self {
            root,
            carry,
            lost,
            open: Mutex::new(HashMap::new()),
            // The rest is for concurrent fetching, unpacking and comparing.
            most_open: usize::try_from((fs::open_files() / 4).min(MOST_OPEN)).unwrap_or_default(),
        }
    }

    /// The root of the tree.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    pub(super) fn carry(&self) -> Carry {
        self.carry
    }

    /// Creates the file at `path` for writing; [`StageTree::finish_file`] sets its final permissions and time.
    ///
    /// # Errors
    /// System errors; or the file exists already.
    pub fn create_file(&self, path: &EntryPath, mode: u32) -> Result<File> {
        let create = || self.folder_of(path)?.create_file(path.name(), mode & 0o777);
        match create() {
            // Open folders are only an optimization.
            Err(e) if walk::is_fatal(&e.source) => {
                self.close_folders();
                create()
            }
            done => done,
        }
    }

    /// Sets the time of a completely written file, and the owner, attributes and permissions of `entry`, as far as they are
    /// carried. The file must have been created with the mode of `entry`.
    pub fn finish_file(&self, file: &File, entry: &Entry, mtime: Time) -> Result<()> {
        let finish = || {
            let mode = self.carry.mode(entry.meta.mode);
            let mut as_created = mode & !self.lost & 0o777;
            if self.carry.gives_away() {
                fs::set_open_owner(file, entry.meta.uid, entry.meta.gid)?;
            }
            if self.carry.xattrs && !entry.xattrs.is_empty() {
                as_created = mode | 0o600;
                fs::set_open_mode(file, as_created)?;
                xattr::write(file, &entry.xattrs, self.carry.gives_away())?;
            }
            // After the owner: changing it clears special bits.
            if as_created != mode || mode > 0o777 {
                fs::set_open_mode(file, mode)?;
            }
            fs::set_file_mtime(file, mtime)
        };
        finish().map_err(|e| {
            let path = self.root.path().join(entry.path.as_path());
            fs::Error::new("set metadata of", path, e)
        })
    }

    /// Removes a staged file that failed or must not be placed.
    pub fn discard(&self, path: &EntryPath) -> Result<()> {
        self.folder_of(path)?.remove_file(path.name())
    }

    /// Creates the folder `path`, if it does not exist.
    pub(super) fn make_dir(&self, path: &EntryPath) -> Result<()> {
        self.folder(path.as_bytes()).map(drop)
    }

    /// The folder that contains `path`, created if missing.
    pub(super) fn folder_of(&self, path: &EntryPath) -> Result<Arc<Dir>> {
        let bytes = path.as_bytes();
        match bytes.iter().rposition(|b| *b == b'/') {
            Some(at) => self.folder(&bytes[..at]),
            None => self.folder(b""),
        }
    }

    fn folder(&self, path: &[u8]) -> Result<Arc<Dir>> {
        if let Some(dir) = self.opened(path) {
            return Ok(dir);
        }
        // From the nearest open folder downwards.
        let mut end = path.len();
        let mut dir = loop {
            if end == 0 {
                let root = Arc::new(self.root.try_clone()?);
                self.keep(b"", &root);
                break root;
            }
            end = path[..end].iter().rposition(|b| *b == b'/').unwrap_or(0);
            if let Some(dir) = self.opened(&path[..end]) {
                break dir;
            }
        };
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            let len = path[start..].iter().position(|b| *b == b'/');
            end = len.map_or(path.len(), |len| start + len);
            dir = Arc::new(self.open_or_make(&dir, &path[start..end])?);
            self.keep(&path[..end], &dir);
        }
        Ok(dir)
    }

    fn open_or_make(&self, dir: &Dir, name: &[u8]) -> Result<Dir> {
        if self.lost & 0o700 != 0 {
            // The umask removes our own rights.
            if dir.stat(name)?.is_none() {
                match dir.make_dir(name, 0o777) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                    _ => dir.set_mode(name, 0o777 & !self.lost | 0o700)?,
                }
            }
        }
        dir.open_or_make_dir(name, 0o777)
    }

    fn close_folders(&self) {
        let mut open = self.open.lock();
        open.clear();
    }

    fn opened(&self, path: &[u8]) -> Option<Arc<Dir>> {
        let open = self.open.lock();
        open.get(path).cloned()
    }

    fn keep(&self, path: &[u8], dir: &Arc<Dir>) {
        let mut open = self.open.lock();
        if open.len() >= self.most_open {
            open.clear();
        }
        open.insert(path.into(), Arc::clone(dir));
    }
}

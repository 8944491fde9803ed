//! A folder with files at the keys of [`super::keys`]: files are complete and durable once they have their name.
//!
//! Shared by the disk store and the image layout. All calls block. A temporary file is written in `temp`, synced and renamed,
//! and the folder is synced: after a kill or a power failure a name either stands for all of its bytes or does not exist.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::{Error, ErrorKind, Result},
    records::Listed,
};
use crate::{
    entry::Time,
    fs::{self, Cached},
};

pub(super) mod blobs;
pub(super) mod entered;
mod folders;
pub(super) mod gate;
pub(super) mod vetted;

use vetted::Vetted;

/// A folder with a place for temporary files on the same file system.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
    /// Key of the folder for temporary files.
    temp: String,
    /// A root created here is accessible to this user only.
    private: bool,
    /// `None`: blobs are used without checking them.
    vetted: Option<Arc<Vetted>>,
}

/// Prefix of temporary files; `spool-` is that of [`super::SpoolWriter`].
const TEMP_PREFIX: &str = "tmp-";
const STALE_PREFIXES: [&str; 2] = [TEMP_PREFIX, "spool-"];

/// Maximum number of bytes that are read without another thread: copying more would delay others.
const AT_HAND_BYTES: u64 = 64 << 10;

/// A file without a final name; removed when dropped.
pub(super) struct Temp {
    dir: fs::Dir,
    name: String,
    /// Open for writing.
    pub(super) file: File,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // After a rename it no longer exists; files left by failures are removed the next time the store is opened exclusively.
        let _ = self.dir.remove_file(self.name.as_bytes());
    }
}

impl Temp {
    /// Sets the file's permission bits, syncs it and renames it to `to` in `dir`, which is synced too.
    pub(super) fn commit(self, op: &'static str, bits: u32, dir: &fs::Dir, to: &str) -> Result<()> {
        fs::set_file_mode(&self.file, bits)
            .map_err(|e| Error::io(op, fs::Error::new("set mode of", self.path(), e)))?;
        self.sync(op)?;
        self.dir
            .rename(self.name.as_bytes(), dir, to.as_bytes())
            .and_then(|()| dir.sync())
            .map_err(|e| Error::io(op, e))
    }

    fn sync(&self, op: &'static str) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::io(op, fs::Error::new("sync", self.path(), e)))
    }

    /// Its path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.at(self.name.as_bytes())
    }

    /// Appends `bytes`.
    pub(super) fn write(&mut self, op: &'static str, bytes: &[u8]) -> Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(e) => Err(Error::io(op, fs::Error::new("write", self.path(), e))),
        }
    }
}

impl Tree {
    /// The tree at `root`; `temp` is a key within it. Creates nothing.
    pub(super) fn new(root: &Path, temp: &str) -> Self {
        Self {
            root: root.to_owned(),
            temp: temp.to_owned(),
            private: false,
            vetted: None,
        }
    }

    /// The same tree; its root is accessible to this user only if it is created here.
    pub(super) fn private(self, private: bool) -> Self {
        Self { private, ..self }
    }

    /// The same tree, whose blobs are reported to exist only if `vetted` knows them, or after hashing them.
    pub(super) fn vetting(self, vetted: Arc<Vetted>) -> Self {
        Self {
            vetted: Some(vetted),
            ..self
        }
    }

    fn vetted(&self) -> Option<&Vetted> {
        self.vetted.as_deref()
    }

    /// The path of the tree.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for temporary files.
    pub(super) fn temp_dir(&self) -> PathBuf {
        self.path(&self.temp)
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Creates the folders of `keys` and the one for temporary files, durably, and marks the root as cachectl's own.
    pub(super) fn make(&self, keys: &[String]) -> fs::Result<()> {
        self.make_dir(&self.temp)?;
        keys.iter()
            .try_for_each(|key| self.make_dir(key).map(drop))?;
        fs::Dir::open(self.root())?.mark_own()
    }

    /// Creates a temporary file.
    pub(super) fn temp(&self, op: &'static str) -> Result<Temp> {
        let dir = self.make_dir(&self.temp).map_err(|e| Error::io(op, e))?;
        loop {
            let name = format!("{TEMP_PREFIX}{:016x}", fastrand::u64(..));
            match dir.create_file(name.as_bytes(), 0o600) {
                Ok(file) => return Ok(Temp { dir, name, file }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(op, e)),
            }
        }
    }

    /// Removes temporary files; only correct while nobody else uses the tree.
    pub(super) fn remove_stale(&self) -> Result<u64> {
        let clean = || -> fs::Result<u64> {
            let Some(dir) = self.dir_if_there(&self.temp)? else {
                return Ok(0);
            };
            let mut removed = 0;
            for item in dir.list()? {
                if STALE_PREFIXES
                    .iter()
                    .any(|p| item.name.starts_with(p.as_bytes()))
                {
                    dir.remove_file(&item.name)?;
                    removed += 1;
                }
            }
            Ok(removed)
        };
        clean().map_err(|e| Error::io("clean up", e))
    }

    /// The bytes at `key`, at most `limit`; `None` if it does not exist.
    pub(super) fn read(&self, op: &'static str, key: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let (folder, name) = split(key);
        let read = || -> fs::Result<Option<Vec<u8>>> {
            let Some(dir) = self.dir_if_there(folder)? else {
                return Ok(None);
            };
            let file = fs::missing_is_none(dir.open_file(name.as_bytes()))?;
            let read = |file| fs::read_limited(file, &self.path(key), limit);
            file.map(read).transpose()
        };
        read().map_err(|e| {
            let is_too_long = e.kind() == std::io::ErrorKind::InvalidData;
            let mut e = Error::io(op, e);
            if is_too_long {
                e.kind = ErrorKind::Corrupt;
            }
            e
        })
    }

    /// As [`Self::read`], without waiting for a disk; errors count as unknown, too.
    pub(super) fn read_at_hand(&self, key: &str, limit: u64) -> Cached<Vec<u8>> {
        fs::open_cached(self.root(), key).and_then(|(file, stat)| {
            if stat.size > limit.min(AT_HAND_BYTES) {
                return Cached::Unknown;
            }
            // One byte more, to detect a file that has grown meanwhile.
            let mut bytes = vec![0; stat.size as usize + 1];
            let count = fs::read_cached(&file, &mut bytes, 0);
            bytes.truncate(count);
            if count as u64 == stat.size {
                Cached::There(bytes)
            } else {
                Cached::Unknown
            }
        })
    }

    /// Returns true if there is nothing at `key`.
    pub(super) fn file_is_missing(&self, op: &'static str, key: &str) -> Result<bool> {
        let (folder, name) = split(key);
        let stat = self.dir(folder).and_then(|d| d.stat(name.as_bytes()));
        Ok(stat.map_err(|e| Error::io(op, e))?.is_none())
    }

    /// Writes `bytes` to `key`, replacing an existing file.
    pub(super) fn write(&self, op: &'static str, key: &str, bytes: &[u8]) -> Result<()> {
        let (dir, name) = self.folder_of(op, key)?;
        let mut temp = self.temp(op)?;
        temp.write(op, bytes)?;
        let bits = folders::file_bits(&dir).map_err(|e| Error::io(op, e))?;
        temp.commit(op, bits, &dir, name)
    }

    /// Removes the file at `key` durably; returns whether it existed.
    pub(super) fn remove(&self, op: &'static str, key: &str) -> Result<bool> {
        let (folder, name) = split(key);
        let gone = || -> fs::Result<bool> {
            let Some(dir) = self.dir_if_there(folder)? else {
                return Ok(false);
            };
            if dir.stat(name.as_bytes())?.is_none() {
                return Ok(false);
            }
            dir.remove_file(name.as_bytes())?;
            dir.sync()?;
            Ok(true)
        };
        gone().map_err(|e| Error::io(op, e))
    }

    /// Names in the folder `key` that are text, sorted by bytes; none if the folder does not exist.
    pub(super) fn list(&self, op: &'static str, key: &str) -> Result<Vec<String>> {
        let names = || -> fs::Result<Vec<String>> {
            let Some(dir) = self.dir_if_there(key)? else {
                return Ok(Vec::new());
            };
            let names = dir.list()?.into_iter();
            Ok(names
                .filter_map(|n| String::from_utf8(n.name.into()).ok())
                .collect())
        };
        names().map_err(|e| Error::io(op, e))
    }

    /// The keys of files or folders that consist of `prefix` and at least one more character other than `/`, sorted; none if
    /// the folder does not exist.
    pub(super) fn keys(&self, op: &'static str, prefix: &str) -> Result<Vec<String>> {
        let (folder, start) = split(prefix);
        let names = self.list(op, folder)?.into_iter();
        let names = names.filter(|name| name.starts_with(start));
        Ok(names.map(|name| format!("{folder}/{name}")).collect())
    }

    /// When the file at `key` was last written.
    pub(super) fn time(&self, op: &'static str, key: &str) -> Result<Option<Time>> {
        let (folder, name) = split(key);
        let stat = self.dir(folder).and_then(|dir| dir.stat(name.as_bytes()));
        Ok(stat.map_err(|e| Error::io(op, e))?.map(|stat| stat.mtime))
    }

    /// The files whose key consists of `prefix` and at least one more character other than `/`, sorted by name; none if the
    /// folder does not exist.
    pub(super) fn list_files(
        &self,
        op: &'static str,
        prefix: &str,
        most: usize,
    ) -> Result<Vec<Listed>> {
        let (folder, start) = split(prefix);
        let files = || -> fs::Result<Vec<Listed>> {
            let Some(dir) = self.dir_if_there(folder)? else {
                return Ok(Vec::new());
            };
            let mut files = Vec::new();
            for item in dir.list()? {
                let Ok(name) = std::str::from_utf8(&item.name) else {
                    continue;
                };
                if !name.starts_with(start) {
                    continue;
                }
                // Files that were removed meanwhile are not listed.
                if let Some(stat) = dir.stat(&item.name)?.filter(fs::Stat::is_file) {
                    files.push(Listed {
                        key: format!("{folder}/{name}"),
                        size: Some(stat.size),
                        modified: Some(stat.mtime),
                    });
                    if files.len() >= most {
                        break;
                    }
                }
            }
            Ok(files)
        };
        files().map_err(|e| Error::io(op, e))
    }

    /// The folder of `key`, created if missing, and the key's last name.
    fn folder_of<'k>(&self, op: &'static str, key: &'k str) -> Result<(fs::Dir, &'k str)> {
        let (folder, name) = split(key);
        let dir = self.make_dir(folder).map_err(|e| Error::io(op, e))?;
        Ok((dir, name))
    }
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

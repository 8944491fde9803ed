//! Zips of the cache in their packed form.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    dirhash::H1,
    gosum::Sums,
    path::ModVersion,
    wrong_zip,
    zip::{Directory, StoredZip},
};
use crate::{
    fs::Dir,
    source::{
        Content, Item,
        stable::{StableFile, Watch, open_parent},
    },
};

/// Packed bytes of a zip: the size of its stored form, or its own size if the stored form would be larger than Go accepts.
pub(super) fn packed_len(root: &Path, item: &Item, v: &ModVersion) -> Result<u64, String> {
    let root = Dir::open(root).map_err(|e| e.to_string())?;
    let dir = open_parent(&root, &item.entry.path).map_err(|e| e.to_string())?;
    let file = StableFile::open(&dir, item.entry.path.name(), &item.stat, Watch::All)?;
    let directory = Directory::read(file.file(), item.stat.size, v)?;
    Ok(directory.stored_len().unwrap_or(item.stat.size))
}

/// Opens a zip whose packed size is known; `beside` is the hash in its `.ziphash`.
pub(super) fn content(
    stable: StableFile,
    item: &Item,
    v: &ModVersion,
    beside: Option<H1>,
    sums: &Sums,
) -> Result<Box<dyn Content>, String> {
    if !item.complete {
        return Err("its packed size is not known yet".into());
    }
    let directory = Directory::read(stable.file(), item.stat.size, v)?;
    let file = stable
        .file()
        .try_clone()
        .map_err(|e| format!("its handle cannot be duplicated: {e}"))?;
    let file = Arc::new(file);
    let judge = Judge {
        right: expected(sums, v, beside)?,
    };
    let want = item.entry.kind.content_len();
    match directory.stored_len() {
        Some(len) if len == want => Ok(Box::new(Stored {
            zip: StoredZip::new(file, directory),
            stable,
            judge,
        })),
        None if item.stat.size == want => Ok(Box::new(AsItIs {
            file,
            directory,
            stable,
            judge,
        })),
        _ => Err("it changed while it was read".into()),
    }
}

/// The only allowed hash of a zip: that of its `.ziphash`, else that of `go.sum`; `None` if there is neither.
fn expected(sums: &Sums, v: &ModVersion, beside: Option<H1>) -> Result<Option<H1>, String> {
    match beside {
        Some(h1) => wrong_zip(sums, v, h1, None).map_or(Ok(Some(h1)), Err),
        None => Ok(sums.listed_zip(v)),
    }
}

struct Judge {
    right: Option<H1>,
}

impl Judge {
    fn settle(&self, stable: &StableFile, found: H1) -> Result<(), String> {
        stable.unchanged()?;
        match self.right {
            Some(want) if want != found => Err(format!(
                "the zip is damaged: its hash is {found}, expected is {want}"
            )),
            _ => Ok(()),
        }
    }
}

struct Stored {
    zip: StoredZip,
    stable: StableFile,
    judge: Judge,
}

impl Read for Stored {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.zip.read(buf)
    }
}

impl Content for Stored {
    fn settle(mut self: Box<Self>) -> Result<(), String> {
        // A counting reader may stop at the last byte, before it sees the end.
        if self.zip.read(&mut [0]).map_err(|e| e.to_string())? != 0 {
            return Err("it was not read to its end".into());
        }
        let found = self.zip.h1().ok_or("it was not read to its end")??;
        self.judge.settle(&self.stable, found)
    }
}

/// A zip whose stored form would be too large for Go: its original bytes, hashed afterwards.
struct AsItIs {
    file: Arc<File>,
    directory: Directory,
    stable: StableFile,
    judge: Judge,
}

impl Read for AsItIs {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stable.read(buf)
    }
}

impl Content for AsItIs {
    fn settle(self: Box<Self>) -> Result<(), String> {
        let found = self.directory.hash(&self.file)?;
        self.judge.settle(&self.stable, found)?;
        Box::new(self.stable).settle()
    }
}

//! The file of one upload.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::BATCH_BYTES;
use crate::{
    digest::Sha256Hasher,
    fs,
    store::error::{Error, Result},
};

/// One upload. Its file may be longer than `size` after a write that failed.
pub(super) struct Session {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) hasher: Sha256Hasher,
    /// Its bytes are somebody else's now: who waited for it must not touch them.
    pub(super) ended: bool,
}

pub(super) fn io_at(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::io("upload", fs::Error::new(what, path, e))
}

impl Session {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io_at(path, "create"))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size: 0,
            hasher: Sha256Hasher::default(),
            ended: false,
        })
    }

    /// Opens what an earlier process left, and hashes it again.
    pub(super) fn reopen(path: &Path) -> Result<Option<Self>> {
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = File::options();
        options.read(true).write(true).custom_flags(no_link);
        let mut file = match options.open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_at(path, "open")(e)),
        };
        let mut hasher = Sha256Hasher::default();
        let (mut buf, mut size) = (vec![0; BATCH_BYTES], 0);
        loop {
            let n = file.read(&mut buf).map_err(io_at(path, "read"))?;
            if n == 0 {
                break;
            }
            hasher.update(&buf[..n]);
            size += n as u64;
        }
        Ok(Some(Self {
            file,
            path: path.to_owned(),
            size,
            hasher,
            ended: false,
        }))
    }

    pub(super) fn write(&mut self, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            if let Err(e) = self.file.write_all(piece) {
                // Back to where the hash is, or what is appended next would be damaged.
                let back = self.file.set_len(self.size);
                let back = back.and_then(|()| self.file.seek(SeekFrom::Start(self.size)));
                back.map_err(io_at(&self.path, "shorten"))?;
                return Err(io_at(&self.path, "write")(e));
            }
            self.hasher.update(piece);
            self.size += piece.len() as u64;
        }
        Ok(())
    }
}

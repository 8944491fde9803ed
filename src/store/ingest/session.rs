//! The file of one upload.

use std::{
    collections::VecDeque,
    fs::{File, Metadata, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::SystemTime,
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
    /// Its bytes were taken over: requests that waited for it must not touch them.
    pub(super) ended: bool,
}

/// Mode of an upload's file.
const MODE: u32 = 0o600;
/// Mode bit that is added while the file has acknowledged bytes that the store lacks: a mark that every file system stores with a
/// file and that takes no space.
const AHEAD: u32 = 0o100;

/// Whether a store has taken the file for a blob's, which nobody may write to: it has a second name there.
fn is_taken(found: &Metadata) -> bool {
    found.nlink() > 1
}

/// Returns true if [`Session::set_ahead`] has marked the file.
pub(super) fn is_ahead(found: &Metadata) -> bool {
    found.is_file() && found.permissions().mode() & AHEAD != 0
}

pub(super) fn io_at(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::io("upload", fs::Error::new(what, path, e))
}

fn upload(e: fs::Error) -> Error {
    Error::io("upload", e)
}

/// The folder of an upload, and its name there. Links are not followed in either: anyone who can write next to the folder could
/// otherwise redirect us to files of others.
fn place(path: &Path) -> Result<(fs::Dir, &[u8])> {
    let nowhere = || io_at(path, "open")(io::ErrorKind::InvalidInput.into());
    let name = path.file_name().ok_or_else(nowhere)?;
    let folder = path.parent().ok_or_else(nowhere)?;
    let opened = match (folder.parent(), folder.file_name()) {
        (Some(above), Some(own)) if !above.as_os_str().is_empty() => {
            fs::Dir::open(above).and_then(|above| above.open_dir(own.as_bytes()))
        }
        _ => fs::Dir::open(folder),
    };
    Ok((opened.map_err(upload)?, name.as_bytes()))
}

impl Session {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let (folder, name) = place(path)?;
        let file = folder.create_file(name, MODE).map_err(upload)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size: 0,
            hasher: Sha256Hasher::default(),
            ended: false,
        })
    }

    /// Returns true unless its file was removed, and possibly made again, or grew.
    pub(super) fn is_whole_file(&self) -> bool {
        let found = (self.file.metadata(), self.path.symlink_metadata());
        let (Ok(own), Ok(there)) = found else {
            return false;
        };
        (own.dev(), own.ino(), self.size) == (there.dev(), there.ino(), there.len())
    }

    pub(super) fn set_ahead(&self, is_ahead: bool) -> Result<()> {
        let mode = if is_ahead { MODE | AHEAD } else { MODE };
        let set = self.file.set_permissions(Permissions::from_mode(mode));
        set.map_err(io_at(&self.path, "mark"))
    }

    /// Reads the received part of a range.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = vec![0; (range.end.min(self.size).saturating_sub(range.start)) as usize];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(io_at(&self.path, "read"))?;
        Ok(bytes.into())
    }

    /// Opens the file of an earlier process, and hashes it again.
    pub(super) fn reopen(path: &Path) -> Result<Option<Self>> {
        let (folder, name) = place(path)?;
        let Some(mut file) = fs::missing_is_none(folder.open_to_write(name)).map_err(upload)?
        else {
            return Ok(None);
        };
        let found = file.metadata().map_err(io_at(path, "open"))?;
        if !found.is_file() {
            return Err(io_at(path, "open")(io::ErrorKind::InvalidInput.into()));
        }
        if is_taken(&found) {
            // The process that ended it may still need this name, unless it died.
            if super::rested(&found, SystemTime::now()) > super::LEFT {
                fs::missing_is_none(folder.remove_file(name)).map_err(upload)?;
            }
            return Ok(None);
        }
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

    /// Writes the pieces, and removes each written one: those left by an error may be written later.
    ///
    /// # Errors
    /// `Conflict` if another process has ended the upload.
    pub(super) fn write(&mut self, pieces: &mut VecDeque<Bytes>) -> Result<()> {
        let found = self.file.metadata().map_err(io_at(&self.path, "write"))?;
        if is_taken(&found) {
            let why = "another request has finished or cancelled it";
            return Err(Error::conflict("upload", why));
        }
        while let Some(piece) = pieces.front() {
            if let Err(e) = self.file.write_all(piece) {
                // Truncate to the hashed length, or the next appended bytes would be damaged.
                let back = self.file.set_len(self.size);
                let back = back.and_then(|()| self.file.seek(SeekFrom::Start(self.size)));
                back.map_err(io_at(&self.path, "shorten"))?;
                return Err(io_at(&self.path, "write")(e));
            }
            self.hasher.update(piece);
            self.size += piece.len() as u64;
            pieces.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn pieces_that_were_written_before_an_error_are_not_written_again() {
        // A pipe takes 64 KiB, and fails for more.
        let (_reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut session = Session {
            file: OwnedFd::from(writer).into(),
            path: "/".into(),
            size: 0,
            hasher: Sha256Hasher::default(),
            ended: false,
        };
        let large = Bytes::from(vec![0; 1 << 20]);
        let mut pieces = VecDeque::from([Bytes::from_static(b"small"), large.clone()]);
        assert!(session.write(&mut pieces).is_err());
        assert_eq!((session.size, pieces), (5, [large].into()));
    }
}

//! The owners of uploads in a file, so that they are known after a restart.
//!
//! One line of JSON each: `["<id>","<owner>"]` for an upload that was begun, `["<id>"]` for one that ended. If the file cannot be
//! written, the only effect is that after a restart the uploads have no owner.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    fs,
    store::{
        error::{Error, Result},
        ingest::UploadId,
    },
};

/// Largest file that is read: a few hundred thousand uploads.
const MAX_BYTES: u64 = 64 << 20;
/// The file is rewritten when it has this many bytes in total, and per existing upload.
const LEAST: u64 = 1 << 20;
const EACH: u64 = 512;

/// The file, open.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
    written: u64,
}

fn line(id: &UploadId, owner: Option<&str>) -> Vec<u8> {
    let id = id.to_string();
    let line = match owner {
        Some(owner) => serde_json::json!([id, owner]),
        None => serde_json::json!([id]),
    };
    format!("{line}\n").into_bytes()
}

/// The uploads that have not ended according to the file; incomplete lines are ignored.
pub(super) fn read(path: &Path) -> Result<HashMap<UploadId, String>> {
    let bytes = fs::read_if_there(path, MAX_BYTES).map_err(|e| Error::io("open", e))?;
    let mut found = HashMap::new();
    for line in bytes.unwrap_or_default().split(|b| *b == b'\n') {
        let words: Vec<String> = serde_json::from_slice(line).unwrap_or_default();
        let Some(id) = words.first().and_then(|id| id.parse().ok()) else {
            continue;
        };
        match words.into_iter().nth(1) {
            Some(owner) => found.insert(id, owner),
            None => found.remove(&id),
        };
    }
    Ok(found)
}

impl Journal {
    /// Rewrites the file with these uploads. Blocks.
    pub(super) fn create<'u>(
        path: &Path,
        uploads: impl Iterator<Item = (&'u UploadId, &'u str)>,
    ) -> io::Result<Self> {
        let next = path.with_extension("next");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut journal = Self {
            path: path.to_owned(),
            file: options.open(&next)?,
            pending: uploads
                .flat_map(|(id, owner)| line(id, Some(owner)))
                .collect(),
            written: 0,
        };
        journal.write()?;
        std::fs::rename(&next, path)?;
        Ok(journal)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Records that an upload was begun by `owner`, or ended; it is in the file after [`Self::write`].
    pub(super) fn note(&mut self, id: &UploadId, owner: Option<&str>) {
        self.pending.extend(line(id, owner));
    }

    /// Writes the recorded changes. Blocks.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.written += pending.len() as u64;
        self.file.write_all(&pending)
    }

    /// Returns true if most of the file is about ended uploads.
    pub(super) fn is_long(&self, uploads: usize) -> bool {
        self.written > LEAST.max(EACH * uploads as u64)
    }
}

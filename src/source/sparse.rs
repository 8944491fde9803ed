//! The content of a sparse file: the concatenation of its data runs.

use std::{
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use super::{Content, stable::StableFile};
use crate::entry::Extent;

/// Position of the next bytes of content in a file.
#[derive(Debug)]
struct SparsePosition {
    runs: Vec<Extent>,
    at: usize,
    /// Bytes of the current run that have been read.
    done: u64,
}

impl SparsePosition {
    fn new(size: u64, extents: Option<&[Extent]>) -> Self {
        let whole = Extent {
            offset: 0,
            len: size,
        };
        let runs = match extents {
            Some(runs) => runs.to_vec(),
            None if size == 0 => Vec::new(),
            None => vec![whole],
        };
        Self {
            runs,
            at: 0,
            done: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.at == self.runs.len()
    }

    fn read(&mut self, file: &std::fs::File, buf: &mut [u8]) -> io::Result<usize> {
        let Some(run) = self.runs.get(self.at) else {
            return Ok(0);
        };
        let want = usize::try_from(run.len - self.done)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let n = file.read_at(&mut buf[..want], run.offset + self.done)?;
        self.done += n as u64;
        if self.done == run.len {
            self.at += 1;
            self.done = 0;
        }
        Ok(n)
    }
}

/// The content of an open file, read at offsets.
pub(super) struct Data<'a> {
    file: &'a std::fs::File,
    place: SparsePosition,
}

impl<'a> Data<'a> {
    pub(super) fn new(file: &'a std::fs::File, size: u64, extents: Option<&[Extent]>) -> Self {
        Self {
            file,
            place: SparsePosition::new(size, extents),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.place.is_done()
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.place.read(self.file, buf)
    }
}

/// The data between the holes of a file.
pub(super) struct SparseFile {
    file: StableFile,
    place: SparsePosition,
}

impl SparseFile {
    pub(super) fn new(file: StableFile, size: u64, runs: &[Extent]) -> Self {
        Self {
            file,
            place: SparsePosition::new(size, Some(runs)),
        }
    }
}

impl Read for SparseFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.place.read(self.file.file(), buf)
    }
}

impl Content for SparseFile {
    fn settle(self: Box<Self>) -> std::result::Result<(), String> {
        if !self.place.is_done() {
            return Err("it became shorter while it was read".to_owned());
        }
        self.file.unchanged()
    }
}

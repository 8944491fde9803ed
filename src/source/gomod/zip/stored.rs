//! The canonical form of a module's zip, created while it is read.
//!
//! Members in the order of the original's table, each with a local header, its content stored, then the table, then the end
//! record. No extras, comments or attributes; the date is 1980-01-01, the first possible one in a zip. Canonicalizing a
//! canonical form changes nothing.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use super::{
    CENTRAL_LEN, CENTRAL_SIGNATURE, Directory, END_LEN, END_SIGNATURE, LOCAL_LEN, LOCAL_SIGNATURE,
    member::{Member, MemberReader},
};
use crate::{digest::Sha256, source::gomod::dirhash::H1};

/// Version 1.0 of the format: stored files. Made by 2.0 on FAT: no permissions.
const NEEDS: u16 = 10;
const MADE_BY: u16 = 20;
/// 1980-01-01.
const DATE: u16 = 1 << 5 | 1;
/// The name is UTF-8.
const UTF8_FLAG: u16 = 1 << 11;

/// Streams the canonical form; holds the table and one buffer.
pub(in crate::source::gomod) struct StoredZip {
    file: Arc<File>,
    directory: Directory,
    /// The next member to start; after the last one comes the table.
    next: usize,
    open: Option<MemberReader>,
    /// Headers that are being written.
    pending: io::Cursor<Vec<u8>>,
    offset: u64,
    offsets: Vec<u32>,
    digests: Vec<Sha256>,
    ended: bool,
}

impl StoredZip {
    /// From a directory with a [`Directory::stored_len`]: all offsets fit then.
    pub(in crate::source::gomod) fn new(file: Arc<File>, directory: Directory) -> Self {
        let count = directory.members.len();
        Self {
            file,
            directory,
            next: 0,
            open: None,
            pending: io::Cursor::default(),
            offset: 0,
            offsets: Vec::with_capacity(count),
            digests: Vec::with_capacity(count),
            ended: false,
        }
    }

    /// The hash of all contents; `None` before the end was read.
    pub(in crate::source::gomod) fn h1(&self) -> Option<Result<H1, String>> {
        self.ended.then(|| self.directory.h1(&self.digests))
    }

    /// Starts the next section: a member, or the table and the end.
    fn advance(&mut self) -> io::Result<()> {
        let mut out = std::mem::take(&mut self.pending).into_inner();
        out.clear();
        if let Some(member) = self.directory.members.get(self.next) {
            local_header(&mut out, member);
            self.offsets.push(self.offset as u32);
            self.offset += out.len() as u64 + member.size;
            let start = self.directory.start;
            self.open = Some(MemberReader::open(&self.file, member, start)?);
            self.next += 1;
        } else {
            for (member, offset) in self.directory.members.iter().zip(&self.offsets) {
                central_header(&mut out, member, *offset);
            }
            end_record(&mut out, self.offsets.len(), self.offset as u32);
            self.ended = true;
        }
        self.pending = io::Cursor::new(out);
        Ok(())
    }
}

impl Read for StoredZip {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let n = self.pending.read(buf)?;
            if n > 0 {
                return Ok(n);
            }
            if let Some(member) = &mut self.open {
                let n = member.read(buf)?;
                if n > 0 {
                    return Ok(n);
                }
                self.digests
                    .extend(self.open.take().map(MemberReader::digest));
            } else if self.ended {
                return Ok(0);
            } else {
                self.advance()?;
            }
        }
    }
}

fn put16(out: &mut Vec<u8>, values: &[u16]) {
    for v in values {
        out.extend_from_slice(&v.to_le_bytes());
    }
}

fn put32(out: &mut Vec<u8>, values: &[u32]) {
    for v in values {
        out.extend_from_slice(&v.to_le_bytes());
    }
}

/// What both headers have in common, from "version needed" to "length of extras".
fn common(out: &mut Vec<u8>, member: &Member) {
    let ascii = member.name.is_ascii();
    let utf8 = !ascii && std::str::from_utf8(&member.name).is_ok();
    let flags = if utf8 { UTF8_FLAG } else { 0 };
    let size = member.size as u32;
    // Method stored, time of day 0.
    put16(out, &[NEEDS, flags, 0, 0, DATE]);
    put32(out, &[member.crc, size, size]);
    put16(out, &[member.name.len() as u16, 0]);
}

fn local_header(out: &mut Vec<u8>, member: &Member) {
    out.reserve(LOCAL_LEN + member.name.len());
    out.extend_from_slice(LOCAL_SIGNATURE);
    common(out, member);
    out.extend_from_slice(&member.name);
}

fn central_header(out: &mut Vec<u8>, member: &Member, offset: u32) {
    out.reserve(CENTRAL_LEN + member.name.len());
    out.extend_from_slice(CENTRAL_SIGNATURE);
    put16(out, &[MADE_BY]);
    common(out, member);
    // No comment, volume 0, no attributes.
    put16(out, &[0, 0, 0]);
    put32(out, &[0, offset]);
    out.extend_from_slice(&member.name);
}

fn end_record(out: &mut Vec<u8>, count: usize, table_start: u32) {
    let count = count as u16;
    let table_len = out.len() as u32;
    out.reserve(END_LEN);
    out.extend_from_slice(END_SIGNATURE);
    put16(out, &[0, 0, count, count]);
    put32(out, &[table_len, table_start]);
    put16(out, &[0]);
}

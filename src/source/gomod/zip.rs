//! Zips of modules: read defensively, and rewritten uncompressed.
//!
//! Module hashes cover names and contents, not zip bytes, so a zip may be rebuilt. Inside a pack, the uncompressed form
//! compresses 29 % better than the original. The canonical form depends only on names, contents and their
//! order.
//!
//! The reader accepts less than Go's `archive/zip`, and nothing that Go would read differently: the hashed contents are those
//! that Go unpacks. It refuses zip64 (a module has at most 500 MiB), encryption, and data before the archive. Format: PKWARE
//! APPNOTE 6.3, 4.3.

mod member;
mod stored;

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{dirhash::H1, path::ModVersion};
use crate::digest::Sha256;
use member::{Member, MemberReader};
pub(super) use stored::StoredZip;

/// Maximum bytes of a module's zip, and of all files in it (`MaxZipFile` in `golang.org/x/mod/zip`).
pub(super) const MAX_ZIP_BYTES: u64 = 500 << 20;

/// Longest table of contents that is read; a Go toolchain has 2 MiB of it.
const MAX_DIRECTORY_BYTES: u64 = 32 << 20;

const END_LEN: usize = 22;
const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const LOCATOR_64_SIGNATURE: &[u8] = b"PK\x06\x07";
const LOCATOR_64_LEN: usize = 20;
const CENTRAL_LEN: usize = 46;
const CENTRAL_SIGNATURE: &[u8] = b"PK\x01\x02";
const LOCAL_LEN: usize = 30;
const LOCAL_SIGNATURE: &[u8] = b"PK\x03\x04";

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The table of contents of a module's zip.
#[derive(Debug)]
pub(super) struct Directory {
    /// In the order of the table.
    members: Vec<Member>,
    /// Where the table starts, after all contents.
    start: u64,
}

impl Directory {
    /// Reads the table of a zip of `size` bytes, whose names must all be in the folder `module@version/`.
    ///
    /// # Errors
    /// A message: it is not such a zip, Go could not use it, or it is ambiguous.
    pub(super) fn read(file: &File, size: u64, version: &ModVersion) -> Result<Self, String> {
        if size > MAX_ZIP_BYTES {
            return Err(format!(
                "the zip has {size} bytes, Go accepts at most {MAX_ZIP_BYTES}"
            ));
        }
        let end = find_end(file, size)?;
        let Some(table) = read_table(file, &end)? else {
            return Err("its table of contents is not where it should be".into());
        };
        let members = parse_table(&table, &end, version.prefix().as_bytes())?;
        Ok(Self {
            members,
            start: end.table_start,
        })
    }

    /// Bytes of the canonical form; `None` if it would be larger than Go accepts.
    pub(super) fn stored_len(&self) -> Option<u64> {
        let len: u64 = self
            .members
            .iter()
            .map(|m| (LOCAL_LEN + CENTRAL_LEN + 2 * m.name.len()) as u64 + m.size)
            .sum::<u64>()
            + END_LEN as u64;
        (len <= MAX_ZIP_BYTES).then_some(len)
    }

    /// Reads all contents and hashes them.
    ///
    /// # Errors
    /// A message: contents are damaged, or Go could not use the names.
    pub(super) fn hash(&self, file: &std::sync::Arc<File>) -> Result<H1, String> {
        let mut digests = Vec::with_capacity(self.members.len());
        let mut buf = vec![0; 128 << 10];
        for member in &self.members {
            let mut reader =
                MemberReader::open(file, member, self.start).map_err(|e| e.to_string())?;
            while reader.read(&mut buf).map_err(|e| e.to_string())? > 0 {}
            digests.push(reader.digest());
        }
        self.h1(&digests)
    }

    /// The hash from the digests of all members, in the order of the table.
    fn h1(&self, digests: &[Sha256]) -> Result<H1, String> {
        let files: Vec<(&[u8], Sha256)> = self
            .members
            .iter()
            .map(|m| &*m.name)
            .zip(digests.iter().copied())
            .collect();
        H1::of_files(&files).map_err(str::to_owned)
    }
}

/// The relevant fields of the record at the end of a zip.
struct End {
    records: usize,
    table_start: u64,
    table_len: u64,
}

/// Finds the record as Go does: the last signature in the file; its comment must then reach to the end.
fn find_end(file: &File, size: u64) -> Result<End, String> {
    let tail_len = size.min((LOCATOR_64_LEN + END_LEN + usize::from(u16::MAX)) as u64);
    let mut tail = vec![0; tail_len as usize];
    file.read_exact_at(&mut tail, size - tail_len)
        .map_err(|e| format!("the zip cannot be read: {e}"))?;
    let last = tail.len().checked_sub(END_LEN);
    let at = last
        .and_then(|last| {
            (0..=last)
                .rev()
                .find(|at| tail[*at..].starts_with(END_SIGNATURE))
        })
        .ok_or("it is not a zip: it has no end record")?;
    let end = &tail[at..];
    if usize::from(u16_at(end, 20)) != end.len() - END_LEN {
        return Err("its end record is not at its end".into());
    }
    let (records, here) = (u16_at(end, 10), u16_at(end, 8));
    let (len, start) = (u32_at(end, 12), u32_at(end, 16));
    let is_64 = records == u16::MAX
        || len == u32::MAX
        || start == u32::MAX
        || at >= LOCATOR_64_LEN && tail[at - LOCATOR_64_LEN..].starts_with(LOCATOR_64_SIGNATURE);
    if is_64 {
        return Err("it is a zip64".into());
    }
    if u32_at(end, 4) != 0 || records != here {
        return Err("it is one of several volumes".into());
    }
    let end_at = size - tail_len + at as u64;
    if u64::from(start) + u64::from(len) != end_at {
        return Err("its table of contents is not where it should be".into());
    }
    Ok(End {
        records: records.into(),
        table_start: start.into(),
        table_len: len.into(),
    })
}

fn read_table(file: &File, end: &End) -> Result<Option<Vec<u8>>, String> {
    if end.table_len > MAX_DIRECTORY_BYTES {
        return Err(format!(
            "its table of contents has {} bytes, at most {MAX_DIRECTORY_BYTES} are read",
            end.table_len
        ));
    }
    let mut table = vec![0; end.table_len as usize];
    match file.read_exact_at(&mut table, end.table_start) {
        Ok(()) => Ok(Some(table)),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(format!("the zip cannot be read: {e}")),
    }
}

fn parse_table(mut table: &[u8], end: &End, prefix: &[u8]) -> Result<Vec<Member>, String> {
    let mut members = Vec::with_capacity(end.records.min(table.len() / CENTRAL_LEN));
    let mut total = 0;
    for _ in 0..end.records {
        let (member, rest) = Member::parse(table, end.table_start)?;
        if !member.name.starts_with(prefix) {
            return Err(format!(
                "the zip holds `{}`, which is not below `{}`",
                String::from_utf8_lossy(&member.name).escape_debug(),
                String::from_utf8_lossy(prefix)
            ));
        }
        total += member.size;
        if total > MAX_ZIP_BYTES {
            return Err(format!(
                "its files have more than {MAX_ZIP_BYTES} bytes, which Go refuses"
            ));
        }
        members.push(member);
        table = rest;
    }
    if !table.is_empty() {
        return Err("its table of contents is longer than its files".into());
    }
    let mut names: Vec<&[u8]> = members.iter().map(|m| &*m.name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("it contains a name twice".into());
    }
    Ok(members)
}

#[cfg(test)]
mod tests;

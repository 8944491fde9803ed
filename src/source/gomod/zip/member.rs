//! One file in a zip: its line in the table of contents, and its content, checked in every way that the zip allows.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use flate2::{Crc, bufread::DeflateDecoder};

use super::{CENTRAL_LEN, CENTRAL_SIGNATURE, LOCAL_LEN, LOCAL_SIGNATURE, u16_at, u32_at};
use crate::digest::{Sha256, Sha256Hasher};

/// Encryption (bits 0, 6, 13) and patched data (5).
const REFUSED_FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;

/// How the content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Stored,
    Deflated,
}

/// A file, according to the table of contents.
#[derive(Debug)]
pub(super) struct Member {
    /// Not empty, without NUL.
    pub(super) name: Box<[u8]>,
    pub(super) crc: u32,
    /// Bytes of content.
    pub(super) size: u64,
    packed: u64,
    method: Method,
    header: u64,
}

impl Member {
    /// Parses one line of the table; `table_start` is where contents end.
    pub(super) fn parse(table: &[u8], table_start: u64) -> Result<(Self, &[u8]), String> {
        let short = "its table of contents is cut off or damaged";
        let (head, rest) = table.split_at_checked(CENTRAL_LEN).ok_or(short)?;
        if !head.starts_with(CENTRAL_SIGNATURE) {
            return Err(short.into());
        }
        let name_len = usize::from(u16_at(head, 28));
        let (name, rest) = rest.split_at_checked(name_len).ok_or(short)?;
        let other_len = usize::from(u16_at(head, 30)) + usize::from(u16_at(head, 32));
        let (_, rest) = rest.split_at_checked(other_len).ok_or(short)?;
        let shown = String::from_utf8_lossy(&name[..name.len().min(200)])
            .escape_debug()
            .to_string();
        let refused = |why: &str| Err(format!("file `{shown}` in the zip {why}"));

        let (packed, size, header) = (u32_at(head, 20), u32_at(head, 24), u32_at(head, 42));
        let method = match u16_at(head, 10) {
            0 => Method::Stored,
            8 => Method::Deflated,
            _ => return refused("is packed by a method that Go does not know"),
        };
        if u16_at(head, 8) & REFUSED_FLAGS != 0 {
            return refused("is encrypted or a patch");
        }
        if [packed, size, header].contains(&u32::MAX) || u16_at(head, 34) != 0 {
            return refused("is of zip64 or another volume");
        }
        if name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'\n')) {
            return refused("has no proper name");
        }
        if name.ends_with(b"/") && size != 0 {
            return refused("is a folder with content");
        }
        if method == Method::Stored && packed != size {
            return refused("is stored with another length than its own");
        }
        if u64::from(header) + LOCAL_LEN as u64 + u64::from(packed) > table_start {
            return refused("reaches into the table of contents");
        }
        let member = Self {
            name: name.into(),
            crc: u32_at(head, 16),
            size: size.into(),
            packed: packed.into(),
            method,
            header: header.into(),
        };
        Ok((member, rest))
    }
}

/// A run of bytes of a file, buffered by its reader.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let want = left.min(buf.len());
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

enum Data {
    Stored(Section),
    Deflated(Box<DeflateDecoder<io::BufReader<Section>>>),
}

/// Reads one content; its end is only reported if length and checksum are right.
pub(super) struct MemberReader {
    data: Data,
    left: u64,
    crc: Crc,
    want_crc: u32,
    hasher: Sha256Hasher,
}

impl MemberReader {
    /// Opens a member; `limit` is where contents end.
    pub(super) fn open(file: &Arc<File>, member: &Member, limit: u64) -> io::Result<Self> {
        let mut head = [0; LOCAL_LEN];
        file.read_exact_at(&mut head, member.header)?;
        if !head.starts_with(LOCAL_SIGNATURE) {
            return Err(damaged("a file's header is not where the table says"));
        }
        // Name and extras of this header may differ from those in the table; as in Go, only their lengths are used.
        let skip = u64::from(u16_at(&head, 26)) + u64::from(u16_at(&head, 28));
        let at = member.header + LOCAL_LEN as u64 + skip;
        let end = at + member.packed;
        if end > limit {
            return Err(damaged("a file reaches into the table of contents"));
        }
        let section = Section {
            file: Arc::clone(file),
            at,
            end,
        };
        let data = match member.method {
            super::member::Method::Stored => Data::Stored(section),
            super::member::Method::Deflated => {
                let buffered = io::BufReader::with_capacity(32 << 10, section);
                Data::Deflated(Box::new(DeflateDecoder::new(buffered)))
            }
        };
        Ok(Self {
            data,
            left: member.size,
            crc: Crc::new(),
            want_crc: member.crc,
            hasher: Sha256Hasher::default(),
        })
    }

    fn raw_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.data {
                Data::Stored(s) => s.read(buf),
                Data::Deflated(d) => d.read(buf),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Continues reading; 0 means the end, and that the content was right. `buf` must not be empty.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            // The packed data must end here too.
            if self.raw_read(&mut [0])? != 0 {
                return Err(damaged("a file is longer than the table says"));
            }
            if self.crc.sum() != self.want_crc {
                return Err(damaged("the checksum of a file is wrong"));
            }
            return Ok(0);
        }
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let n = self.raw_read(&mut buf[..want])?;
        if n == 0 {
            return Err(damaged("a file is shorter than the table says"));
        }
        self.crc.update(&buf[..n]);
        self.hasher.update(&buf[..n]);
        self.left -= n as u64;
        Ok(n)
    }

    /// The digest of what was read.
    pub(super) fn digest(self) -> Sha256 {
        self.hasher.finish()
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the zip is damaged: {what}"),
    )
}

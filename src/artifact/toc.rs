//! The table of contents of a pack: its entries, its objects, and the frames that contain them.
//!
//! Stored form (all of `docs/format.md` §3): the magic `CTOC`, a version byte, then one zstd frame of the payload. Payload:
//! generation, frames, objects, foreign objects, entries; numbers are LEB128. The pack keeps it in a skippable zstd frame; an
//! annotation of the manifest's layer states its location and digest.

use std::collections::HashMap;

use super::wire::Writer;
use crate::{
    digest::Sha256,
    entry::{Entry, EntryPath, Kind},
    memory::Reservation,
};

mod cost;
mod meter;
mod read;

pub use meter::{NotRead, Reading};

/// Starts every stored table of contents.
pub const MAGIC: [u8; 4] = *b"CTOC";
/// The only existing version.
pub const VERSION: u8 = 1;
/// Maximum decoded bytes of a frame; a reader refuses more before it allocates.
pub const MAX_FRAME_BYTES: u32 = 4 << 20;
/// Maximum decoded bytes of a table of contents.
pub const MAX_TOC_BYTES: u64 = 256 << 20;
/// Maximum stored bytes of a table of contents.
pub const MAX_STORED_TOC_BYTES: u64 = 128 << 20;
/// Maximum entries of all tables of a snapshot in total, live and dead.
pub const MAX_ENTRIES: u64 = 2_000_000;
/// Highest generation of a pack. A damaged pack with a higher one could not be replaced.
pub const MAX_GENERATION: u32 = 1 << 31;
const MAX_XATTR_BYTES: usize = 64 << 10;
/// Level of the payload: it is small and read often.
const ZSTD_LEVEL: i32 = 3;

/// One independently decodable piece of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it starts in the pack.
    pub offset: u64,
    /// Stored bytes.
    pub len: u32,
    /// Bytes once decoded, at most [`MAX_FRAME_BYTES`].
    pub raw_len: u32,
    /// SHA-256 of the stored bytes.
    pub digest: Sha256,
}

/// Identity of an object: the SHA-256 of its bytes, and their number. The digest alone is not enough, since a table may claim any
/// length.
pub type ObjectId = (Sha256, u32);

/// Content, or a segment of it, and its location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// SHA-256 of the bytes.
    pub digest: Sha256,
    /// Count of the bytes; above 0.
    pub len: u32,
    /// Index of its frame.
    pub frame: u32,
    /// Where it starts in the decoded frame.
    pub offset: u32,
}

/// An object that an entry needs and another pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// SHA-256 of the bytes.
    pub digest: Sha256,
    /// Count of the bytes; above 0.
    pub len: u32,
}

/// An entry and where its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// The entry.
    pub entry: Entry,
    /// SHA-256 of the whole content; of no bytes for an empty file and for everything but files.
    pub content: Sha256,
    /// The content's objects in order: an index below `objects.len()` is an own object, any other a foreign one.
    pub objects: Box<[u32]>,
}

impl TocEntry {
    /// Returns true if both are files of the same content.
    pub fn is_file_of(&self, other: &Self) -> bool {
        let both_are_files = self.entry.kind.is_file() && other.entry.kind.is_file();
        both_are_files && self.content == other.content
    }
}

/// A table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toc {
    /// 0, or higher than those of the packs that it replaces (damaged packs, or packs merged into it). If two packs hold an
    /// object, the one with the higher generation is used.
    pub generation: u32,
    /// Frames in the pack's order, contiguous from offset 0.
    pub frames: Vec<Frame>,
    /// Own objects in the pack's order; each digest once.
    pub objects: Vec<Object>,
    /// Objects of other packs.
    pub foreign: Vec<Foreign>,
    /// Entries in the order of packing.
    pub entries: Vec<TocEntry>,
    /// The reservation of its memory; empty if the table was not read from bytes.
    pub memory: Reservation,
}

const KIND: u8 = 0x03;
const HAS_XATTRS: u8 = 0x10;
const HAS_NEEDS: u8 = 0x20;
const SPARSE: u8 = 0x40;
const ONE_OBJECT: u8 = 0x80;

impl Object {
    /// Its identity.
    pub fn id(&self) -> ObjectId {
        (self.digest, self.len)
    }
}

impl Toc {
    /// Digest and length of the object that an entry's list names.
    pub fn object(&self, index: u32) -> ObjectId {
        let own = self.objects.len();
        if let Some(o) = self.objects.get(index as usize) {
            (o.digest, o.len)
        } else {
            let f = self.foreign[index as usize - own];
            (f.digest, f.len)
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut stored = [&MAGIC[..], &[VERSION]].concat();
        let payload = self.payload();
        let packed =
            zstd::bulk::compress(&payload, ZSTD_LEVEL).expect("a valid level and enough memory");
        stored.extend_from_slice(&packed);
        stored
    }

    fn payload(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.num(u64::from(self.generation));
        w.num(self.frames.len() as u64);
        for f in &self.frames {
            w.num(f.len.into());
            w.num(f.raw_len.into());
            w.hash(&f.digest);
        }
        w.num(self.objects.len() as u64);
        let mut last = (0_u32, 0_u32);
        for o in &self.objects {
            w.hash(&o.digest);
            w.num(o.len.into());
            // Objects are in the order of their frames: the difference is 0 or 1, the gap a tar header.
            w.num(u64::from(o.frame - last.0));
            let base = if o.frame == last.0 { last.1 } else { 0 };
            w.num(u64::from(o.offset - base));
            last = (o.frame, o.offset + o.len);
        }
        w.num(self.foreign.len() as u64);
        for f in &self.foreign {
            w.hash(&f.digest);
            w.num(f.len.into());
        }
        w.num(self.entries.len() as u64);
        let places: HashMap<&EntryPath, usize> = self
            .entries
            .iter()
            .enumerate()
            .map(|(i, e)| (&e.entry.path, i))
            .collect();
        let mut before: &[u8] = b"";
        let mut next_object = 0_i64;
        for e in &self.entries {
            write_entry(&mut w, e, before, &places, self, &mut next_object);
            before = e.entry.path.as_bytes();
        }
        w.0
    }
}

fn write_entry(
    w: &mut Writer,
    e: &TocEntry,
    before: &[u8],
    places: &HashMap<&EntryPath, usize>,
    toc: &Toc,
    next_object: &mut i64,
) {
    let entry = &e.entry;
    let path = entry.path.as_bytes();
    let shared = path.iter().zip(before).take_while(|(a, b)| a == b).count();
    w.num(shared as u64);
    w.bytes(&path[shared..]);
    let one = e.objects.len() == 1 && toc.object(e.objects[0]).0 == e.content;
    let mut tag = match &entry.kind {
        Kind::File { .. } => 0,
        Kind::Dir => 1,
        Kind::Symlink(_) => 2,
        Kind::Hardlink(_) => 3,
    };
    for (bit, on) in [
        (HAS_XATTRS, !entry.xattrs.is_empty()),
        (HAS_NEEDS, entry.needs.is_some()),
        (
            SPARSE,
            matches!(
                entry.kind,
                Kind::File {
                    extents: Some(_),
                    ..
                }
            ),
        ),
        (ONE_OBJECT, one),
    ] {
        tag |= if on { bit } else { 0 };
    }
    w.byte(tag);
    w.num(entry.meta.mode.into());
    w.num(entry.meta.uid.into());
    w.num(entry.meta.gid.into());
    w.signed(entry.meta.mtime.secs);
    w.num(entry.meta.mtime.nanos.into());
    match &entry.kind {
        Kind::File { size, extents } => {
            w.num(*size);
            if let Some(runs) = extents {
                w.num(runs.len() as u64);
                for run in runs {
                    w.num(run.offset);
                    w.num(run.len);
                }
            }
            if !one && entry.kind.content_len() > 0 {
                w.hash(&e.content);
                w.num(e.objects.len() as u64);
            }
            for o in &e.objects {
                w.signed(i64::from(*o) - *next_object);
                *next_object = i64::from(*o) + 1;
            }
        }
        Kind::Dir => {}
        Kind::Symlink(target) => w.bytes(target),
        Kind::Hardlink(to) => w.bytes(to.as_bytes()),
    }
    if !entry.xattrs.is_empty() {
        w.num(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            w.bytes(name);
            w.bytes(value);
        }
    }
    if let Some(needs) = &entry.needs {
        if let Some(i) = places.get(needs) {
            w.num(*i as u64 + 1);
        } else {
            w.num(0);
            w.bytes(needs.as_bytes());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

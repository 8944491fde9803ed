//! The table of contents of a pack: its entries, its objects, and the frames that contain them.
//!
//! Stored form (all of `docs/format.md` §3): the magic `CTOC`, a version byte, then one zstd frame of the payload. Payload:
//! generation, counts, columns, extensions; numbers are LEB128. The pack keeps it in a skippable zstd frame; an annotation of
//! the manifest's layer states its location and digest.

use std::collections::HashMap;

use super::wire::Writer;
use crate::{
    digest::ContentId,
    entry::{Entry, EntryPath, Kind, Time},
    memory::Reservation,
};
use columns::Columns;

mod columns;
mod cost;
mod gap;
mod meter;
mod read;

pub use meter::{NotRead, Reading};

/// Starts every stored table of contents.
pub const MAGIC: [u8; 4] = *b"CTOC";
/// The version that is written and read.
pub const VERSION: u8 = 2;
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
    /// Identity of the stored bytes, always a BLAKE3.
    pub hash: ContentId,
}

/// Identity of an object: the hash of its bytes, and their number. The hash alone is not enough, since a table may claim any
/// length.
pub type ObjectId = (ContentId, u32);

/// Content, or a segment of it, and its location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Identity of the bytes.
    pub content: ContentId,
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
    /// Identity of the bytes.
    pub content: ContentId,
    /// Count of the bytes; above 0.
    pub len: u32,
}

/// An entry and where its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// The entry.
    pub entry: Entry,
    /// Identity of the whole content; of no bytes for an empty file and for everything but files.
    pub content: ContentId,
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

const HASH_BLAKE3: u8 = 0;
const HASH_SHA256: u8 = 1;

impl Object {
    /// Its identity.
    pub fn id(&self) -> ObjectId {
        (self.content, self.len)
    }
}

impl Toc {
    /// Identity of the object that an entry's list names.
    pub fn object(&self, index: u32) -> ObjectId {
        let own = self.objects.len();
        if let Some(o) = self.objects.get(index as usize) {
            (o.content, o.len)
        } else {
            let f = self.foreign[index as usize - own];
            (f.content, f.len)
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
        let mut columns: Columns<Writer> = Columns::default();
        for f in &self.frames {
            columns.frame_sizes.num(f.len.into());
            columns.frame_sizes.num(f.raw_len.into());
            columns.frame_hashes.raw(f.hash.as_bytes());
        }
        let mut last = (0_u32, 0_u32);
        for o in &self.objects {
            columns.object_sizes.num(o.len.into());
            // Objects are in the order of their frames: the difference is 0 or 1.
            columns.object_frames.num(u64::from(o.frame - last.0));
            let base = if o.frame == last.0 { last.1 } else { 0 };
            columns.object_gaps.num(gap::encode(base, o.offset));
            columns.object_hash_kinds.byte(hash_kind(&o.content));
            columns.object_hashes.raw(o.content.as_bytes());
            last = (o.frame, o.offset + o.len);
        }
        for f in &self.foreign {
            columns.foreign_sizes.num(f.len.into());
            columns.foreign_hash_kinds.byte(hash_kind(&f.content));
            columns.foreign_hashes.raw(f.content.as_bytes());
        }
        let mut entries = EntryWriter {
            toc: self,
            places: self
                .entries
                .iter()
                .enumerate()
                .map(|(i, e)| (&e.entry.path, i))
                .collect(),
            path_before: b"",
            secs_before: 0,
            next_object: 0,
        };
        for e in &self.entries {
            entries.write(&mut columns, e);
        }
        let mut w = Writer::default();
        w.num(u64::from(self.generation));
        for count in [
            self.frames.len(),
            self.objects.len(),
            self.foreign.len(),
            self.entries.len(),
        ] {
            w.num(count as u64);
        }
        columns.write(&mut w);
        // No extensions.
        w.num(0);
        w.0
    }
}

fn hash_kind(content: &ContentId) -> u8 {
    match content {
        ContentId::Blake3(_) => HASH_BLAKE3,
        ContentId::Sha256(_) => HASH_SHA256,
    }
}

/// Writes entries one after the other; most values are differences from the previous entry.
struct EntryWriter<'a> {
    toc: &'a Toc,
    places: HashMap<&'a EntryPath, usize>,
    path_before: &'a [u8],
    secs_before: i64,
    next_object: i64,
}

impl<'a> EntryWriter<'a> {
    fn write(&mut self, columns: &mut Columns<Writer>, e: &'a TocEntry) {
        let entry = &e.entry;
        self.path(columns, entry.path.as_bytes());
        let one = e.objects.len() == 1 && self.toc.object(e.objects[0]).0 == e.content;
        columns.tags.byte(tag(entry, one));
        columns.modes.num(entry.meta.mode.into());
        columns.owners.num(entry.meta.uid.into());
        columns.owners.num(entry.meta.gid.into());
        self.time(columns, entry.meta.mtime);
        match &entry.kind {
            Kind::File { size, extents } => {
                if let Some(runs) = extents {
                    columns.rest.num(*size);
                    columns.rest.num(runs.len() as u64);
                    for run in runs {
                        columns.rest.num(run.offset);
                        columns.rest.num(run.len);
                    }
                }
                if !one {
                    columns.contents.num(e.objects.len() as u64);
                    if !e.objects.is_empty() {
                        columns.contents.byte(hash_kind(&e.content));
                        columns.contents.raw(e.content.as_bytes());
                    }
                }
                for o in &e.objects {
                    columns.references.signed(i64::from(*o) - self.next_object);
                    self.next_object = i64::from(*o) + 1;
                }
            }
            Kind::Dir => {}
            Kind::Symlink(target) => columns.rest.bytes(target),
            Kind::Hardlink(to) => columns.rest.bytes(to.as_bytes()),
        }
        if !entry.xattrs.is_empty() {
            columns.rest.num(entry.xattrs.len() as u64);
            for (name, value) in &entry.xattrs {
                columns.rest.bytes(name);
                columns.rest.bytes(value);
            }
        }
        if let Some(needs) = &entry.needs {
            if let Some(i) = self.places.get(needs) {
                columns.rest.num(*i as u64 + 1);
            } else {
                columns.rest.num(0);
                columns.rest.bytes(needs.as_bytes());
            }
        }
    }

    fn path(&mut self, columns: &mut Columns<Writer>, path: &'a [u8]) {
        let both = path.iter().zip(self.path_before);
        let shared = both.take_while(|(a, b)| a == b).count();
        columns.path_shared.num(shared as u64);
        columns.path_sizes.num((path.len() - shared) as u64);
        columns.path_bytes.raw(&path[shared..]);
        self.path_before = path;
    }

    fn time(&mut self, columns: &mut Columns<Writer>, time: Time) {
        columns
            .seconds
            .signed(time.secs.wrapping_sub(self.secs_before));
        columns.nanos.num(time.nanos.into());
        self.secs_before = time.secs;
    }
}

fn tag(entry: &Entry, one_object: bool) -> u8 {
    let (kind, sparse) = match &entry.kind {
        Kind::File { extents, .. } => (0, extents.is_some()),
        Kind::Dir => (1, false),
        Kind::Symlink(_) => (2, false),
        Kind::Hardlink(_) => (3, false),
    };
    [
        (HAS_XATTRS, !entry.xattrs.is_empty()),
        (HAS_NEEDS, entry.needs.is_some()),
        (SPARSE, sparse),
        (ONE_OBJECT, one_object),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .fold(kind, |tag, (bit, _)| tag | bit)
}

#[cfg(test)]
pub(crate) mod tests;

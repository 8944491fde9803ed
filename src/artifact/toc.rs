//! The table of contents of a pack: which entries it lists, which objects it holds, in which frames they lie.
//!
//! Stored form (all of `docs/format.md` §3): the magic `CTOC`, a version byte, then one zstd frame of the payload.
//! Payload: generation, frames, objects, foreign objects, entries; numbers are LEB128. The pack keeps it in a skippable
//! zstd frame, a manifest's layer annotation says where, with its digest.

use std::collections::HashMap;

use super::wire::{Reader, Result, Writer, bad};
use crate::{
    digest::Sha256,
    entry::{Entry, EntryPath, Extent, Kind, MAX_PATH_BYTES, Meta, Time},
};

/// Starts every stored table of contents.
pub const MAGIC: [u8; 4] = *b"CTOC";
/// The only version there is.
pub const VERSION: u8 = 1;
/// A frame decodes to at most so many bytes; a reader refuses more before it allocates.
pub const MAX_FRAME_BYTES: u32 = 4 << 20;
/// A table of contents is at most so long once decoded; some 2 million entries.
pub const MAX_TOC_BYTES: u64 = 256 << 20;
/// And so long as stored.
pub const MAX_STORED_TOC_BYTES: u64 = 128 << 20;
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

/// Content, or a segment of it, and where it lies.
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
    /// SHA-256 of the whole content; of nothing for an empty file and for what is no file.
    pub content: Sha256,
    /// The content's objects in order: below `objects.len()` an own object, from there on a foreign one.
    pub objects: Box<[u32]>,
}

/// A table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toc {
    /// 0, or above those of the packs that it replaces: they were damaged, or merged into it. Of two packs that hold an object
    /// the one of the higher generation counts.
    pub generation: u32,
    /// Frames in the pack's order, without gaps from offset 0 on.
    pub frames: Vec<Frame>,
    /// Own objects in the pack's order; each digest once.
    pub objects: Vec<Object>,
    /// Objects of other packs.
    pub foreign: Vec<Foreign>,
    /// Entries in the order of packing.
    pub entries: Vec<TocEntry>,
}

const KIND: u8 = 0x03;
const HAS_XATTRS: u8 = 0x10;
const HAS_NEEDS: u8 = 0x20;
const SPARSE: u8 = 0x40;
const ONE_OBJECT: u8 = 0x80;

impl Toc {
    /// Digest and length of the object that an entry's list names.
    pub fn object(&self, index: u32) -> (Sha256, u32) {
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
            // Objects stand in the order of their frames: the difference is 0 or 1, the gap a tar header.
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

    /// Reads the stored form; nothing that comes in makes it panic or exceed its limits.
    ///
    /// # Errors
    /// When it is not one, of a later version, too large, or contradicts itself.
    pub fn decode(stored: &[u8]) -> Result<Self> {
        let Some(packed) = stored.strip_prefix(&MAGIC) else {
            return bad("it is not a table of contents");
        };
        match packed.split_first() {
            Some((&VERSION, packed)) => Self::from_payload(&unpack_payload(packed)?),
            Some((v, _)) => bad(format!(
                "it has version {v}, this program reads version {VERSION}: update cachectl"
            )),
            None => bad("it ends too early"),
        }
    }

    fn from_payload(payload: &[u8]) -> Result<Self> {
        let mut r = Reader::new(payload);
        let mut toc = Self {
            generation: r.num32()?,
            ..Self::default()
        };
        let mut offset = 0_u64;
        for _ in 0..r.count(34)? {
            let (len, raw_len, digest) = (r.num32()?, r.num32()?, r.hash()?);
            if raw_len > MAX_FRAME_BYTES
                || len == 0
                || u64::from(len) > u64::from(MAX_FRAME_BYTES) * 2
            {
                return bad(format!(
                    "a frame of {len} bytes decodes to {raw_len}: over the limit"
                ));
            }
            toc.frames.push(Frame {
                offset,
                len,
                raw_len,
                digest,
            });
            offset += u64::from(len);
        }
        let mut last = (0_u32, 0_u32);
        for _ in 0..r.count(35)? {
            let (digest, len, skip, gap) = (r.hash()?, r.num32()?, r.num32()?, r.num32()?);
            let frame = last
                .0
                .checked_add(skip)
                .and_then(|f| toc.frames.get(f as usize).map(|frame| (f, frame)));
            let Some((frame, in_frame)) = frame else {
                return bad("an object lies in no frame");
            };
            let base = if frame == last.0 { last.1 } else { 0 };
            let end = base.checked_add(gap).and_then(|at| at.checked_add(len));
            match end {
                Some(end) if end <= in_frame.raw_len && len > 0 => {
                    toc.objects.push(Object {
                        digest,
                        len,
                        frame,
                        offset: end - len,
                    });
                    last = (frame, end);
                }
                _ => return bad("an object reaches over its frame"),
            }
        }
        for _ in 0..r.count(33)? {
            let (digest, len) = (r.hash()?, r.num32()?);
            if len == 0 {
                return bad("an object is empty");
            }
            toc.foreign.push(Foreign { digest, len });
        }
        let count = r.count(6)?;
        let mut needs_by_index = Vec::new();
        let mut next_object = 0_i64;
        let mut path = Vec::new();
        for i in 0..count {
            let e = read_entry(&mut r, &mut path, &toc, &mut next_object, |place| {
                needs_by_index.push((i, place));
            })?;
            toc.entries.push(e);
        }
        if r.left() > 0 {
            return bad("bytes follow its end");
        }
        for (i, place) in needs_by_index {
            match toc.entries.get(place) {
                Some(needed) if place != i => {
                    toc.entries[i].entry.needs = Some(needed.entry.path.clone());
                }
                _ => return bad("an entry needs one that is not listed"),
            }
        }
        Ok(toc)
    }
}

fn unpack_payload(packed: &[u8]) -> Result<Vec<u8>> {
    // The frame says how long it is before anything is allocated: what does not, or says too much, is an attack on memory.
    let size = match zstd::zstd_safe::get_frame_content_size(packed) {
        Ok(Some(size)) if size <= MAX_TOC_BYTES => size,
        Ok(Some(_)) => return bad(format!("it decodes to more than {MAX_TOC_BYTES} bytes")),
        _ => return bad("it does not say how long it is"),
    };
    match zstd::bulk::decompress(packed, size as usize) {
        Ok(payload) => Ok(payload),
        Err(e) => bad(format!("zstd: {e}")),
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

fn read_entry(
    r: &mut Reader<'_>,
    path: &mut Vec<u8>,
    toc: &Toc,
    next_object: &mut i64,
    mut needs_at: impl FnMut(usize),
) -> Result<TocEntry> {
    let shared = r.num()?;
    if shared > path.len() as u64 {
        return bad("a path shares more than there is");
    }
    path.truncate(shared as usize);
    path.extend_from_slice(r.bytes(MAX_PATH_BYTES)?);
    let entry_path = EntryPath::new(path.as_slice()).or_else(|e| bad(e.to_string()))?;
    let tag = r.byte()?;
    if tag & 0x0c != 0 {
        return bad("an entry has marks of a later version");
    }
    let (mode, uid, gid) = (r.num32()?, r.num32()?, r.num32()?);
    let (secs, nanos) = (r.signed()?, r.num32()?);
    if mode > 0o7777 || nanos > 999_999_999 {
        return bad(format!("`{entry_path}` has a mode or time that cannot be"));
    }
    let mut content = Sha256::of(b"");
    let mut objects = Vec::new();
    let kind = match tag & KIND {
        0 => {
            let size = r.num()?;
            if size > i64::MAX as u64 {
                return bad(format!("`{entry_path}` has a size that cannot be"));
            }
            let extents = if tag & SPARSE == 0 {
                None
            } else {
                Some(read_extents(r, size)?)
            };
            let kind = Kind::File { size, extents };
            let len = kind.content_len();
            let count = match (tag & ONE_OBJECT != 0, len) {
                (true, _) => 1,
                (false, 0) => 0,
                (false, _) => {
                    content = r.hash()?;
                    r.count(1)?
                }
            };
            let mut sum = 0_u64;
            for _ in 0..count {
                let index = next_object
                    .checked_add(r.signed()?)
                    .and_then(|i| u32::try_from(i).ok());
                let Some(index) =
                    index.filter(|i| (*i as usize) < toc.objects.len() + toc.foreign.len())
                else {
                    return bad(format!("`{entry_path}` needs an object that is not listed"));
                };
                *next_object = i64::from(index) + 1;
                let (digest, len) = toc.object(index);
                sum += u64::from(len);
                if tag & ONE_OBJECT != 0 {
                    content = digest;
                }
                objects.push(index);
            }
            if sum != len {
                return bad(format!(
                    "the objects of `{entry_path}` do not make up its {len} bytes"
                ));
            }
            kind
        }
        1 => Kind::Dir,
        2 => Kind::Symlink(link_target(r.bytes(MAX_PATH_BYTES)?)?),
        _ => Kind::Hardlink(
            EntryPath::new(r.bytes(MAX_PATH_BYTES)?).or_else(|e| bad(e.to_string()))?,
        ),
    };
    let mut xattrs = Vec::new();
    if tag & HAS_XATTRS != 0 {
        for _ in 0..r.count(2)? {
            let name: Box<[u8]> = r.bytes(255)?.into();
            if name.is_empty() || name.contains(&0) {
                return bad(format!("`{entry_path}` has an attribute without a name"));
            }
            xattrs.push((name, r.bytes(MAX_XATTR_BYTES)?.into()));
        }
    }
    let mut needs = None;
    if tag & HAS_NEEDS != 0 {
        match usize::try_from(r.num()?) {
            Ok(0) => {
                needs =
                    Some(EntryPath::new(r.bytes(MAX_PATH_BYTES)?).or_else(|e| bad(e.to_string()))?);
            }
            Ok(place) => needs_at(place - 1),
            Err(_) => return bad("an entry needs one that is not listed"),
        }
    }
    let meta = Meta {
        mode,
        uid,
        gid,
        mtime: Time { secs, nanos },
    };
    Ok(TocEntry {
        entry: Entry {
            path: entry_path,
            kind,
            meta,
            xattrs,
            needs,
        },
        content,
        objects: objects.into(),
    })
}

fn read_extents(r: &mut Reader<'_>, size: u64) -> Result<Box<[Extent]>> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut end = 0_u64;
    for _ in 0..r.count(2)? {
        let run = Extent {
            offset: r.num()?,
            len: r.num()?,
        };
        match run.offset.checked_add(run.len) {
            Some(e) if run.len > 0 && run.offset >= end && e <= size => end = e,
            _ => return bad("the data runs of a sparse file overlap or leave it"),
        }
        runs.push(run);
    }
    Ok(runs.into())
}

fn link_target(bytes: &[u8]) -> Result<Box<[u8]>> {
    if bytes.is_empty() || bytes.contains(&0) {
        return bad("a link has an empty target or one with a NUL byte");
    }
    Ok(bytes.into())
}

#[cfg(test)]
pub(crate) mod tests;

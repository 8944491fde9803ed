//! Reading a table of contents: every allocation is counted before it is made, and reading stops when the result is no longer
//! wanted.

use super::{
    Foreign, Frame, HAS_NEEDS, HAS_XATTRS, HASH_BLAKE3, HASH_SHA256, KIND, MAGIC, MAX_ENTRIES,
    MAX_FRAME_BYTES, MAX_GENERATION, MAX_TOC_BYTES, MAX_XATTR_BYTES, ONE_OBJECT, Object, SPARSE,
    Toc, TocEntry, VERSION,
    columns::Columns,
    cost, gap,
    meter::{Meter, NotRead, Reading, Result},
};
use crate::{
    artifact::{
        version,
        wire::{Malformed, Reader, Result as WireResult, bad},
    },
    digest::{ContentId, Sha256},
    entry::{Entry, EntryPath, Extent, Kind, MAX_PATH_BYTES, Meta, Time, Xattr},
};

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(NotRead::Malformed(Malformed(why.into())))
}

impl Toc {
    /// Reads the stored form; no input makes it panic, exceed its limits or use more memory than `reading` allows.
    ///
    /// The table keeps its reservation.
    ///
    /// # Errors
    /// When it is not a table of contents, has another number of entries than promised, exceeds the budget, or is no longer
    /// wanted.
    pub fn decode(stored: &[u8], reading: &Reading<'_>) -> Result<Self> {
        if reading.entries > MAX_ENTRIES {
            let n = reading.entries;
            return refuse(format!("{n} entries are more than {MAX_ENTRIES}"));
        }
        let Some(packed) = stored.strip_prefix(&MAGIC) else {
            return refuse("it is not a table of contents");
        };
        let packed = match packed.split_first() {
            Some((&VERSION, packed)) => packed,
            Some((v, _)) => return refuse(version::refusal((*v).into(), VERSION.into())),
            None => return refuse("it ends too early"),
        };
        let size = payload_size(packed)?;
        let mut meter = Meter::new(reading, size)?;
        let payload = zstd::bulk::decompress(packed, size as usize)
            .map_err(|e| Malformed(format!("zstd: {e}")))?;
        let mut toc = read(&payload, &mut meter)?;
        drop(payload);
        toc.memory = meter.finish(size);
        Ok(toc)
    }

    /// Bytes of memory for reading it, as [`Toc::decode`] counts them.
    pub fn reading_bytes(&self) -> u64 {
        cost::of(self)
    }
}

/// The decoded size, which the frame must state before anything is allocated: a frame that does not state it, or states too much,
/// is an attack on memory.
fn payload_size(packed: &[u8]) -> WireResult<u64> {
    match zstd::zstd_safe::get_frame_content_size(packed) {
        Ok(Some(size)) if size <= MAX_TOC_BYTES => Ok(size),
        Ok(Some(_)) => bad(format!("it decodes to more than {MAX_TOC_BYTES} bytes")),
        _ => bad("it does not state its decoded size"),
    }
}

pub(super) fn read(payload: &[u8], meter: &mut Meter<'_>) -> Result<Toc> {
    let mut r = Reader::new(payload);
    let generation = r.num32()?;
    if generation > MAX_GENERATION {
        return refuse(format!(
            "its generation {generation} is above {MAX_GENERATION}"
        ));
    }
    // Nothing has more items than the payload has bytes.
    let counts = [r.count(1)?, r.count(1)?, r.count(1)?, r.count(1)?];
    let mut columns = Columns::split(&mut r)?;
    skip_extensions(&mut r)?;
    let frames = read_frames(&mut columns, counts[0], meter)?;
    let objects = read_objects(&mut columns, counts[1], meter, &frames)?;
    let foreign = read_foreign(&mut columns, counts[2], meter)?;
    let mut toc = Toc {
        generation,
        frames,
        objects,
        foreign,
        ..Toc::default()
    };
    toc.entries = read_entries(&mut columns, counts[3], meter, &toc)?;
    if r.left() > 0 || !columns.are_read() {
        return refuse("bytes follow its end");
    }
    Ok(toc)
}

/// Skips what later programs add: an extension with an odd number must be understood, one with an even number need not be.
fn skip_extensions(r: &mut Reader<'_>) -> Result<()> {
    for _ in 0..r.count(2)? {
        let (number, len) = (r.num()?, r.count(1)?);
        r.raw(len)?;
        if number % 2 == 1 {
            return refuse(format!(
                "it has extension {number}, which this program does not know: update cachectl"
            ));
        }
    }
    Ok(())
}

/// Checks that a column of fixed width has this many items, before anything is allocated for them.
fn has_items(column: &Reader<'_>, width: usize, count: usize) -> Result<()> {
    if count.checked_mul(width) == Some(column.left()) {
        return Ok(());
    }
    let bytes = column.left();
    refuse(format!(
        "a column of {bytes} bytes does not hold {count} items"
    ))
}

fn read_hash(r: &mut Reader<'_>) -> Result<[u8; 32]> {
    Ok(r.raw(32)?.try_into().expect("32 bytes"))
}

fn content_id(kind: u8, hash: [u8; 32]) -> Result<ContentId> {
    match kind {
        HASH_BLAKE3 => Ok(ContentId::Blake3(hash)),
        HASH_SHA256 => Ok(ContentId::Sha256(Sha256(hash))),
        _ => refuse(format!("it has a hash of the unknown kind {kind}")),
    }
}

fn read_frames(
    columns: &mut Columns<Reader<'_>>,
    count: usize,
    meter: &mut Meter<'_>,
) -> Result<Vec<Frame>> {
    has_items(&columns.frame_hashes, 32, count)?;
    let mut frames = meter.list(count, cost::FRAME)?;
    let mut offset = 0_u64;
    for _ in 0..count {
        meter.step()?;
        let sizes = &mut columns.frame_sizes;
        let (len, raw_len) = (sizes.num32()?, sizes.num32()?);
        let hash = ContentId::Blake3(read_hash(&mut columns.frame_hashes)?);
        if raw_len > MAX_FRAME_BYTES || len == 0 || u64::from(len) > u64::from(MAX_FRAME_BYTES) * 2
        {
            return refuse(format!(
                "a frame of {len} bytes decodes to {raw_len} bytes, which exceeds the limit"
            ));
        }
        frames.push(Frame {
            offset,
            len,
            raw_len,
            hash,
        });
        offset += u64::from(len);
    }
    Ok(frames)
}

fn read_objects(
    columns: &mut Columns<Reader<'_>>,
    count: usize,
    meter: &mut Meter<'_>,
    frames: &[Frame],
) -> Result<Vec<Object>> {
    has_items(&columns.object_hash_kinds, 1, count)?;
    has_items(&columns.object_hashes, 32, count)?;
    let mut objects = meter.list(count, cost::OBJECT)?;
    let mut last = (0_u32, 0_u32);
    for _ in 0..count {
        meter.step()?;
        let len = columns.object_sizes.num32()?;
        let skip = columns.object_frames.num32()?;
        let number = columns.object_gaps.num()?;
        let kind = columns.object_hash_kinds.byte()?;
        let content = content_id(kind, read_hash(&mut columns.object_hashes)?)?;
        let frame = last
            .0
            .checked_add(skip)
            .and_then(|f| frames.get(f as usize).map(|frame| (f, frame)));
        let Some((frame, in_frame)) = frame else {
            return refuse("an object is not in any frame");
        };
        let base = if frame == last.0 { last.1 } else { 0 };
        let offset = gap::decode(base, number);
        let end = offset.and_then(|at| at.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= in_frame.raw_len && len > 0 => {
                objects.push(Object {
                    content,
                    len,
                    frame,
                    offset,
                });
                last = (frame, end);
            }
            _ => return refuse("an object exceeds its frame"),
        }
    }
    Ok(objects)
}

fn read_foreign(
    columns: &mut Columns<Reader<'_>>,
    count: usize,
    meter: &mut Meter<'_>,
) -> Result<Vec<Foreign>> {
    has_items(&columns.foreign_hash_kinds, 1, count)?;
    has_items(&columns.foreign_hashes, 32, count)?;
    let mut foreign = meter.list(count, cost::FOREIGN)?;
    for _ in 0..count {
        meter.step()?;
        let len = columns.foreign_sizes.num32()?;
        let kind = columns.foreign_hash_kinds.byte()?;
        let content = content_id(kind, read_hash(&mut columns.foreign_hashes)?)?;
        if len == 0 {
            return refuse("an object is empty");
        }
        foreign.push(Foreign { content, len });
    }
    Ok(foreign)
}

fn read_entries(
    columns: &mut Columns<Reader<'_>>,
    count: usize,
    meter: &mut Meter<'_>,
    toc: &Toc,
) -> Result<Vec<TocEntry>> {
    let promised = meter.reading.entries;
    if count as u64 != promised {
        return refuse(format!(
            "it lists {count} entries, its config promises {promised}"
        ));
    }
    has_items(&columns.tags, 1, count)?;
    // The size of the entries themselves was reserved before decoding.
    let mut entries: Vec<TocEntry> = Vec::with_capacity(count);
    let mut needs_by_index = Vec::new();
    let mut reader = EntryReader {
        toc,
        path: Vec::new(),
        secs: 0,
        next_object: 0,
    };
    for i in 0..count {
        meter.step()?;
        let needs_at = |place| needs_by_index.push((i, place));
        entries.push(reader.entry(columns, meter, needs_at)?);
    }
    for (i, place) in needs_by_index {
        match entries.get(place) {
            Some(needed) if place != i => {
                meter.take(cost::owned(needed.entry.path.as_bytes().len()))?;
                let needed = needed.entry.path.clone();
                entries[i].entry.needs = Some(needed);
            }
            _ => return refuse("an entry needs one that is not listed"),
        }
    }
    Ok(entries)
}

/// Reads entries one after the other; most values are differences from the previous entry.
struct EntryReader<'a> {
    toc: &'a Toc,
    path: Vec<u8>,
    secs: i64,
    next_object: i64,
}

impl EntryReader<'_> {
    fn entry(
        &mut self,
        columns: &mut Columns<Reader<'_>>,
        meter: &mut Meter<'_>,
        mut needs_at: impl FnMut(usize),
    ) -> Result<TocEntry> {
        let path = self.path(columns, meter)?;
        let tag = columns.tags.byte()?;
        if tag & 0x0c != 0 {
            return refuse("an entry has flags of a later version");
        }
        let meta = self.meta(columns, &path)?;
        let mut content = ContentId::OF_NOTHING;
        let mut objects: Box<[u32]> = Box::default();
        let kind = match tag & KIND {
            0 => {
                let sparse = match tag & SPARSE {
                    0 => None,
                    _ => Some(read_sparse(&mut columns.rest, meter, &path)?),
                };
                (content, objects) = self.content(columns, meter, tag, &path)?;
                file_of(self.sum(&objects), sparse, &path)?
            }
            1 => Kind::Dir,
            2 => Kind::Symlink(link_target(meter, columns.rest.bytes(MAX_PATH_BYTES)?)?),
            _ => Kind::Hardlink(entry_path_of(meter, &mut columns.rest)?),
        };
        let r = &mut columns.rest;
        let xattrs = match tag & HAS_XATTRS {
            0 => Box::default(),
            _ => read_xattrs(r, meter, &path)?,
        };
        let mut needs = None;
        if tag & HAS_NEEDS != 0 {
            match usize::try_from(r.num()?) {
                Ok(0) => needs = Some(entry_path_of(meter, r)?),
                Ok(place) => needs_at(place - 1),
                Err(_) => return refuse("an entry needs one that is not listed"),
            }
        }
        Ok(TocEntry {
            entry: Entry {
                path,
                kind,
                meta,
                xattrs,
                needs,
            },
            content,
            objects,
        })
    }

    fn path(
        &mut self,
        columns: &mut Columns<Reader<'_>>,
        meter: &mut Meter<'_>,
    ) -> Result<EntryPath> {
        let shared = columns.path_shared.num()?;
        if shared > self.path.len() as u64 {
            return refuse("a path shares more bytes than the previous path has");
        }
        let more = columns.path_sizes.num()?;
        if more > MAX_PATH_BYTES as u64 {
            return refuse(format!("a path has more than {MAX_PATH_BYTES} bytes"));
        }
        self.path.truncate(shared as usize);
        let more = columns.path_bytes.raw(more as usize)?;
        self.path.extend_from_slice(more);
        entry_path(meter, &self.path)
    }

    fn meta(&mut self, columns: &mut Columns<Reader<'_>>, path: &EntryPath) -> Result<Meta> {
        let mode = columns.modes.num32()?;
        let (uid, gid) = (columns.owners.num32()?, columns.owners.num32()?);
        self.secs = self.secs.wrapping_add(columns.seconds.signed()?);
        let nanos = columns.nanos.num32()?;
        if mode > 0o7777 || nanos > 999_999_999 {
            return refuse(format!("`{path}` has an invalid mode or time"));
        }
        let mtime = Time {
            secs: self.secs,
            nanos,
        };
        Ok(Meta {
            mode,
            uid,
            gid,
            mtime,
        })
    }

    /// A file's identity and objects.
    fn content(
        &mut self,
        columns: &mut Columns<Reader<'_>>,
        meter: &mut Meter<'_>,
        tag: u8,
        path: &EntryPath,
    ) -> Result<(ContentId, Box<[u32]>)> {
        if tag & ONE_OBJECT != 0 {
            let objects = self.references(&mut columns.references, meter, 1, path)?;
            return Ok((self.toc.object(objects[0]).0, objects));
        }
        // Each reference takes a byte at least.
        let count = columns.contents.num()?;
        if count == 0 {
            return Ok((ContentId::OF_NOTHING, Box::default()));
        }
        if count > columns.references.left() as u64 {
            return refuse(format!("`{path}` has more objects than are listed"));
        }
        let kind = columns.contents.byte()?;
        let content = content_id(kind, read_hash(&mut columns.contents)?)?;
        let objects = self.references(&mut columns.references, meter, count as usize, path)?;
        Ok((content, objects))
    }

    fn references(
        &mut self,
        r: &mut Reader<'_>,
        meter: &mut Meter<'_>,
        count: usize,
        path: &EntryPath,
    ) -> Result<Box<[u32]>> {
        meter.take(cost::references(count))?;
        let mut objects = Vec::with_capacity(count);
        let listed = self.toc.objects.len() + self.toc.foreign.len();
        for _ in 0..count {
            meter.step()?;
            let index = self
                .next_object
                .checked_add(r.signed()?)
                .and_then(|i| u32::try_from(i).ok());
            let Some(index) = index.filter(|i| (*i as usize) < listed) else {
                return refuse(format!("`{path}` needs an object that is not listed"));
            };
            self.next_object = i64::from(index) + 1;
            objects.push(index);
        }
        Ok(objects.into())
    }

    /// Bytes of these objects. At most 2^32 objects of less than 4 GiB: no overflow.
    fn sum(&self, objects: &[u32]) -> u64 {
        let lens = objects.iter().map(|o| u64::from(self.toc.object(*o).1));
        lens.sum()
    }
}

/// A file whose content has `len` bytes.
fn file_of(len: u64, sparse: Option<(u64, Box<[Extent]>)>, path: &EntryPath) -> Result<Kind> {
    let kind = match sparse {
        None => Kind::File {
            size: len,
            extents: None,
        },
        Some((size, runs)) => Kind::File {
            size,
            extents: Some(runs),
        },
    };
    if kind.content_len() == len && i64::try_from(len).is_ok() {
        return Ok(kind);
    }
    let want = kind.content_len();
    refuse(format!(
        "the objects of `{path}` do not make up its {want} bytes"
    ))
}

/// Size and data runs of a sparse file.
fn read_sparse(
    r: &mut Reader<'_>,
    meter: &mut Meter<'_>,
    path: &EntryPath,
) -> Result<(u64, Box<[Extent]>)> {
    let size = r.num()?;
    if size > i64::MAX as u64 {
        return refuse(format!("`{path}` has an invalid size"));
    }
    Ok((size, read_extents(r, meter, size)?))
}

fn entry_path(meter: &mut Meter<'_>, bytes: &[u8]) -> Result<EntryPath> {
    meter.take(cost::owned(bytes.len()))?;
    Ok(EntryPath::new(bytes).or_else(|e| bad(e.to_string()))?)
}

fn entry_path_of(meter: &mut Meter<'_>, r: &mut Reader<'_>) -> Result<EntryPath> {
    entry_path(meter, r.bytes(MAX_PATH_BYTES)?)
}

fn read_xattrs(
    r: &mut Reader<'_>,
    meter: &mut Meter<'_>,
    path: &EntryPath,
) -> Result<Box<[Xattr]>> {
    let count = r.count(2)?;
    let mut xattrs: Vec<Xattr> = meter.list(count, cost::XATTR)?;
    for _ in 0..count {
        meter.step()?;
        let name = r.bytes(255)?;
        if name.is_empty() || name.contains(&0) {
            return refuse(format!("`{path}` has an attribute without a name"));
        }
        let value = r.bytes(MAX_XATTR_BYTES)?;
        meter.take(cost::owned(name.len()) + cost::owned(value.len()))?;
        xattrs.push((name.into(), value.into()));
    }
    Ok(xattrs.into())
}

fn read_extents(r: &mut Reader<'_>, meter: &mut Meter<'_>, size: u64) -> Result<Box<[Extent]>> {
    let count = r.count(2)?;
    let mut runs: Vec<Extent> = meter.list(count, cost::RUN)?;
    let mut end = 0_u64;
    for _ in 0..count {
        meter.step()?;
        let run = Extent {
            offset: r.num()?,
            len: r.num()?,
        };
        match run.offset.checked_add(run.len) {
            Some(e) if run.len > 0 && run.offset >= end && e <= size => end = e,
            _ => {
                return refuse("the data runs of a sparse file overlap or leave it");
            }
        }
        runs.push(run);
    }
    Ok(runs.into())
}

fn link_target(meter: &mut Meter<'_>, bytes: &[u8]) -> Result<Box<[u8]>> {
    if bytes.is_empty() || bytes.contains(&0) {
        return refuse("a link has an empty target or one with a NUL byte");
    }
    meter.take(cost::owned(bytes.len()))?;
    Ok(bytes.into())
}

//! Reading a table of contents: every allocation is counted before it is made, and reading stops when the result is no longer
//! wanted.

use super::{
    Foreign, Frame, HAS_NEEDS, HAS_XATTRS, KIND, MAGIC, MAX_ENTRIES, MAX_FRAME_BYTES,
    MAX_GENERATION, MAX_TOC_BYTES, MAX_XATTR_BYTES, ONE_OBJECT, Object, SPARSE, Toc, TocEntry,
    VERSION, cost, meter::Meter,
};
use crate::{
    artifact::wire::{Malformed, Reader, Result as WireResult, bad},
    digest::Sha256,
    entry::{Entry, EntryPath, Extent, Kind, MAX_PATH_BYTES, Meta, Time, Xattr},
    memory::{Exhausted, MemoryBudget},
};

/// Limits of a reader, and when to stop.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Number of entries that the snapshot's config promises: a table with another number is refused before its entries are read.
    pub entries: u64,
    /// The budget shared by everything that is read at the same time.
    pub memory: &'a MemoryBudget,
    /// Returns true if the table is no longer wanted; called every few thousand entries.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

/// Why a table of contents was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// It is not a table of contents, has a later version, is too large, or contradicts itself.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It exceeds the budget.
    #[error(transparent)]
    Memory(#[from] Exhausted),
    /// [`Reading::stopped`] returned true.
    #[error("reading it was aborted")]
    Stopped,
}

pub(super) type Result<T> = std::result::Result<T, NotRead>;

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
            Some((v, _)) => {
                return refuse(format!(
                    "it has version {v}, this program reads version {VERSION}: update cachectl"
                ));
            }
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
    let frames = read_frames(&mut r, meter)?;
    let objects = read_objects(&mut r, meter, &frames)?;
    let foreign = read_foreign(&mut r, meter)?;
    let mut toc = Toc {
        generation,
        frames,
        objects,
        foreign,
        ..Toc::default()
    };
    toc.entries = read_entries(&mut r, meter, &toc)?;
    if r.left() > 0 {
        return refuse("bytes follow its end");
    }
    Ok(toc)
}

fn read_frames(r: &mut Reader<'_>, meter: &mut Meter<'_>) -> Result<Vec<Frame>> {
    let count = r.count(34)?;
    let mut frames = meter.list(count, cost::FRAME)?;
    let mut offset = 0_u64;
    for _ in 0..count {
        meter.step()?;
        let (len, raw_len, digest) = (r.num32()?, r.num32()?, r.hash()?);
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
            digest,
        });
        offset += u64::from(len);
    }
    Ok(frames)
}

fn read_objects(
    r: &mut Reader<'_>,
    meter: &mut Meter<'_>,
    frames: &[Frame],
) -> Result<Vec<Object>> {
    let count = r.count(35)?;
    let mut objects = meter.list(count, cost::OBJECT)?;
    let mut last = (0_u32, 0_u32);
    for _ in 0..count {
        meter.step()?;
        let (digest, len, skip, gap) = (r.hash()?, r.num32()?, r.num32()?, r.num32()?);
        let frame = last
            .0
            .checked_add(skip)
            .and_then(|f| frames.get(f as usize).map(|frame| (f, frame)));
        let Some((frame, in_frame)) = frame else {
            return refuse("an object is not in any frame");
        };
        let base = if frame == last.0 { last.1 } else { 0 };
        let end = base.checked_add(gap).and_then(|at| at.checked_add(len));
        match end {
            Some(end) if end <= in_frame.raw_len && len > 0 => {
                objects.push(Object {
                    digest,
                    len,
                    frame,
                    offset: end - len,
                });
                last = (frame, end);
            }
            _ => return refuse("an object exceeds its frame"),
        }
    }
    Ok(objects)
}

fn read_foreign(r: &mut Reader<'_>, meter: &mut Meter<'_>) -> Result<Vec<Foreign>> {
    let count = r.count(33)?;
    let mut foreign = meter.list(count, cost::FOREIGN)?;
    for _ in 0..count {
        meter.step()?;
        let (digest, len) = (r.hash()?, r.num32()?);
        if len == 0 {
            return refuse("an object is empty");
        }
        foreign.push(Foreign { digest, len });
    }
    Ok(foreign)
}

fn read_entries(r: &mut Reader<'_>, meter: &mut Meter<'_>, toc: &Toc) -> Result<Vec<TocEntry>> {
    let count = r.count(6)?;
    let promised = meter.reading.entries;
    if count as u64 != promised {
        return refuse(format!(
            "it lists {count} entries, its config promises {promised}"
        ));
    }
    // The size of the entries themselves was reserved before decoding.
    let mut entries: Vec<TocEntry> = Vec::with_capacity(count);
    let mut needs_by_index = Vec::new();
    let mut next_object = 0_i64;
    let mut path = Vec::new();
    for i in 0..count {
        meter.step()?;
        let needs_at = |place| needs_by_index.push((i, place));
        entries.push(read_entry(
            r,
            meter,
            &mut path,
            toc,
            &mut next_object,
            needs_at,
        )?);
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

fn read_entry(
    r: &mut Reader<'_>,
    meter: &mut Meter<'_>,
    path: &mut Vec<u8>,
    toc: &Toc,
    next_object: &mut i64,
    mut needs_at: impl FnMut(usize),
) -> Result<TocEntry> {
    let shared = r.num()?;
    if shared > path.len() as u64 {
        return refuse("a path shares more bytes than the previous path has");
    }
    path.truncate(shared as usize);
    path.extend_from_slice(r.bytes(MAX_PATH_BYTES)?);
    let entry_path = entry_path(meter, path)?;
    let tag = r.byte()?;
    if tag & 0x0c != 0 {
        return refuse("an entry has flags of a later version");
    }
    let meta = read_meta(r, &entry_path)?;
    let mut content = Sha256::OF_NOTHING;
    let mut objects: Box<[u32]> = Box::default();
    let kind = match tag & KIND {
        0 => {
            let kind = read_file(r, meter, tag, &entry_path)?;
            let one = tag & ONE_OBJECT != 0;
            let count = match (one, kind.content_len()) {
                (true, _) => 1,
                (false, 0) => 0,
                (false, _) => {
                    content = r.hash()?;
                    r.count(1)?
                }
            };
            objects = read_references(r, meter, toc, next_object, count, &kind, &entry_path)?;
            if one {
                content = toc.object(objects[0]).0;
            }
            kind
        }
        1 => Kind::Dir,
        2 => Kind::Symlink(link_target(meter, r.bytes(MAX_PATH_BYTES)?)?),
        _ => Kind::Hardlink(entry_path_of(meter, r)?),
    };
    let xattrs = match tag & HAS_XATTRS {
        0 => Box::default(),
        _ => read_xattrs(r, meter, &entry_path)?,
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
            path: entry_path,
            kind,
            meta,
            xattrs,
            needs,
        },
        content,
        objects,
    })
}

fn entry_path(meter: &mut Meter<'_>, bytes: &[u8]) -> Result<EntryPath> {
    meter.take(cost::owned(bytes.len()))?;
    Ok(EntryPath::new(bytes).or_else(|e| bad(e.to_string()))?)
}

fn entry_path_of(meter: &mut Meter<'_>, r: &mut Reader<'_>) -> Result<EntryPath> {
    entry_path(meter, r.bytes(MAX_PATH_BYTES)?)
}

fn read_meta(r: &mut Reader<'_>, path: &EntryPath) -> Result<Meta> {
    let (mode, uid, gid) = (r.num32()?, r.num32()?, r.num32()?);
    let (secs, nanos) = (r.signed()?, r.num32()?);
    if mode > 0o7777 || nanos > 999_999_999 {
        return refuse(format!("`{path}` has an invalid mode or time"));
    }
    Ok(Meta {
        mode,
        uid,
        gid,
        mtime: Time { secs, nanos },
    })
}

fn read_file(r: &mut Reader<'_>, meter: &mut Meter<'_>, tag: u8, path: &EntryPath) -> Result<Kind> {
    let size = r.num()?;
    if size > i64::MAX as u64 {
        return refuse(format!("`{path}` has an invalid size"));
    }
    let extents = match tag & SPARSE {
        0 => None,
        _ => Some(read_extents(r, meter, size)?),
    };
    Ok(Kind::File { size, extents })
}

/// The objects of a file, which together are its content.
fn read_references(
    r: &mut Reader<'_>,
    meter: &mut Meter<'_>,
    toc: &Toc,
    next_object: &mut i64,
    count: usize,
    kind: &Kind,
    path: &EntryPath,
) -> Result<Box<[u32]>> {
    meter.take(cost::references(count))?;
    let mut objects = Vec::with_capacity(count);
    let listed = toc.objects.len() + toc.foreign.len();
    let mut sum = 0_u64;
    for _ in 0..count {
        meter.step()?;
        let index = next_object
            .checked_add(r.signed()?)
            .and_then(|i| u32::try_from(i).ok());
        let Some(index) = index.filter(|i| (*i as usize) < listed) else {
            return refuse(format!("`{path}` needs an object that is not listed"));
        };
        *next_object = i64::from(index) + 1;
        sum += u64::from(toc.object(index).1);
        objects.push(index);
    }
    let len = kind.content_len();
    if sum != len {
        return refuse(format!(
            "the objects of `{path}` do not make up its {len} bytes"
        ));
    }
    Ok(objects.into())
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

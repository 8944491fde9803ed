//! The node index: what this node knows about a cache's files, so that an unchanged file is not read again.
//!
//! One small file per cache, in a state folder of the caller, named by kind and root and bound to the root's device and inode. It
//! is only an optimization: if anything is wrong with it, it is treated as missing.
//!
//! **Proof.** A record holds device, inode, size, mtime and ctime of a file whose content was known, and the index holds a stamp:
//! the ctime of a probe file made in the same file system *before* those were taken. ctimes cannot be set. Clocks of file systems
//! move in ticks (at most 10 ms, or whole seconds on some): a change within the tick in which the file was examined would leave
//! no trace. So a record is proof only if its ctime is older than the stamp by more than a tick: a change after the stamp was
//! taken leaves a ctime that differs from the recorded one.
//!
//! **File, version 2**, little endian: magic (8), checksum over the rest (8), root's device, inode, the stamp's device,
//! seconds (8 each), nanoseconds, coarse (4 each), lengths of notes, records, paths (8 each); notes (JSON, filled up with spaces
//! to whole words); records of 96 bytes sorted by path; paths. The checksum finds torn files, not malice: who can write here can
//! write the cache.

use std::{
    borrow::Borrow,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Known, KnownContent, SourceKind};
use crate::{
    digest::{ContentId, Digest, Sha256},
    entry::{EntryPath, Time},
    fs::{self, Dir, Stat},
};

const MAGIC: &[u8; 8] = b"cctlidx\x02";
const HEADER: usize = 8 + 8 + 4 * 8 + 2 * 4 + 3 * 8;
const RECORD: usize = 96;
/// The kind of hash in a record.
const HASH_BLAKE3: u32 = 0;
const HASH_SHA256: u32 = 1;
/// Longest index that is read: about three million files.
const MAX_BYTES: u64 = 512 << 20;
/// Index files not written for this long are removed when another one is saved.
const KEPT: Duration = Duration::from_hours(30 * 24);
/// A ctime must be this much older than the stamp (kernels tick at 100 Hz at least).
const TICK: Duration = Duration::from_millis(20);
/// The same for ctimes with a resolution of one or two seconds (FAT).
const COARSE_TICK: Duration = Duration::from_secs(2);

/// A time of a file system's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// ctime of the probe.
    pub time: Time,
    /// The device whose clock it is.
    pub dev: u64,
    /// The clock counts whole seconds.
    pub coarse: bool,
}

impl Stamp {
    /// Takes the time in the file system of `root`, without changing `root`'s times or content (if the file system does not
    /// support unnamed files, the probe is removed and `root`'s mtime restored).
    pub fn take(root: &Dir) -> fs::Result<Self> {
        let stat = match root.nameless_file() {
            Ok(file) => fs::stat_file(&file).map_err(|e| fs::Error::new("stat", root.path(), e))?,
            Err(_) => named_probe(root)?,
        };
        Ok(Self {
            time: stat.ctime,
            dev: stat.dev,
            coarse: stat.ctime.nanos == 0,
        })
    }

    /// A stamp for which everything written before the call is old enough: waits one tick (20 ms; 2 s on coarse clocks).
    pub fn take_settled(root: &Dir) -> fs::Result<Self> {
        let before = Self::take(root)?;
        std::thread::sleep(before.tick());
        let mut after = Self::take(root)?;
        // The clock moves in ticks; give up on a clock that stands still, which only means that files are read again.
        for _ in 0..10 {
            if before.is_settled(after.time) {
                break;
            }
            std::thread::sleep(after.tick() / 4);
            after = Self::take(root)?;
        }
        Ok(after)
    }

    fn is_settled(self, later: Time) -> bool {
        later.as_nanos() - self.time.as_nanos() >= self.tick().as_nanos() as i128
    }

    fn tick(self) -> Duration {
        if self.coarse { COARSE_TICK } else { TICK }
    }

    /// Returns true if a file of that device and ctime has not been changed since it was examined after this stamp.
    fn proves(self, stat: &Stat) -> bool {
        stat.dev == self.dev
            && self.time.as_nanos() - stat.ctime.as_nanos() >= self.tick().as_nanos() as i128
    }
}

fn named_probe(root: &Dir) -> fs::Result<Stat> {
    let before = root.stat_self()?;
    let name = format!(".cachectl-tmp-probe-{:016x}", fastrand::u64(..));
    let file = root.create_file(name.as_bytes(), 0o600)?;
    let stat = fs::stat_file(&file).map_err(|e| fs::Error::new("stat", root.path(), e));
    root.remove_file(name.as_bytes())?;
    fs::set_file_mtime(root.as_fd(), before.mtime)
        .map_err(|e| fs::Error::new("set time of", root.path(), e))?;
    stat
}

/// The last import into this cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Imported {
    /// Seconds and nanoseconds of the node's clock when it was done.
    pub at: (i64, u32),
    /// Digest of the snapshot.
    pub snapshot: String,
    /// The store, without secrets.
    pub store: String,
    /// The name that was found, whatever its key, as in marks of its replacement; `None` if written by older programs.
    #[serde(default)]
    pub name: Option<String>,
}

/// Data besides files.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Notes {
    /// The last import, if any.
    pub imported: Option<Imported>,
    /// Digest of the snapshot that the tree equalled when the index was created.
    pub matched: Option<String>,
    /// The last replacement of the name that precedes the tree, if any.
    pub replacement: Option<String>,
}

/// What this node knows about one cache.
#[derive(Debug)]
pub struct NodeIndex {
    root: (u64, u64),
    stamp: Stamp,
    /// Data besides files.
    pub notes: Notes,
    /// Records, then paths, as in the file.
    body: Vec<u8>,
    /// Bytes of records.
    records: usize,
}

impl NodeIndex {
    /// The index of the cache of that kind at `root`; `None` if it does not exist, is damaged, or belongs to another folder.
    pub fn load(state: &Path, kind: SourceKind, root: &Path) -> Option<Self> {
        let load = || -> Result<Option<Self>, String> {
            let Some(dir) = Dir::open_if_there(root).map_err(|e| e.to_string())? else {
                return Ok(None);
            };
            let stat = dir.stat_self().map_err(|e| e.to_string())?;
            let file = file_of(state, kind, root).map_err(|e| e.to_string())?;
            let Some(bytes) = fs::read_if_there(&file, MAX_BYTES).map_err(|e| e.to_string())?
            else {
                return Ok(None);
            };
            let index = Self::decode(bytes)?;
            if index.root != (stat.dev, stat.ino) {
                return Err("it was created for another folder with that name".to_owned());
            }
            Ok(Some(index))
        };
        load().unwrap_or_else(|why| {
            tracing::debug!(root = %root.display(), error = why, "Node index not used");
            None
        })
    }

    /// An index of files whose content was known when they were examined, all after `stamp` was taken.
    ///
    /// If a path is given twice, the last one is used. Records that the stamp cannot prove are left out. Takes no more memory
    /// than the index if the files are sorted by path.
    pub fn record<P: Borrow<EntryPath>>(
        root: &Dir,
        stamp: Stamp,
        notes: Notes,
        items: impl IntoIterator<Item = (P, Stat, KnownContent)>,
    ) -> fs::Result<Self> {
        let stat = root.stat_self()?;
        let (mut records, mut paths) = (Vec::new(), Vec::new());
        let (mut last, mut in_order) = (0..0, true);
        for (path, stat, content) in items.into_iter().filter(|i| stamp.proves(&i.1)) {
            let path = path.borrow().as_bytes();
            in_order &= records.is_empty() || paths[last] < *path;
            push(&mut records, paths.len() as u64, path, &stat, &content);
            last = paths.len()..paths.len() + path.len();
            paths.extend_from_slice(path);
        }
        if !in_order {
            records = sorted(&records, &paths);
        }
        let len = records.len();
        let mut body = records;
        body.append(&mut paths);
        Ok(Self {
            root: (stat.dev, stat.ino),
            stamp,
            notes,
            body,
            records: len,
        })
    }

    /// Returns true if the index proves the content of exactly these files, which are sorted by path.
    pub fn proves_just<P: Borrow<EntryPath>>(
        &self,
        items: impl IntoIterator<Item = (P, Stat, KnownContent)>,
    ) -> bool {
        let mut records = self.records();
        let is_next = |(path, stat, content): (P, Stat, KnownContent)| {
            let record = records.next();
            record.is_some_and(|r| {
                self.path(r) == Some(path.borrow().as_bytes())
                    && self.proven(r, &stat) == Some(content)
            })
        };
        items.into_iter().all(is_next) && records.next().is_none()
    }

    fn records(&self) -> std::slice::ChunksExact<'_, u8> {
        self.body[..self.records].chunks_exact(RECORD)
    }

    /// Number of known files.
    pub fn len(&self) -> usize {
        self.records / RECORD
    }

    /// Returns true if no file is known.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// When an import last wrote here (node's clock).
    pub fn imported_at(&self) -> Option<Time> {
        let (secs, nanos) = self.notes.imported.as_ref()?.at;
        Some(Time { secs, nanos })
    }

    /// Digest of the snapshot that the tree equalled, or was imported from: the name of the tree probably still points at it.
    pub fn snapshot(&self) -> Option<Digest> {
        let imported = self.notes.imported.as_ref().map(|i| &i.snapshot);
        self.notes.matched.as_ref().or(imported)?.parse().ok()
    }

    /// Saves the index for the next run. If that fails, the next run has no index.
    pub fn save(&self, state: &Path, kind: SourceKind, root: &Path) {
        self.save_with(&self.notes, state, kind, root);
    }

    /// The same with other notes.
    pub fn save_with(&self, notes: &Notes, state: &Path, kind: SourceKind, root: &Path) {
        let save = || -> Result<(), String> {
            fs::make_own_dirs(state).map_err(|e| e.to_string())?;
            let file = file_of(state, kind, root).map_err(|e| e.to_string())?;
            let parts = [&self.head(notes)?, &self.body[..]];
            fs::write_parts_atomic(&file, &parts, fs::Durability::Rename)
                .map_err(|e| e.to_string())?;
            forget_old(state).map_err(|e| e.to_string())
        };
        if let Err(why) = save() {
            tracing::debug!(root = %root.display(), error = why, "Node index not saved");
        }
    }

    /// Marks the saved index, which is this one, as used today: old files are removed.
    pub fn keep(&self, state: &Path, kind: SourceKind, root: &Path) {
        let keep = || -> Result<(), String> {
            let file = file_of(state, kind, root).map_err(|e| e.to_string())?;
            let opened = std::fs::File::open(&file).map_err(|e| e.to_string())?;
            fs::set_file_mtime(&opened, Time::now()).map_err(|e| e.to_string())
        };
        if let Err(why) = keep() {
            tracing::debug!(root = %root.display(), error = why, "Node index not marked as used");
        }
    }

    /// The file up to the records.
    fn head(&self, notes: &Notes) -> Result<Vec<u8>, String> {
        let mut notes = serde_json::to_vec(notes).map_err(|e| e.to_string())?;
        // White space, so that the checksum reads whole words.
        notes.resize(notes.len().next_multiple_of(8), b' ');
        let mut out = Vec::with_capacity(HEADER + notes.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 8]);
        for n in [
            self.root.0,
            self.root.1,
            self.stamp.dev,
            self.stamp.time.secs as u64,
        ] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.stamp.time.nanos.to_le_bytes());
        out.extend_from_slice(&u32::from(self.stamp.coarse).to_le_bytes());
        for part in [notes.len(), self.records, self.body.len() - self.records] {
            out.extend_from_slice(&(part as u64).to_le_bytes());
        }
        out.append(&mut notes);
        let sum = checksum(&[&out[16..], &self.body]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        Ok(out)
    }

    fn decode(mut bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.len() < HEADER || bytes[..8] != MAGIC[..] {
            return Err("it is not an index of this version".to_owned());
        }
        if u64_at(&bytes, 8) != checksum(&[&bytes[16..]]) {
            return Err("it is damaged".to_owned());
        }
        let u64_of = |n: usize| u64_at(&bytes, 16 + n * 8);
        let lens = [5, 6, 7].map(u64_of);
        let whole = lens
            .iter()
            .try_fold(HEADER as u64, |sum, n| sum.checked_add(*n));
        if whole != Some(bytes.len() as u64) || lens[1] % RECORD as u64 != 0 {
            return Err("its lengths are wrong".to_owned());
        }
        let start = HEADER + lens[0] as usize;
        let mut index = Self {
            root: (u64_of(0), u64_of(1)),
            stamp: Stamp {
                time: Time {
                    secs: u64_of(3) as i64,
                    nanos: u32_at(&bytes, 48),
                },
                dev: u64_of(2),
                coarse: u32_at(&bytes, 52) != 0,
            },
            notes: serde_json::from_slice(&bytes[HEADER..start]).map_err(|e| e.to_string())?,
            body: Vec::new(),
            records: lens[1] as usize,
        };
        bytes.drain(..start);
        index.body = bytes;
        // Lookups then need no checks.
        let mut last: Option<&[u8]> = None;
        for r in index.records() {
            let path = index.path(r).ok_or("a path is out of range")?;
            if last.is_some_and(|l| l >= path) {
                return Err("its records are not in order".to_owned());
            }
            last = Some(path);
        }
        Ok(index)
    }

    fn path(&self, record: &[u8]) -> Option<&[u8]> {
        path_in(&self.body[self.records..], record)
    }

    /// The content of the file of a record, if `stat` proves that it has not changed.
    fn proven(&self, r: &[u8], stat: &Stat) -> Option<KnownContent> {
        if !stat.is_file() || !self.stamp.proves(stat) {
            return None;
        }
        let time = |secs: usize, nanos: usize| Time {
            secs: u64_at(r, secs) as i64,
            nanos: u32_at(r, nanos),
        };
        let same = time(16, 12) == stat.mtime
            && time(24, 32) == stat.ctime
            && u64_at(r, 40) == stat.ino
            && u64_at(r, 48) == stat.size;
        let hash = r[64..96].try_into().ok()?;
        let content = match u32_at(r, 36) {
            HASH_SHA256 => ContentId::Sha256(Sha256(hash)),
            _ => ContentId::Blake3(hash),
        };
        same.then_some(KnownContent {
            content,
            len: u64_at(r, 56),
        })
    }

    /// Returns true if a path still leads to the known file, though its times may have changed since.
    pub fn is_same_file(&self, path: &EntryPath, stat: &Stat) -> bool {
        self.find(path)
            .is_some_and(|r| u64_at(r, 40) == stat.ino && u64_at(r, 48) == stat.size)
    }

    fn find(&self, path: &EntryPath) -> Option<&[u8]> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let mid = low.midpoint(high);
            let record = &self.body[mid * RECORD..][..RECORD];
            match self.path(record)?.cmp(path.as_bytes()) {
                std::cmp::Ordering::Equal => return Some(record),
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
            }
        }
        None
    }
}

impl Known for NodeIndex {
    fn content(&self, path: &EntryPath, stat: &Stat) -> Option<KnownContent> {
        if !stat.is_file() || !self.stamp.proves(stat) {
            return None;
        }
        self.proven(self.find(path)?, stat)
    }
}

/// Appends a record; its path is at `at` of the paths.
fn push(records: &mut Vec<u8>, at: u64, path: &[u8], stat: &Stat, content: &KnownContent) {
    let r = records;
    r.extend_from_slice(&at.to_le_bytes());
    r.extend_from_slice(&(path.len() as u32).to_le_bytes());
    r.extend_from_slice(&stat.mtime.nanos.to_le_bytes());
    r.extend_from_slice(&stat.mtime.secs.to_le_bytes());
    r.extend_from_slice(&stat.ctime.secs.to_le_bytes());
    r.extend_from_slice(&stat.ctime.nanos.to_le_bytes());
    let kind = match content.content {
        ContentId::Blake3(_) => HASH_BLAKE3,
        ContentId::Sha256(_) => HASH_SHA256,
    };
    r.extend_from_slice(&kind.to_le_bytes());
    r.extend_from_slice(&stat.ino.to_le_bytes());
    r.extend_from_slice(&stat.size.to_le_bytes());
    r.extend_from_slice(&content.len.to_le_bytes());
    r.extend_from_slice(content.content.as_bytes());
}

/// The records sorted by path; of equal paths only the last one.
fn sorted(records: &[u8], paths: &[u8]) -> Vec<u8> {
    let mut all: Vec<&[u8]> = records.chunks_exact(RECORD).collect();
    // The last given comes first.
    all.reverse();
    all.sort_by(|a, b| path_in(paths, a).cmp(&path_in(paths, b)));
    all.dedup_by(|a, b| path_in(paths, a) == path_in(paths, b));
    all.concat()
}

fn path_in<'p>(paths: &'p [u8], record: &[u8]) -> Option<&'p [u8]> {
    let at = usize::try_from(u64_at(record, 0)).ok()?;
    let end = at.checked_add(u32_at(record, 8) as usize)?;
    paths.get(at..end)
}

/// `bytes[at..at + 8]`; callers have checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut n = [0; 8];
    n.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(n)
}

/// `bytes[at..at + 4]`; callers have checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut n = [0; 4];
    n.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(n)
}

/// Mixes eight bytes at a time: takes a sixth of the time of reading the file. All parts but the last have whole words.
fn checksum(parts: &[&[u8]]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut h = len as u64 ^ K;
    for part in parts {
        let mut words = part.chunks_exact(8);
        for w in &mut words {
            h = (h ^ u64_at(w, 0)).wrapping_mul(K).rotate_left(29);
        }
        for b in words.remainder() {
            h = (h ^ u64::from(*b)).wrapping_mul(K).rotate_left(29);
        }
    }
    (h ^ (h >> 32)).wrapping_mul(K)
}

fn file_of(state: &Path, kind: SourceKind, root: &Path) -> fs::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let real = root
        .canonicalize()
        .map_err(|e| fs::Error::new("resolve", root, e))?;
    let hex = Sha256::of(real.as_os_str().as_bytes()).to_hex();
    Ok(state.join(format!("{}-{}.idx", kind.name(), &hex[..32])))
}

/// Removes index files of caches that no longer exist, so that the folder does not grow with every job's own path.
fn forget_old(state: &Path) -> fs::Result<()> {
    let dir = Dir::open(state)?;
    let now = Time::now();
    for item in dir.list()? {
        if !item.name.ends_with(b".idx") {
            continue;
        }
        if let Some(stat) = dir.stat(&item.name)?
            && now.as_nanos() - stat.mtime.as_nanos() > KEPT.as_nanos() as i128
        {
            dir.remove_file(&item.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;

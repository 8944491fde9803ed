//! Go's module cache: the download tree, as a module proxy would serve it.
//!
//! Carried: `.info .mod .zip .ziphash` of versions (Go toolchains are such). Left out: locks, temporary files, `cache/vcs`,
//! extracted trees (Go extracts what it needs, go-caches.md 3.5), `@v/list`, which is made again, and the answers of checksum
//! databases. A `.partial` marks an extracted tree, not the zip beside it, which is whole.
//!
//! A zip is packed in the canonical stored form of `zip.rs`, and hashed while it is read; one whose hash is not that of its
//! `.ziphash`, or not the one in the project's `go.sum`, is neither exported nor restored. Versions never change, so what stands and
//! is not wrong is kept.

mod check;
mod dirhash;
mod gosum;
mod path;
mod scan;
mod standing;
mod versionlist;
mod versions;
mod zip;
mod zipfile;

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    digest::Sha256,
    entry::{Entry, EntryPath, Kind, Time},
    fs::{self, Dir},
    source::{
        Content, Fingerprint, Item, Known, Result, Scan, Source, SourceKind, Standing,
        goenv::{GoEnv, modfile},
        meta::Carry,
        size_of_go_file,
        stable::{HeldContent, StableFile, Watch, open_parent},
    },
};
use dirhash::{H1, H1_LEN};
use gosum::{Sums, Verdict};
use path::{ModFile, ModVersion, Part};

/// Permissions of what is carried; Go creates its files with 0666 less the umask.
const MODE: u32 = 0o644;

/// Longest `.mod` (`MaxGoMod` in `golang.org/x/mod/zip`).
const MAX_MOD_BYTES: u64 = 16 << 20;

/// Longest `.info`; real ones have some hundred bytes.
const MAX_SMALL_BYTES: u64 = 1 << 20;

/// Restored files are dated back this far, so that what the job downloads is newer by the clock, even one that was put right meanwhile.
const DATED_BACK: Duration = Duration::from_hours(2);

/// What the project at hand says of modules.
#[derive(Debug, Default)]
pub struct Project {
    sums: Sums,
    /// Versions of `golang.org/toolchain` without the platform: `v0.0.1-go1.26.8`.
    toolchains: Vec<String>,
}

impl Project {
    /// Reads the checksums of the project that `env` was asked in.
    ///
    /// # Errors
    /// A `go.sum` is there and cannot be read, or is malformed.
    pub fn read(env: &GoEnv) -> Result<Self> {
        Ok(Self {
            sums: Sums::read(&modfile::sum_files(env))?,
            toolchains: modfile::toolchain_versions(env),
        })
    }

    fn names(&self, v: &ModVersion) -> bool {
        if !v.is_toolchain() {
            return self.sums.names(&v.module, &v.version);
        }
        self.toolchains.iter().any(|t| {
            v.version
                .strip_prefix(t)
                .is_some_and(|p| p.starts_with('.'))
        })
    }
}

/// Go's module cache in one folder.
#[derive(Debug)]
pub struct GoMod {
    root: PathBuf,
    project: Project,
    /// When a version's lock was made, by its path without the end: Go makes it when it downloads or extracts. Filled by a scan.
    locks: Mutex<scan::Locks>,
}

impl GoMod {
    /// The cache at `root` (`GOMODCACHE`), which need not exist.
    pub fn new(root: impl Into<PathBuf>, project: Project) -> Self {
        Self {
            root: root.into(),
            project,
            locks: Mutex::default(),
        }
    }

    fn last_lock(&self, path: &EntryPath, part: Part) -> Option<Time> {
        let stem = path.as_bytes().strip_suffix(part.suffix().as_bytes())?;
        let locks = self.locks.lock();
        locks.get(stem).copied()
    }
}

/// Why a zip with this hash is wrong, if so: `beside` is what its `.ziphash` says.
fn wrong_zip(sums: &Sums, v: &ModVersion, h1: H1, beside: Option<H1>) -> Option<String> {
    if let Verdict::Wrong(want) = sums.of_zip(&v.module, &v.version, h1) {
        return Some(format!(
            "its hash is {h1}, the project's go.sum says {want}"
        ));
    }
    let want = beside.filter(|b| *b != h1)?;
    Some(format!("its hash is {h1}, its .ziphash says {want}"))
}

/// Why a `.mod` is wrong, if so.
fn wrong_mod(sums: &Sums, v: &ModVersion, content: &[u8]) -> Option<String> {
    let h1 = H1::of_go_mod(content);
    match sums.of_go_mod(&v.module, &v.version, h1) {
        Verdict::Wrong(want) => Some(format!(
            "its hash is {h1}, the project's go.sum says {want}"
        )),
        _ => None,
    }
}

/// Why an `.info` is of no use, if so.
fn wrong_info(v: &ModVersion, content: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "Version")]
        version: String,
    }
    match serde_json::from_slice::<Info>(content) {
        Ok(info) if info.version == v.version => None,
        Ok(_) => Some("it speaks of another version".into()),
        Err(e) => Some(format!("it is not the JSON that Go writes: {e}")),
    }
}

/// Most bytes of a file of that sort, as packed.
fn limit(file: &ModFile) -> u64 {
    match file {
        ModFile(_, Part::Zip) => zip::MAX_ZIP_BYTES,
        ModFile(_, Part::ZipHash) => H1_LEN as u64,
        ModFile(_, Part::Mod) => MAX_MOD_BYTES,
        ModFile(_, Part::Info) => MAX_SMALL_BYTES,
    }
}

/// Returns true if a file of that sort can have that size.
fn fits(file: &ModFile, size: u64) -> bool {
    match file {
        ModFile(_, Part::ZipHash) => size == limit(file),
        ModFile(_, Part::Mod) => size <= limit(file),
        _ => size > 0 && size <= limit(file),
    }
}

/// Reads a small file; `None` where there is none, or none of at most `limit` bytes.
fn read_small(dir: &Dir, name: &[u8], limit: u64) -> fs::Result<Option<Vec<u8>>> {
    let Some(file) = fs::missing_is_none(dir.open_file(name))? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| fs::Error::new("read", dir.at(name), e))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// The hash in the `.ziphash` that belongs to a zip or is itself called `name`; `None` where Go would make it again.
fn read_ziphash(dir: &Dir, name: &[u8]) -> fs::Result<Option<H1>> {
    let mut beside = name.to_vec();
    if beside.ends_with(b".zip") {
        beside.extend_from_slice(b"hash");
    }
    let bytes = read_small(dir, &beside, H1_LEN as u64)?;
    Ok(bytes.and_then(|b| H1::parse(&b)))
}

/// Returns true if earlier releases carried it: what checksum databases had answered, and whatever stood in its place.
pub(super) fn was_carried(path: &EntryPath) -> bool {
    path::is_of_sumdb(path.as_bytes())
}

/// Refuses entries that are no files of Go's module cache; in words.
pub(super) fn admit(entry: &Entry) -> std::result::Result<(), String> {
    let Some(file) = path::parse(entry.path.as_bytes()) else {
        return Err("it has no name of Go's module cache that is carried".into());
    };
    let size = size_of_go_file(entry)?;
    if !fits(&file, size) {
        return Err(format!("a file of its name cannot have {size} bytes"));
    }
    if entry.needs.is_some() {
        return Err("no file of a module needs another entry".into());
    }
    Ok(())
}

impl Source for GoMod {
    fn kind(&self) -> SourceKind {
        SourceKind::GoMod
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn carry(&self) -> Carry {
        Carry::new(false, false)
    }

    /// Only what could be exported is ever removed, and what Go keeps beside it in a folder that goes as a whole; extracted trees stay.
    fn keeps(&self, path: &[u8], is_dir: bool) -> bool {
        if is_dir {
            let carried =
                path == b"cache" || path == b"cache/download" || path.starts_with(path::DOWNLOAD);
            !carried || path::is_of_sumdb(path)
        } else {
            path::parse(path).is_none()
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        super::fingerprint::gomod()
    }

    fn scan(&self, known: &dyn Known) -> Result<Scan> {
        let (scan, locks) = scan::scan(&self.root, known)?;
        *self.locks.lock() = locks;
        Ok(scan)
    }

    fn complete(&self, item: &mut Item) -> std::result::Result<(), String> {
        if let Some(ModFile(v, Part::Zip)) = path::parse(item.entry.path.as_bytes())
            && !item.complete
        {
            let size = zipfile::packed_len(&self.root, item, &v)?;
            item.entry.kind = Kind::File {
                size,
                extents: None,
            };
            item.complete = true;
        }
        Ok(())
    }

    fn open(&self, item: &Item) -> std::result::Result<Box<dyn Content>, String> {
        let path = &item.entry.path;
        let Some(ModFile(v, part)) = path::parse(path.as_bytes()) else {
            return Err("it is not a file of Go's module cache".into());
        };
        let root = Dir::open(&self.root).map_err(|e| e.to_string())?;
        let dir = open_parent(&root, path).map_err(|e| e.to_string())?;
        let stable = StableFile::open(&dir, path.name(), &item.stat, Watch::All)?;
        if part == Part::Zip {
            let beside = read_ziphash(&dir, path.name()).map_err(|e| e.to_string())?;
            return zipfile::content(stable, item, &v, beside, &self.project.sums);
        }
        let mut stable = Box::new(stable);
        let mut bytes = Vec::new();
        stable
            .read_to_end(&mut bytes)
            .map_err(|e| format!("it cannot be read: {e}"))?;
        stable.settle()?;
        let wrong = match part {
            Part::Mod => wrong_mod(&self.project.sums, &v, &bytes),
            Part::Info => wrong_info(&v, &bytes),
            _ => match H1::parse(&bytes) {
                None => Some("it is not an h1: hash".to_owned()),
                Some(h1) => check::wrong_ziphash(&self.project.sums, &v, &dir, path.name(), h1)
                    .map_err(|e| e.to_string())?,
            },
        };
        match wrong {
            None => Ok(Box::new(HeldContent::new(bytes))),
            Some(why) => Err(why),
        }
    }

    /// With a `.ziphash`, Go takes zip and extracted tree for whole: an import refuses one that comes without its zip.
    fn falls_with(&self, path: &EntryPath) -> Option<EntryPath> {
        match path::parse(path.as_bytes())? {
            ModFile(_, Part::Zip) => EntryPath::new([path.as_bytes(), b"hash"].concat()).ok(),
            _ => None,
        }
    }

    /// Go neither touches nor dates what it reads here. So: what `go.sum` names, the project's toolchain, what was downloaded since
    /// the import, and versions whose lock was made since (on a fresh node: extracted by the job).
    fn used(&self, item: &Item, imported: Option<Time>) -> bool {
        let Some(at) = imported else {
            return true;
        };
        // Half of the distance that restored files are dated back by.
        let since = at.as_nanos() - DATED_BACK.as_nanos() as i128 / 2;
        if item.stat.mtime.as_nanos() > since {
            return true;
        }
        match path::parse(item.entry.path.as_bytes()) {
            Some(ModFile(v, part)) => {
                let lock = self.last_lock(&item.entry.path, part);
                lock.is_some_and(|t| t.as_nanos() > since) || self.project.names(&v)
            }
            None => false,
        }
    }

    fn standing(
        &self,
        root: &Dir,
        entry: &Entry,
        content: Option<&Sha256>,
        known: &dyn Known,
    ) -> Result<Standing> {
        standing::standing(&self.project.sums, root, entry, content, known)
    }

    fn restored_mtime(&self, _: &Entry, now: Time) -> Time {
        Time::from_nanos(now.as_nanos() - DATED_BACK.as_nanos() as i128).unwrap_or(now)
    }

    /// A `go` that finds a zip without its `.ziphash` hashes it; one that finds a `.ziphash` first may take an old extracted tree for whole
    /// (`DownloadDir` in `cmd/go/internal/modfetch/cache.go`).
    fn rank(&self, path: &EntryPath) -> u8 {
        match path::parse(path.as_bytes()) {
            Some(ModFile(_, Part::ZipHash)) => 1,
            Some(ModFile(_, Part::Mod)) => 2,
            Some(ModFile(_, Part::Info)) => 3,
            _ => 0,
        }
    }

    fn check_staged(&self, staged: &Dir, paths: &[EntryPath]) -> Result<Vec<(EntryPath, String)>> {
        check::check_staged(&self.root, &self.project.sums, staged, paths)
    }

    /// Nothing: permissions and dates of what stands do not matter to Go.
    fn adjust(&self, _: &Dir, _: &Entry, _: Time) -> Result<()> {
        Ok(())
    }

    fn finish(&self, root: &Dir, placed: &[EntryPath], _: Time) -> Result<()> {
        let folders: BTreeSet<EntryPath> = placed
            .iter()
            .filter(|p| matches!(path::parse(p.as_bytes()), Some(ModFile(_, Part::Mod))))
            .filter_map(EntryPath::parent)
            .collect();
        for folder in folders {
            versionlist::rewrite(root, &folder)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

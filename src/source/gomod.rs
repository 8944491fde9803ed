//! Go's module cache: the download tree, as a module proxy would serve it.
//!
//! Carried: `.info .mod .zip .ziphash` of versions (including Go toolchains). Left out: locks, temporary files, `cache/vcs`,
//! extracted trees (Go extracts what it needs), `@v/list`, which is rebuilt, and the answers of checksum
//! databases. A `.partial` marks an extracted tree, not the zip next to it, which is complete.
//!
//! A zip is packed in the canonical stored form of `zip.rs`, and hashed while it is read; a zip whose hash does not match its
//! `.ziphash` or the project's `go.sum` is neither exported nor restored. Versions never change, so existing files are kept
//! unless they are wrong.

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
    digest::ContentId,
    entry::{Entry, EntryPath, Kind, Time},
    fs::{self, Dir, Parents},
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

/// Permissions of carried files; Go creates its files with 0666 minus the umask.
const MODE: u32 = 0o644;

/// Longest `.mod` (`MaxGoMod` in `golang.org/x/mod/zip`).
const MAX_MOD_BYTES: u64 = 16 << 20;

/// Longest `.info`; real ones have a few hundred bytes.
const MAX_SMALL_BYTES: u64 = 1 << 20;

/// Restored files are backdated by this much, so that files which the job downloads are newer, even if the clock was corrected
/// meanwhile.
const DATED_BACK: Duration = Duration::from_hours(2);

/// What the current project states about modules.
#[derive(Debug, Default)]
pub struct Project {
    sums: Sums,
    /// Versions of `golang.org/toolchain` without the platform: `v0.0.1-go1.26.8`.
    toolchains: Vec<String>,
}

impl Project {
    /// Reads the checksums of the project of `env`.
    ///
    /// # Errors
    /// A `go.sum` exists and cannot be read, or is malformed.
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
    /// When a version's lock was created, by its path without the suffix: Go creates it when it downloads or extracts. Filled by
    /// a scan.
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

/// The reason why a zip with this hash is wrong, if it is; `beside` is the hash in its `.ziphash`.
fn wrong_zip(sums: &Sums, v: &ModVersion, h1: H1, beside: Option<H1>) -> Option<String> {
    if let Verdict::Wrong(want) = sums.of_zip(&v.module, &v.version, h1) {
        return Some(format!(
            "its hash is {h1}, the project's go.sum says {want}"
        ));
    }
    let want = beside.filter(|b| *b != h1)?;
    Some(format!("its hash is {h1}, its .ziphash says {want}"))
}

/// The reason why a `.mod` is wrong, if it is.
fn wrong_mod(sums: &Sums, v: &ModVersion, content: &[u8]) -> Option<String> {
    let h1 = H1::of_go_mod(content);
    match sums.of_go_mod(&v.module, &v.version, h1) {
        Verdict::Wrong(want) => Some(format!(
            "its hash is {h1}, the project's go.sum says {want}"
        )),
        _ => None,
    }
}

/// The reason why an `.info` is unusable, if it is.
fn wrong_info(v: &ModVersion, content: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "Version")]
        version: String,
    }
    match serde_json::from_slice::<Info>(content) {
        Ok(info) if info.version == v.version => None,
        Ok(_) => Some("it is about another version".into()),
        Err(e) => Some(format!("it is not the JSON that Go writes: {e}")),
    }
}

/// Maximum packed bytes of a file of that kind.
fn limit(file: &ModFile) -> u64 {
    match file {
        ModFile(_, Part::Zip) => zip::MAX_ZIP_BYTES,
        ModFile(_, Part::ZipHash) => H1_LEN as u64,
        ModFile(_, Part::Mod) => MAX_MOD_BYTES,
        ModFile(_, Part::Info) => MAX_SMALL_BYTES,
    }
}

/// Returns true if a file of that kind can have that size.
fn fits(file: &ModFile, size: u64) -> bool {
    match file {
        ModFile(_, Part::ZipHash) => size == limit(file),
        ModFile(_, Part::Mod) => size <= limit(file),
        _ => size > 0 && size <= limit(file),
    }
}

/// Reads a small file; `None` if it does not exist, or has more than `limit` bytes.
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

/// The hash in the `.ziphash` that belongs to a zip or is itself called `name`; `None` if Go would create it again.
fn read_ziphash(dir: &Dir, name: &[u8]) -> fs::Result<Option<H1>> {
    let mut beside = name.to_vec();
    if beside.ends_with(b".zip") {
        beside.extend_from_slice(b"hash");
    }
    let bytes = read_small(dir, &beside, H1_LEN as u64)?;
    Ok(bytes.and_then(|b| H1::parse(&b)))
}

/// Returns true if earlier releases carried the path: answers of checksum databases, and anything else in their folder.
pub(super) fn was_carried(path: &EntryPath) -> bool {
    path::is_of_sumdb(path.as_bytes())
}

/// Refuses entries that are not files of Go's module cache, with the reason.
pub(super) fn admit(entry: &Entry) -> std::result::Result<(), String> {
    let Some(file) = path::parse(entry.path.as_bytes()) else {
        return Err("its name is not one of a carried file of Go's module cache".into());
    };
    let size = size_of_go_file(entry, |mode| mode & !0o666 == 0 && mode & 0o400 != 0)?;
    if !fits(&file, size) {
        return Err(format!("a file of its name cannot have {size} bytes"));
    }
    if entry.needs.is_some() {
        return Err("a file of a module cannot need another entry".into());
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

    /// Only exportable files are removed, and Go's other files in a folder that is removed as a whole; extracted trees stay.
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

    /// With a `.ziphash`, Go assumes that zip and extracted tree are complete: an import refuses one without its zip.
    fn falls_with(&self, path: &EntryPath) -> Option<EntryPath> {
        match path::parse(path.as_bytes())? {
            ModFile(_, Part::Zip) => EntryPath::new([path.as_bytes(), b"hash"].concat()).ok(),
            _ => None,
        }
    }

    /// Go does not update the times of files that it reads here. So these count as used: files that `go.sum` names, the project's
    /// toolchain, files downloaded since the import, and versions whose lock was created since then (on a fresh node: extracted
    /// by the job).
    fn used(&self, item: &Item, imported: Option<Time>) -> bool {
        let Some(at) = imported else {
            return true;
        };
        // Half of the time by which restored files are backdated.
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
        places: &mut Parents<'_>,
        entry: &Entry,
        content: Option<&ContentId>,
        known: &dyn Known,
    ) -> Result<Standing> {
        standing::standing(&self.project.sums, places, entry, content, known)
    }

    fn restored_mtime(&self, _: &Entry, now: Time) -> Time {
        Time::from_nanos(now.as_nanos() - DATED_BACK.as_nanos() as i128).unwrap_or(now)
    }

    /// A `go` command that finds a zip without its `.ziphash` hashes the zip; one that finds a `.ziphash` first may take an old
    /// extracted tree for complete (`DownloadDir` in `cmd/go/internal/modfetch/cache.go`).
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

    /// Does nothing: permissions and times of existing files do not matter to Go.
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

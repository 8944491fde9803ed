//! Caches on disk: reading and restoring them.
//!
//! - Holds: the kinds of cache (Go build cache, Go module cache, any folder), the node index, staging and placing of restored trees.
//! - Enters: paths of the user's machine, Go's settings; when restoring, a staged tree and the entries in it.
//! - Leaves: items sorted by path, contents in their packed form; when restoring, a cache that its tool can use.
//! - Deliberately absent: OCI, tar, compression, stores, async.

pub mod dir;
pub mod exclude;
pub mod fingerprint;
pub mod gobuild;
pub mod goenv;
pub mod gomod;
pub mod index;
pub mod meta;
pub mod own;
pub mod place;
mod sparse;
pub mod stable;
mod threads;
pub mod walk;
pub mod xattr;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use crate::entry::Content;
use crate::{
    digest::ContentId,
    entry::{Entry, EntryPath, Kind, Time},
    fs,
};

/// The kind of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// Go's build and test cache, `GOCACHE`.
    GoBuild,
    /// Go's module cache, `GOMODCACHE`: its download tree.
    GoMod,
    /// Any folder.
    Dir,
}

impl SourceKind {
    /// The word in artifact types, tags and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::GoBuild => "gobuild",
            Self::GoMod => "gomod",
            Self::Dir => "dir",
        }
    }

    /// The kind with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::GoBuild, Self::GoMod, Self::Dir]
            .into_iter()
            .find(|k| k.name() == name)
    }

    /// Go kinds are unions of their writers' contents, and old entries are dropped; a folder has the content of its last writer.
    pub fn is_go(self) -> bool {
        !matches!(self, Self::Dir)
    }

    /// Returns true if honest writers of earlier releases stored this entry, although it is no longer used.
    pub fn was_carried(self, entry: &Entry) -> bool {
        self == Self::GoMod && gomod::was_carried(&entry.path)
    }

    /// Refuses entries that do not belong in such a cache, or whose content does not match their name, with the reason.
    pub fn admit(
        self,
        entry: &Entry,
        content: Option<&ContentId>,
    ) -> std::result::Result<(), String> {
        match self {
            Self::GoBuild => gobuild::admit(entry, content),
            Self::GoMod => gomod::admit(entry),
            Self::Dir => dir::admit(entry),
        }
    }
}

/// Why a folder in the place of a file of a Go cache stays: anything that does not belong in Go's caches is never removed.
const NOT_OF_GO: &str = "a folder that Go did not create is in its place: remove it";

/// The size of a file of a Go cache (plain, with a right mode, without an owner), or the reason why it is not such a file.
fn size_of_go_file(
    entry: &Entry,
    is_right: impl Fn(u32) -> bool,
) -> std::result::Result<u64, String> {
    let Kind::File {
        size,
        extents: None,
    } = entry.kind
    else {
        return Err("it is not a regular file without holes".into());
    };
    if !is_right(entry.meta.mode) {
        return Err(format!("its mode {:o} is not one of Go's", entry.meta.mode));
    }
    if (entry.meta.uid, entry.meta.gid) != (0, 0) || !entry.xattrs.is_empty() {
        return Err("it has an owner or attributes, which files of Go's caches never have".into());
    }
    Ok(size)
}

/// Errors of a cache on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// The cache is invalid, or a tool failed.
    #[error("{0}")]
    Invalid(String),
    /// The caller gave up waiting for a restore.
    #[error("the time budget was spent (--budget)")]
    GivenUp,
    /// A restore failed after it had changed the target.
    #[error("{source}; {}", partly(target, *moves, *removed))]
    Partly {
        /// Where it was restored.
        target: PathBuf,
        /// Files, and complete folders, that were put in place.
        moves: u64,
        /// Names that were removed.
        removed: u64,
        /// What failed.
        source: Box<Self>,
    },
}

impl Error {
    /// The same error, after the target was changed.
    #[must_use]
    pub fn after(self, target: &Path, moves: u64, removed: u64) -> Self {
        if moves + removed == 0 || matches!(self, Self::Partly { .. }) {
            return self;
        }
        Self::Partly {
            target: target.to_owned(),
            moves,
            removed,
            source: Box::new(self),
        }
    }
}

fn partly(target: &Path, moves: u64, removed: u64) -> String {
    let removed = match removed {
        0 => String::new(),
        n => format!(" and {n} removed"),
    };
    format!(
        "`{}` is partly restored: {moves} files or folders were put in place{removed} before that; import again to complete it",
        target.display()
    )
}

/// Result of work on a cache.
pub type Result<T> = std::result::Result<T, Error>;

/// What must match for a restore to be useful, and what makes one candidate better than another.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// A snapshot with another gate is useless (the Go release of a build cache); empty: no gate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gate: String,
    /// The more of these match, the better: platform, flags, whether paths are trimmed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub traits: BTreeMap<String, String>,
}

/// One entry of a cache, as found by a scan.
#[derive(Debug, Clone)]
pub struct Item {
    /// The entry in its packed form: its size is that of the packed content, which may differ from that of the file.
    pub entry: Entry,
    /// The file's own metadata, for the node index.
    pub stat: fs::Stat,
    /// The identity that the file's name promises (`-d` of a Go build cache); what is packed is checked against it.
    pub claim: Option<ContentId>,
    /// `false` until `needs`, times and size have been read from the content ([`Source::complete`]).
    pub complete: bool,
}

/// A path that was left out, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the root, printable.
    pub path: String,
    /// The reason.
    pub why: String,
}

/// What a scan found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Sorted by path, unique; folders come before their contents.
    pub items: Vec<Item>,
    /// Existing paths that are not carried; only those that the user should know about.
    pub skipped: Vec<Skipped>,
}

/// The node index's answer: the content of a file that has provably not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownContent {
    /// Identity of the content as packed.
    pub content: ContentId,
    /// Its length as packed.
    pub len: u64,
}

/// Knowledge about files that metadata proves.
pub trait Known: Sync {
    /// The content of the file at `path`, if `stat` proves that it has not changed.
    fn content(&self, path: &EntryPath, stat: &fs::Stat) -> Option<KnownContent>;
}

/// Knows nothing.
#[derive(Debug, Clone, Copy)]
pub struct NothingKnown;

impl Known for NothingKnown {
    fn content(&self, _: &EntryPath, _: &fs::Stat) -> Option<KnownContent> {
        None
    }
}

/// What exists at the path of an entry that would be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// The same content and relevant metadata: nothing to do.
    Same,
    /// The same content, verified by reading it; the file's time of change before that.
    SameAsRead(Time),
    /// The right content, but permissions or times differ ([`Source::adjust`] corrects them).
    SameContent,
    /// Other content, which the restore replaces.
    Other,
    /// Other content, which is better kept.
    Keep,
    /// Something that the cache's tool did not create, which is never removed; with the reason for the user.
    Blocked(&'static str),
}

/// A cache on disk. All calls block.
pub trait Source: Send + Sync {
    /// Its kind.
    fn kind(&self) -> SourceKind;

    /// The folder; need not exist.
    fn root(&self) -> &Path;

    /// Which metadata of an entry is carried.
    fn carry(&self) -> meta::Carry;

    /// Returns true if a mirroring import keeps this path although the snapshot does not have it; a kept folder is kept with all
    /// its contents.
    fn keeps(&self, path: &[u8], is_dir: bool) -> bool;

    /// The path that this entry alone may occupy, with everything below it: of entries with the same place, the last one is
    /// restored.
    fn place<'p>(&self, path: &'p EntryPath) -> &'p [u8] {
        path.as_bytes()
    }

    /// Returns true if an import ignores this path of a snapshot, because of the path itself or a folder above it.
    fn excludes(&self, _path: &EntryPath, _is_dir: bool) -> bool {
        false
    }

    /// The carried metadata of the folder itself, as found by the last scan.
    fn root_meta(&self) -> Option<crate::entry::Meta> {
        None
    }

    /// Cachectl's own folders that are currently in the tree.
    fn own(&self) -> own::OwnWithin {
        own::OwnWithin::default()
    }

    /// Where a snapshot of it is usable.
    fn fingerprint(&self) -> Fingerprint;

    /// Reads the tree's metadata, without reading contents that `known` proves. For an absent root the scan is empty.
    fn scan(&self, known: &dyn Known) -> Result<Scan>;

    /// Reads the missing data of an item whose content is not in the head. `Err`: leave it out, with that reason; an empty reason
    /// need not be reported.
    fn complete(&self, item: &mut Item) -> std::result::Result<(), String>;

    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// The reason why it cannot be packed (missing, unreadable, damaged); the item is then left out.
    fn open(&self, item: &Item) -> std::result::Result<Box<dyn Content>, String>;

    /// The entry that is useless without this one, and misleading if this one is left out; few sources have such entries.
    fn falls_with(&self, path: &EntryPath) -> Option<EntryPath>;
    /// Returns true if the job used the item; `imported` is when an import last wrote here (node's clock), if it did.
    fn used(&self, item: &Item, imported: Option<Time>) -> bool;

    /// Compares the entry with what exists at its path. `known` may prove the content without reading it.
    fn standing(
        &self,
        places: &mut fs::Parents<'_>,
        entry: &Entry,
        content: Option<&ContentId>,
        known: &dyn Known,
    ) -> Result<Standing>;

    /// The time of change that a restored file gets.
    fn restored_mtime(&self, entry: &Entry, now: Time) -> Time;

    /// Order in which restored files become visible, lower first: outputs before the action entries that name them.
    fn rank(&self, path: &EntryPath) -> u8;
    /// Checks the staged files (all complete, under their final paths) before any is placed; returns those that must not be
    /// placed, with reasons.
    fn check_staged(
        &self,
        staged: &fs::Dir,
        paths: &[EntryPath],
    ) -> Result<Vec<(EntryPath, String)>>;

    /// Sets the times (and permissions) of existing entries to those that a restore would have set.
    fn adjust(&self, root: &fs::Dir, entry: &Entry, now: Time) -> Result<()>;

    /// After everything is placed: writes other files that the cache's own tool expects (`trim.txt`, version lists). `placed`:
    /// paths of this restore.
    fn finish(&self, root: &fs::Dir, placed: &[EntryPath], now: Time) -> Result<()>;
}

/// Says that a test shows nothing on this machine; in CI, where nobody reads that, it fails unless `TESTS_MAY_SKIP=1` allows it.
#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests have no configuration of their own"
)]
pub(crate) fn cannot_show(what: &str) {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    eprintln!("skipped: cannot show {what}");
    assert!(
        !is_set("CI") || is_set("TESTS_MAY_SKIP"),
        "cannot show {what}; TESTS_MAY_SKIP=1 allows that"
    );
}

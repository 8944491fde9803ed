//! Caches on disk: read out, and put back.
//!
//! - Holds: the kinds of cache (Go build cache, Go module cache, any folder), the node index, staging and placing of restored trees.
//! - Enters: paths of the user's machine, Go's settings; on the way back a staged tree and the entries in it.
//! - Leaves: items sorted by path, contents as they are packed; on the way back a cache that its tool can use.
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
    digest::Sha256,
    entry::{Entry, EntryPath, Kind, Time},
    fs,
};

/// What sort of cache it is.
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

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::GoBuild, Self::GoMod, Self::Dir]
            .into_iter()
            .find(|k| k.name() == name)
    }

    /// Go kinds are unions of what their writers had, entries leave by age; a folder is what its last writer had.
    pub fn is_go(self) -> bool {
        !matches!(self, Self::Dir)
    }

    /// Returns true if honest writers of earlier releases stored an entry that is of no use any more.
    pub fn was_carried(self, entry: &Entry) -> bool {
        self == Self::GoMod && gomod::was_carried(&entry.path)
    }

    /// Refuses entries that do not belong into such a cache, or whose name belies their content; in words.
    pub fn admit(self, entry: &Entry, content: Option<&Sha256>) -> std::result::Result<(), String> {
        match self {
            Self::GoBuild => gobuild::admit(entry, content),
            Self::GoMod => gomod::admit(entry),
            Self::Dir => dir::admit(entry),
        }
    }
}

/// The size of a file as Go's caches have them: plain, with one of Go's modes, of nobody in particular; else why it is none.
fn size_of_go_file(entry: &Entry) -> std::result::Result<u64, String> {
    let Kind::File {
        size,
        extents: None,
    } = entry.kind
    else {
        return Err("it is no regular file without holes".into());
    };
    if entry.meta.mode & !0o666 != 0 || entry.meta.mode & 0o400 == 0 {
        return Err(format!("its mode {:o} is not one of Go's", entry.meta.mode));
    }
    if (entry.meta.uid, entry.meta.gid) != (0, 0) || !entry.xattrs.is_empty() {
        return Err("it names an owner or has attributes, which Go's caches never do".into());
    }
    Ok(size)
}

/// Trouble with a cache on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// The cache is not what it should be, or a tool said no.
    #[error("{0}")]
    Invalid(String),
    /// Whoever waited for a restore gave it up.
    #[error("the time budget was spent (--budget)")]
    GivenUp,
    /// A restore failed when some of it was in place.
    #[error("{source}; {}", partly(target, *moves, *removed))]
    Partly {
        /// Where it was restored.
        target: PathBuf,
        /// Files, and folders with all in them, that were put in place.
        moves: u64,
        /// Names that were removed.
        removed: u64,
        /// What failed.
        source: Box<Self>,
    },
}

impl Error {
    /// The same, where the target was changed before.
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

/// What must match for a restore to be of use, and what makes one candidate better than another.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// A snapshot of another gate is of no use (the Go release of a build cache); empty: no gate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gate: String,
    /// The more of these agree, the better: platform, flags, whether paths are trimmed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub traits: BTreeMap<String, String>,
}

/// One entry of a cache as a scan found it.
#[derive(Debug, Clone)]
pub struct Item {
    /// The entry as it is packed: its size is that of the packed content, which is not always that of the file.
    pub entry: Entry,
    /// The file's own metadata, for the node index.
    pub stat: fs::Stat,
    /// The digest that the file's name promises (`-d` of a Go build cache); what is packed is checked against it.
    pub claim: Option<Sha256>,
    /// `false` while `needs`, times or size are yet to be read from the content ([`Source::complete`]).
    pub complete: bool,
}

/// Something that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the root, printable.
    pub path: String,
    /// Why, in words.
    pub why: String,
}

/// What a scan found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Sorted by path, unique; folders come before what they hold.
    pub items: Vec<Item>,
    /// What is there but is not carried; only what the user should know of.
    pub skipped: Vec<Skipped>,
}

/// The node index's answer: the content of a file that is proven not to have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownContent {
    /// SHA-256 of the content as packed.
    pub digest: Sha256,
    /// Its length as packed.
    pub len: u64,
}

/// Tells what metadata proves.
pub trait Known: Sync {
    /// The content of the file at `path`, if `stat` proves that it is what it was.
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

/// What stands where an entry would be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Absent,
    /// The same content and what else counts for this kind: nothing to do.
    Same,
    /// The same content, found by reading it; the file's time of change before that.
    SameAsRead(Time),
    /// The right content, but permissions or times differ ([`Source::adjust`] mends them).
    SameContent,
    /// Something else that the restore replaces.
    Other,
    /// Something else that is better kept.
    Keep,
}

/// A cache on disk. All calls block.
pub trait Source: Send + Sync {
    /// Its kind.
    fn kind(&self) -> SourceKind;

    /// The folder; need not exist.
    fn root(&self) -> &Path;

    /// What of an entry's metadata is carried.
    fn carry(&self) -> meta::Carry;

    /// Returns true if a mirroring import leaves this path alone though the snapshot does not have it; a kept folder is kept
    /// whole.
    fn keeps(&self, path: &[u8], is_dir: bool) -> bool;

    /// Returns true if an import leaves this path of a snapshot alone, by itself or by a folder above it.
    fn excludes(&self, _path: &EntryPath, _is_dir: bool) -> bool {
        false
    }

    /// What is carried of the folder itself, as the last scan found it.
    fn root_meta(&self) -> Option<crate::entry::Meta> {
        None
    }

    /// Cachectl's own folders in the tree, as things are now.
    fn own(&self) -> own::OwnWithin {
        own::OwnWithin::default()
    }

    /// What a snapshot of it is good for.
    fn fingerprint(&self) -> Fingerprint;

    /// Reads the tree's metadata, and no contents of what `known` proves. An absent root is an empty scan.
    fn scan(&self, known: &dyn Known) -> Result<Scan>;

    /// Reads what a scan left open of an item whose content is not in the head; `Err` in words: leave it out; without
    /// words: nobody needs to know.
    fn complete(&self, item: &mut Item) -> std::result::Result<(), String>;

    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// In words, why it cannot be packed (gone, unreadable, damaged); the item is then left out.
    fn open(&self, item: &Item) -> std::result::Result<Box<dyn Content>, String>;

    /// The entry that is of no use to anybody without this one, and misleading where it is left out; few sources have such.
    fn falls_with(&self, path: &EntryPath) -> Option<EntryPath>;
    /// Returns true if the job used the item; `imported` is when an import last wrote here (node's clock), if it did.
    fn used(&self, item: &Item, imported: Option<Time>) -> bool;

    /// Compares what stands at the entry's place with it. `known` may prove the content without reading it.
    fn standing(
        &self,
        root: &fs::Dir,
        entry: &Entry,
        content: Option<&Sha256>,
        known: &dyn Known,
    ) -> Result<Standing>;

    /// The time of change that a restored file gets.
    fn restored_mtime(&self, entry: &Entry, now: Time) -> Time;

    /// Order in which restored files become visible, lower first: outputs before the action entries that name them.
    fn rank(&self, path: &EntryPath) -> u8;

    /// Looks at the staged files (all complete, under their own paths) before any is placed; returns those not to be placed, with why.
    fn check_staged(
        &self,
        staged: &fs::Dir,
        paths: &[EntryPath],
    ) -> Result<Vec<(EntryPath, String)>>;

    /// Gives entries that were there already the times (and permissions) that a restore would have given them.
    fn adjust(&self, root: &fs::Dir, entry: &Entry, now: Time) -> Result<()>;

    /// After all is placed: what the cache's own tool expects besides (`trim.txt`, version lists). `placed`: paths of this restore.
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

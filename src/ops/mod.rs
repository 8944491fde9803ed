//! The verbs: one file each, with shared helpers beside them.
//!
//! - Holds: export, import, list, inspect, verify, copy, remove, prune, du; what they share (resolving, publishing, folding).
//! - Enters: plain options, an opened store, a source.
//! - Leaves: plain reports, used for terminal output, `--json` and the daemon.
//! - Deliberately absent: arguments, environment, HTTP, the terminal.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    artifact::toc::MAX_ENTRIES,
    entry::Time,
    progress::{Phase, Progress, span},
    source,
    store::{self, Store},
    transfer,
};

mod blame;
pub mod cache_tags;
pub mod compact;
pub mod copy;
mod counted;
mod damage;
pub mod dated;
pub mod diff;
pub mod du;
pub mod export;
pub mod fetch;
pub mod foreign;
pub mod head;
pub mod import;
pub mod in_turn;
pub mod in_words;
pub mod inspect;
pub mod json;
pub mod list;
pub mod load;
pub mod names;
pub mod prune;
pub mod publish;
pub mod reach;
mod readable;
pub mod remove;
pub mod restore;
pub mod rules;
pub mod sight;
pub mod upload;
pub mod verify;

pub use in_words::in_words;
pub use reach::Reach;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused the operation, or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The cache on disk refused the operation, or failed.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// Data read from the store is damaged or invalid.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Snapshot, pack or document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such cache on this node, or it is empty.
    #[error("nothing to export in `{}`", path.display())]
    NothingToExport {
        /// Where it would be.
        path: PathBuf,
    },
    /// The folder has no content to export, and the caller did not allow an empty export.
    #[error("nothing in `{}` can be exported: {why}", path.display())]
    EmptyFolder {
        /// Where it is.
        path: PathBuf,
        /// States that it is empty, or why its content is left out.
        why: String,
    },
    /// Everything to be exported is dated later than the store's clock.
    #[error("nothing in `{}` is exported: {why}", path.display())]
    AllAhead {
        /// Where it is.
        path: PathBuf,
        /// How many entries, and what to do about it.
        why: String,
    },
    /// A folder's packs exceed `--max-size`; entries of a folder cannot be evicted.
    #[error("its packs have {stored} bytes, but --max-size allows only {limit}")]
    TooBig {
        /// Their size.
        stored: u64,
        /// The limit.
        limit: u64,
    },
    /// `--max-size` leaves nothing of a Go cache.
    #[error(
        "--max-size allows only {limit} bytes, which no entry of the cache fits: it would be empty"
    )]
    NothingFits {
        /// The limit of its packs.
        limit: u64,
    },
    /// A snapshot too large for any command to read back.
    #[error(
        "it has {entries} entries, and reading it takes {bytes} bytes of memory: more than the limit of {MAX_ENTRIES} entries, or of 224 MB plus 250 bytes per entry"
    )]
    TooManyEntries {
        /// Entries listed in its packs, live or not.
        entries: u64,
        /// Memory that their tables of contents take.
        bytes: u64,
    },
    /// A snapshot that every reader would reject.
    #[error("the result would be unreadable: {why}")]
    Unreadable {
        /// Which limit it breaks.
        why: String,
    },
    /// The daemon's memory budget is used up by other calls, or is too small for this one.
    #[error("cannot read {what}: {why}")]
    Memory {
        /// What was to be read.
        what: String,
        /// The budget, and how much of it is in use.
        why: crate::memory::Exhausted,
    },
    /// The name was replaced since this export began, or since the exported content was imported.
    #[error(
        "`{name}` was replaced by `export --replace` {since}; this export was not added: import again into an empty cache"
    )]
    Replaced {
        /// The name.
        name: String,
        /// Since when, in words.
        since: &'static str,
    },
    /// The options contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The operation did not end within its time budget.
    #[error("timed out during {phase} after {}, the time budget", span(*budget))]
    Budget {
        /// What it was doing.
        phase: &'static str,
        /// The budget.
        budget: Duration,
    },
    /// A pack could not be written, or a restored file.
    #[error(transparent)]
    Pack(#[from] crate::pack::Error),
    /// A local file (spool, state) could not be written.
    #[error(transparent)]
    Local(#[from] crate::fs::Error),
}

impl From<transfer::Error> for Error {
    fn from(e: transfer::Error) -> Self {
        match e {
            transfer::Error::Store(e) => Self::Store(e),
            transfer::Error::Missing { digest, parent } => Self::Damaged {
                what: format!("manifest {parent}"),
                why: format!("it refers to {digest}, which is missing"),
            },
            transfer::Error::Damaged { digest, why } => Self::Damaged {
                what: digest.to_string(),
                why,
            },
        }
    }
}

/// Result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

/// The context that every verb works with.
#[derive(Clone)]
pub struct Context {
    /// The store.
    pub store: Store,
    /// Which of its repositories listings and upkeep concern.
    pub reach: Reach,
    /// Receives progress and warnings.
    pub progress: Progress,
    /// Folder of the node indexes; `None`: keep none, so every export reads all contents.
    pub state_dir: Option<PathBuf>,
    /// Folder for spools of unfinished packs, where the store has none on its own file system.
    pub temp_dir: PathBuf,
    /// Threads that pack, hash and decode.
    pub threads: usize,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Tables of contents that it reads, and the memory for them.
    pub tables: Arc<load::Tables>,
    /// Time budget: the operation ends within it, finished or not; `None`: no limit.
    pub budget: Option<Duration>,
}

impl Context {
    /// The same context, with every repository within reach that the caller has rights to.
    fn granted(&self) -> Self {
        Self {
            reach: self.reach.clone().wanting_all(),
            ..self.clone()
        }
    }

    /// The folder for spools: on the store's own file system, if it has one.
    fn spool_dir(&self) -> PathBuf {
        let own = self.store.facts().spool_dir.clone();
        own.unwrap_or_else(|| self.temp_dir.clone())
    }
}

/// Identifies a cache: name, scope and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name within the kind: the main module's path, or what `--name` says.
    pub name: String,
    /// Scope that is written: `default`, a branch, `pr-7`.
    pub scope: String,
    /// Key; empty for the name's head.
    pub key: String,
}

/// How long one phase took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// Wall time.
    #[serde(rename = "elapsed_ms", serialize_with = "json::millis")]
    pub elapsed: Duration,
}

/// What an export, import or copy transferred, and what it skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Blobs sent, or blobs from which bytes were fetched.
    pub blobs_moved: u64,
    /// Bytes sent or fetched.
    pub bytes_moved: u64,
    /// Stored bytes that were not transferred because the target had them.
    pub bytes_saved: u64,
}

/// Something that was left out or lost, reported to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Path, pack or snapshot.
    pub what: String,
    /// Why, in words.
    pub why: String,
}

/// The time to write as "now": `SOURCE_DATE_EPOCH` if set, otherwise the node's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The node's clock.
    Now,
    /// This fixed time.
    At(Time),
}

/// Aborts an operation that exceeds its time budget.
async fn within_budget<T>(
    ctx: &Context,
    phase: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match ctx.budget {
        None => work.await,
        Some(budget) => match tokio::time::timeout(budget, work).await {
            Ok(done) => done,
            Err(_) => Err(Error::Budget { phase, budget }),
        },
    }
}

/// The node index of a source, if there is one.
async fn load_index(
    ctx: &Context,
    source: &Arc<dyn source::Source>,
) -> Option<source::index::NodeIndex> {
    let (state, source) = (ctx.state_dir.clone()?, source.clone());
    crate::task::blocking(move || {
        source::index::NodeIndex::load(&state, source.kind(), source.root())
    })
    .await
}

/// Measures how long phases take.
struct Clock {
    started: Instant,
    last: Instant,
    phases: Vec<PhaseTime>,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            phases: Vec::new(),
        }
    }

    /// Attributes the time since the last lap to this phase.
    fn lap(&mut self, phase: Phase) {
        let elapsed = self.last.elapsed();
        self.add(phase, elapsed);
        self.restart();
    }

    /// Starts the next lap now.
    fn restart(&mut self) {
        self.last = Instant::now();
    }

    fn add(&mut self, phase: Phase, elapsed: Duration) {
        self.phases.push(PhaseTime { phase, elapsed });
    }

    fn total(&self) -> Duration {
        self.started.elapsed()
    }

    fn phases(&self) -> Vec<PhaseTime> {
        self.phases.clone()
    }
}

#[cfg(test)]
mod tests;

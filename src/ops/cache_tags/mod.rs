//! Tags of BuildKit caches as a registry serves them: whole or pruned, and merged from the exports of many builds.
//!
//! - *Whole or pruned*: BuildKit fails a build when a layer of a cache that it has imported cannot be fetched, and uses the
//!   rest of a cache whose manifest does not name the layer. So a manifest whose layers were lost is served without them, under
//!   a digest of its own; asked for by its old digest it is unknown.
//! - *Merged*: a tag keeps the last distinct manifests that were pushed to it as parts, one record each, and stands for
//!   all of them together. Nothing is read, changed and written back, so exports at once lose nothing.
//! - *Shrink guard*: where a tag is not merged, an export that would replace a cache by a small part of it is said, or refused.
//!
//! What is no BuildKit cache, an image or a snapshot of ours, passes through untouched.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use globset::GlobSet;
use parking_lot::Mutex;

use crate::{
    artifact::{
        Manifest, Tag,
        buildkit::{self, CacheManifest},
    },
    digest::Digest,
    entry::Time,
    fair::Key,
    lately::Lately,
    store::{
        Repository, Result,
        keys::Repo,
        repository::{AT_ONCE, Presence},
    },
    task,
};

mod budget;
mod dated;
mod delete;
mod facts;
mod fold;
mod folds;
mod gather;
mod join;
mod merging;
mod moved;
mod push;
mod serving;
mod settle;
mod unpack;

use dated::{Dated, Times};
use fold::Memo;
use merging::{Locks, Merging, Place};
pub use moved::MergeCaches;
pub use push::Pushed;
pub use serving::{Answer, Found, Ready, Want};

/// How long a manifest that a tag was just resolved to is served by its digest without another look at its layers: an
/// import asks for it by tag, and some milliseconds later by digest.
const TOLD_FOR: Duration = Duration::from_secs(2);
/// Manifests that are remembered at most.
const MAX_TOLD: usize = 10_000;
/// About what all folds that are remembered take at most.
const MAX_MEMO_BYTES: usize = 32 << 20;

/// What is done with an export that shrinks a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShrinkGuard {
    /// Nothing.
    Off,
    /// It is said in the log and counted.
    Warn,
    /// It is refused.
    Refuse,
}

/// How tags of caches are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Repositories whose tags are merged.
    pub merge: GlobSet,
    /// Most parts of a tag.
    pub max_parts: usize,
    /// Parts that were not pushed for so long go with the next push.
    pub max_age: Duration,
    /// What guards tags that are not merged.
    pub shrink: ShrinkGuard,
}

impl Default for Settings {
    fn default() -> Self {
        let all = globset::Glob::new("**").map(|all| GlobSet::builder().add(all).build());
        Self {
            merge: all
                .and_then(|built| built)
                .expect("a constant pattern that is right"),
            max_parts: 64,
            max_age: Duration::from_hours(14 * 24),
            shrink: ShrinkGuard::Warn,
        }
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Manifests served without layers that were lost.
    pub pruned: AtomicU64,
    /// Caches put together from parts.
    pub merged: AtomicU64,
    /// Records that did not fit into a merged cache.
    pub dropped_records: AtomicU64,
    /// Parts that were dropped because a tag had more than it may have.
    pub dropped_parts: AtomicU64,
    /// Exports that shrank a cache and were let through.
    pub shrunk: AtomicU64,
    /// Exports that would have shrunk a cache and were refused.
    pub shrinks_refused: AtomicU64,
}

/// The tags of a registry's caches, for one caller, whose share counts where places are few.
pub struct CacheTags {
    shared: Arc<Shared>,
    caller: Key,
}

/// What all callers have in common.
pub struct Shared {
    settings: Mutex<Settings>,
    told: Lately<(Repo, Digest)>,
    memos: Mutex<HashMap<(Repo, Tag), Memo>>,
    times: Lately<dated::Key, Times>,
    /// A tag is folded, and pushed to, by one at a time: who comes later finds what the first has done.
    flights: Locks<(Repo, Tag)>,
    merging: Merging,
    facts: Mutex<facts::Known>,
    settling: Arc<settle::Settling>,
    counts: Counts,
}

/// A blob, and how many bytes it has as some manifest says: they need not agree.
type Sized = (Digest, u64);

impl Deref for CacheTags {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Default for CacheTags {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl CacheTags {
    /// Keeps tags by `settings`.
    pub fn new(settings: Settings) -> Self {
        let shared = Shared {
            settings: Mutex::new(settings),
            told: Lately::new(MAX_TOLD, TOLD_FOR),
            memos: Mutex::default(),
            times: Lately::new(dated::MAX_TIMES, Duration::MAX),
            flights: Locks::default(),
            facts: Mutex::default(),
            merging: Merging::default(),
            settling: Arc::default(),
            counts: Counts::default(),
        };
        Self {
            shared: Arc::new(shared),
            caller: Key::Unknown,
        }
    }

    /// The same tags for `caller`.
    #[must_use]
    pub fn of(&self, caller: &Key) -> Self {
        Self {
            shared: self.shared.clone(),
            caller: caller.clone(),
        }
    }

    /// Goes on by other settings.
    pub fn set(&self, settings: Settings) {
        *self.settings.lock() = settings;
    }

    /// Waits for a place to merge in a repository.
    async fn place(&self, repo: &Repository) -> Place {
        self.merging.place(repo.name(), &self.caller).await
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }

    fn tell(&self, repo: &Repository, digest: Digest) {
        self.told.insert((repo.name().clone(), digest), ());
    }

    fn was_told(&self, repo: &Repository, digest: &Digest) -> bool {
        self.told.contains(&(repo.name().clone(), *digest))
    }

    /// What of `content` the repository does not show, or not with as many bytes.
    async fn lost(&self, repo: &Repository, content: BTreeSet<Sized>) -> Result<HashSet<Sized>> {
        stream::iter(content)
            .map(|(digest, size)| async move {
                let there = repo.presence(&digest).await? == Presence::There(size);
                Ok((!there).then_some((digest, size)))
            })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(async |lost| Ok(lost))
            .try_collect()
            .await
    }

    fn count(&self, which: impl FnOnce(&Counts) -> &AtomicU64, n: u64) {
        which(&self.counts).fetch_add(n, Ordering::Relaxed);
    }
}

/// When the last part was pushed.
fn written(parts: &[Dated]) -> Option<Time> {
    parts.first().and_then(|newest| newest.pushed)
}

/// A cache manifest; `None` for every other, and for one that makes no sense (its readers will say so).
fn readable(manifest: &Manifest) -> Option<CacheManifest> {
    CacheManifest::read(manifest).unwrap_or_else(|error| {
        tracing::debug!(digest = %manifest.digest, %error, "Cache manifest that makes no sense");
        None
    })
}

/// The same for who serves meanwhile.
async fn read_aside(manifest: &Manifest) -> Option<CacheManifest> {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || readable(&manifest)).await
}

/// Says whether we merged it.
async fn is_merged(manifest: &Manifest) -> bool {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || buildkit::is_merged(&manifest)).await
}

/// The layers that a store has to have. Whether it has others is not even asked: who names them need not have seen them.
fn layers(cache: &CacheManifest) -> BTreeSet<Sized> {
    let elsewhere = cache.elsewhere();
    let layers = cache.layers().iter();
    let layers = layers.filter(|l| !elsewhere.contains(&l.digest));
    layers.map(|l| (l.digest, l.size)).collect()
}

#[cfg(test)]
mod tests;

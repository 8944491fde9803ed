//! Tags of BuildKit caches as a registry serves them: whole or pruned, and merged from the exports of many builds.
//!
//! - *Whole or pruned*: BuildKit fails a build when a layer of a cache that it has imported cannot be fetched, and uses the rest of a cache
//!   whose manifest does not name the layer. So a manifest whose layers were lost is served without them, under a digest of its own; a
//!   request for its old digest finds nothing.
//! - *Merged*: a tag keeps the last distinct manifests that were pushed to it as parts, one record each, and stands for all of them
//!   together. There is no read-modify-write, so concurrent exports lose nothing.
//! - *Shrink guard*: where a tag is not merged, an export that would replace a cache by a small part of it is reported, or refused.
//!
//! Anything other than a BuildKit cache, such as an image or a cachectl snapshot, passes through untouched.

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
use merging::{Locks, MergePermit, Merging};
pub use moved::MergeCaches;
pub use push::Pushed;
pub use serving::{Answer, Found, Ready, Want};

/// How long a manifest that a tag was just resolved to is served by its digest without checking its layers again: an import asks for it by
/// tag, and some milliseconds later by digest.
const TOLD_FOR: Duration = Duration::from_secs(2);
/// Most remembered manifests.
const MAX_TOLD: usize = 10_000;
/// Approximate limit of the memory for all remembered folds.
const MAX_MEMO_BYTES: usize = 32 << 20;

/// What to do with an export that shrinks a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShrinkGuard {
    /// Nothing.
    Off,
    /// It is logged and counted.
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
    /// Parts not pushed for this long are dropped by the next push.
    pub max_age: Duration,
    /// The shrink guard of tags that are not merged.
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

/// Counts of events so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Manifests served without lost layers.
    pub pruned: AtomicU64,
    /// Caches put together from parts.
    pub merged: AtomicU64,
    /// Records that did not fit into a merged cache.
    pub dropped_records: AtomicU64,
    /// Parts dropped because a tag had more than allowed.
    pub dropped_parts: AtomicU64,
    /// Exports that shrank a cache and were let through.
    pub shrunk: AtomicU64,
    /// Exports that would have shrunk a cache and were refused.
    pub shrinks_refused: AtomicU64,
}

/// The tags of a registry's caches, for one caller: permits are shared fairly between callers.
pub struct CacheTags {
    shared: Arc<Shared>,
    caller: Key,
}

/// State shared by all callers.
pub struct Shared {
    settings: Mutex<Settings>,
    told: Lately<(Repo, Digest)>,
    memos: Mutex<HashMap<(Repo, Tag), Memo>>,
    times: Lately<dated::Key, Times>,
    /// A tag is folded, and pushed to, by one caller at a time: later ones find the first one's result.
    flights: Locks<(Repo, Tag)>,
    merging: Merging,
    facts: Mutex<facts::Known>,
    settling: Arc<settle::Settling>,
    counts: Counts,
}

/// A blob, and its size as some manifest states it: different manifests may disagree.
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
    /// Manages tags by `settings`.
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

    /// Switches to other settings.
    pub fn set(&self, settings: Settings) {
        *self.settings.lock() = settings;
    }

    /// Waits for a permit to merge in a repository.
    async fn place(&self, repo: &Repository) -> MergePermit {
        self.merging.place(repo.name(), &self.caller).await
    }

    /// Counts of events so far.
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

    /// The part of `content` that the repository does not show, or shows with another size.
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

/// A cache manifest; `None` for every other, and for an invalid one (its readers will report it).
fn readable(manifest: &Manifest) -> Option<CacheManifest> {
    CacheManifest::read(manifest).unwrap_or_else(|error| {
        tracing::debug!(digest = %manifest.digest, %error, "Invalid cache manifest");
        None
    })
}

/// The same on another thread, so that serving continues.
async fn read_aside(manifest: &Manifest) -> Option<CacheManifest> {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || readable(&manifest)).await
}

/// Returns true if cachectl merged it.
async fn is_merged(manifest: &Manifest) -> bool {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || buildkit::is_merged(&manifest)).await
}

/// The layers that the store must have. Others are not looked up: the manifest's author need not have had access to them.
fn layers(cache: &CacheManifest) -> BTreeSet<Sized> {
    let elsewhere = cache.elsewhere();
    let layers = cache.layers().iter();
    let layers = layers.filter(|l| !elsewhere.contains(&l.digest));
    layers.map(|l| (l.digest, l.size)).collect()
}

#[cfg(test)]
mod tests;

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
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use globset::GlobSet;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    artifact::{
        Manifest, Reference, Tag,
        buildkit::{CacheManifest, MAX_CONFIG_BYTES, Part},
    },
    digest::Digest,
    store::{ErrorKind, Repository, Resolved, Result, keys::Repo, repository::Presence},
};

mod fold;
mod moved;
mod push;

use fold::Memo;
pub use moved::MergeCaches;
pub use push::Pushed;

/// Blobs that are looked for at once.
const AT_ONCE: usize = 16;
/// How long a manifest that a tag was just resolved to is served by its digest without another look at its layers: an
/// import asks for it by tag, and some milliseconds later by digest.
const TOLD_FOR: Duration = Duration::from_secs(2);
/// Manifests, and tags, that are remembered at most.
const MAX_TOLD: usize = 10_000;
const MAX_MEMOS: usize = 64;
/// Tags that are put together at once.
const FOLDS: usize = 2;

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

/// The tags of a registry's caches.
pub struct CacheTags {
    settings: Mutex<Settings>,
    told: Mutex<HashMap<(Repo, Digest), Instant>>,
    memos: Mutex<HashMap<(String, Tag), Memo>>,
    folding: Semaphore,
    counts: Counts,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for CacheTags {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl CacheTags {
    /// Keeps tags by `settings`.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Mutex::new(settings),
            told: Mutex::default(),
            memos: Mutex::default(),
            folding: Semaphore::new(FOLDS),
            counts: Counts::default(),
        }
    }

    /// Goes on by other settings.
    pub fn set(&self, settings: Settings) {
        *locked(&self.settings) = settings;
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn settings(&self) -> Settings {
        locked(&self.settings).clone()
    }

    /// What a reader gets for a tag or digest. A merged tag was written when its last part was.
    pub async fn resolve(
        &self,
        repo: &Repository,
        reference: &Reference,
    ) -> Result<Option<Resolved>> {
        match reference {
            Reference::Tag(tag) => {
                let found = self.resolve_tag(repo, tag).await?;
                if let Some(found) = &found {
                    self.tell(repo, found.manifest.digest);
                }
                Ok(found)
            }
            Reference::Digest(_) => {
                let Some(found) = repo.manifest(reference).await? else {
                    return Ok(None);
                };
                let Some(cache) = readable(&found.manifest) else {
                    return Ok(Some(found));
                };
                let whole = self.was_told(repo, &found.manifest.digest)
                    || self.lost(repo, content(&cache)).await?.is_empty();
                if !whole {
                    tracing::info!(digest = %found.manifest.digest, "Cache that is not whole is not served by digest");
                }
                Ok(whole.then_some(found))
            }
        }
    }

    async fn resolve_tag(&self, repo: &Repository, tag: &Tag) -> Result<Option<Resolved>> {
        let listed = repo.parts(tag).await?;
        let pushed = listed.iter().filter_map(|p| p.modified).max();
        let parts: BTreeSet<Digest> = listed.into_iter().map(|p| p.digest).collect();
        let pointed = match repo.manifest(&Reference::Tag(tag.clone())).await {
            Ok(found) => found,
            // As long as there are parts, a damaged pointer can be made again.
            Err(e) if e.kind == ErrorKind::Corrupt && !parts.is_empty() => {
                tracing::warn!(error = %e, "Tag of a merged cache is damaged");
                None
            }
            Err(e) => return Err(e),
        };
        match pointed {
            Some(found) if readable(&found.manifest).is_none() => Ok(Some(found)),
            None if parts.is_empty() => Ok(None),
            pointed => {
                let modified = pushed.or(pointed.as_ref().and_then(|p| p.modified));
                let pointed = pointed.map(|p| p.manifest);
                let folded = self.fold(repo, tag, parts, pointed).await?;
                Ok(folded.map(|manifest| Resolved {
                    manifest,
                    version: None,
                    modified,
                }))
            }
        }
    }

    fn tell(&self, repo: &Repository, digest: Digest) {
        let mut told = locked(&self.told);
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert((repo.name().clone(), digest), Instant::now());
    }

    fn was_told(&self, repo: &Repository, digest: &Digest) -> bool {
        let key = (repo.name().clone(), *digest);
        let told = locked(&self.told);
        told.get(&key).is_some_and(|at| at.elapsed() < TOLD_FOR)
    }

    /// What of `content`, with sizes, the repository does not show, or not with as many bytes.
    async fn lost(
        &self,
        repo: &Repository,
        content: BTreeMap<Digest, u64>,
    ) -> Result<HashSet<Digest>> {
        stream::iter(content)
            .map(|(digest, size)| async move {
                let there = repo.presence(&digest).await? == Presence::There(size);
                Ok((!there).then_some(digest))
            })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(async |lost| Ok(lost))
            .try_collect()
            .await
    }

    /// Reads a pushed cache; `None` for one that BuildKit could not read either.
    async fn part(&self, repo: &Repository, digest: &Digest) -> Result<Option<Part>> {
        match repo.manifest(&Reference::Digest(*digest)).await {
            Ok(Some(found)) => self.part_of(repo, &found.manifest).await,
            Ok(None) => Ok(None),
            Err(e) if e.kind == ErrorKind::Corrupt => {
                tracing::warn!(error = %e, "Part of a merged cache is left out");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn part_of(&self, repo: &Repository, manifest: &Manifest) -> Result<Option<Part>> {
        let Some(cache) = readable(manifest) else {
            return Ok(None);
        };
        let desc = cache.config().clone();
        if desc.size > MAX_CONFIG_BYTES as u64 {
            tracing::warn!(digest = %desc.digest, bytes = desc.size, "Cache config is too long to be read");
            return Ok(None);
        }
        let config = match repo.get_blob(&desc, 0..desc.size).await {
            Ok(Some(stream)) => {
                let all = stream.try_fold(Vec::new(), |mut all, piece| async move {
                    all.extend_from_slice(&piece);
                    Ok(all)
                });
                all.await
            }
            Ok(None) => return Ok(None),
            Err(e) => Err(e),
        };
        let config = match config {
            Ok(config) => config,
            Err(e) if e.kind == ErrorKind::Corrupt => {
                tracing::warn!(error = %e, "Cache config is damaged");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        match Part::read(cache, &config) {
            Ok(part) => Ok(Some(part)),
            Err(error) => {
                tracing::warn!(digest = %manifest.digest, %error, "Cache that BuildKit could not read");
                Ok(None)
            }
        }
    }

    fn count(&self, which: impl FnOnce(&Counts) -> &AtomicU64, n: u64) {
        which(&self.counts).fetch_add(n, Ordering::Relaxed);
    }
}

/// A cache manifest; `None` for every other, and for one that makes no sense (its readers will say so).
fn readable(manifest: &Manifest) -> Option<CacheManifest> {
    CacheManifest::read(manifest).unwrap_or_else(|error| {
        tracing::debug!(digest = %manifest.digest, %error, "Cache manifest that makes no sense");
        None
    })
}

/// The layers, with their sizes.
fn layers(cache: &CacheManifest) -> BTreeMap<Digest, u64> {
    let layers = cache.layers().iter();
    layers.map(|l| (l.digest, l.size)).collect()
}

/// Everything that a reader needs.
fn content(cache: &CacheManifest) -> BTreeMap<Digest, u64> {
    let config = cache.config();
    let mut content = layers(cache);
    content.insert(config.digest, config.size);
    content
}

#[cfg(test)]
mod tests;

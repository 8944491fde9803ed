//! Decides which blobs of the shared store are visible to a caller who may read only some repositories.
//!
//! Bytes are stored once for all repositories. A caller who may read all of them sees all blobs in each, without the checks here. Any other
//! caller sees in a repository
//!
//! 1. blobs linked there: pushed or mounted by such a caller, or named by a manifest of such a caller whose children were checked;
//! 2. the repository's manifests, and the blobs named by those manifests that were pushed by a caller who reads everything, by the command
//!    line beside the daemon, or by a release without links: only in positions that every release checked ([`Named::grants_sight`]);
//! 3. the config of a cache that the daemon merged. Sight of anything else that a merged cache names comes only from its parts.
//!
//! Digests linked to a repository by a release that did not check this (an older link) fall under the second rule.
//!
//! The second rule trusts no manifest about a digest that another manifest of the repository names in a position that older releases did
//! not check: such a pair is how a foreign blob could be laundered. Such a doubt is recorded (`doubted/` of the repository) before the
//! manifest that casts it is removed, or counts as checked. Manifests whose children were checked are not read at all.
//!
//! [`Named::grants_sight`]: crate::artifact::outline::Named::grants_sight

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    digest::Digest,
    lately::Lately,
    store::{
        Error, Repository, Resolved, Result, corrupt_is_none, keys::Repo, record::Linked,
        repository::AT_ONCE,
    },
    task,
};

mod grants;
mod memo;
#[cfg(test)]
mod tests;
mod view;

use grants::Grants;
use memo::{Memo, Verdict};
pub use view::View;

/// Most bytes of manifests that are read and parsed at once, for all repositories together, in units of [`UNIT`].
const READ_UNITS: u32 = 192;
const UNIT: u64 = 64 << 10;
/// How long a link that this daemon wrote is believed without reading it. A push asks for each of its layers again when it ends with a
/// manifest: this saves one request to the store per layer. Links that were only read are not remembered: a sweep may remove them with
/// a blob that was not pushed again.
const LINKED_FOR: Duration = Duration::from_mins(1);
const MAX_LINKS: usize = 20_000;
/// How long a listing of a repository's manifests is valid for digests it makes visible; [`UNKNOWN_FOR`] is for the others.
const KNOWN_FOR: Duration = Duration::from_secs(30);
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Most remembered repositories.
const MAX_REPOS: usize = 256;
/// Most digests remembered for all of them together, 16 bytes each.
const MAX_KEYS: usize = 2 << 20;

/// Why a digest is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is linked to the repository.
    Linked,
    /// Only a manifest of the repository names it.
    Named,
    /// It is not visible, or does not exist: callers are not told which.
    Not,
}

/// Decides what callers see, for all repositories of a store; remembers what their manifests grant.
pub struct Sights {
    repos: Mutex<HashMap<Repo, RepoState>>,
    links: Lately<(Repo, Digest)>,
    reading: Arc<Semaphore>,
    max_keys: usize,
}

/// What is known about a repository.
struct RepoState {
    memo: Option<Arc<Memo>>,
    /// Held while its manifests are listed and read: one caller does that for all that wait.
    gate: Arc<Semaphore>,
    used: Instant,
    /// When a manifest that the memo does not know was last reported: digests invisible by that listing may be visible now.
    news: Option<Instant>,
}

impl RepoState {
    fn is_behind(&self) -> bool {
        let listed_at = self.memo.as_ref().map(|memo| memo.listed_at());
        listed_at.is_some_and(|at| self.news.is_some_and(|news| at <= news))
    }
}

impl Default for Sights {
    fn default() -> Self {
        Self::remembering(MAX_KEYS)
    }
}

impl Sights {
    /// Remembers at most this many digests for all repositories together; grants beyond them are read again each time.
    fn remembering(max_keys: usize) -> Self {
        Self {
            repos: Mutex::default(),
            links: Lately::new(MAX_LINKS, LINKED_FOR),
            reading: Arc::new(Semaphore::new(READ_UNITS as usize)),
            max_keys,
        }
    }

    /// Decides whether a caller who reads only some repositories, including this one, sees a digest there.
    ///
    /// Reads one record, or none for a digest that this daemon linked recently; for an unlinked digest also a listing of the repository's
    /// manifests, at most once a second, and the new ones among them.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn seen(&self, repository: &Repository, digest: &Digest) -> Result<Seen> {
        let link = (repository.name().clone(), *digest);
        if self.links.contains(&link) {
            return Ok(Seen::Linked);
        }
        let link = repository.linked(digest).await?;
        if link.is_some_and(Linked::proves) {
            return Ok(Seen::Linked);
        }
        let is_linked = link.is_some();
        let since = Instant::now();
        let (memo, gate, is_behind) = self.place(repository.name());
        let known = memo.and_then(|memo| memo.recent(digest, is_linked));
        if let Some(seen) = known.filter(|seen| *seen != Seen::Not || !is_behind) {
            return Ok(seen);
        }
        let _gate = gate.acquire().await;
        let (memo, ..) = self.place(repository.name());
        let listed_since = memo.as_ref().filter(|m| m.listed_at() >= since);
        if let Some(verdict) = listed_since.and_then(|memo| memo.whole(digest)) {
            return Ok(verdict.seen(is_linked));
        }
        let (mut memo, heard) = self.list(repository, memo, digest).await?;
        let verdict = |memo: &Memo| {
            let mut verdict = heard;
            memo.ask(digest, &mut verdict);
            verdict
        };
        if verdict(&memo).hangs_on_a_doubt(is_linked) {
            look_again(repository, &mut memo, digest).await?;
            if verdict(&memo).hangs_on_a_doubt(is_linked) {
                // A deletion by an older daemon beside this one leaves no doubt behind. If nothing can be written now, the manifest still
                // exists.
                match repository.doubt(digest).await {
                    Ok(()) => memo.doubt(*digest),
                    Err(error) => {
                        tracing::debug!(%digest, %error, "Could not record that a manifest names this digest without giving access to it");
                    }
                }
            }
        }
        let seen = verdict(&memo).seen(is_linked);
        self.remember(repository.name(), memo);
        Ok(seen)
    }

    /// Links a blob to a repository to which a caller who reads only some repositories brought it. The link is written even if it was seen
    /// recently: a sweep may have removed it since.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn link(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        repository.link(digest).await?;
        self.links.insert((repository.name().clone(), *digest), ());
        Ok(())
    }

    /// Forgets which links were written recently: a prune may remove some.
    pub fn forget_links(&self) {
        self.links.clear();
    }

    /// Records that a manifest was stored in a repository, or served from it: digests that are invisible by a listing without it are looked
    /// up again.
    pub fn heard_of(&self, repo: &Repo, manifest: &Digest) {
        let mut repos = self.repos.lock();
        let Some(place) = repos.get_mut(repo) else {
            return;
        };
        if place.memo.as_ref().is_some_and(|m| !m.knows(manifest)) {
            place.news = Some(Instant::now());
        }
    }

    /// Records that everything that a manifest names is linked to the repository, so that the manifest itself no longer grants or doubts
    /// anything; digests it doubted stay doubted.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn check(&self, repository: &Repository, manifest: &Digest) -> Result<()> {
        self.keep_doubts(repository, manifest).await?;
        repository.link_checked(manifest).await?;
        let mut repos = self.repos.lock();
        let place = repos.get_mut(repository.name());
        let memo = place.and_then(|place| place.memo.as_mut());
        if let Some(memo) = memo.filter(|memo| memo.hears(manifest)) {
            Arc::make_mut(memo).add(*manifest, Grants::default());
        }
        Ok(())
    }

    /// Records a manifest's doubts, before it is removed or counts as checked: only those on digests that other manifests show, or would
    /// show without it.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn keep_doubts(&self, repository: &Repository, manifest: &Digest) -> Result<()> {
        let Some((
            Resolved {
                manifest: found, ..
            },
            room,
        )) = self.unchecked(repository, manifest).await?
        else {
            return Ok(());
        };
        let (grants, doubted) = task::blocking(move || {
            let grants = Grants::of(&found);
            let doubted = grants.doubted_by(&found);
            (grants, doubted)
        })
        .await;
        drop(room);
        if !grants.casts_doubt() {
            return Ok(());
        }
        let (memo, ..) = self.place(repository.name());
        let (memo, _) = self.list(repository, memo, manifest).await?;
        let mut all = doubted;
        all.extend(memo.merged_configs().filter(|_| grants.borrows_config));
        let memo = &memo;
        stream::iter(all.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, async |digest| {
                let is_linked = match repository.linked(&digest).await? {
                    Some(link) if link.proves() => return Ok(()),
                    link => link.is_some(),
                };
                // Manifests that do not fit into memory may show it.
                let verdict = memo.whole(&digest);
                if verdict.is_none_or(|verdict| verdict.hangs_on_a_doubt(is_linked)) {
                    repository.doubt(&digest).await?;
                }
                Ok(())
            })
            .await
    }

    /// As [`Self::seen`], without the reason; reads nothing for digests that a manifest is known to show.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn sees(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let (memo, ..) = self.place(repository.name());
        let known = memo.and_then(|memo| memo.recent(digest, false));
        if known.is_some_and(|seen| seen != Seen::Not) {
            return Ok(true);
        }
        Ok(self.seen(repository, digest).await? != Seen::Not)
    }

    /// Forgets what manifests grant, as if its time limits had expired.
    #[cfg(test)]
    pub fn forget_all(&self) {
        self.repos.lock().clear();
        self.links.clear();
    }

    /// The memo of a repository, the gate for listing it, and whether there is news since it was listed.
    fn place(&self, repo: &Repo) -> (Option<Arc<Memo>>, Arc<Semaphore>, bool) {
        let mut repos = self.repos.lock();
        if repos.len() >= MAX_REPOS && !repos.contains_key(repo) {
            forget_oldest(&mut repos, repo);
        }
        let place = repos.entry(repo.clone()).or_insert_with(|| RepoState {
            memo: None,
            gate: Arc::new(Semaphore::new(1)),
            used: Instant::now(),
            news: None,
        });
        place.used = Instant::now();
        (place.memo.clone(), place.gate.clone(), place.is_behind())
    }

    fn remember(&self, repo: &Repo, memo: Memo) {
        let mut repos = self.repos.lock();
        if let Some(place) = repos.get_mut(repo) {
            place.memo = Some(Arc::new(memo));
        }
        let keys = |repos: &HashMap<Repo, RepoState>| {
            let memos = repos.values().filter_map(|p| p.memo.as_ref());
            memos.map(|m| m.keys()).sum::<usize>()
        };
        while keys(&repos) > self.max_keys && forget_oldest(&mut repos, repo) {}
    }

    /// Lists the repository's manifests and reads those that are not in `known`; the verdict covers what manifests that do not fit into
    /// memory say about `digest`.
    async fn list(
        &self,
        repository: &Repository,
        known: Option<Arc<Memo>>,
        digest: &Digest,
    ) -> Result<(Memo, Verdict)> {
        let since = Instant::now();
        let listed = repository.manifests().await?;
        // Read after the manifests: doubts are recorded before a manifest is removed.
        let doubted = repository.doubted().await?.into_iter().collect();
        let mut memo = Memo::listed(since, &listed, doubted, known.as_deref());
        let mut verdict = Verdict::default();
        let new: Vec<Digest> = listed.into_iter().filter(|d| !memo.holds(d)).collect();
        let mut read = stream::iter(new)
            .map(|manifest| async move { Ok((manifest, self.grants(repository, manifest).await?)) })
            .buffer_unordered(AT_ONCE);
        while let Some((manifest, grants)) = read.try_next().await? {
            // One that does not fit into memory still counts now, and is read again next time.
            if memo.keys() + grants.keys() <= self.max_keys {
                memo.add(manifest, grants);
            } else {
                verdict.hear(&grants, digest);
                memo.lacks(manifest);
            }
        }
        Ok((memo, verdict))
    }

    /// What a manifest of the repository grants.
    async fn grants(&self, repository: &Repository, digest: Digest) -> Result<Grants> {
        // Its children are linked.
        if repository.is_checked(&digest).await? {
            return Ok(Grants::default());
        }
        let Some((found, _room)) = self.unchecked(repository, &digest).await? else {
            return Ok(Grants::default());
        };
        Ok(task::blocking(move || Grants::of(&found.manifest)).await)
    }

    /// A manifest of the repository, with its memory permit; `None` if it is absent, lost or damaged.
    async fn unchecked(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<(Resolved, SemaphorePermit<'_>)>> {
        let read = async {
            let Some(known) = repository.known(digest).await? else {
                return Ok::<_, Error>(None);
            };
            let units = u32::try_from(known.size.div_ceil(UNIT)).unwrap_or(READ_UNITS);
            let room = self.reading.acquire_many(units.clamp(1, READ_UNITS)).await;
            let room = room.expect("it is never closed");
            let found = repository.manifest_of(digest, &known).await?;
            Ok(Some((found, room)))
        };
        corrupt_is_none(read.await)
    }
}

/// Drops the doubts of manifests that were checked since, also by another daemon.
async fn look_again(repository: &Repository, memo: &mut Memo, digest: &Digest) -> Result<()> {
    let mut checked = stream::iter(memo.doubters(digest))
        .map(|manifest| async move { Ok((manifest, repository.is_checked(&manifest).await?)) })
        .buffer_unordered(AT_ONCE);
    while let Some((manifest, is_checked)) = checked.try_next().await? {
        if is_checked {
            memo.add(manifest, Grants::default());
        }
    }
    Ok(())
}

/// Forgets the least recently used repository other than `but`; false if there is none.
fn forget_oldest(repos: &mut HashMap<Repo, RepoState>, but: &Repo) -> bool {
    let others = repos.iter().filter(|(repo, _)| *repo != but);
    let oldest = others.min_by_key(|(_, place)| place.used);
    let oldest = oldest.map(|(repo, _)| repo.clone());
    oldest.is_some_and(|repo| repos.remove(&repo).is_some())
}

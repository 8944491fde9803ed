//! Handles pushed exports.

use std::collections::{BTreeSet, HashSet};

use super::{
    CacheTags, Settings, ShrinkGuard,
    budget::{MAX_PARTS, Weight},
    dated::Dated,
    fold::{Pointed, Served},
    folds::removed,
    gather::LeftOut,
    read_aside,
    settle::{Settled, Unsettled},
};
use crate::{
    artifact::{
        Manifest, Reference, Tag,
        buildkit::{MAX_CONFIG_BYTES, Part, Shrink, contains, shrinks},
    },
    digest::Digest,
    store::{Error, ErrorKind, Repository, Resolved, Result, corrupt_is_none},
    task,
};

/// Most rounds in which others may remove parts while a tag is folded.
const ROUNDS: usize = 4;
/// Older parts of a nonexistent tag are leftovers of a deletion: an export writes its tag within minutes.
const LEFTOVER_SECS: i64 = 3600;

/// The usual mistake: `ref=` of `--cache-to` is the image's own name.
const REPLACES_CACHE: &str = "The tag of a BuildKit cache now points at another manifest: use separate tags for the image and its cache";
const REPLACES_OTHER: &str = "A BuildKit cache replaces an image or another manifest: use separate tags for the image and its cache";

/// The manifest that a tag is to point at, and its parts.
type FoldPushed = (Served, BTreeSet<Digest>);

/// The result of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The tag points at it, or at what it was merged into.
    Done,
    /// Nothing was changed, since it would have replaced a bigger cache.
    Refused(Shrink),
}

impl CacheTags {
    /// Stores a manifest and gives it `tags`. The blobs it names must be stored already.
    pub async fn push(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<Pushed> {
        let settings = self.settings();
        let merges = settings.merge.is_match(repo.name().as_str());
        // Only the boolean is kept: the parsed manifest must not stay in memory while waiting for permits.
        let is_cache = read_aside(manifest).await.is_some();
        if is_cache && merges {
            if let Some(weight) = self.weigh(repo, manifest).await? {
                if weight.is_over_half() {
                    self.must_be_first(repo, manifest, tags).await?;
                }
                repo.put_manifest(manifest, &[]).await?;
                for tag in tags {
                    self.push_part(repo, manifest, tag, &settings).await?;
                }
                return Ok(Pushed::Done);
            }
            self.must_be_alone(repo, manifest, tags).await?;
        } else if is_cache {
            for tag in tags {
                let guarded = self.guard(repo, manifest, tag, settings.shrink).await?;
                if let Some(shrink) = guarded {
                    return Ok(Pushed::Refused(shrink));
                }
            }
        } else {
            for tag in tags {
                // An image takes the tag over; parts would bring the cache back.
                let parts = repo.parts(tag).await?;
                if !parts.is_empty() {
                    tracing::warn!(repo = %repo.name(), %tag, "{REPLACES_CACHE}");
                }
                for part in parts {
                    repo.remove_part(tag, &part.digest).await?;
                }
            }
        }
        repo.put_manifest(manifest, tags).await?;
        for tag in tags {
            self.is_pushed(repo, tag, &manifest.digest).await?;
        }
        Ok(Pushed::Done)
    }

    /// Refuses a cache that is too large to merge if its tag has other parts: nobody could pull it.
    async fn must_be_alone(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<()> {
        let cache = read_aside(manifest).await;
        let bytes = cache.map_or(0, |c| c.config().size);
        if bytes <= MAX_CONFIG_BYTES as u64 {
            return Ok(());
        }
        for tag in tags {
            if !repo.parts(tag).await?.is_empty() {
                let what =
                    format!("the cache's config has {bytes} bytes, more than {MAX_CONFIG_BYTES}:");
                return Err(too_large(&what, tag));
            }
        }
        Ok(())
    }

    /// Refuses a cache that would leave no space to the other caches of a tag.
    async fn must_be_first(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<()> {
        for tag in tags {
            let parts = repo.parts(tag).await?;
            let pointed = corrupt_is_none(repo.pointer(tag).await)?;
            // Alone, it may be served as another manifest.
            let pointed = pointed.filter(|_| parts.is_empty()).map(|at| at.digest);
            let mut others = parts.iter().map(|p| p.digest).chain(pointed);
            if others.any(|digest| digest != manifest.digest) {
                let what = "the cache takes more than half of the limit for all caches of a tag:";
                return Err(too_large(what, tag));
            }
        }
        Ok(())
    }

    /// How much of a tag's budget a cache takes; `None` if it cannot be read.
    async fn weigh(&self, repo: &Repository, manifest: &Manifest) -> Result<Option<Weight>> {
        let _place = self.place(repo).await;
        let Some(part) = self.read_part(repo, manifest).await? else {
            return Ok(None);
        };
        Ok(Some(task::blocking(move || Weight::of(&part)).await))
    }

    /// Adds a part to a tag; the tag then points at the fold, for readers that access the store directly.
    async fn push_part(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tag: &Tag,
        settings: &Settings,
    ) -> Result<()> {
        let _flight = self.flights.lock((repo.name().clone(), tag.clone())).await;
        self.take_over(repo, manifest, tag).await?;
        repo.add_part(tag, manifest).await?;
        self.is_pushed(repo, tag, &manifest.digest).await?;
        for _ in 0..ROUNDS {
            let Some((folded, kept)) = self.fold_pushed(repo, manifest, tag, settings).await?
            else {
                // Someone deleted the tag; this push comes after that.
                repo.add_part(tag, manifest).await?;
                continue;
            };
            self.point_at(repo, tag, &folded).await?;
            // Parts deleted meanwhile must not stay reachable through the tag.
            let now: BTreeSet<Digest> = repo.parts(tag).await?.iter().map(|p| p.digest).collect();
            if kept.is_subset(&now) {
                return Ok(());
            }
        }
        let why = "others kept deleting its parts during the merge; push again";
        Err(Error::conflict("merge", why).at("", tag))
    }

    /// Prepares a tag before a part is added. A manifest that someone else made it point at becomes a part too, unless it was made of
    /// dropped parts.
    async fn take_over(&self, repo: &Repository, manifest: &Manifest, tag: &Tag) -> Result<()> {
        let found = match repo.manifest(&Reference::Tag(tag.clone())).await {
            // It is about to be replaced.
            Err(e) if e.kind == ErrorKind::Corrupt => return Ok(()),
            other => other?,
        };
        let before = repo.parts(tag).await?;
        let now = repo.store().clock().await?;
        let Some(found) = found else {
            let old = |p: &&crate::store::repository::TagPart| {
                p.modified
                    .is_some_and(|m| now.secs - m.secs > LEFTOVER_SECS)
            };
            for part in before.iter().filter(old) {
                tracing::info!(repo = %repo.name(), %tag, digest = %part.digest, "Part of a deleted cache is removed");
                removed(repo.remove_part(tag, &part.digest).await)?;
            }
            return Ok(());
        };
        let at = Pointed::of(&found).await;
        let pointed = &found.manifest;
        let is_part = |p: &crate::store::repository::TagPart| p.digest == pointed.digest;
        if read_aside(pointed).await.is_none() {
            tracing::warn!(repo = %repo.name(), %tag, replaced = %pointed.digest, "{REPLACES_OTHER}");
            return Ok(());
        }
        if pointed.digest == manifest.digest
            || before.iter().any(is_part)
            || (at.is_merged && !before.is_empty())
            || self.is_own_fold(repo, tag, &at, before.is_empty()).await?
        {
            return Ok(());
        }
        if before.is_empty() || self.is_stray(repo, tag, pointed).await? {
            let pushed = at.modified.unwrap_or(now).min(now);
            repo.add_part_at(tag, pointed, pushed).await?;
        }
        Ok(())
    }

    /// Returns true if the manifest a tag points at has content that none of its parts has.
    async fn is_stray(&self, repo: &Repository, tag: &Tag, pointed: &Manifest) -> Result<bool> {
        let parts = self.dated(repo, tag).await?;
        let _place = self.place(repo).await;
        let Some(candidate) = self.read_part(repo, pointed).await? else {
            return Ok(false);
        };
        let read = self.gather(repo, &parts, false).await?.read;
        let known = move || read.iter().any(|part| contains(part, &candidate));
        Ok(!task::blocking(known).await)
    }

    /// Folds a tag that `manifest` was just pushed to, and drops parts that are too old, too many, too large, or contained in it. Returns
    /// the manifest that the tag is to point at, and its parts; `None` if the new part no longer exists.
    async fn fold_pushed(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tag: &Tag,
        settings: &Settings,
    ) -> Result<Option<FoldPushed>> {
        let mut settled = Settled::default();
        loop {
            let folded = self.fold_pushed_settled(repo, manifest, tag, settings, &settled);
            match folded.await? {
                Ok(folded) => return Ok(folded),
                Err(unsettled) => self.settle(repo, unsettled, &mut settled).await?,
            }
        }
    }

    async fn fold_pushed_settled(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tag: &Tag,
        settings: &Settings,
        settled: &Settled,
    ) -> Result<std::result::Result<Option<FoldPushed>, Unsettled>> {
        let all = self.dated(repo, tag).await?;
        let Some(own) = all.iter().find(|d| d.digest == manifest.digest) else {
            return Ok(Ok(None));
        };
        let now = repo.store().clock().await?;
        let is_old = |d: &&Dated| {
            let age = d.pushed.map(|at| now.secs - at.secs);
            age.is_some_and(|age| age > settings.max_age.as_secs() as i64)
        };
        let others = || all.iter().filter(|d| d.digest != own.digest);
        let mut left_out: Vec<(Digest, LeftOut)> = others()
            .filter(is_old)
            .map(|d| (d.digest, LeftOut::Old))
            .collect();
        let mut parts = vec![*own];
        parts.extend(others().filter(|d| !is_old(d)).copied());
        let place = self.place(repo).await;
        let mut found = self.gather(repo, &parts, true).await?;
        let most = settings.max_parts.clamp(1, MAX_PARTS);
        while found.read.len() > most
            && let Some(part) = found.read.pop()
        {
            found
                .left_out
                .push((part.manifest.manifest().digest, LeftOut::TooMany));
        }
        left_out.append(&mut found.left_out);
        let gone: HashSet<Digest> = left_out.iter().map(|(digest, _)| *digest).collect();
        let kept: Vec<Dated> = all
            .iter()
            .filter(|d| !gone.contains(&d.digest))
            .copied()
            .collect();
        let digests = kept.iter().map(|d| d.digest).collect();
        let key = Some((kept, None));
        let served = self.serve(repo, tag, place, found.read, key, settled);
        let served = match served.await? {
            Ok(served) => served,
            Err(unsettled) => return Ok(Err(unsettled)),
        };
        for (digest, why) in left_out {
            self.let_go(repo, tag, &digest, why).await?;
        }
        // If nothing can be used, the tag exists anyway.
        let folded = served.unwrap_or_else(|| Served::as_pushed(manifest));
        Ok(Ok(Some((folded, digests))))
    }

    async fn let_go(
        &self,
        repo: &Repository,
        tag: &Tag,
        digest: &Digest,
        why: LeftOut,
    ) -> Result<()> {
        if matches!(why, LeftOut::TooMany | LeftOut::TooLarge) {
            tracing::warn!(repo = %repo.name(), %tag, %digest, "Part of a merged cache is dropped: {why}");
            self.count(|c| &c.dropped_parts, 1);
        } else {
            tracing::debug!(repo = %repo.name(), %tag, %digest, "Part of a merged cache is dropped: {why}");
        }
        removed(repo.remove_part(tag, digest).await)?;
        Ok(())
    }

    /// Finds an export that would shrink the cache; `Some` if it must be refused.
    async fn guard(
        &self,
        repo: &Repository,
        new: &Manifest,
        tag: &Tag,
        guard: ShrinkGuard,
    ) -> Result<Option<Shrink>> {
        if guard == ShrinkGuard::Off {
            return Ok(None);
        }
        let Some(shrink) = self.shrink(repo, new, tag).await? else {
            return Ok(None);
        };
        tracing::warn!(
            repo = %repo.name(),
            %tag,
            refused = guard == ShrinkGuard::Refuse,
            "Export shrinks the cache: {shrink}; pass the same cache to --cache-from and --cache-to"
        );
        if guard == ShrinkGuard::Warn {
            self.count(|c| &c.shrunk, 1);
            return Ok(None);
        }
        self.count(|c| &c.shrinks_refused, 1);
        Ok(Some(shrink))
    }

    async fn shrink(&self, repo: &Repository, new: &Manifest, tag: &Tag) -> Result<Option<Shrink>> {
        // What is damaged is about to be replaced.
        let pointed = corrupt_is_none(repo.manifest(&Reference::Tag(tag.clone())).await)?;
        let Some(Resolved {
            manifest: pointed, ..
        }) = pointed
        else {
            return Ok(None);
        };
        let _place = self.place(repo).await;
        let Some(new) = self.read_part(repo, new).await? else {
            return Ok(None);
        };
        let Some(old) = self.read_part(repo, &pointed).await? else {
            if read_aside(&pointed).await.is_none() {
                tracing::warn!(repo = %repo.name(), %tag, replaced = %pointed.digest, "{REPLACES_OTHER}");
            }
            return Ok(None);
        };
        Ok(task::blocking(move || shrinks(&old, &new)).await)
    }

    /// Reads a cache; the caller holds a merge permit.
    pub(super) async fn read_part(
        &self,
        repo: &Repository,
        manifest: &Manifest,
    ) -> Result<Option<Part>> {
        match read_aside(manifest).await {
            Some(cache) => self.part_of(repo, cache).await,
            None => Ok(None),
        }
    }
}

fn too_large(what: &str, tag: &Tag) -> Error {
    let why = format!(
        "{what} it cannot be merged with the other caches of tag {tag}; push it to a separate tag"
    );
    Error::invalid("merge", why).at("", tag)
}

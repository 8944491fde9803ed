//! What becomes of an export.

use std::{collections::BTreeSet, sync::Arc};

use super::{CacheTags, Settings, ShrinkGuard, fold::merged_part, readable};
use crate::{
    artifact::{
        Manifest, Reference, Tag,
        buildkit::{Part, Shrink, contains, is_merged, shrinks},
    },
    digest::Digest,
    entry::Time,
    store::{ErrorKind, Repository, Result, repository::TagPart},
    task,
};

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The tag points at it, or at what it was merged into.
    Done,
    /// Nothing was changed: it would have replaced a bigger cache.
    Refused(Shrink),
}

impl CacheTags {
    /// Stores a manifest and gives it `tags`. What it names must be there already.
    pub async fn push(
        &self,
        repo: &Repository,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<Pushed> {
        let settings = self.settings();
        if readable(manifest).is_none() {
            for tag in tags {
                // An image takes the tag over; parts would bring the cache back.
                for part in repo.parts(tag).await? {
                    repo.remove_part(tag, &part.digest).await?;
                }
            }
            repo.put_manifest(manifest, tags).await?;
            return Ok(Pushed::Done);
        }
        let part = self.part_of(repo, manifest).await?.map(Arc::new);
        let merges = settings.merge.is_match(repo.name().as_str());
        if let (Some(part), true) = (&part, merges) {
            repo.put_manifest(manifest, &[]).await?;
            for tag in tags {
                self.push_part(repo, part, tag, &settings).await?;
            }
            return Ok(Pushed::Done);
        }
        if let Some(part) = &part {
            for tag in tags {
                if let Some(shrink) = self.guard(repo, part, tag, settings.shrink).await? {
                    return Ok(Pushed::Refused(shrink));
                }
            }
        }
        repo.put_manifest(manifest, tags).await?;
        Ok(Pushed::Done)
    }

    /// Adds a part to a tag; the tag then points at the fold, for whoever reads the store without us.
    async fn push_part(
        &self,
        repo: &Repository,
        part: &Arc<Part>,
        tag: &Tag,
        settings: &Settings,
    ) -> Result<()> {
        let manifest = part.manifest.manifest();
        let pointed = self.pointed(repo, tag).await?;
        let before = repo.parts(tag).await?;
        // What somebody else made it stand for is a part as well.
        if let Some(pointed) = pointed.filter(|p| readable(p).is_some())
            && pointed.digest != manifest.digest
            && self.is_stray(repo, &pointed, &before).await?
        {
            repo.add_part(tag, &pointed).await?;
        }
        repo.add_part(tag, manifest).await?;
        self.trim(repo, part, tag, settings).await?;
        let parts: BTreeSet<Digest> = repo
            .parts(tag)
            .await?
            .into_iter()
            .map(|p| p.digest)
            .collect();
        if let Some(folded) = self.fold(repo, tag, parts, None).await? {
            repo.put_manifest(&folded, std::slice::from_ref(tag))
                .await?;
        }
        Ok(())
    }

    /// Says whether what a tag points at is neither one of its parts nor made from them. Parts that are let go must not come
    /// back by way of it.
    async fn is_stray(
        &self,
        repo: &Repository,
        pointed: &Manifest,
        parts: &[TagPart],
    ) -> Result<bool> {
        if parts.is_empty() {
            return Ok(true);
        }
        if parts.iter().any(|p| p.digest == pointed.digest) || is_merged(pointed) {
            return Ok(false);
        }
        let Some(candidate) = self.part_of(repo, pointed).await? else {
            return Ok(false);
        };
        let mut read = Vec::new();
        for part in parts {
            read.extend(self.part(repo, &part.digest).await?);
        }
        let known = move || !read.is_empty() && contains(&merged_part(&read), &candidate);
        Ok(!task::blocking(known).await)
    }

    async fn pointed(&self, repo: &Repository, tag: &Tag) -> Result<Option<Manifest>> {
        match repo.manifest(&Reference::Tag(tag.clone())).await {
            Ok(found) => Ok(found.map(|f| f.manifest)),
            // It is about to be replaced.
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Lets parts go that are too old, too many, or in the one that was just pushed.
    async fn trim(
        &self,
        repo: &Repository,
        newest: &Arc<Part>,
        tag: &Tag,
        settings: &Settings,
    ) -> Result<()> {
        let newest_digest = newest.manifest.manifest().digest;
        let mut parts = repo.parts(tag).await?;
        let now = repo.store().clock().await?;
        // Newest first; where the store says no time, order by digest does not change between daemons.
        parts.sort_unstable_by_key(|p| std::cmp::Reverse((p.modified, p.digest)));
        let mut kept = 0;
        for listed in parts {
            if listed.digest == newest_digest {
                kept += 1;
                continue;
            }
            let age = |m: Time| now.secs - m.secs;
            let old = listed
                .modified
                .is_some_and(|m| age(m) > settings.max_age.as_secs() as i64);
            let too_many = kept >= settings.max_parts.max(1);
            if too_many && !old {
                tracing::warn!(repo = %repo.name(), %tag, digest = %listed.digest, limit = settings.max_parts, "Part of a merged cache is dropped: there are more than `buildkit.merge_parts`");
                self.count(|c| &c.dropped_parts, 1);
            }
            let goes = old
                || too_many
                || match self.part(repo, &listed.digest).await? {
                    Some(part) => {
                        let newest = newest.clone();
                        task::blocking(move || contains(&newest, &part)).await
                    }
                    // What cannot be read helps nobody.
                    None => true,
                };
            if goes {
                tracing::debug!(repo = %repo.name(), %tag, digest = %listed.digest, "Part of a merged cache is dropped");
                repo.remove_part(tag, &listed.digest).await?;
            } else {
                kept += 1;
            }
        }
        Ok(())
    }

    /// Finds an export that would shrink the cache; `Some` if it is to be refused.
    async fn guard(
        &self,
        repo: &Repository,
        new: &Part,
        tag: &Tag,
        guard: ShrinkGuard,
    ) -> Result<Option<Shrink>> {
        if guard == ShrinkGuard::Off {
            return Ok(None);
        }
        let Some(pointed) = self.pointed(repo, tag).await? else {
            return Ok(None);
        };
        let Some(old) = self.part_of(repo, &pointed).await? else {
            return Ok(None);
        };
        let Some(shrink) = shrinks(&old, new) else {
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
}

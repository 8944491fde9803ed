//! Deletes what readers know: a tag, or the digest that it was served under.
//!
//! A tag that is merged, or lacks layers, is served under a digest that the daemon created. Deleting that digest deletes the parts that it
//! was made of: afterwards no tag includes them, and later pushes stay. The tag is deleted with its last part. Parts are deleted before the
//! tag, so that an interrupted deletion can be repeated.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{AT_ONCE, CacheTags, dated::Dated, is_merged, read_aside};
use crate::{
    artifact::{Reference, Tag},
    digest::Digest,
    store::{Repository, Resolved, Result, corrupt_is_none},
};

impl CacheTags {
    /// Deletes a tag with all its parts, or a manifest with every tag that serves it; `false` if it did not exist.
    pub async fn delete(&self, repo: &Repository, reference: &Reference) -> Result<bool> {
        match reference {
            Reference::Tag(tag) => {
                let _flight = self.flights.lock((repo.name().clone(), tag.clone())).await;
                repo.delete_tag(tag).await
            }
            Reference::Digest(digest) => self.delete_manifest(repo, digest).await,
        }
    }

    async fn delete_manifest(&self, repo: &Repository, digest: &Digest) -> Result<bool> {
        let tags = repo.tags().await?;
        let concerned = stream::iter(tags).map(|tag| async move {
            let is = stands_for(repo, &tag, digest).await?;
            Ok(is.then_some(tag))
        });
        let concerned: Vec<Option<Tag>> = concerned.buffered(AT_ONCE).try_collect().await?;
        let mut any = false;
        for tag in concerned.into_iter().flatten() {
            let _flight = self.flights.lock((repo.name().clone(), tag.clone())).await;
            self.take_away(repo, &tag, digest).await?;
            any = true;
        }
        Ok(repo.forget_manifest(digest).await? || any)
    }

    /// Removes a manifest, and the parts that it was made of, from a tag; the caller holds the tag's flight.
    async fn take_away(&self, repo: &Repository, tag: &Tag, digest: &Digest) -> Result<()> {
        let mut going = made_of(repo, tag, digest).await?;
        going.insert(*digest);
        let mut any = false;
        for part in repo.parts(tag).await? {
            if going.contains(&part.digest) {
                repo.remove_part(tag, &part.digest).await?;
                any = true;
            }
        }
        let left = self.dated(repo, tag).await?;
        if !left.is_empty() {
            self.point(repo, tag, left).await?;
        } else if is_left_over(repo, tag, &going, any).await? {
            repo.delete_tag(tag).await?;
        }
        repo.remove_fold(tag, digest).await
    }

    /// Makes a tag point at the fold of its remaining parts or, if none of them can be folded now, at the first whose manifest exists.
    async fn point(&self, repo: &Repository, tag: &Tag, left: Vec<Dated>) -> Result<()> {
        let folded = self.fold_again(repo, tag, left.clone(), None).await?.served;
        if let Some(served) = folded {
            return self.point_at(repo, tag, &served).await;
        }
        let tag_alone = std::slice::from_ref(tag);
        for part in left {
            let found = repo.manifest(&Reference::Digest(part.digest)).await;
            if let Some(found) = corrupt_is_none(found)? {
                return repo.put_manifest(&found.manifest, tag_alone).await;
            }
        }
        repo.delete_tag(tag).await.map(drop)
    }
}

/// Returns true if a tag points at a manifest, is merged from it, or was served as it.
async fn stands_for(repo: &Repository, tag: &Tag, digest: &Digest) -> Result<bool> {
    Ok(repo.pointed(tag).await?.as_ref() == Some(digest)
        || repo.is_part(tag, digest).await?
        || repo.fold(tag, digest).await?.is_some())
}

/// The parts for which a tag was served as `digest`.
async fn made_of(repo: &Repository, tag: &Tag, digest: &Digest) -> Result<HashSet<Digest>> {
    if let Some(fold) = repo.fold(tag, digest).await? {
        return Ok(fold.parts.into_iter().collect());
    }
    // Earlier releases recorded no parts. Each push made the tag point at the fold of all parts that existed then.
    let pointed = corrupt_is_none(repo.manifest(&Reference::Tag(tag.clone())).await)?;
    let Some(Resolved {
        manifest, modified, ..
    }) = pointed.filter(|p| p.manifest.digest == *digest)
    else {
        return Ok(HashSet::new());
    };
    if !is_merged(&manifest).await
        || read_aside(&manifest).await.is_none()
        || repo.is_part(tag, digest).await?
    {
        return Ok(HashSet::new());
    }
    let parts = repo.parts(tag).await?.into_iter();
    let since = |m| modified.is_some_and(|at| m > at);
    let there = parts.filter(|p| !p.modified.is_some_and(since));
    Ok(there.map(|p| p.digest).collect())
}

/// Returns true if a tag without parts points at something deleted: at one of `going`, or at another fold of deleted parts.
async fn is_left_over(
    repo: &Repository,
    tag: &Tag,
    going: &HashSet<Digest>,
    had_parts: bool,
) -> Result<bool> {
    let Some(pointed) = repo.pointed(tag).await? else {
        return Ok(true);
    };
    if going.contains(&pointed) || repo.fold(tag, &pointed).await?.is_some() {
        return Ok(true);
    }
    if !had_parts {
        return Ok(false);
    }
    match corrupt_is_none(repo.manifest(&Reference::Tag(tag.clone())).await)? {
        Some(found) => Ok(is_merged(&found.manifest).await),
        None => Ok(true),
    }
}

//! Records of what a tag was served as, and of which parts that was made.
//!
//! Whoever deletes a manifest that a tag was served as deletes the parts that it was made of. Which those are only the daemon writes: a
//! manifest that a client pushed cannot name the parts of others as its own. A record stays as long as its manifest can be read: a
//! prune removes it after that.

use super::{
    CacheTags,
    fold::{Pointed, Served},
};
use crate::{
    artifact::Tag,
    digest::Digest,
    store::{Error, ErrorKind, Repository, Result, record::Folded},
};

impl CacheTags {
    /// Records what a manifest was made of, if that is not what is recorded.
    pub(super) async fn record(&self, repo: &Repository, tag: &Tag, served: &Served) -> Result<()> {
        let digest = &served.manifest.digest;
        let now = repo.store().clock().await?;
        let fold = Folded::of(served.sources.clone(), now);
        let known = repo.fold(tag, digest).await?;
        if known.is_some_and(|known| known.parts == fold.parts) {
            return Ok(());
        }
        repo.add_fold(tag, digest, &fold).await
    }

    /// Makes a tag point at what it is served as. The record is written once more after that: only one that is not older than what
    /// the tag says is about it.
    pub(super) async fn point_at(&self, repo: &Repository, tag: &Tag, to: &Served) -> Result<()> {
        repo.put_manifest(&to.manifest, std::slice::from_ref(tag))
            .await?;
        if !to.is_derived() {
            return Ok(());
        }
        let now = repo.store().clock().await?;
        let fold = Folded::of(to.sources.clone(), now);
        repo.add_fold(tag, &to.manifest.digest, &fold).await
    }

    /// Forgets that a manifest was made of parts of the tag that it is pushed to now.
    pub(super) async fn is_pushed(
        &self,
        repo: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<()> {
        if repo.fold(tag, digest).await?.is_some() {
            removed(repo.remove_fold(tag, digest).await)?;
        }
        Ok(())
    }

    /// Says whether what a tag points at was made of parts of it that are gone: they must not come back by way of it.
    pub(super) async fn is_own_fold(
        &self,
        repo: &Repository,
        tag: &Tag,
        pointed: &Pointed,
        is_alone: bool,
    ) -> Result<bool> {
        // A copy of a cache that was served without lost layers is a cache.
        if is_alone && !pointed.is_merged {
            return Ok(false);
        }
        let fold = repo.fold(tag, &pointed.digest).await?;
        // A release that knows no records deletes a tag without them, and may make it point here for somebody who pushed this.
        let is_older = |f: &Folded| {
            f.made()
                .zip(pointed.modified)
                .is_some_and(|(made, at)| made.secs < at.secs)
        };
        Ok(fold.is_some_and(|f| !is_older(&f)))
    }
}

/// Says whether something was removed that may as well stay: nothing is while the store behind is unreachable, or by who may only
/// write.
///
/// # Errors
/// Any other.
pub(super) fn removed(done: Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(e) if may_stay(&e) => {
            tracing::debug!(error = %e, "Record stays for now");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn may_stay(e: &Error) -> bool {
    e.is_temporary() || matches!(e.kind, ErrorKind::Unsupported | ErrorKind::Denied)
}

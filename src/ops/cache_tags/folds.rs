//! Records of the manifests that a tag was served as, and of the parts they were made of.
//!
//! Deleting a manifest that a tag was served as deletes the parts that it was made of. Only the daemon writes these records: a manifest
//! that a client pushed cannot claim the parts of others. A record stays as long as its manifest can be read; then a prune removes it.

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
    /// Records the parts that a manifest was made of, unless they are already recorded.
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

    /// Makes a tag point at the manifest it is served as. The record is written again after that: only a record that is not older than the
    /// tag applies to it.
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

    /// Removes the record that a manifest was made of a tag's parts, since it is now pushed to that tag itself.
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

    /// Returns true if the manifest a tag points at was made of removed parts of it: they must not come back through it.
    pub(super) async fn is_own_fold(
        &self,
        repo: &Repository,
        tag: &Tag,
        pointed: &Pointed,
        is_alone: bool,
    ) -> Result<bool> {
        // A copy of a cache that was served without lost layers is a cache in its own right.
        if is_alone && !pointed.is_merged {
            return Ok(false);
        }
        let fold = repo.fold(tag, &pointed.digest).await?;
        // A release without such records deletes a tag but leaves its record, and may point the tag here again for a client that pushed
        // this manifest.
        let is_older = |f: &Folded| {
            f.made()
                .zip(pointed.modified)
                .is_some_and(|(made, at)| made.secs < at.secs)
        };
        Ok(fold.is_some_and(|f| !is_older(&f)))
    }
}

/// Returns whether an optional removal succeeded: none does while the store behind is unreachable, or for a caller that may only write.
///
/// # Errors
/// Any other.
pub(super) fn removed(done: Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(e) if may_stay(&e) => {
            tracing::debug!(error = %e, "Record of a merged manifest could not be removed; keeping it");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn may_stay(e: &Error) -> bool {
    e.is_temporary() || matches!(e.kind, ErrorKind::Unsupported | ErrorKind::Denied)
}

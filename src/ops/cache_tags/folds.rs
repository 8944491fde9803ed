//! Records of what a tag was served as, and of which parts that was made.
//!
//! Whoever deletes a manifest that a tag was served as deletes the parts that it was made of. Which those are only the daemon writes: a
//! manifest that a client pushed cannot name the parts of others as its own.

use super::{CacheTags, fold::Served};
use crate::{
    artifact::{Manifest, Tag, buildkit::is_merged},
    digest::Digest,
    store::{Error, ErrorKind, Repository, Result, record::Folded},
};

/// From more records of a tag than this on, all but the newest are removed.
const MAX_FOLDS: usize = 32;
const KEPT_FOLDS: usize = 16;

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
        repo.add_fold(tag, digest, &fold).await?;
        let all = repo.folds(tag).await?;
        if all.len() > MAX_FOLDS {
            self.forget_folds(repo, tag, all, digest).await?;
        }
        Ok(())
    }

    /// Forgets the oldest of what a tag was served as. A prune has removed most of it by now.
    async fn forget_folds(
        &self,
        repo: &Repository,
        tag: &Tag,
        all: Vec<Digest>,
        newest: &Digest,
    ) -> Result<()> {
        let mut dated = Vec::new();
        for digest in all {
            let fold = repo.fold(tag, &digest).await?;
            let is_newest = digest == *newest;
            dated.push((is_newest, fold.and_then(|f| f.made()), digest));
        }
        dated.sort_unstable_by(|a, b| b.cmp(a));
        for (.., digest) in dated.iter().skip(KEPT_FOLDS) {
            removed(repo.remove_fold(tag, digest).await)?;
        }
        Ok(())
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
        pointed: &Manifest,
        is_alone: bool,
    ) -> Result<bool> {
        // A copy of a cache that was served without lost layers is a cache.
        if is_alone && !is_merged(pointed) {
            return Ok(false);
        }
        Ok(repo.fold(tag, &pointed.digest).await?.is_some())
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

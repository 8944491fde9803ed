//! Removes records whose blobs are gone from the store: tombstones, which have nothing left to hide; unreadable parts of merged tags;
//! records of manifests that a merged tag was served as.

use futures_util::{TryStreamExt as _, stream};

use super::{Options, Report};
use crate::{
    artifact::Tag,
    digest::Digest,
    entry::Time,
    ops::{
        Context, LeftOut, Result,
        reach::{self, RepoContext},
    },
    store::{self, RepoStore, Repository},
};

/// A record may be older than its manifest by this much: they are written one after the other.
const WRITTEN_WITHIN_SECS: i64 = 3600;

/// Removes them from every repository within reach. Repositories that cannot be read are left for the next prune, with a warning.
pub(super) async fn run(ctx: &Context, options: &Options, report: &mut Report) -> Result<()> {
    if options.dry_run {
        return Ok(());
    }
    for place in reach::places(ctx).await? {
        if let Err(e) = tidy(&place).await {
            report.left_out.push(LeftOut {
                what: format!("records of repository {}", place.repository()),
                why: e.to_string(),
            });
        }
    }
    Ok(())
}

async fn tidy(place: &RepoContext) -> store::Result<()> {
    let Some(repository) = place.records() else {
        return Ok(());
    };
    let store = &*place.ctx.store;
    let at_once = place.ctx.concurrency.max(1);
    stream::iter(repository.tombstones().await?.into_iter().map(Ok))
        .try_for_each_concurrent(at_once, async |digest| match store.stat(&digest).await? {
            Some(_) => Ok(()),
            None => repository.remove_tombstone(&digest).await,
        })
        .await?;
    // Builders push to other repositories, and this one has the most tags.
    if place.is_own() {
        return Ok(());
    }
    let now = store.clock().await?;
    stream::iter(repository.tags().await?.into_iter().map(Ok))
        .try_for_each_concurrent(at_once, async |tag| {
            tidy_merged(repository, store, &tag, now).await
        })
        .await
}

/// Removes a tag's parts and fold records whose manifest is gone.
async fn tidy_merged(
    repository: &Repository,
    store: &dyn RepoStore,
    tag: &Tag,
    now: Time,
) -> store::Result<()> {
    let is_new = |at: Option<Time>| at.is_some_and(|at| now.secs - at.secs < WRITTEN_WITHIN_SECS);
    let is_gone = async |digest: &Digest| store.stat(digest).await.map(|size| size.is_none());
    for part in repository.parts(tag).await? {
        if !is_new(part.modified) && is_gone(&part.digest).await? {
            tracing::info!(repo = %repository.name(), %tag, digest = %part.digest, "Part of a merged cache is removed: its manifest is missing");
            repository.remove_part(tag, &part.digest).await?;
        }
    }
    for digest in repository.folds(tag).await? {
        if is_gone(&digest).await? {
            let made = repository.fold(tag, &digest).await?.and_then(|f| f.made());
            if !is_new(made) {
                repository.remove_fold(tag, &digest).await?;
            }
        }
    }
    Ok(())
}

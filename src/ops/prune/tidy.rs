//! Tombstones that lead nowhere: what they hide from a repository is gone from the store, so there is nothing left to hide.

use futures_util::{TryStreamExt as _, stream};

use super::{Options, Report};
use crate::{
    ops::{
        Context, LeftOut, Result,
        reach::{self, Place},
    },
    store,
};

/// Removes them from every repository within reach. What cannot be asked is left for the next prune, and said.
pub(super) async fn run(ctx: &Context, options: &Options, report: &mut Report) -> Result<()> {
    if options.dry_run {
        return Ok(());
    }
    for place in reach::places(ctx).await? {
        if let Err(e) = tidy(&place).await {
            report.left_out.push(LeftOut {
                what: format!("tombstones of repository {}", place.repository()),
                why: e.to_string(),
            });
        }
    }
    Ok(())
}

async fn tidy(place: &Place) -> store::Result<()> {
    let Some(repository) = place.records() else {
        return Ok(());
    };
    let store = &place.ctx.opened.store;
    stream::iter(repository.tombstones().await?.into_iter().map(Ok))
        .try_for_each_concurrent(place.ctx.concurrency.max(1), async |digest| {
            match store.stat(&digest).await? {
                Some(_) => Ok(()),
                None => repository.remove_tombstone(&digest).await,
            }
        })
        .await
}

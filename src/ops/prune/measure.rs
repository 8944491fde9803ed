//! The room that names take, as the store says it.

use std::collections::HashMap;

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use super::Name;
use crate::{
    digest::Digest,
    ops::{Context, Result},
    store,
};

/// Gives what names need the sizes that the store has: those in manifests are their writers' word, and would let one writer make the names of
/// all others leave. What is not stored takes no room.
pub(super) async fn measure(ctx: &Context, all: &mut [Name]) -> Result<()> {
    // Whoever sees the whole store may list it.
    let sweep = ctx.opened.sweep.as_ref().filter(|_| ctx.reach.is_whole());
    let sizes: HashMap<Digest, u64> = match sweep {
        Some(sweep) => {
            let blobs = sweep.blobs().await?;
            blobs.into_iter().map(|b| (b.digest, b.size)).collect()
        }
        None => asked_one_by_one(ctx, all).await?,
    };
    for name in all {
        for (digest, size) in &mut name.needs {
            *size = sizes.get(digest).copied().unwrap_or(0);
        }
    }
    Ok(())
}

fn asked_one_by_one(
    ctx: &Context,
    all: &[Name],
) -> BoxFuture<'static, store::Result<HashMap<Digest, u64>>> {
    let mut stores = HashMap::new();
    for name in all {
        let store = &name.named.place.ctx.opened.store;
        stores.extend(name.needs.keys().map(|digest| (*digest, store.clone())));
    }
    stream::iter(stores)
        .map(|(digest, store)| async move {
            let size = store.stat(&digest).await?;
            Ok((digest, size.unwrap_or(0)))
        })
        .buffer_unordered(ctx.concurrency.max(1))
        .try_collect()
        .boxed()
}

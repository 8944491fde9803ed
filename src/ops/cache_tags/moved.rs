//! A cache that was exported here during an outage, while the remote's tag moved.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;

use super::{
    CacheTags,
    fold::{put_config, put_if_missing},
    settle::Settled,
};
use crate::{
    artifact::{Manifest, Tag},
    store::{Repository, Result, tiered::Moved},
};

/// Merges caches of BuildKit, and leaves everything else alone.
pub struct MergeCaches(pub Arc<CacheTags>);

#[async_trait]
impl Moved for MergeCaches {
    async fn merge(
        &self,
        repository: &Repository,
        tag: &Tag,
        ours: &Manifest,
        theirs: &Manifest,
    ) -> Option<Manifest> {
        let merged = self.0.merge_two(repository, ours, theirs).await;
        merged.unwrap_or_else(|error| {
            tracing::warn!(repo = %repository.name(), %tag, %error, "Caches are not merged");
            None
        })
    }
}

impl CacheTags {
    /// Both as one; `None` if one of them is not a readable cache.
    async fn merge_two(
        &self,
        repo: &Repository,
        ours: &Manifest,
        theirs: &Manifest,
    ) -> Result<Option<Manifest>> {
        // Updates are replayed one after the other, so no more than these two are in memory. Waiting for a permit here could deadlock with
        // an export that waits for this replay.
        let (Some(ours), Some(theirs)) = (
            self.read_part(repo, ours).await?,
            self.read_part(repo, theirs).await?,
        ) else {
            return Ok(None);
        };
        let now = Some(repo.store().clock().await?);
        let both = [ours, theirs].map(|part| part.pushed_at(now)).to_vec();
        // Lost layers are left out whenever the tag is read.
        let mut settled = Settled::default();
        let joined = loop {
            let joined = self.join(repo, both.clone(), HashSet::new(), &settled);
            match joined.await {
                Ok((joined, _)) => break joined,
                Err(unsettled) => self.settle_at_once(repo, unsettled, &mut settled).await?,
            }
        };
        let Some(joined) = joined else {
            return Ok(None);
        };
        put_config(repo, &joined).await?;
        put_if_missing(repo, &joined.manifest).await?;
        Ok(Some(joined.manifest))
    }
}

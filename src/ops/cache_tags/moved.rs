//! A cache that was exported here during an outage, where the tag at the remote moved meanwhile.

use std::sync::Arc;

use async_trait::async_trait;

use super::CacheTags;
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
    /// Both as one; `None` if one of them is no cache that can be read.
    async fn merge_two(
        &self,
        repo: &Repository,
        ours: &Manifest,
        theirs: &Manifest,
    ) -> Result<Option<Manifest>> {
        let (Some(ours), Some(theirs)) = (
            self.part_of(repo, ours).await?,
            self.part_of(repo, theirs).await?,
        ) else {
            return Ok(None);
        };
        // What was lost is left out by whoever reads the tag.
        self.join(repo, vec![ours, theirs], &std::collections::HashSet::new())
            .await
    }
}

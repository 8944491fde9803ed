//! When the parts of a tag were pushed.
//!
//! Each part's record says it, by the store's clock. When the store wrote the record is an upper bound: a record may be written
//! later than the push (by a queue, by a copy of the bucket), never before it. No time that a builder wrote counts.

use std::cmp::Reverse;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{AT_ONCE, CacheTags};
use crate::{
    artifact::Tag,
    digest::Digest,
    entry::Time,
    store::{Repository, Result, keys::Repo, published_at, repository::TagPart},
};

/// A record that was written less than this ago may be written again within the precision of the store's times.
const SETTLED_SECS: i64 = 5;
/// Times that are remembered at most.
pub(super) const MAX_TIMES: usize = 50_000;

/// A part of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dated {
    pub(super) digest: Digest,
    /// When it was pushed last; `None` where nobody knows: before every known time.
    pub(super) pushed: Option<Time>,
}

/// A part of a tag of a repository.
pub(super) type Key = (Repo, Tag, Digest);
/// What the store said of a part's record, and what the record says.
pub(super) type Times = (Time, Option<Time>);

impl CacheTags {
    /// The parts of a tag, the last pushed first; of those pushed at one time the larger digest.
    pub(super) async fn dated(&self, repo: &Repository, tag: &Tag) -> Result<Vec<Dated>> {
        let listed = repo.parts(tag).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let now = repo.store().clock().await?;
        let dated = stream::iter(listed).map(|part| async move {
            let published = self.published(repo, tag, &part, now).await?;
            Ok(Dated {
                digest: part.digest,
                pushed: published_at(published, part.modified, now),
            })
        });
        let mut dated: Vec<Dated> = dated.buffer_unordered(AT_ONCE).try_collect().await?;
        dated.sort_unstable_by_key(|d| Reverse((d.pushed, d.digest)));
        Ok(dated)
    }

    /// What the record of a part says. Records of some time ago are read once.
    async fn published(
        &self,
        repo: &Repository,
        tag: &Tag,
        part: &TagPart,
        now: Time,
    ) -> Result<Option<Time>> {
        let key: Key = (repo.name().clone(), tag.clone(), part.digest);
        let known = self.times.get(&key);
        if let Some((_, published)) = known.filter(|(m, _)| Some(*m) == part.modified) {
            return Ok(published);
        }
        let published = repo.published(tag, &part.digest).await?;
        let settled = part.modified.filter(|m| now.secs - m.secs >= SETTLED_SECS);
        if let Some(modified) = settled {
            self.times.insert(key, (modified, published));
        }
        Ok(published)
    }
}

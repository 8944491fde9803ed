//! When the parts of a tag were pushed.
//!
//! Each part's record has the time, by the store's clock. The time at which the store wrote the record is an upper bound: a record may be
//! written later than the push (by a queue, by a copy of the bucket), never before it. Times written by builders do not count.

use std::cmp::Reverse;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{AT_ONCE, CacheTags};
use crate::{
    artifact::Tag,
    digest::Digest,
    entry::Time,
    store::{Repository, Result, keys::Repo, published_at, repository::TagPart},
};

/// A record written less than this ago may be rewritten within the precision of the store's times.
const SETTLED_SECS: i64 = 5;
/// Most remembered times.
pub(super) const MAX_TIMES: usize = 50_000;

/// A part of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dated {
    pub(super) digest: Digest,
    /// When it was last pushed; `None` if unknown: sorts before every known time.
    pub(super) pushed: Option<Time>,
}

/// A part of a tag of a repository.
pub(super) type Key = (Repo, Tag, Digest);
/// The store's time of a part's record, and the time in the record.
pub(super) type Times = (Time, Option<Time>);

impl CacheTags {
    /// The parts of a tag, the last pushed first; of those pushed at the same time the larger digest first.
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

    /// The time in a part's record. Records that are not recent are read only once.
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

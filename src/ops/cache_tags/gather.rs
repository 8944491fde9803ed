//! Reads the parts of a tag, as far as the budget allows.

use std::{fmt, sync::Arc};

use futures_util::TryStreamExt as _;

use super::{CacheTags, budget::Budget, dated::Dated, join, layers, read_aside};
use crate::{
    artifact::{
        Reference,
        buildkit::{CacheManifest, Claims, Limits, MAX_CONFIG_BYTES, Part, contains},
    },
    digest::Digest,
    store::{ErrorKind, Repository, Result},
    task,
};

/// Why a part is not among those that a tag is merged from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// The part that was just pushed contains it.
    Contained,
    /// It is lost, damaged, or BuildKit could not read it.
    Unreadable,
    /// It was last pushed too long ago.
    Old,
    /// There are more parts than are kept.
    TooMany,
    /// All parts together are too large.
    TooLarge,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Contained => "a newer part contains it",
            Self::Unreadable => "it cannot be read",
            Self::Old => "it was last pushed longer ago than `buildkit.merge_age`",
            Self::TooMany => "the tag has more parts than `buildkit.merge_parts`",
            Self::TooLarge => "the parts of the tag together are too large",
        })
    }
}

/// The parts of a tag.
#[derive(Default)]
pub(super) struct Gathered {
    /// Those that were read, in the requested order.
    pub(super) read: Vec<Part>,
    /// The others.
    pub(super) left_out: Vec<(Digest, LeftOut)>,
}

impl CacheTags {
    /// Reads `parts`, the most important first, without the heaviest if all together are too large; if the first was just pushed, drops the
    /// parts that it contains. The caller holds a merge permit.
    pub(super) async fn gather(
        &self,
        repo: &Repository,
        parts: &[Dated],
        is_push: bool,
    ) -> Result<Gathered> {
        let mut budget = Budget::default();
        let (mut read, mut left_out) = (Vec::new(), Vec::new());
        let mut newest = None;
        for (at, part) in parts.iter().enumerate() {
            let found = self.gather_one(repo, part, newest.clone(), &mut budget);
            match found.await? {
                Ok(part) => {
                    if is_push && at == 0 {
                        newest = self.present(repo, part.clone()).await?.map(Arc::new);
                    }
                    budget.add(&part);
                    read.push(part);
                }
                Err(why) => left_out.push((part.digest, why)),
            }
            while let Some(heavy) = budget.let_go() {
                let part: Part = read.remove(heavy);
                left_out.push((part.manifest.manifest().digest, LeftOut::TooLarge));
            }
        }
        Ok(Gathered { read, left_out })
    }

    /// A part as it would be served: another part is not dropped in favor of layers that are missing here, nor of a part that BuildKit
    /// could not read alone.
    async fn present(&self, repo: &Repository, part: Part) -> Result<Option<Part>> {
        let most = Limits::default().max_bytes as u64;
        let manifest = part.manifest.manifest().bytes.len() as u64;
        if manifest.max(part.manifest.config().size) >= most {
            return Ok(None);
        }
        let lost = self.lost(repo, layers(&part.manifest)).await?;
        let present = move || join::without(part, &lost, &Claims::default());
        Ok(task::blocking(present).await)
    }

    async fn gather_one(
        &self,
        repo: &Repository,
        dated: &Dated,
        newest: Option<Arc<Part>>,
        budget: &mut Budget,
    ) -> Result<std::result::Result<Part, LeftOut>> {
        let Some(cache) = self.cache(repo, &dated.digest).await? else {
            return Ok(Err(LeftOut::Unreadable));
        };
        if !budget.admits(&cache) {
            return Ok(Err(LeftOut::TooLarge));
        }
        let Some(part) = self.part_of(repo, cache).await? else {
            return Ok(Err(LeftOut::Unreadable));
        };
        let mut part = part.pushed_at(dated.pushed);
        if let Some(newest) = newest.filter(|newest| budget.compare(newest, &part)) {
            let compare = move || (contains(&newest, &part), part);
            let (is_contained, same) = task::blocking(compare).await;
            if is_contained {
                return Ok(Err(LeftOut::Contained));
            }
            part = same;
        }
        Ok(Ok(part))
    }

    /// The manifest of a part; `None` if it is lost, damaged or not a cache.
    async fn cache(&self, repo: &Repository, digest: &Digest) -> Result<Option<CacheManifest>> {
        match repo.manifest(&Reference::Digest(*digest)).await {
            Ok(Some(found)) => Ok(read_aside(&found.manifest).await),
            Ok(None) => Ok(None),
            Err(e) if e.kind == ErrorKind::Corrupt => {
                tracing::warn!(error = %e, "Part of a merged cache is left out");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Reads the config of a pushed cache; `None` if BuildKit could not read it either.
    pub(super) async fn part_of(
        &self,
        repo: &Repository,
        cache: CacheManifest,
    ) -> Result<Option<Part>> {
        let digest = cache.manifest().digest;
        let desc = cache.config().clone();
        if desc.size > MAX_CONFIG_BYTES as u64 {
            tracing::warn!(digest = %desc.digest, bytes = desc.size, "Cache config is over the size limit; ignoring the cache");
            return Ok(None);
        }
        if cache.elsewhere().contains(&desc.digest) {
            tracing::warn!(%digest, "Cache manifest has a config with `urls`; ignoring the cache");
            return Ok(None);
        }
        let config = match repo.get_blob(&desc, 0..desc.size).await {
            Ok(Some(stream)) => {
                let all = stream.try_fold(Vec::new(), |mut all, piece| async move {
                    all.extend_from_slice(&piece);
                    Ok(all)
                });
                all.await
            }
            Ok(None) => return Ok(None),
            Err(e) => Err(e),
        };
        let config = match config {
            Ok(config) => config,
            Err(e) if e.kind == ErrorKind::Corrupt => {
                tracing::warn!(error = %e, "Cache config is damaged; ignoring the cache");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        match task::blocking(move || Part::read(cache, &config)).await {
            Ok(part) => Ok(Some(part)),
            Err(error) => {
                tracing::warn!(%digest, %error, "BuildKit could not read this cache; ignoring it");
                Ok(None)
            }
        }
    }
}

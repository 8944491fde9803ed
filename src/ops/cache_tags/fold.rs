//! From the parts of a tag to the one manifest that readers get.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::AtomicU64,
};

use super::{CacheTags, Counts, MAX_MEMOS, layers, locked, readable};
use crate::{
    artifact::{
        Manifest, Reference, Tag,
        buildkit::{Limits, Part, contains, is_merged, merge},
    },
    digest::Digest,
    store::{Body, Repository, Result},
    task,
};

/// What a tag was folded to, and from what.
#[derive(Clone)]
pub(super) struct Memo {
    parts: BTreeSet<Digest>,
    pointed: Option<Digest>,
    /// Every layer of every part.
    layers: BTreeMap<Digest, u64>,
    lost: HashSet<Digest>,
    manifest: Option<Manifest>,
}

impl CacheTags {
    /// Folds the parts of a tag, and what it points at if that is not among them.
    ///
    /// The result is stored under its digest before anybody hears of it. `None` if nothing of it can be read.
    pub(super) async fn fold(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: BTreeSet<Digest>,
        pointed: Option<Manifest>,
    ) -> Result<Option<Manifest>> {
        let key = (repo.name().to_string(), tag.clone());
        // What we merged before is in its parts, or was let go with them.
        let pointed = pointed.filter(|p| parts.is_empty() || !is_merged(p));
        let pointed_at = pointed.as_ref().map(|m| m.digest);
        let memo = locked(&self.memos).get(&key).cloned();
        if let Some(memo) = memo.filter(|m| m.parts == parts && m.pointed == pointed_at)
            && self.lost(repo, memo.layers.clone()).await? == memo.lost
            && self.has_config(repo, memo.manifest.as_ref()).await?
        {
            return Ok(memo.manifest);
        }
        // Each may hold a MiB of every part.
        let _place = self.folding.acquire().await;
        let mut read = Vec::new();
        for digest in &parts {
            read.extend(self.part(repo, digest).await?);
        }
        // What cannot be read now may come back under the same digest.
        let mut lasts = read.len() == parts.len();
        let stray = match pointed.filter(|p| !parts.contains(&p.digest)) {
            Some(pointed) => {
                let stray = self.part_of(repo, &pointed).await?;
                lasts &= stray.is_some();
                stray
            }
            None => None,
        };
        // A part without what was lost is in the part. Somebody else's, copied here, is one more.
        if let Some(stray) = stray {
            read = task::blocking(move || {
                if read.is_empty() || !contains(&merged_part(&read), &stray) {
                    read.push(stray);
                }
                read
            })
            .await;
        }
        let all: BTreeMap<Digest, u64> = read.iter().flat_map(|p| layers(&p.manifest)).collect();
        let lost = self.lost(repo, all.clone()).await?;
        let manifest = self.join(repo, read, &lost).await?;
        if !lasts {
            return Ok(manifest);
        }
        let memo = Memo {
            parts,
            pointed: pointed_at,
            layers: all,
            lost,
            manifest: manifest.clone(),
        };
        let mut memos = locked(&self.memos);
        if memos.len() >= MAX_MEMOS {
            memos.clear();
        }
        memos.insert(key, memo);
        Ok(manifest)
    }

    /// Says whether the config of what was folded is still there; it is made anew where it is not.
    async fn has_config(&self, repo: &Repository, folded: Option<&Manifest>) -> Result<bool> {
        let Some(cache) = folded.and_then(readable) else {
            return Ok(true);
        };
        let config = cache.config();
        let wanted = [(config.digest, config.size)].into();
        Ok(self.lost(repo, wanted).await?.is_empty())
    }

    /// One manifest of all parts, without what was lost.
    pub(super) async fn join(
        &self,
        repo: &Repository,
        parts: Vec<Part>,
        lost: &HashSet<Digest>,
    ) -> Result<Option<Manifest>> {
        let mut whole = Vec::with_capacity(parts.len());
        for part in parts {
            let pruned = part.manifest.without(lost);
            if pruned.digest != part.manifest.manifest().digest {
                self.count(|c| &c.pruned, 1);
                tracing::info!(digest = %part.manifest.manifest().digest, "Cache is served without layers that were lost");
            }
            whole.extend(readable(&pruned).map(|manifest| Part {
                manifest,
                config: part.config,
            }));
        }
        match &whole[..] {
            [] => Ok(None),
            [one] => {
                let manifest = one.manifest.manifest().clone();
                self.keep(repo, &manifest).await?;
                Ok(Some(manifest))
            }
            _ => {
                let merged = task::blocking(move || merge(&whole, Limits::default())).await;
                count(&self.counts, |c| &c.merged, 1);
                count(
                    &self.counts,
                    |c| &c.dropped_records,
                    merged.dropped.records as u64,
                );
                if merged.dropped.records > 0 {
                    tracing::warn!(
                        records = merged.dropped.records,
                        "Merged cache is at BuildKit's limit of 1 MiB; its oldest branches are left out"
                    );
                }
                if merged.results == 0 {
                    return Ok(None);
                }
                let body = Body::Bytes(merged.config_bytes.into());
                repo.put_blob(&merged.config, &body).await?;
                self.keep(repo, &merged.manifest).await?;
                Ok(Some(merged.manifest))
            }
        }
    }

    /// Stores a manifest of our own making, if it is not there.
    async fn keep(&self, repo: &Repository, manifest: &Manifest) -> Result<()> {
        let reference = Reference::Digest(manifest.digest);
        let there = repo.manifest(&reference).await;
        if matches!(there, Ok(Some(_))) {
            return Ok(());
        }
        repo.put_manifest(manifest, &[]).await
    }
}

/// All of `parts` as one, to compare with.
pub(super) fn merged_part(parts: &[Part]) -> Part {
    if let [one] = parts {
        return one.clone();
    }
    let unlimited = Limits {
        max_bytes: usize::MAX,
    };
    let merged = merge(parts, unlimited);
    readable(&merged.manifest)
        .and_then(|manifest| Part::read(manifest, &merged.config_bytes).ok())
        // What cannot be read contains nothing; the first part is as good as none.
        .unwrap_or_else(|| parts[0].clone())
}

fn count(counts: &Counts, which: impl FnOnce(&Counts) -> &AtomicU64, n: u64) {
    which(counts).fetch_add(n, std::sync::atomic::Ordering::Relaxed);
}

//! From the parts of a tag to the one manifest that readers get.
//!
//! A merged manifest is stored before it is served, with a record of the parts that it was made of ([`super::folds`]); its presence is
//! checked again whenever the tag is read, since a prune or another daemon may have removed it.

use std::collections::{BTreeSet, HashSet};

use super::{
    CacheTags, MAX_MEMO_BYTES, Sized,
    dated::Dated,
    gather::{Gathered, LeftOut},
    is_merged,
    join::{self, Joined},
    layers,
    merging::MergePermit,
    settle::{Dispute, Settled, Unsettled},
};
use crate::{
    artifact::{
        Manifest, Reference, Tag,
        buildkit::{Part, contains},
    },
    digest::Digest,
    entry::Time,
    store::{Body, Repository, Resolved, Result, corrupt_is_none},
    task,
};

/// Approximate memory for a layer.
const LAYER_BYTES: usize = 200;

/// The result of folding a tag, and its inputs.
#[derive(Clone)]
pub(super) struct Memo {
    parts: Vec<Dated>,
    pointed: Option<Dated>,
    /// Every layer of every part.
    layers: BTreeSet<Sized>,
    lost: HashSet<Sized>,
    served: Option<Served>,
}

/// What a tag points at, without the manifest itself: that may have 4 MiB, and many callers may wait for one fold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointed {
    pub(super) digest: Digest,
    /// Whether cachectl merged it.
    pub(super) is_merged: bool,
    /// When the tag was written, by the store's clock.
    pub(super) modified: Option<Time>,
}

impl Pointed {
    pub(super) async fn of(found: &Resolved) -> Self {
        Self {
            digest: found.manifest.digest,
            is_merged: is_merged(&found.manifest).await,
            modified: found.modified,
        }
    }

    fn dated(&self) -> Dated {
        Dated {
            digest: self.digest,
            pushed: self.modified,
        }
    }
}

/// A manifest that readers get, and what it was made of.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) manifest: Manifest,
    pub(super) sources: Vec<Digest>,
}

impl Served {
    /// The pushed manifest, unchanged.
    pub(super) fn as_pushed(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.clone(),
            sources: vec![manifest.digest],
        }
    }

    /// Returns true if it differs from what was pushed.
    pub(super) fn is_derived(&self) -> bool {
        self.sources != [self.manifest.digest]
    }
}

impl Memo {
    fn bytes(&self) -> usize {
        let manifest = self.served.as_ref().map_or(0, |s| s.manifest.bytes.len());
        manifest + (self.layers.len() + self.lost.len() + self.parts.len()) * LAYER_BYTES
    }
}

/// The result of a fold, and the parts left out of it.
pub(super) struct Folding {
    pub(super) served: Option<Served>,
    pub(super) left_out: Vec<(Digest, LeftOut)>,
}

impl CacheTags {
    /// Folds the parts of a tag, and the manifest it points at if that is not one of them.
    ///
    /// The result is stored under its digest before it is returned. `None` if nothing of it can be read.
    pub(super) async fn fold(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: Vec<Dated>,
        pointed: Option<Pointed>,
    ) -> Result<Option<Manifest>> {
        // An earlier merge consists of the parts, or was dropped with them.
        let pointed = pointed.filter(|p| parts.is_empty() || !p.is_merged);
        let pointed_at = pointed.as_ref().map(Pointed::dated);
        if let Some(known) = self.remembered(repo, tag, &parts, pointed_at).await? {
            return Ok(known.map(|s| s.manifest));
        }
        let _flight = self.flights.lock((repo.name().clone(), tag.clone())).await;
        if let Some(known) = self.remembered(repo, tag, &parts, pointed_at).await? {
            return Ok(known.map(|s| s.manifest));
        }
        let folding = self.fold_again(repo, tag, parts, pointed).await?;
        for (digest, why) in &folding.left_out {
            tracing::info!(repo = %repo.name(), %tag, %digest, %why, "Part of a merged cache is left out");
        }
        Ok(folding.served.map(|s| s.manifest))
    }

    /// As [`Self::fold`], if the result is known without folding; otherwise `None`.
    pub(super) async fn recall(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: &[Dated],
        pointed: Option<&Pointed>,
    ) -> Result<Option<Option<Manifest>>> {
        let pointed = pointed.filter(|p| parts.is_empty() || !p.is_merged);
        let pointed = pointed.map(Pointed::dated);
        let known = self.remembered(repo, tag, parts, pointed).await?;
        Ok(known.map(|served| served.map(|s| s.manifest)))
    }

    /// The remembered fold of a tag, if folding would give the same now and all of it is stored.
    async fn remembered(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: &[Dated],
        pointed: Option<Dated>,
    ) -> Result<Option<Option<Served>>> {
        let key = (repo.name().clone(), tag.clone());
        let memo = self.memos.lock().get(&key).cloned();
        let Some(memo) = memo.filter(|m| m.parts == parts && m.pointed == pointed) else {
            return Ok(None);
        };
        if self.lost(repo, memo.layers).await? != memo.lost {
            return Ok(None);
        }
        let Some(served) = memo.served else {
            return Ok(Some(None));
        };
        if !self.has_config(repo, &served.manifest).await? {
            return Ok(None);
        }
        if !is_stored(repo, &served.manifest).await? {
            self.keep(repo, tag, &served).await?;
        }
        Ok(Some(Some(served)))
    }

    /// Folds even if the result is remembered; the caller holds the tag's flight.
    pub(super) async fn fold_again(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: Vec<Dated>,
        pointed: Option<Pointed>,
    ) -> Result<Folding> {
        let mut settled = Settled::default();
        loop {
            let folding = self.fold_settled(repo, tag, &parts, pointed, &settled);
            match folding.await? {
                Ok(folding) => return Ok(folding),
                Err(unsettled) => self.settle(repo, unsettled, &mut settled).await?,
            }
        }
    }

    async fn fold_settled(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: &[Dated],
        pointed: Option<Pointed>,
        settled: &Settled,
    ) -> Result<std::result::Result<Folding, Unsettled>> {
        let place = self.place(repo).await;
        let mut found = self.gather(repo, parts, false).await?;
        // A part that cannot be read now may reappear under the same digest.
        let mut lasts = !found
            .left_out
            .iter()
            .any(|(_, w)| *w == LeftOut::Unreadable);
        let pointed_at = pointed.as_ref().map(Pointed::dated);
        let is_part = |p: &Pointed| parts.iter().any(|d| d.digest == p.digest);
        if let Some(pointed) = pointed.filter(|p| !is_part(p)) {
            lasts &= self.add_stray(repo, tag, &pointed, &mut found).await?;
        }
        let key = lasts.then(|| (parts.to_vec(), pointed_at));
        let served = self.serve(repo, tag, place, found.read, key, settled);
        Ok(served.await?.map(|served| Folding {
            served,
            left_out: found.left_out,
        }))
    }

    /// Makes one manifest of parts, stores it and remembers it under `key`: the tag's parts and what it points at. Does none of this if a
    /// disputed layer must be settled first.
    pub(super) async fn serve(
        &self,
        repo: &Repository,
        tag: &Tag,
        place: MergePermit,
        parts: Vec<Part>,
        key: Option<(Vec<Dated>, Option<Dated>)>,
        settled: &Settled,
    ) -> Result<std::result::Result<Option<Served>, Unsettled>> {
        let layers = all_layers(&parts);
        let lost = self.lost(repo, layers.clone()).await?;
        let (joined, sources) = match self.join(repo, parts, lost.clone(), settled).await {
            Ok(joined) => joined,
            Err(unsettled) => return Ok(Err(unsettled)),
        };
        // Storing waits for the store, and keeps at most two documents in memory.
        drop(place);
        let served = match joined {
            Some(joined) => {
                put_config(repo, &joined).await?;
                let manifest = joined.manifest;
                let served = Served { manifest, sources };
                self.keep(repo, tag, &served).await?;
                Some(served)
            }
            None => None,
        };
        if let Some((parts, pointed)) = key {
            let memo = Memo {
                parts,
                pointed,
                layers,
                lost,
                served: served.clone(),
            };
            self.remember(repo, tag, memo);
        }
        Ok(Ok(served))
    }

    /// Adds the manifest a tag points at although it is not one of its parts, unless it was made of them; `false` if it cannot be read now.
    /// A foreign manifest copied here counts as one more part.
    async fn add_stray(
        &self,
        repo: &Repository,
        tag: &Tag,
        pointed: &Pointed,
        found: &mut Gathered,
    ) -> Result<bool> {
        if self
            .is_own_fold(repo, tag, pointed, found.read.is_empty())
            .await?
        {
            return Ok(true);
        }
        let found_now = repo.manifest(&Reference::Tag(tag.clone())).await?;
        // If someone else has moved the tag meanwhile, the next reader handles that.
        let Some(same) = found_now.filter(|f| f.manifest.digest == pointed.digest) else {
            return Ok(false);
        };
        let Some(stray) = self.read_part(repo, &same.manifest).await? else {
            return Ok(false);
        };
        let stray = stray.pushed_at(pointed.modified);
        // A part served without lost layers is contained in the part.
        let read = std::mem::take(&mut found.read);
        found.read = task::blocking(move || {
            let mut read = read;
            if !read.iter().any(|part| contains(part, &stray)) {
                read.push(stray);
            }
            read
        })
        .await;
        Ok(true)
    }

    /// Returns true if the config of the folded manifest is still stored.
    async fn has_config(&self, repo: &Repository, folded: &Manifest) -> Result<bool> {
        let facts = self.facts_of(folded).await;
        let Some(contents) = &facts.contents else {
            return Ok(true);
        };
        let wanted = [contents.config].into();
        Ok(self.lost(repo, wanted).await?.is_empty())
    }

    /// One manifest of all parts, without lost layers and those that a part describes wrongly, and the digests of the parts. The caller
    /// holds a merge permit.
    pub(super) async fn join(
        &self,
        repo: &Repository,
        parts: Vec<Part>,
        lost: HashSet<Sized>,
        settled: &Settled,
    ) -> std::result::Result<(Option<Joined>, Vec<Digest>), Unsettled> {
        let sources = parts.iter().map(|p| p.manifest.manifest().digest);
        let sources: Vec<Digest> = sources.collect();
        let looked_over = move || (Dispute::of(&parts, &lost), parts, lost);
        let (dispute, parts, lost) = task::blocking(looked_over).await;
        let claims = self.claims(repo, dispute, settled)?;
        let joined = task::blocking(move || join::join(parts, &lost, &claims)).await;
        for digest in &joined.pruned {
            self.count(|c| &c.pruned, 1);
            tracing::info!(%digest, "Cache is served without its missing layers");
        }
        if joined.is_merge {
            self.count(|c| &c.merged, 1);
        }
        if joined.dropped_records > 0 {
            self.count(|c| &c.dropped_records, joined.dropped_records);
            tracing::warn!(
                records = joined.dropped_records,
                "Merged cache reached BuildKit's limit of 1 MiB; the oldest records of parts that exceed their share are left out"
            );
        }
        Ok((joined.result, sources))
    }

    /// Stores a manifest and the record of its parts, unless they are already stored.
    async fn keep(&self, repo: &Repository, tag: &Tag, served: &Served) -> Result<()> {
        if served.is_derived() {
            self.record(repo, tag, served).await?;
        }
        put_if_missing(repo, &served.manifest).await
    }

    fn remember(&self, repo: &Repository, tag: &Tag, memo: Memo) {
        let mut memos = self.memos.lock();
        memos.remove(&(repo.name().clone(), tag.clone()));
        let bytes: usize = memos.values().map(Memo::bytes).sum();
        if bytes + memo.bytes() > MAX_MEMO_BYTES {
            memos.clear();
        }
        memos.insert((repo.name().clone(), tag.clone()), memo);
    }
}

/// Every layer of every part.
fn all_layers(parts: &[Part]) -> BTreeSet<Sized> {
    parts.iter().flat_map(|p| layers(&p.manifest)).collect()
}

/// Stores a merged config; readers of the repository may fetch it, since it reveals nothing beyond the configs of its parts.
pub(super) async fn put_config(repo: &Repository, joined: &Joined) -> Result<()> {
    if let Some((config, bytes)) = &joined.config {
        let body = Body::Bytes(bytes.clone());
        repo.put_blob(config, &body).await?;
        repo.link(&config.digest).await?;
    }
    Ok(())
}

/// Stores a manifest that cachectl created, unless it is already stored.
pub(super) async fn put_if_missing(repo: &Repository, manifest: &Manifest) -> Result<()> {
    if is_stored(repo, manifest).await? {
        return Ok(());
    }
    repo.put_manifest(manifest, &[]).await
}

/// Returns true if a manifest can be read by its digest. The lookup also keeps a prune from removing marked bytes.
async fn is_stored(repo: &Repository, manifest: &Manifest) -> Result<bool> {
    let size = manifest.bytes.len() as u64;
    let known = corrupt_is_none(repo.known(&manifest.digest).await)?;
    if known.is_none_or(|k| k.size != size || k.media_type != manifest.media_type) {
        return Ok(false);
    }
    match repo.store().stat(&manifest.digest).await {
        // If the store is unreachable, assume that it is stored; a reader by digest is held until the store is back.
        Err(e) if e.is_temporary() => Ok(true),
        stat => Ok(stat? == Some(size)),
    }
}

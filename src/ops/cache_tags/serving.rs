//! Answers readers of a tag or digest: from records as far as possible, before a manifest is read.

use super::{CacheTags, dated::Dated, fold::Pointed, written};
use crate::{
    artifact::{Manifest, Reference, Tag, buildkit::MAX_CONFIG_BYTES},
    digest::Digest,
    entry::Time,
    store::{Error, ErrorKind, Pointer, Repository, Result},
};

/// What a tag or digest points at by its record; an error for a tag that is damaged.
#[derive(Debug)]
pub struct Found(std::result::Result<Pointer, Error>);

/// What a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The manifest itself, not only its metadata.
    pub bytes: bool,
    /// The tag is folded if necessary: the caller holds a merge permit.
    pub folds: bool,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Answer {
    /// Nothing: it is gone, or unusable.
    Gone,
    /// Nothing until the tag is folded.
    Folds,
    /// This manifest.
    Ready(Box<Ready>),
}

/// A manifest that can be served.
#[derive(Debug)]
pub struct Ready {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// When its tag was last written.
    pub modified: Option<Time>,
    /// The manifest itself, if requested or already in memory.
    pub manifest: Option<Manifest>,
}

impl From<Pointer> for Ready {
    fn from(at: Pointer) -> Self {
        Self {
            digest: at.digest,
            media_type: at.media_type,
            size: at.size,
            modified: at.modified,
            manifest: at.manifest,
        }
    }
}

impl Found {
    /// The digest in the record; a merged tag may be served under another one.
    pub fn digest(&self) -> Option<&Digest> {
        self.0.as_ref().ok().map(|at| &at.digest)
    }
}

impl CacheTags {
    /// Looks up the record of a tag or digest. Stores that keep no such record read the manifest for it.
    pub async fn find(&self, repo: &Repository, reference: &Reference) -> Result<Option<Found>> {
        let found = match reference {
            Reference::Tag(tag) => repo.pointer(tag).await,
            Reference::Digest(digest) => repo.pointer_to(digest).await,
        };
        match found {
            Err(e) if is_damaged(&e, reference) => Ok(Some(Found(Err(e)))),
            found => Ok(found?.map(|at| Found(Ok(at)))),
        }
    }

    /// The recorded size of a manifest that [`Self::answer`] is about to read; 0 if it will not read one, or has already read it.
    pub fn to_read(&self, found: &Found, want: Want) -> u64 {
        let Found(Ok(at)) = found else { return 0 };
        let is_known = || self.known_facts(&at.digest, &at.media_type).is_some();
        if at.manifest.is_some() || (!want.bytes && is_known()) {
            return 0;
        }
        at.size
    }

    /// What a reader gets. A merged tag counts as written when its last part was.
    pub async fn answer(
        &self,
        repo: &Repository,
        reference: &Reference,
        found: Found,
        want: Want,
    ) -> Result<Answer> {
        match reference {
            Reference::Tag(tag) => {
                let answer = self.serve_tag(repo, tag, found, want).await?;
                if let Answer::Ready(ready) = &answer {
                    self.tell(repo, ready.digest);
                }
                Ok(answer)
            }
            Reference::Digest(_) => self.serve_digest(repo, found.0?, want).await,
        }
    }

    /// The manifest for a reader that may wait for everything.
    #[cfg(test)]
    pub async fn resolve(
        &self,
        repo: &Repository,
        reference: &Reference,
    ) -> Result<Option<Manifest>> {
        let want = Want {
            bytes: true,
            folds: true,
        };
        let Some(found) = self.find(repo, reference).await? else {
            return Ok(None);
        };
        match self.answer(repo, reference, found, want).await? {
            Answer::Ready(ready) => Ok(ready.manifest),
            Answer::Gone | Answer::Folds => Ok(None),
        }
    }

    async fn serve_digest(&self, repo: &Repository, mut at: Pointer, want: Want) -> Result<Answer> {
        let digest = at.digest;
        let size = repo.store().stat(&digest);
        let (size, facts) = tokio::join!(size, self.facts(repo, &mut at));
        // The lookup renews a blob that a prune has marked; one about to be removed counts as gone.
        let Some(size) = size? else {
            return Ok(Answer::Gone);
        };
        let facts = facts?;
        if let Some(contents) = &facts.contents
            && !self.was_told(repo, &at.digest)
            && !self.lost(repo, contents.all()).await?.is_empty()
        {
            tracing::info!(digest = %at.digest, "Incomplete cache is not served by digest");
            return Ok(Answer::Gone);
        }
        ready(repo, at, want, Some(size)).await
    }

    /// A tag exists if it points at something. Parts alone are leftovers of a deletion, or belong to an unfinished export.
    async fn serve_tag(
        &self,
        repo: &Repository,
        tag: &Tag,
        found: Found,
        want: Want,
    ) -> Result<Answer> {
        let served = match found.0 {
            Ok(at) => self.serve_pointed(repo, tag, at, want).await,
            Err(e) => Err(e),
        };
        match served {
            Err(e) if e.kind == ErrorKind::Corrupt => self.serve_damaged(repo, tag, e, want).await,
            served => served,
        }
    }

    async fn serve_pointed(
        &self,
        repo: &Repository,
        tag: &Tag,
        mut at: Pointer,
        want: Want,
    ) -> Result<Answer> {
        let facts = self.facts(repo, &mut at).await?;
        let Some(contents) = &facts.contents else {
            return ready(repo, at, want, None).await;
        };
        // It is too large to be parsed. If it is the only part, it need not be.
        if contents.config.1 > MAX_CONFIG_BYTES as u64 && self.dated(repo, tag).await?.is_empty() {
            return if self.lost(repo, contents.all()).await?.is_empty() {
                ready(repo, at, want, None).await
            } else {
                Ok(Answer::Gone)
            };
        }
        let pointed = Pointed {
            digest: at.digest,
            is_merged: facts.is_merged,
            modified: at.modified,
        };
        // A fold may wait for others: nothing large stays in memory until it starts.
        drop(at);
        let parts = self.dated(repo, tag).await?;
        self.serve_folded(repo, tag, parts, Some(pointed), want)
            .await
    }

    /// As long as there are parts, a damaged pointer can be rebuilt.
    async fn serve_damaged(
        &self,
        repo: &Repository,
        tag: &Tag,
        error: Error,
        want: Want,
    ) -> Result<Answer> {
        let parts = self.dated(repo, tag).await?;
        if parts.is_empty() {
            return Err(error);
        }
        tracing::warn!(%error, "Tag of a merged cache points at a damaged manifest");
        self.serve_folded(repo, tag, parts, None, want).await
    }

    async fn serve_folded(
        &self,
        repo: &Repository,
        tag: &Tag,
        parts: Vec<Dated>,
        pointed: Option<Pointed>,
        want: Want,
    ) -> Result<Answer> {
        let modified = written(&parts).or(pointed.and_then(|p| p.modified));
        let known = self.recall(repo, tag, &parts, pointed.as_ref()).await?;
        let folded = match known {
            Some(known) => known,
            None if want.folds => self.fold(repo, tag, parts, pointed).await?,
            None => return Ok(Answer::Folds),
        };
        Ok(folded.map_or(Answer::Gone, |manifest| {
            Answer::Ready(Box::new(Ready {
                digest: manifest.digest,
                media_type: manifest.media_type.clone(),
                size: manifest.bytes.len() as u64,
                modified,
                manifest: Some(manifest),
            }))
        }))
    }
}

fn is_damaged(e: &Error, reference: &Reference) -> bool {
    e.kind == ErrorKind::Corrupt && matches!(reference, Reference::Tag(_))
}

/// A manifest as recorded, read if wanted; its bytes are stored in any case. `size` is their stored size, if it was looked up.
async fn ready(
    repo: &Repository,
    mut at: Pointer,
    want: Want,
    size: Option<u64>,
) -> Result<Answer> {
    if at.manifest.is_none() && want.bytes {
        at.manifest = Some(repo.manifest_at(&at).await?);
    }
    if at.manifest.is_none() {
        let size = match size {
            Some(size) => Some(size),
            None => repo.store().stat(&at.digest).await?,
        };
        if size != Some(at.size) {
            let lost = Error::corrupt("resolve", "its bytes are missing");
            return Err(lost.at("", at.digest));
        }
    }
    Ok(Answer::Ready(Box::new(at.into())))
}

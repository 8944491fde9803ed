//! Whether a caller sees what a served cache is made of.
//!
//! A cache is served without the layers that the store has lost. Of a layer that its caller may not see, that would tell whether
//! somebody else has it. Manifests that were pushed under this rule name no such layer; of one that an older release took, nothing
//! is served to callers who do not see all of it.

use super::{Registry, Sight, error::Refusal};
use crate::{
    artifact::{
        Manifest, Reference,
        buildkit::{CacheManifest, is_merged},
        outline::Outline,
    },
    digest::Digest,
    store::{ErrorKind, Repository},
    task,
};

impl Registry {
    /// Returns false if a cache is not to be served to a caller: it, or a part that it is merged from, names what that caller does
    /// not see. Asks nothing of what the store holds beyond that.
    pub(super) async fn sees_sources(
        &self,
        repository: &Repository,
        reference: &Reference,
        sight: Sight,
    ) -> Result<bool, Refusal> {
        if sight == Sight::All {
            return Ok(true);
        }
        let (own, parts) = match reference {
            Reference::Tag(tag) => (repository.pointed(tag).await?, repository.parts(tag).await?),
            Reference::Digest(digest) => (Some(*digest), Vec::new()),
        };
        if let Some(own) = own {
            // What was merged of parts is made of them again.
            let is_alone = parts.is_empty();
            let is_own = move |m: &Manifest| is_alone || !is_merged(m);
            if !self.sees_all_of(repository, own, is_own).await? {
                return Ok(false);
            }
        }
        for part in &parts {
            if !self.sees_all_of(repository, part.digest, |_| true).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a caller sees all that a manifest names, if it is a cache that `counts`. Those that were pushed under the rule are not
    /// read: they may have 4 MiB each.
    async fn sees_all_of(
        &self,
        repository: &Repository,
        digest: Digest,
        counts: impl FnOnce(&Manifest) -> bool + Send + 'static,
    ) -> Result<bool, Refusal> {
        if repository.is_checked(&digest).await? {
            return Ok(true);
        }
        let found = manifest(repository, &digest.into()).await?;
        let Some(found) = found else {
            return Ok(true);
        };
        let read = task::parse(found.bytes.len(), move || {
            let is_cache = matches!(CacheManifest::read(&found), Ok(Some(_))) && counts(&found);
            is_cache.then(|| Outline::of_stored(&found).ok()).flatten()
        });
        let Some(outline) = read.await else {
            return Ok(true);
        };
        // This daemon may not know yet what another one stored.
        self.sights.heard_of(repository.name(), &digest);
        for child in outline.children() {
            if !self.sights.sees(repository, &child.digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A manifest; `None` also for one that is lost or damaged: whoever serves it will say so.
async fn manifest(
    repository: &Repository,
    reference: &Reference,
) -> Result<Option<Manifest>, Refusal> {
    match repository.manifest(reference).await {
        Ok(found) => Ok(found.map(|f| f.manifest)),
        Err(e) if e.kind == ErrorKind::Corrupt => Ok(None),
        Err(e) => Err(e.into()),
    }
}

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
    store::{ErrorKind, Repository},
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
        let found = manifest(repository, reference).await?;
        let mut parts = Vec::new();
        if let Reference::Tag(tag) = reference {
            parts = repository.parts(tag).await?;
        }
        // What was merged of parts is made of them again.
        let own = found.filter(|m| parts.is_empty() || !is_merged(m));
        if let Some(own) = own
            && !self.sees_all_of(repository, &own).await?
        {
            return Ok(false);
        }
        for part in parts {
            if repository.is_checked(&part.digest).await? {
                continue;
            }
            let found = manifest(repository, &part.digest.into()).await?;
            if let Some(found) = found
                && !self.sees_all_of(repository, &found).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn sees_all_of(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<bool, Refusal> {
        if !matches!(CacheManifest::read(manifest), Ok(Some(_)))
            || repository.is_checked(&manifest.digest).await?
        {
            return Ok(true);
        }
        let Ok(outline) = Outline::of_stored(manifest) else {
            return Ok(true);
        };
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

//! Whether a caller sees everything that a served cache consists of.
//!
//! A cache is served without the layers that the store has lost. If a caller may not see a layer, leaving it out would reveal
//! whether somebody else has it. Manifests that were pushed under this rule name no such layer; a manifest accepted by an older
//! release is not served at all to callers who do not see everything in it.

use super::{Registry, Sight, manifests::LARGE};
use crate::{
    artifact::{
        Manifest, Reference,
        buildkit::{CacheManifest, is_merged},
        outline::Outline,
    },
    digest::Digest,
    serve::{admission::Ticket, refusal::Refusal},
    store::{Error, ErrorKind, Repository},
    task,
};

impl Registry {
    /// Returns false if a cache must not be served to a caller: it, or a part that it is merged from, names a digest that the
    /// caller does not see. The result does not depend on what else the store holds.
    pub(super) async fn sees_sources(
        &self,
        repository: &Repository,
        reference: &Reference,
        sight: Sight,
        ticket: &Ticket,
    ) -> Result<bool, Refusal> {
        if sight == Sight::All {
            return Ok(true);
        }
        let (own, parts) = match reference {
            Reference::Tag(tag) => (repository.pointed(tag).await?, repository.parts(tag).await?),
            Reference::Digest(digest) => (Some(*digest), Vec::new()),
        };
        if let Some(own) = own {
            // What was merged from parts is merged from them again.
            let is_alone = parts.is_empty();
            let is_own = move |m: &Manifest| is_alone || !is_merged(m);
            if !self.sees_all_of(repository, own, ticket, is_own).await? {
                return Ok(false);
            }
        }
        for part in &parts {
            let sees = self.sees_all_of(repository, part.digest, ticket, |_| true);
            if !sees.await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a caller sees everything that a manifest names, if it is a cache that `counts`. Manifests that were pushed under
    /// the rule are not read: they may have 4 MiB each.
    async fn sees_all_of(
        &self,
        repository: &Repository,
        digest: Digest,
        ticket: &Ticket,
        counts: impl FnOnce(&Manifest) -> bool + Send + 'static,
    ) -> Result<bool, Refusal> {
        if repository.is_checked(&digest).await? {
            return Ok(true);
        }
        let Some(known) = repository.known(&digest).await.or_else(lost)? else {
            return Ok(true);
        };
        let place = if known.size > LARGE as u64 {
            ticket.place_in(|a| &a.large_manifests).await?
        } else {
            ticket.place_in(|a| &a.reads).await?
        };
        let found = repository.manifest_of(&digest, &known).await.map(Some);
        let Some(found) = found.or_else(lost)? else {
            return Ok(true);
        };
        let found = found.manifest;
        let read = task::parse(found.bytes.len(), move || {
            let is_cache = matches!(CacheManifest::read(&found), Ok(Some(_))) && counts(&found);
            is_cache.then(|| Outline::of_stored(&found).ok()).flatten()
        });
        let read = read.await;
        drop(place);
        let Some(outline) = read else {
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

/// Lost or damaged content counts as missing: serving it reports the error.
fn lost<T>(error: Error) -> Result<Option<T>, Error> {
    if error.kind == ErrorKind::Corrupt {
        Ok(None)
    } else {
        Err(error)
    }
}

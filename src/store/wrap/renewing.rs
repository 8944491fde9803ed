//! Renews what a prune has marked before it is reported to exist: [`crate::store::marked`] explains why.
#![deny(clippy::missing_trait_methods)]

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use async_trait::async_trait;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag, outline::Outline},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, Expect, Known, Pointer, Published, Put, RepoStore,
        Resolved, Result, Sweep, TagStore, marked::MarkedBlobs,
    },
    task,
};

/// A store that is pruned while it is used.
pub struct Renewing {
    inner: Arc<dyn RepoStore>,
    sweep: Arc<dyn Sweep>,
    marked: Arc<MarkedBlobs>,
}

impl Renewing {
    /// Renews what is requested from `inner`, by `sweep`.
    pub fn new(inner: Arc<dyn RepoStore>, sweep: Arc<dyn Sweep>, marked: Arc<MarkedBlobs>) -> Self {
        Self {
            inner,
            sweep,
            marked,
        }
    }
}

impl Renewing {
    /// Renews what a manifest names; for other blobs that is unknown. Terminates, since what was renewed is no longer marked.
    async fn renew_named(&self, digest: &Digest) -> Result<()> {
        let found = self.inner.resolve(&Reference::Digest(*digest)).await;
        let manifest = match found {
            Ok(Some(found)) => found.manifest,
            Ok(None) => return Ok(()),
            // As when the manifest itself cannot be renewed: denying that it exists would fail builds.
            Err(error) => {
                tracing::debug!(%digest, %error, "Could not renew what a marked manifest refers to");
                return Ok(());
            }
        };
        let outline = task::parse(manifest.bytes.len(), move || Outline::of_stored(&manifest));
        let Ok(outline) = outline.await else {
            return Ok(());
        };
        let named: BTreeSet<Digest> = outline.children().map(|n| n.digest).collect();
        for digest in named {
            self.stat(&digest).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Renewing {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        if self.marked.is_leaving(digest) {
            return Ok(None);
        }
        let size = self.inner.stat(digest).await?;
        if size.is_none() || !self.marked.has(digest) {
            return Ok(size);
        }
        let there = self.marked.renew(&*self.sweep, digest).await?;
        if there {
            self.renew_named(digest).await?;
        }
        Ok(size.filter(|_| there))
    }

    /// Readers have a name for it, or asked before; reading does not keep a blob.
    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.inner.get(desc, range).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let put = self.inner.put(desc, body).await?;
        if self.marked.renew(&*self.sweep, &desc.digest).await? {
            return Ok(put);
        }
        // It existed, but was removed before it could be renewed.
        self.inner.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for Renewing {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.inner.resolve(reference).await
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        self.inner.resolve_known(tag, known).await
    }

    /// Does nothing: a prune must not remove it before it is published.
    async fn stage(&self, _: &Manifest) -> Result<()> {
        Ok(())
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.inner.pointer(tag).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        // A manifest whose bytes existed already is a blob that was merely found.
        let known = self.marked.renew(&*self.sweep, &manifest.digest).await?;
        let published = self.inner.publish(manifest, tag, expect).await?;
        if known && !self.marked.renew(&*self.sweep, &manifest.digest).await? {
            let why = "a prune removed it at the same moment";
            return Err(Error::unavailable("publish", why).at("", manifest.digest));
        }
        Ok(published)
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.inner.tags(prefix).await
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        self.inner.tags_dated(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.inner.clock().await
    }
}

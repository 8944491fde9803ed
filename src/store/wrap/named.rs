//! Says in every error which store it was.
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Expect, Pointer, Published, Put, Resolved, Result, Store,
        TagStore,
    },
};

/// A store whose errors have its name, also those that a wrapper below made.
pub struct Named {
    inner: Arc<dyn Store>,
    name: Arc<str>,
}

impl Named {
    /// Names `inner`; `name` is its URL without secrets.
    pub fn new(inner: Arc<dyn Store>, name: &str) -> Self {
        Self {
            inner,
            name: name.into(),
        }
    }
}

#[async_trait]
impl BlobStore for Named {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let done = self.inner.stat(digest).await;
        done.map_err(|e| e.at(&self.name, digest))
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let done = self.inner.get(desc, range).await;
        let found = done.map_err(|e| e.at(&self.name, desc.digest))?;
        let (name, digest) = (self.name.clone(), desc.digest);
        Ok(found.map(|stream| stream.map_err(move |e| e.at(&name, digest)).boxed()))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let done = self.inner.put(desc, body).await;
        done.map_err(|e| e.at(&self.name, desc.digest))
    }
}

#[async_trait]
impl TagStore for Named {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let done = self.inner.resolve(reference).await;
        done.map_err(|e| e.at(&self.name, reference))
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let done = self.inner.pointer(tag).await;
        done.map_err(|e| e.at(&self.name, tag))
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let done = self.inner.publish(manifest, tag, expect).await;
        done.map_err(|e| match tag {
            Some(tag) => e.at(&self.name, tag),
            None => e.at(&self.name, manifest.digest),
        })
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let done = self.inner.tags(prefix).await;
        done.map_err(|e| e.at(&self.name, prefix))
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let done = self.inner.tags_dated(prefix).await;
        done.map_err(|e| e.at(&self.name, prefix))
    }

    async fn clock(&self) -> Result<Time> {
        let done = self.inner.clock().await;
        done.map_err(|e| e.at(&self.name, ""))
    }
}

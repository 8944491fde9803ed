//! Refuses every write, for jobs that may look but not touch.
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Published, Put, Resolved, Result,
        Store, TagStore,
    },
};

/// A store that can only be read.
pub struct ReadOnly {
    inner: Arc<dyn Store>,
}

impl ReadOnly {
    /// Takes the writes away from `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

fn denied(op: &'static str, key: impl std::fmt::Display) -> Error {
    let hint = "the store was opened read-only; leave out --read-only to write to it";
    Error::new(ErrorKind::Denied, op, hint).at("", key)
}

#[async_trait]
impl BlobStore for ReadOnly {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.inner.get(desc, range).await
    }

    async fn put(&self, desc: &Descriptor, _: &Body) -> Result<Put> {
        Err(denied("put", desc.digest))
    }
}

#[async_trait]
impl TagStore for ReadOnly {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.inner.resolve(reference).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        _: &Expect,
    ) -> Result<Published> {
        Err(match tag {
            Some(tag) => denied("publish", tag),
            None => denied("publish", manifest.digest),
        })
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.inner.tags(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.inner.clock().await
    }
}

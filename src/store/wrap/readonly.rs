//! Refuses every write, for jobs that may look but not touch.
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Pointer, Published, Put, Records,
        Resolved, Result, TagStore, Untag, keys::Repo, records::Listed,
    },
};

/// A store that can only be read; or its records, or its ability to remove tags.
pub struct ReadOnly<T: ?Sized> {
    inner: Arc<T>,
}

impl<T: ?Sized> ReadOnly<T> {
    /// Takes the writes away from `inner`.
    pub fn new(inner: Arc<T>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl<T: Untag + ?Sized> Untag for ReadOnly<T> {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        Err(denied("remove tag", tag))
    }
}

#[async_trait]
impl<T: Records + ?Sized> Records for ReadOnly<T> {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        self.inner.read_record(key, limit).await
    }

    async fn write_record(&self, key: &str, _: Bytes) -> Result<()> {
        Err(denied("write record", key))
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        Err(denied("remove record", key))
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list_records(prefix).await
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        self.inner.any_record(prefix).await
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        self.inner.repositories().await
    }
}

fn denied(op: &'static str, key: impl std::fmt::Display) -> Error {
    let hint = "the store was opened read-only; leave out --read-only to write to it";
    Error::new(ErrorKind::Denied, op, hint).at("", key)
}

#[async_trait]
impl<T: BlobStore + ?Sized> BlobStore for ReadOnly<T> {
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
impl<T: TagStore + ?Sized> TagStore for ReadOnly<T> {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.inner.resolve(reference).await
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.inner.pointer(tag).await
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

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        self.inner.tags_dated(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.inner.clock().await
    }
}

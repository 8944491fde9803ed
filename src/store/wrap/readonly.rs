//! Refuses writes to records and the removal of tags, for read-only jobs. Writes to stores are refused by
//! [`Guarded`](super::Guarded).
#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    artifact::Tag,
    store::{Error, Records, Result, Untag, keys::Repo, records::Listed},
};

/// A store's records, or its ability to remove tags, made read-only.
pub struct ReadOnly<T: ?Sized> {
    inner: Arc<T>,
}

impl<T: ?Sized> ReadOnly<T> {
    /// Refuses all writes to `inner`.
    pub fn new(inner: Arc<T>) -> Self {
        Self { inner }
    }
}

/// Why a write is refused.
pub(super) fn denied(op: &'static str) -> Error {
    let hint = "the store was opened read-only; leave out --read-only to write to it";
    Error::denied(op, hint)
}

#[async_trait]
impl Untag for ReadOnly<dyn Untag> {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        Err(denied("remove tag").at("", tag))
    }
}

#[async_trait]
impl Records for ReadOnly<dyn Records> {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        self.inner.read_record(key, limit).await
    }

    async fn write_record(&self, key: &str, _: Bytes) -> Result<()> {
        Err(denied("write record").at("", key))
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        Err(denied("remove record").at("", key))
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

//! The store's blobs: each an object under its digest.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Bucket, S3};
use crate::{
    artifact::{Descriptor, snapshot::EMPTY_CONTENT},
    digest::Digest,
    store::{
        BlobStore, Body, ByteStream, PushCheck, Put, error::Result, keyed::Condition, keys,
        push_check,
    },
};

#[async_trait]
impl BlobStore for Bucket {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let head = self.wire.head("stat", &keys::blob(digest)).await?;
        Ok(head.map(|h| h.size))
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.wire.get(&keys::blob(&desc.digest), desc, range).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.wire.put_blob(desc, body).await
    }
}

#[async_trait]
impl PushCheck for S3 {
    /// Writes the empty JSON object unless it exists: a store checks permissions before conditions.
    async fn check_push(&self) -> Result<()> {
        let key = keys::blob(&Digest::sha256_of(EMPTY_CONTENT));
        let bytes = Bytes::from_static(EMPTY_CONTENT);
        let wire = &self.objects.wire;
        let written = wire.write("put", &key, bytes, Condition::Absent).await;
        push_check::refusal(written).map_err(|e| e.at(&wire.url, ""))
    }
}

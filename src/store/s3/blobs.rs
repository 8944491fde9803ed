//! The store's blobs: each an object under its digest.

use std::ops::Range;

use async_trait::async_trait;

use super::S3;
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{BlobStore, Body, ByteStream, Put, error::Result, keys},
};

#[async_trait]
impl BlobStore for S3 {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let head = self.wire.head("stat", &keys::blob(digest)).await;
        Ok(head
            .map_err(|e| e.at(&self.wire.url, digest))?
            .map(|h| h.size))
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let key = keys::blob(&desc.digest);
        let got = self.wire.get(&key, desc, range).await;
        got.map_err(|e| e.at(&self.wire.url, desc.digest))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let put = self.wire.put_blob(desc, body).await;
        put.map_err(|e| e.at(&self.wire.url, desc.digest))
    }
}

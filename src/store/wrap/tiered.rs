//! Disk in front, remote behind, write-through: what is acknowledged, the remote has.
//!
//! The front only ever saves a transfer. Names, sizes and the clock are asked of the remote, since others write there too;
//! a front that fails (full, slow lock) is passed by with a warning, never an error. Wrap the front in [`super::Verified`]:
//! then a small blob that is damaged there comes from the remote, and a big one ends with an error, never with wrong bytes.
#![deny(clippy::missing_trait_methods)]

use std::{io::Write as _, ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, Expect, Published, Put, Resolved, Result, SpoolWriter,
        Store, TagStore,
    },
    task,
};

/// How the front is used.
#[derive(Debug, Clone)]
pub struct Front {
    /// Where blobs are spooled on their way into it; best on its own file system.
    pub spool_dir: PathBuf,
    /// Bigger blobs are not kept in it.
    pub max_blob_bytes: u64,
}

/// A store behind another one that is nearer.
pub struct Tiered {
    near: Arc<dyn Store>,
    remote: Arc<dyn Store>,
    front: Front,
}

impl Tiered {
    /// Puts `near` in front of `remote`.
    pub fn new(near: Arc<dyn Store>, remote: Arc<dyn Store>, front: Front) -> Self {
        Self {
            near,
            remote,
            front,
        }
    }

    fn keeps(&self, size: u64) -> bool {
        size <= self.front.max_blob_bytes
    }

    async fn keep_manifest(&self, manifest: &Manifest) {
        let kept = self.near.publish(manifest, None, &Expect::Anything).await;
        passed_by(kept);
    }
}

fn passed_by<T>(done: Result<T>) -> Option<T> {
    done.inspect_err(|error| tracing::warn!(%error, "The store in front is passed by"))
        .ok()
}

/// A whole blob on its way from the remote, kept in front when it is complete.
struct Filling {
    inner: ByteStream,
    desc: Descriptor,
    near: Arc<dyn Store>,
    /// `None` once the front gave up.
    spool: Option<SpoolWriter>,
}

impl Filling {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(piece) = self.inner.try_next().await? else {
            if let Some(spool) = self.spool.take() {
                self.keep(spool).await;
            }
            return Ok(None);
        };
        if let Some(mut spool) = self.spool.take() {
            let bytes = piece.clone();
            self.spool = task::blocking(move || {
                let written = spool.write_all(&bytes);
                written
                    .inspect_err(|error| tracing::warn!(%error, "The store in front is passed by"))
                    .ok()
                    .map(|()| spool)
            })
            .await;
        }
        Ok(Some(piece))
    }

    async fn keep(&mut self, spool: SpoolWriter) {
        let spool = Arc::new(task::blocking(move || spool.finish()).await);
        // Damaged bytes are the reader's to notice; here they are only not kept.
        if spool.digest() == self.desc.digest {
            passed_by(self.near.put(&self.desc, &Body::Spool(spool)).await);
        }
    }
}

#[async_trait]
impl BlobStore for Tiered {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.remote.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        if let Some(Some(stream)) = passed_by(self.near.get(desc, range.clone()).await) {
            return Ok(Some(stream));
        }
        let whole = range == (0..desc.size);
        let Some(stream) = self.remote.get(desc, range).await? else {
            return Ok(None);
        };
        // The spool hashes by SHA-256 only.
        if !whole || !self.keeps(desc.size) || !matches!(desc.digest, Digest::Sha256(_)) {
            return Ok(Some(stream));
        }
        let dir = self.front.spool_dir.clone();
        let filling = Filling {
            inner: stream,
            desc: desc.clone(),
            near: self.near.clone(),
            spool: passed_by(task::blocking(move || SpoolWriter::create(&dir)).await),
        };
        Ok(Some(
            stream::try_unfold(filling, |mut f| async move {
                Ok::<_, Error>(f.next().await?.map(|piece| (piece, f)))
            })
            .boxed(),
        ))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let done = self.remote.put(desc, body).await?;
        if self.keeps(desc.size) {
            passed_by(self.near.put(desc, body).await);
        }
        Ok(done)
    }
}

#[async_trait]
impl TagStore for Tiered {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        // What a digest stands for never changes; what a tag stands for only the remote knows.
        if matches!(reference, Reference::Digest(_))
            && let Some(Some(found)) = passed_by(self.near.resolve(reference).await)
        {
            return Ok(Some(found));
        }
        let found = self.remote.resolve(reference).await?;
        if let Some(found) = &found {
            self.keep_manifest(&found.manifest).await;
        }
        Ok(found)
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let done = self.remote.publish(manifest, tag, expect).await?;
        if done == Published::Done {
            self.keep_manifest(manifest).await;
        }
        Ok(done)
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.remote.tags(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.remote.clock().await
    }
}

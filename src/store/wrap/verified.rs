//! Checks bytes against their digest, in both directions.
//!
//! A small blob is read whole, checked, and fetched once more if it is damaged (bits may flip in transit as well as in the
//! store). A bigger one is streamed, and its last piece is held back until everything is hashed: a reader that reaches the end
//! without an error has the right bytes. A range cannot be checked and is passed through: its readers check frames.
//!
//! For a daemon it also remembers which blobs were read with wrong bytes: see [`DamagedBlobs`].
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, future::ready, stream};

use super::DamagedBlobs;
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::{Digest, Hasher},
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Known, Pointer, Published, Put,
        RepoStore, Resolved, Result, TagStore, check_body, check_manifest,
    },
};

/// Blobs of up to this many bytes are checked before their first byte is returned.
const SMALL_BYTES: u64 = 4 << 20;

/// A store that returns the right bytes or an error.
pub struct Verified {
    inner: Arc<dyn RepoStore>,
    /// `None`: nothing is remembered.
    damaged: Option<DamagedBlobs>,
}

impl Verified {
    /// Checks everything written to and read from `inner`.
    pub fn new(inner: Arc<dyn RepoStore>) -> Self {
        Self {
            inner,
            damaged: None,
        }
    }

    /// The same; damaged blobs are added to `damaged`, and count as absent as long as they are listed there.
    pub fn remembering(inner: Arc<dyn RepoStore>, damaged: DamagedBlobs) -> Self {
        Self {
            inner,
            damaged: Some(damaged),
        }
    }

    /// The remembered blobs, if this one is among them.
    fn found_damaged(&self, digest: &Digest) -> Option<&DamagedBlobs> {
        self.damaged
            .as_ref()
            .filter(|damaged| damaged.contain(digest))
    }

    async fn get_checked(
        &self,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        if range != (0..desc.size) {
            return self.inner.get(desc, range).await;
        }
        if desc.size <= SMALL_BYTES {
            return self.get_small(desc).await;
        }
        let found = self.inner.get(desc, range).await?;
        Ok(found.map(|stream| checked(stream, desc)))
    }

    /// Reads the stored blob again: it may have been damaged only in transit.
    async fn is_whole(&self, desc: &Descriptor) -> bool {
        match self.get_checked(desc, 0..desc.size).await {
            Ok(Some(stream)) => stream.try_for_each(|_| ready(Ok(()))).await.is_ok(),
            _ => false,
        }
    }

    async fn get_small(&self, desc: &Descriptor) -> Result<Option<ByteStream>> {
        match self.read_small(desc).await {
            Err(e) if e.kind == ErrorKind::Corrupt => {
                tracing::debug!(digest = %desc.digest, error = %e, "Damaged blob fetched again");
                self.read_small(desc).await
            }
            other => other,
        }
        .map(|found| found.map(|bytes| Body::Bytes(bytes).stream(0..desc.size)))
    }

    async fn read_small(&self, desc: &Descriptor) -> Result<Option<Bytes>> {
        let Some(mut stream) = self.inner.get(desc, 0..desc.size).await? else {
            return Ok(None);
        };
        let mut bytes = BytesMut::with_capacity(desc.size as usize);
        while let Some(piece) = stream.try_next().await? {
            if (bytes.len() + piece.len()) as u64 > desc.size {
                return Err(damaged(desc, "received more bytes than its size"));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != desc.size || !desc.digest.matches(&bytes) {
            return Err(damaged(desc, "its bytes do not match its digest"));
        }
        Ok(Some(bytes.freeze()))
    }
}

fn damaged(desc: &Descriptor, message: &str) -> Error {
    Error::corrupt("get", message).at("", desc.digest)
}

/// A whole blob in transit.
struct Checking {
    inner: ByteStream,
    desc: Descriptor,
    hasher: Hasher,
    seen: u64,
    held: Option<Bytes>,
}

impl Checking {
    /// The next piece that may be returned.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(piece) = self.inner.try_next().await? {
            self.seen += piece.len() as u64;
            if self.seen > self.desc.size {
                return Err(damaged(&self.desc, "received more bytes than its size"));
            }
            self.hasher.update(&piece);
            if let Some(before) = self.held.replace(piece) {
                return Ok(Some(before));
            }
        }
        let Some(last) = self.held.take() else {
            return Ok(None);
        };
        if self.seen == self.desc.size && self.hasher.clone().finish() == self.desc.digest {
            Ok(Some(last))
        } else {
            Err(damaged(&self.desc, "its bytes do not match its digest"))
        }
    }
}

fn checked(inner: ByteStream, desc: &Descriptor) -> ByteStream {
    let state = Checking {
        inner,
        desc: desc.clone(),
        hasher: desc.digest.hasher(),
        seen: 0,
        held: None,
    };
    stream::try_unfold(state, |mut s| async move {
        Ok(s.next().await?.map(|piece| (piece, s)))
    })
    .boxed()
}

#[async_trait]
impl BlobStore for Verified {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        if self.found_damaged(digest).is_some() {
            return Ok(None);
        }
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let found = self.get_checked(desc, range).await;
        match &self.damaged {
            Some(damaged) => damaged.watch(&self.inner, desc, found).await,
            None => found,
        }
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        check_body("put", desc, body).await?;
        let Some(damaged) = self.found_damaged(&desc.digest) else {
            return self.inner.put(desc, body).await;
        };
        let put = match &damaged.sweep {
            // It is never absent meanwhile, and records of repositories are kept: it may belong to others too.
            Some(sweep) => {
                sweep.replace(desc, body).await?;
                Put::Stored
            }
            None => self.inner.put(desc, body).await?,
        };
        if put == Put::Stored || self.is_whole(desc).await {
            damaged.forget(&desc.digest);
        }
        Ok(put)
    }
}

#[async_trait]
impl TagStore for Verified {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let mut found = self.inner.resolve(reference).await;
        if let Err(e) = check_resolved(reference, &found) {
            tracing::debug!(%reference, error = %e, "Damaged manifest fetched again");
            found = self.inner.resolve(reference).await;
            check_resolved(reference, &found)?;
        }
        found
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        let found = self.inner.resolve_known(tag, known).await;
        let reference = tag.clone().into();
        match check_resolved(&reference, &found) {
            Ok(()) => found,
            // Reads it again, and reports what is damaged.
            Err(_) => self.resolve(&reference).await,
        }
    }

    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        check_manifest(manifest)?;
        self.inner.stage(manifest).await
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
        check_manifest(manifest)?;
        self.inner.publish(manifest, tag, expect).await
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

fn check_resolved(reference: &Reference, found: &Result<Option<Resolved>>) -> Result<()> {
    let Ok(Some(found)) = found else {
        return Ok(());
    };
    let manifest = &found.manifest;
    let asked = match reference {
        Reference::Digest(d) => d,
        Reference::Tag(_) => &manifest.digest,
    };
    if manifest.digest == *asked && asked.matches(&manifest.bytes) {
        return Ok(());
    }
    let message = format!("the manifest's bytes do not match {asked}");
    Err(Error::corrupt("resolve", message).at("", reference))
}

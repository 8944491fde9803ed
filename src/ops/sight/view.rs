//! A repository's store as visible to a caller who may read only some repositories.
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;

use super::Sights;
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, Expect, Known, Pointer, Published, Put, Repository,
        Resolved, Result, TagStore,
    },
};

/// Answers only for what such a caller sees: anything else appears absent, whether or not the store has it. Rejects writes.
pub struct View {
    repository: Repository,
    sights: Arc<Sights>,
}

impl View {
    /// A view of one repository.
    pub fn new(repository: Repository, sights: Arc<Sights>) -> Self {
        Self { repository, sights }
    }
}

fn refused(op: &'static str, what: impl std::fmt::Display) -> Error {
    let why = "callers without read access to every repository cannot write here";
    Error::denied(op, why).at("", what)
}

#[async_trait]
impl BlobStore for View {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        if self.sights.sees(&self.repository, digest).await? {
            return self.repository.store().stat(digest).await;
        }
        Ok(None)
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        if self.sights.sees(&self.repository, &desc.digest).await? {
            return self.repository.store().get(desc, range).await;
        }
        Ok(None)
    }

    async fn put(&self, desc: &Descriptor, _: &Body) -> Result<Put> {
        Err(refused("put", desc.digest))
    }
}

#[async_trait]
impl TagStore for View {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        // By digest, only manifests with a record here: some stores find the manifests of all repositories by digest.
        self.repository.manifest(reference).await
    }

    async fn resolve_known(&self, tag: &Tag, _: Known<'_>) -> Result<Option<Resolved>> {
        self.resolve(&tag.clone().into()).await
    }

    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        Err(refused("publish", manifest.digest))
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.repository.store().pointer(tag).await
    }

    async fn publish(&self, manifest: &Manifest, _: Option<&Tag>, _: &Expect) -> Result<Published> {
        Err(refused("publish", manifest.digest))
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.repository.store().tags(prefix).await
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        self.repository.store().tags_dated(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.repository.store().clock().await
    }
}

//! The registry store: the implementation of the store's traits.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64},
    },
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use tracing::warn;

use super::{
    Config, Location, blobs, cleanups::Cleanups, manifests, once::Once, request::Ask,
    scopes::Scopes, session::Session, shared::Shared, tags, transport::Transport, upload,
};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Published, PushCheck, Put, Resolved,
        Result, TagStore, Untag, Version, by_tags::Flat, net, push_check,
    },
};

/// A repository of a registry as a store. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Shared>);

impl Registry {
    /// Prepares the store; sends no request to the registry yet.
    ///
    /// # Errors
    /// `Invalid` for invalid settings, such as an unreadable CA bundle.
    pub async fn open(location: &Location, config: &Config, common: &net::Common) -> Result<Self> {
        let location = location.clone().or_insecure(config.insecure);
        let shown = location.to_string();
        let open = async {
            config.check()?;
            Transport::new(&location, config, common).await
        };
        Ok(Self(Arc::new(Shared {
            transport: open.await.map_err(|e: Error| e.at(&shown, ""))?,
            repository: location.repository().to_owned(),
            shown,
            chunk_bytes: config.chunk_bytes,
            mount_from: config.mount_from.clone(),
            way: AtomicU8::new(0),
            no_single_post: AtomicBool::new(false),
            careful_bytes: AtomicU64::new(0),
            overwrites: AtomicBool::new(false),
            cleanups: Cleanups::default(),
            clockless: Once::default(),
        })))
    }

    /// The environment variable with the proxy through which the registry is reached, if any.
    pub fn proxy(&self) -> Option<&'static str> {
        self.0.transport.proxy()
    }

    /// Checks whether a registry answers at all: any server may answer 404 to a lookup of a tag. Other errors are left to that
    /// lookup, which is retried.
    ///
    /// # Errors
    /// `NoSuchStore` if `/v2/` is not served.
    pub async fn ping(&self) -> Result<()> {
        let url = self.0.transport.url("");
        let ask = Ask::new("ask", Method::GET, url, &Scopes::default());
        match self.0.transport.send(&ask).await {
            Ok(answer) if matches!(answer.status.as_u16(), 404 | 405 | 410) => {
                let why = format!(
                    "the server is not a registry: it answers GET /v2/ with {}",
                    answer.status
                );
                self.at("", Err(Error::new(ErrorKind::NoSuchStore, "ask", why)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    fn at<T>(&self, key: impl std::fmt::Display, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.at(&self.0.shown, key))
    }
}

#[async_trait]
impl BlobStore for Registry {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.at(digest, blobs::stat(&self.0, digest).await)
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let found = self.at(desc.digest, blobs::get(&self.0, desc, range).await)?;
        let (shared, digest) = (self.0.clone(), desc.digest);
        Ok(found.map(|bytes| bytes.map_err(move |e| e.at(&shared.shown, digest)).boxed()))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.at(desc.digest, upload::put(&self.0, desc, body).await)
    }
}

#[async_trait]
impl TagStore for Registry {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let found = self.at(reference, manifests::get(&self.0, reference).await)?;
        let asked_by_tag = matches!(reference, Reference::Tag(_));
        let found = found.filter(|got| !(asked_by_tag && tags::is_removed(&got.manifest)));
        Ok(found.map(|got| Resolved {
            version: asked_by_tag.then(|| Version(got.manifest.digest.to_string())),
            manifest: got.manifest,
            // A daemon reports when the tag was written. Other registries may report the time of the manifest: a tag cannot be
            // published before its manifest is stored, so it limits a recorded time anyway.
            modified: got.modified.filter(|_| asked_by_tag),
        }))
    }

    /// `expect` is ignored: no registry can compare and swap; concurrent writers use side tags.
    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        _expect: &Expect,
    ) -> Result<Published> {
        let reference = match tag {
            Some(tag) => Reference::from(tag.clone()),
            None => Reference::from(manifest.digest),
        };
        self.at(
            &reference,
            manifests::put(&self.0, manifest, &reference).await,
        )?;
        Ok(Published::Done)
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.at(format!("tags {prefix}*"), tags::list(&self.0, prefix).await)
    }

    async fn clock(&self) -> Result<Time> {
        if let Some(now) = self.0.transport.clock.now() {
            return Ok(now);
        }
        let ping = Ask::new(
            "read the clock",
            Method::GET,
            self.0.transport.url(""),
            &Scopes::default(),
        );
        self.at("", self.0.transport.send(&ping).await)?;
        Ok(self.0.transport.clock.now().unwrap_or_else(|| {
            if self.0.clockless.first() {
                warn!(store = %self.0.shown, "The registry does not report its time; using this node's clock");
            }
            Time::now()
        }))
    }
}

#[async_trait]
impl Flat for Registry {
    fn manifests_are_blobs(&self) -> bool {
        false
    }

    async fn standing(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.at(
            format!("tags {prefix}*"),
            tags::standing(&self.0, prefix).await,
        )
    }
}

#[async_trait]
impl Untag for Registry {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        self.at(tag, tags::remove(&self.0, tag).await)
    }
}

#[async_trait]
impl PushCheck for Registry {
    /// Begins an upload, which is cancelled in the background.
    async fn check_push(&self) -> Result<()> {
        let begun = Session::open(&self.0, false).await;
        self.at("", push_check::refusal(begun))
    }
}

//! The outermost wrapper of every store: it refuses writes to read-only stores, enforces limits, adds the store's name to every
//! error, and counts requests and results.
#![deny(clippy::missing_trait_methods)]

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tracing::Instrument as _;

use super::{
    counters::{Counters, Op, Tier},
    limits::Limiter,
    readonly::denied,
    width::Place,
};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Expect, Known, Pointer, Published, Put, RepoStore, Resolved,
        Result, TagStore,
    },
};

/// What is shared by all repositories of one store.
#[derive(Debug, Default)]
pub struct Guard {
    /// The store's name in errors: its URL without secrets.
    pub name: String,
    /// Counts of its requests and results.
    pub counters: Arc<Counters>,
    /// Limits on concurrency and bandwidth.
    pub limiter: Limiter,
    /// Refuse every write.
    pub read_only: bool,
}

impl Guard {
    /// Passes on a piece of a download.
    async fn piece(&self, piece: Result<Bytes>, digest: &Digest) -> Result<Bytes> {
        match piece {
            Ok(bytes) => {
                let count = bytes.len() as u64;
                self.limiter.receive(count).await;
                self.counters.add(|seen| seen.bytes_in += count);
                Ok(bytes)
            }
            Err(e) => {
                let e = e.at(&self.name, digest);
                self.counters.stream_broke(&e);
                Err(e)
            }
        }
    }
}

/// A store with a [`Guard`]. Each operation is a span of its request.
pub struct Guarded {
    inner: Arc<dyn RepoStore>,
    guard: Arc<Guard>,
}

impl Guarded {
    /// Passes on to `inner` what `guard` allows.
    pub fn new(inner: Arc<dyn RepoStore>, guard: impl Into<Arc<Guard>>) -> Self {
        let guard = guard.into();
        Self { inner, guard }
    }

    /// Runs one operation, `work`, on `key`; it uploads `sent` bytes at once. Its permit is held as long as its result lives.
    async fn hold<T>(
        &self,
        op: Op,
        key: impl fmt::Display,
        sent: u64,
        is_miss: impl Fn(&T) -> bool,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Place)> {
        let guard = &*self.guard;
        let allowed = async {
            if let Some(write) = op.as_write().filter(|_| guard.read_only) {
                return Err(denied(write));
            }
            let place = guard.limiter.place().await;
            guard.limiter.send(sent).await;
            Ok((work.await?, place))
        };
        let done = allowed.instrument(op.span(guard.counters.tier())).await;
        let done = done.map_err(|e| e.at(&guard.name, key));
        let outcome = done.as_ref().map(|(value, _)| is_miss(value));
        guard.counters.count(op, outcome);
        done
    }

    /// As [`Self::hold`], but the permit is released at the end.
    async fn run<T>(
        &self,
        op: Op,
        key: impl fmt::Display,
        sent: u64,
        is_miss: impl Fn(&T) -> bool,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = self.hold(op, key, sent, is_miss, work).await;
        done.map(|(value, _)| value)
    }
}

/// For operations that always have a result.
fn never<T>(_: &T) -> bool {
    false
}

#[async_trait]
impl BlobStore for Guarded {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let work = self.inner.stat(digest);
        self.run(Op::Stat, digest, 0, Option::is_none, work).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let asked = self.guard.limiter.ask(range.end - range.start).await;
        let work = self.inner.get(desc, range);
        let (found, place) = self
            .hold(Op::Get, desc.digest, 0, Option::is_none, work)
            .await?;
        let (guard, digest) = (self.guard.clone(), desc.digest);
        let place = guard.limiter.with_streams.then_some(place);
        Ok(found.map(|stream| {
            let pieces = stream.then(move |piece| {
                let guard = guard.clone();
                // The closure holds the permits as long as the stream exists.
                let _held = (&place, &asked);
                async move { guard.piece(piece, &digest).await }
            });
            pieces.boxed()
        }))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let sent = body.len();
        let (body, at_once) = match self.guard.counters.tier() {
            Tier::Remote => (self.guard.limiter.paced(body), 0),
            Tier::Local => (body.clone(), sent),
        };
        let work = self.inner.put(desc, &body);
        let put = self.run(Op::Put, desc.digest, at_once, never, work).await?;
        self.guard.counters.add(|seen| match put {
            Put::Stored => {
                seen.stored += 1;
                seen.bytes_out += sent;
            }
            Put::Existed => {
                seen.existed += 1;
                seen.existed_bytes += sent;
            }
        });
        Ok(put)
    }
}

#[async_trait]
impl TagStore for Guarded {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let work = self.inner.resolve(reference);
        let found = self
            .run(Op::Resolve, reference, 0, Option::is_none, work)
            .await?;
        if let Some(found) = &found {
            self.guard.counters.manifest_came(&found.manifest);
        }
        Ok(found)
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        let work = self.inner.resolve_known(tag, known);
        let found = self.run(Op::Resolve, tag, 0, Option::is_none, work).await?;
        if let Some(found) = &found {
            self.guard.counters.manifest_came(&found.manifest);
        }
        Ok(found)
    }

    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        // Its publication is counted.
        let staged = async {
            if self.guard.read_only {
                return Err(denied("publish"));
            }
            let _place = self.guard.limiter.place().await;
            self.inner.stage(manifest).await
        };
        let staged = staged.await;
        staged.map_err(|e| e.at(&self.guard.name, manifest.digest))
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let work = self.inner.pointer(tag);
        let found = self.run(Op::Resolve, tag, 0, Option::is_none, work).await?;
        if let Some(manifest) = found.as_ref().and_then(|at| at.manifest.as_ref()) {
            self.guard.counters.manifest_came(manifest);
        }
        Ok(found)
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let work = self.inner.publish(manifest, tag, expect);
        let sent = manifest.bytes.len() as u64;
        let key = tag.map_or_else(|| manifest.digest.to_string(), ToString::to_string);
        let published = self.run(Op::Publish, key, sent, never, work).await?;
        self.guard.counters.add(|seen| match published {
            Published::Done => seen.bytes_out += sent,
            Published::Conflict => seen.conflicts += 1,
        });
        Ok(published)
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let work = self.inner.tags(prefix);
        self.run(Op::Tags, prefix, 0, never, work).await
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let work = self.inner.tags_dated(prefix);
        self.run(Op::Tags, prefix, 0, never, work).await
    }

    async fn clock(&self) -> Result<Time> {
        // Usually answered from memory: not counted as a request.
        let _place = self.guard.limiter.place().await;
        let done = self.inner.clock().await;
        done.map_err(|e| e.at(&self.guard.name, ""))
    }
}

//! Counts what a store is asked and what it answers.
#![deny(clippy::missing_trait_methods)]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use futures_util::StreamExt as _;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Expect, Published, Put, Resolved, Result, Store, TagStore,
    },
};

/// Counts of one operation.
#[derive(Debug, Default)]
struct Op {
    requests: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
}

impl Op {
    fn count<T>(&self, done: &Result<T>, is_miss: impl Fn(&T) -> bool) {
        self.requests.fetch_add(1, Relaxed);
        match done {
            Ok(value) if is_miss(value) => self.misses.fetch_add(1, Relaxed),
            Ok(_) => 0,
            Err(_) => self.errors.fetch_add(1, Relaxed),
        };
    }

    fn snapshot(&self) -> OpSnapshot {
        OpSnapshot {
            requests: self.requests.load(Relaxed),
            misses: self.misses.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}

/// Running counts, shared by whoever shows them.
#[derive(Debug, Default)]
pub struct Counters {
    stat: Op,
    get: Op,
    put: Op,
    resolve: Op,
    publish: Op,
    tags: Op,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    stored: AtomicU64,
    existed: AtomicU64,
    conflicts: AtomicU64,
    broken_streams: AtomicU64,
}

/// Counts of one operation at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OpSnapshot {
    /// Times that it was asked for.
    pub requests: u64,
    /// Times that there was no such thing.
    pub misses: u64,
    /// Times that it failed.
    pub errors: u64,
}

/// All counts at one moment. Bytes are those of blobs and manifests, not of the wire.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// `stat`.
    pub stat: OpSnapshot,
    /// `get`, until its stream opened.
    pub get: OpSnapshot,
    /// `put`.
    pub put: OpSnapshot,
    /// `resolve`.
    pub resolve: OpSnapshot,
    /// `publish`.
    pub publish: OpSnapshot,
    /// `tags`.
    pub tags: OpSnapshot,
    /// Bytes that came from the store.
    pub bytes_in: u64,
    /// Bytes that went to the store.
    pub bytes_out: u64,
    /// Puts that moved bytes.
    pub stored: u64,
    /// Puts of what was there.
    pub existed: u64,
    /// Publications whose expectation did not hold.
    pub conflicts: u64,
    /// Streams that ended with an error.
    pub broken_streams: u64,
}

impl Counters {
    /// The counts now; each is right, though not all of the very same moment.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            stat: self.stat.snapshot(),
            get: self.get.snapshot(),
            put: self.put.snapshot(),
            resolve: self.resolve.snapshot(),
            publish: self.publish.snapshot(),
            tags: self.tags.snapshot(),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            stored: self.stored.load(Relaxed),
            existed: self.existed.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
            broken_streams: self.broken_streams.load(Relaxed),
        }
    }
}

/// A store that is counted.
pub struct Metered {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
}

impl Metered {
    /// Counts what is asked of `inner`.
    pub fn new(inner: Arc<dyn Store>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

#[async_trait]
impl BlobStore for Metered {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let done = self.inner.stat(digest).await;
        self.counters.stat.count(&done, Option::is_none);
        done
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let done = self.inner.get(desc, range).await;
        self.counters.get.count(&done, Option::is_none);
        let counters = self.counters.clone();
        Ok(done?.map(|stream| {
            stream
                .inspect(move |piece| {
                    match piece {
                        Ok(bytes) => counters.bytes_in.fetch_add(bytes.len() as u64, Relaxed),
                        Err(_) => counters.broken_streams.fetch_add(1, Relaxed),
                    };
                })
                .boxed()
        }))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let done = self.inner.put(desc, body).await;
        self.counters.put.count(&done, |_| false);
        match done {
            Ok(Put::Stored) => {
                self.counters.stored.fetch_add(1, Relaxed);
                self.counters.bytes_out.fetch_add(body.len(), Relaxed);
            }
            Ok(Put::Existed) => {
                self.counters.existed.fetch_add(1, Relaxed);
            }
            Err(_) => {}
        }
        done
    }
}

#[async_trait]
impl TagStore for Metered {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let done = self.inner.resolve(reference).await;
        self.counters.resolve.count(&done, Option::is_none);
        if let Ok(Some(found)) = &done {
            let bytes = found.manifest.bytes.len() as u64;
            self.counters.bytes_in.fetch_add(bytes, Relaxed);
        }
        done
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let done = self.inner.publish(manifest, tag, expect).await;
        self.counters.publish.count(&done, |_| false);
        match done {
            Ok(Published::Done) => {
                let bytes = manifest.bytes.len() as u64;
                self.counters.bytes_out.fetch_add(bytes, Relaxed);
            }
            Ok(Published::Conflict) => {
                self.counters.conflicts.fetch_add(1, Relaxed);
            }
            Err(_) => {}
        }
        done
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let done = self.inner.tags(prefix).await;
        self.counters.tags.count(&done, |_| false);
        done
    }

    async fn clock(&self) -> Result<Time> {
        // Mostly answered from memory: no request to count.
        self.inner.clock().await
    }
}

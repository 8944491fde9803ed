//! Counts what a store is asked and what it answers.
#![deny(clippy::missing_trait_methods)]

use std::{
    cell::Cell,
    ops::{Add, Range},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tracing::Instrument as _;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Pointer, Published, Put, Resolved,
        Result, Store, TagStore,
    },
};

/// Where a store is, seen from who serves from it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// On this machine.
    #[default]
    Local,
    /// Behind a network.
    Remote,
}

impl Tier {
    /// Its name, as metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

tokio::task_local! {
    /// The store that last had what was asked of it.
    static ANSWERED: Cell<Option<Tier>>;
}

/// Runs `work` and says which store was the last that had, or took, what it was asked for; `None` where none was asked.
///
/// Streams count when they open. Work that `work` leaves to other tasks is not seen; who waits for such says so by
/// [`answered`].
pub async fn watched<T>(work: impl Future<Output = T>) -> (T, Option<Tier>) {
    let asked = async {
        let value = work.await;
        (value, ANSWERED.with(Cell::get))
    };
    ANSWERED.scope(Cell::new(None), asked).await
}

/// Runs `work` unseen by [`watched`]: what it asks a store for is not what the caller is answered with.
pub async fn unwatched<T>(work: impl Future<Output = T>) -> T {
    watched(work).await.0
}

/// Notes for [`watched`] that a store of `tier` had what was asked for.
pub fn answered(tier: Tier) {
    // Outside of it nobody wants to know.
    let _ = ANSWERED.try_with(|last| last.set(Some(tier)));
}

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
    tier: Tier,
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
    existed_bytes: AtomicU64,
    conflicts: AtomicU64,
    broken_streams: AtomicU64,
    corrupt_reads: AtomicU64,
    corrupt_writes: AtomicU64,
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
    /// Bytes of those.
    pub existed_bytes: u64,
    /// Publications whose expectation did not hold.
    pub conflicts: u64,
    /// Streams that ended with an error.
    pub broken_streams: u64,
    /// Reads that found content that does not match its digest or size.
    pub corrupt_reads: u64,
    /// Writes of content that does not.
    pub corrupt_writes: u64,
}

impl Add for OpSnapshot {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            misses: self.misses + other.misses,
            errors: self.errors + other.errors,
        }
    }
}

impl Add for Snapshot {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            stat: self.stat + other.stat,
            get: self.get + other.get,
            put: self.put + other.put,
            resolve: self.resolve + other.resolve,
            publish: self.publish + other.publish,
            tags: self.tags + other.tags,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            stored: self.stored + other.stored,
            existed: self.existed + other.existed,
            existed_bytes: self.existed_bytes + other.existed_bytes,
            conflicts: self.conflicts + other.conflicts,
            broken_streams: self.broken_streams + other.broken_streams,
            corrupt_reads: self.corrupt_reads + other.corrupt_reads,
            corrupt_writes: self.corrupt_writes + other.corrupt_writes,
        }
    }
}

impl Counters {
    /// Counts of a store of that tier.
    pub fn of(tier: Tier) -> Self {
        Self {
            tier,
            ..Self::default()
        }
    }

    /// Where the store is.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    fn count<T>(&self, op: &Op, done: &Result<T>, is_miss: impl Fn(&T) -> bool) {
        op.count(done, &is_miss);
        match done {
            Ok(value) if !is_miss(value) => answered(self.tier),
            Ok(_) => {}
            Err(e) => count_corrupt(e, &self.corrupt_reads),
        }
    }

    fn count_write<T>(&self, op: &Op, done: &Result<T>) {
        op.count(done, |_| false);
        match done {
            Ok(_) => answered(self.tier),
            Err(e) => count_corrupt(e, &self.corrupt_writes),
        }
    }

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
            existed_bytes: self.existed_bytes.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
            broken_streams: self.broken_streams.load(Relaxed),
            corrupt_reads: self.corrupt_reads.load(Relaxed),
            corrupt_writes: self.corrupt_writes.load(Relaxed),
        }
    }
}

/// Counts damage: a page for whoever runs the store, so a size that a reader only claims is none.
fn count_corrupt(error: &Error, counter: &AtomicU64) {
    if error.kind == ErrorKind::Corrupt && !error.other_size {
        counter.fetch_add(1, Relaxed);
    }
}

/// A store that is counted.
pub struct Metered {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
}

impl Metered {
    /// Counts what is asked of `inner`; each operation is a span of the request that it is done for.
    pub fn new(inner: Arc<dyn Store>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }

    fn tier(&self) -> &'static str {
        self.counters.tier.as_str()
    }
}

#[async_trait]
impl BlobStore for Metered {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let span = tracing::debug_span!("store stat", tier = self.tier());
        let done = self.inner.stat(digest).instrument(span).await;
        self.counters
            .count(&self.counters.stat, &done, Option::is_none);
        done
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let span = tracing::debug_span!("store get", tier = self.tier());
        let done = self.inner.get(desc, range).instrument(span).await;
        self.counters
            .count(&self.counters.get, &done, Option::is_none);
        let counters = self.counters.clone();
        Ok(done?.map(|stream| {
            stream
                .inspect(move |piece| {
                    match piece {
                        Ok(bytes) => counters.bytes_in.fetch_add(bytes.len() as u64, Relaxed),
                        Err(e) => {
                            count_corrupt(e, &counters.corrupt_reads);
                            counters.broken_streams.fetch_add(1, Relaxed)
                        }
                    };
                })
                .boxed()
        }))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let span = tracing::debug_span!("store put", tier = self.tier());
        let done = self.inner.put(desc, body).instrument(span).await;
        self.counters.count_write(&self.counters.put, &done);
        match done {
            Ok(Put::Stored) => {
                self.counters.stored.fetch_add(1, Relaxed);
                self.counters.bytes_out.fetch_add(body.len(), Relaxed);
            }
            Ok(Put::Existed) => {
                self.counters.existed.fetch_add(1, Relaxed);
                self.counters.existed_bytes.fetch_add(body.len(), Relaxed);
            }
            Err(_) => {}
        }
        done
    }
}

#[async_trait]
impl TagStore for Metered {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let span = tracing::debug_span!("store resolve", tier = self.tier());
        let done = self.inner.resolve(reference).instrument(span).await;
        self.counters
            .count(&self.counters.resolve, &done, Option::is_none);
        if let Ok(Some(found)) = &done {
            let bytes = found.manifest.bytes.len() as u64;
            self.counters.bytes_in.fetch_add(bytes, Relaxed);
        }
        done
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let span = tracing::debug_span!("store resolve", tier = self.tier());
        let done = self.inner.pointer(tag).instrument(span).await;
        self.counters
            .count(&self.counters.resolve, &done, Option::is_none);
        if let Ok(Some(Pointer {
            manifest: Some(read),
            ..
        })) = &done
        {
            let bytes = read.bytes.len() as u64;
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
        let span = tracing::debug_span!("store publish", tier = self.tier());
        let done = self
            .inner
            .publish(manifest, tag, expect)
            .instrument(span)
            .await;
        self.counters.count_write(&self.counters.publish, &done);
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
        let span = tracing::debug_span!("store tags", tier = self.tier());
        let done = self.inner.tags(prefix).instrument(span).await;
        self.counters.count(&self.counters.tags, &done, |_| false);
        done
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let span = tracing::debug_span!("store tags", tier = self.tier());
        let done = self.inner.tags_dated(prefix).instrument(span).await;
        self.counters.count(&self.counters.tags, &done, |_| false);
        done
    }

    async fn clock(&self) -> Result<Time> {
        // Mostly answered from memory: no request to count.
        self.inner.clock().await
    }
}

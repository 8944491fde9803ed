//! Limits how much happens at once, and how fast.
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Expect, Pointer, Published, Put, Resolved, Result, Store,
        TagStore,
    },
};

/// At most this much of unused bandwidth is saved up.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second, shared by all who take.
#[derive(Debug)]
struct Bucket {
    bytes_per_sec: u64,
    /// When all that was taken so far is paid for.
    paid_at: Mutex<Instant>,
}

impl Bucket {
    fn new(bytes_per_sec: u64) -> Self {
        Self {
            bytes_per_sec: bytes_per_sec.max(1),
            paid_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until what others took before is paid for, and takes `bytes`. Fair: first come, first served.
    async fn take(&self, bytes: u64) {
        let turn = {
            let mut paid_at = self.paid_at.lock();
            let now = Instant::now();
            let turn = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
            let cost = bytes as f64 / self.bytes_per_sec as f64;
            // A year stands for ever: an absurd limit must not overflow.
            *paid_at = turn + Duration::from_secs_f64(cost.min(3e7));
            turn
        };
        sleep_until(turn).await;
    }
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations at once; at least 1.
    pub concurrency: usize,
    /// Whether a download lasts until its stream is dropped, or only until that is there: where others decide how fast it is read, and how
    /// many there are.
    pub with_streams: bool,
    /// Bytes per second, in each direction; `None`: no limit.
    pub bandwidth: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 16,
            with_streams: true,
            bandwidth: None,
        }
    }
}

/// A store with limits.
///
/// A stream that is not read holds its place, unless streams do not count: who opens more streams than are allowed at once before reading
/// the first waits for ever. Downloads are slowed piece by piece; an upload waits its turn and then goes at the link's speed, so
/// the limit holds over several uploads, not within one.
pub struct Limited {
    inner: Arc<dyn Store>,
    places: Arc<Semaphore>,
    with_streams: bool,
    down: Option<Arc<Bucket>>,
    up: Option<Arc<Bucket>>,
}

impl Limited {
    /// Limits what is asked of `inner`.
    pub fn new(inner: Arc<dyn Store>, limits: Limits) -> Self {
        let bucket = || limits.bandwidth.map(|b| Arc::new(Bucket::new(b)));
        Self {
            inner,
            places: Arc::new(Semaphore::new(
                limits.concurrency.clamp(1, Semaphore::MAX_PERMITS),
            )),
            with_streams: limits.with_streams,
            down: bucket(),
            up: bucket(),
        }
    }

    /// Limits what is asked of `inner` together with what is asked of this one.
    #[must_use]
    pub fn beside(&self, inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            places: self.places.clone(),
            with_streams: self.with_streams,
            down: self.down.clone(),
            up: self.up.clone(),
        }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    async fn pay_up(&self, bytes: u64) {
        if let Some(bucket) = &self.up {
            bucket.take(bytes).await;
        }
    }
}

#[async_trait]
impl BlobStore for Limited {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let _place = self.place().await;
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let place = self.place().await;
        let found = self.inner.get(desc, range).await?;
        let place = self.with_streams.then_some(place);
        let down = self.down.clone();
        Ok(found.map(move |stream| {
            stream
                .and_then(move |piece| {
                    let down = down.clone();
                    // The closure keeps the place for as long as there is a stream.
                    let _place = &place;
                    async move {
                        if let Some(bucket) = down {
                            bucket.take(piece.len() as u64).await;
                        }
                        Ok(piece)
                    }
                })
                .boxed()
        }))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let _place = self.place().await;
        self.pay_up(body.len()).await;
        self.inner.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for Limited {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let _place = self.place().await;
        self.inner.resolve(reference).await
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let _place = self.place().await;
        self.inner.pointer(tag).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let _place = self.place().await;
        self.pay_up(manifest.bytes.len() as u64).await;
        self.inner.publish(manifest, tag, expect).await
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let _place = self.place().await;
        self.inner.tags(prefix).await
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let _place = self.place().await;
        self.inner.tags_dated(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        let _place = self.place().await;
        self.inner.clock().await
    }
}

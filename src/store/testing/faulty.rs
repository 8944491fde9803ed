//! Deliberate faults, determined by a seed: the same seed and the same calls give the same faults.
#![deny(clippy::missing_trait_methods)]

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Known, Pointer, Published, Put,
        RepoStore, Resolved, Result, TagStore,
    },
};

/// Probabilities of faults, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// An operation fails before it does anything.
    pub error: f64,
    /// An operation, or a piece of a stream, is delayed.
    pub delay: f64,
    /// Maximum delay.
    pub longest_delay: Duration,
    /// A stream breaks off, with or without an error.
    pub truncate: f64,
    /// A byte of a stream or manifest is changed.
    pub corrupt: f64,
    /// A write is done but seems to have failed.
    pub lose_ack: f64,
}

impl Faults {
    /// No faults.
    pub const NONE: Self = Self {
        error: 0.0,
        delay: 0.0,
        longest_delay: Duration::ZERO,
        truncate: 0.0,
        corrupt: 0.0,
        lose_ack: 0.0,
    };

    /// Every fault occasionally.
    pub const BAD_DAY: Self = Self {
        error: 0.2,
        delay: 0.1,
        longest_delay: Duration::from_millis(2),
        truncate: 0.2,
        corrupt: 0.1,
        lose_ack: 0.1,
    };
}

/// A store with faults.
pub struct Faulty {
    inner: Arc<dyn RepoStore>,
    faults: Faults,
    dice: Arc<Mutex<fastrand::Rng>>,
}

impl Faulty {
    /// Injects faults between the caller and `inner`.
    pub fn new(inner: Arc<dyn RepoStore>, faults: Faults, seed: u64) -> Self {
        Self {
            inner,
            faults,
            dice: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
    }

    /// Faults before an operation.
    async fn before(&self, op: &'static str) -> Result<()> {
        let (delay, error) = {
            let mut dice = lock(&self.dice);
            (
                late(&mut dice, &self.faults),
                broken(&mut dice, self.faults.error, op),
            )
        };
        sleep_if(delay).await;
        error.map_or(Ok(()), Err)
    }

    /// Faults after a write.
    fn after<T>(&self, op: &'static str, done: Result<T>) -> Result<T> {
        match broken(&mut lock(&self.dice), self.faults.lose_ack, op) {
            Some(e) if done.is_ok() => Err(e),
            _ => done,
        }
    }

    fn flip(&self, bytes: Bytes) -> Bytes {
        flip(&mut lock(&self.dice), self.faults.corrupt, bytes)
    }
}

fn lock(dice: &Mutex<fastrand::Rng>) -> parking_lot::MutexGuard<'_, fastrand::Rng> {
    dice.lock()
}

fn late(dice: &mut fastrand::Rng, faults: &Faults) -> Option<Duration> {
    (dice.f64() < faults.delay).then(|| faults.longest_delay.mul_f64(dice.f64()))
}

async fn sleep_if(delay: Option<Duration>) {
    if let Some(delay) = delay {
        sleep(delay).await;
    }
}

/// A temporary error with this probability.
fn broken(dice: &mut fastrand::Rng, probability: f64, op: &'static str) -> Option<Error> {
    if dice.f64() >= probability {
        return None;
    }
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::Throttled,
    ];
    let kind = kinds[dice.usize(..kinds.len())];
    Some(Error::new(kind, op, "a fault on purpose"))
}

fn flip(dice: &mut fastrand::Rng, probability: f64, bytes: Bytes) -> Bytes {
    if bytes.is_empty() || dice.f64() >= probability {
        return bytes;
    }
    let mut bytes = BytesMut::from(bytes);
    let at = dice.usize(..bytes.len());
    bytes[at] ^= 1 << dice.u8(..8);
    bytes.freeze()
}

/// How a stream breaks off.
enum End {
    Silent,
    Error,
}

fn faulty_stream(
    inner: ByteStream,
    faults: Faults,
    dice: Arc<Mutex<fastrand::Rng>>,
    len: u64,
) -> ByteStream {
    let end = {
        let mut dice = lock(&dice);
        let breaks = dice.f64() < faults.truncate;
        let how = if dice.bool() { End::Silent } else { End::Error };
        breaks.then(|| (dice.u64(..=len), how))
    };
    stream::try_unfold((inner, end, 0_u64), move |(mut inner, end, at)| {
        let dice = dice.clone();
        async move {
            let Some(mut piece) = inner.try_next().await? else {
                return Ok(None);
            };
            let delay = {
                let mut dice = lock(&dice);
                piece = flip(&mut dice, faults.corrupt, piece);
                late(&mut dice, &faults)
            };
            sleep_if(delay).await;
            if let Some((last, how)) = &end
                && at + piece.len() as u64 > *last
            {
                piece.truncate((last - at) as usize);
                if piece.is_empty() {
                    return match how {
                        End::Silent => Ok(None),
                        End::Error => Err(Error::unavailable("get", "a cut on purpose")),
                    };
                }
            }
            let at = at + piece.len() as u64;
            Ok(Some((piece, (inner, end, at))))
        }
    })
    .boxed()
}

#[async_trait]
impl BlobStore for Faulty {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.before("stat").await?;
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.before("get").await?;
        let len = range.end.saturating_sub(range.start);
        let found = self.inner.get(desc, range).await?;
        Ok(found.map(|s| faulty_stream(s, self.faults, self.dice.clone(), len)))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.before("put").await?;
        let done = self.inner.put(desc, body).await;
        self.after("put", done)
    }
}

#[async_trait]
impl TagStore for Faulty {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.before("resolve").await?;
        let found = self.inner.resolve(reference).await?;
        Ok(found.map(|mut r| {
            r.manifest.bytes = self.flip(r.manifest.bytes);
            r
        }))
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        self.before("resolve").await?;
        let found = self.inner.resolve_known(tag, known).await?;
        Ok(found.map(|mut r| {
            r.manifest.bytes = self.flip(r.manifest.bytes);
            r
        }))
    }

    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        self.before("publish").await?;
        let done = self.inner.stage(manifest).await;
        self.after("publish", done)
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.before("resolve").await?;
        let mut found = self.inner.pointer(tag).await?;
        if let Some(manifest) = found.as_mut().and_then(|at| at.manifest.as_mut()) {
            manifest.bytes = self.flip(std::mem::take(&mut manifest.bytes));
        }
        Ok(found)
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        self.before("publish").await?;
        let done = self.inner.publish(manifest, tag, expect).await;
        self.after("publish", done)
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.before("tags").await?;
        self.inner.tags(prefix).await
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        self.before("tags").await?;
        self.inner.tags_dated(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.before("clock").await?;
        self.inner.clock().await
    }
}

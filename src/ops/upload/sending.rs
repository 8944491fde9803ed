//! The packs that are being sent while the next one is written, or while the documents that name them are made.
//!
//! Several are sent at once: one after the other would leave a distant link idle between them, and use a single connection of it
//! where a blob is one request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::place_of;
use crate::{
    artifact::snapshot::{Layer, Pack},
    ops::Moved,
    pack::{
        level::{Auto, Level},
        write::Written,
    },
    progress::{Phase, Progress},
    store::{self, Body, Meter, Put, RepoStore, Spool},
};

/// Another pack is sent beside those that are being sent only while these have fewer bytes than this together. With the pack
/// that waits then, and the one being written, this limits the disk space of spools.
const SENDING_BYTES: u64 = 512 << 20;
/// Most packs that are sent at once: at first, and after every one that was sent quickly one more. Many connections over a slow
/// link take so long for each of them that stores and timeouts take them for stalled.
const PACKS_AT_FIRST: usize = 2;
const PACKS_SENDING: usize = 8;
const QUICKLY: Duration = Duration::from_secs(10);

/// Packs being sent, and what was sent before.
pub struct Sending {
    on_their_way: FuturesUnordered<BoxFuture<'static, store::Result<Sent>>>,
    /// How many may be sent at once.
    at_once: usize,
    /// Bytes of those.
    bytes: u64,
    began: Option<Instant>,
    took: Duration,
    moved: Moved,
    /// Chooses compression levels by what the link takes.
    auto: Option<Arc<Auto>>,
}

struct Sent {
    put: Put,
    size: u64,
    took: Duration,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            on_their_way: FuturesUnordered::new(),
            at_once: PACKS_AT_FIRST,
            bytes: 0,
            began: None,
            took: Duration::ZERO,
            moved: Moved::default(),
            auto: None,
        }
    }
}

impl Sending {
    /// For packs that are compressed at this level.
    pub(super) fn new(level: &Level) -> Self {
        let auto = match level {
            Level::Auto(auto) => Some(auto.clone()),
            Level::Fixed(_) => None,
        };
        Self {
            auto,
            ..Self::default()
        }
    }

    /// Whether another pack may be sent.
    pub(super) fn has_room(&self) -> bool {
        let count = self.on_their_way.len();
        count == 0 || (count < self.at_once && self.bytes < SENDING_BYTES)
    }

    /// Whether a pack is on its way.
    pub(super) fn is_busy(&self) -> bool {
        !self.on_their_way.is_empty()
    }

    /// Begins to send a pack; it continues while this is settled.
    pub(super) fn begin(
        &mut self,
        store: &Arc<dyn RepoStore>,
        progress: &Progress,
        (spool, written): (Spool, Written),
        day: u32,
    ) -> Pack {
        let layer = Layer::new(spool.digest(), spool.size(), place_of(&written));
        let (store, progress, auto) = (store.clone(), progress.clone(), self.auto.clone());
        let (desc, size) = (layer.descriptor.clone(), spool.size());
        if !self.is_busy() {
            progress.begin(Phase::Upload, None);
        }
        self.began.get_or_insert_with(Instant::now);
        self.bytes += size;
        let unsent = auto.map(|auto| Unsent::of(size, auto));
        let mut body = Body::Spool(Arc::new(spool));
        if let Some(unsent) = &unsent {
            body = body.metered(unsent.clone());
        }
        self.on_their_way.push(Box::pin(async move {
            let began = Instant::now();
            let put = store.put(&desc, &body).await?;
            if let Some(unsent) = unsent {
                unsent.none_is_left();
            }
            progress.advance(Phase::Upload, size);
            let took = began.elapsed();
            Ok(Sent { put, size, took })
        }));
        Pack::all_live(layer, Arc::new(written.toc), day)
    }

    /// Waits until a pack is durable in the store.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(super) async fn settle_one(&mut self, progress: &Progress) -> store::Result<()> {
        let Some(sent) = self.on_their_way.next().await else {
            return Ok(());
        };
        let Sent { put, size, took } = sent?;
        self.at_once = if took < QUICKLY {
            PACKS_SENDING.min(self.at_once + 1)
        } else {
            PACKS_AT_FIRST.max(self.at_once - 1)
        };
        self.bytes -= size;
        match put {
            Put::Stored => {
                self.moved.blobs_moved += 1;
                self.moved.bytes_moved += size;
            }
            Put::Existed => self.moved.bytes_saved += size,
        }
        if !self.is_busy() {
            progress.end(Phase::Upload);
        }
        self.took = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        Ok(())
    }

    /// Waits until every pack is durable in the store. If this is dropped before, the next call continues.
    ///
    /// # Errors
    /// When a pack cannot be stored.
    pub async fn settle(&mut self, progress: &Progress) -> store::Result<()> {
        while self.is_busy() {
            self.settle_one(progress).await?;
        }
        Ok(())
    }

    /// What was sent, in settled packs, and the time since the first one was begun.
    pub fn done(&self) -> (Moved, Duration) {
        (self.moved, self.took)
    }
}

/// The bytes of a pack that are still to be sent.
#[derive(Debug)]
struct Unsent {
    bytes: AtomicU64,
    auto: Arc<Auto>,
}

impl Unsent {
    fn of(bytes: u64, auto: Arc<Auto>) -> Arc<Self> {
        auto.finished(bytes);
        Arc::new(Self {
            bytes: AtomicU64::new(bytes),
            auto,
        })
    }

    /// The store may have had the pack, or a part of it.
    fn none_is_left(&self) {
        self.read(u64::MAX);
    }
}

impl Meter for Unsent {
    fn read(&self, bytes: u64) {
        // A part that is sent again counts once.
        let less = |left: u64| Some(left.saturating_sub(bytes));
        let left = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let left = left.expect("there is always a new value");
        self.auto.sent(left.min(bytes), std::time::Instant::now());
    }
}

#[cfg(test)]
mod tests;

//! The pack that is being sent while the next one is written, or while the documents that name it are made.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;

use super::place_of;
use crate::{
    artifact::snapshot::{Layer, Pack},
    ops::{Context, Moved},
    pack::write::Written,
    progress::Phase,
    store::{self, Body, Put, Spool},
};

/// A pack being sent, at most one, and what was sent before.
#[derive(Default)]
pub struct Sending {
    current: Option<BoxFuture<'static, store::Result<Sent>>>,
    moved: Moved,
    took: Duration,
}

struct Sent {
    put: Put,
    size: u64,
    took: Duration,
}

impl Sending {
    /// Begins to send a pack; the one before must be settled.
    pub(super) fn begin(
        &mut self,
        ctx: &Context,
        spool: Spool,
        written: Written,
        day: u32,
    ) -> Pack {
        let layer = Layer::new(spool.digest(), spool.size(), place_of(&written));
        let (store, progress) = (ctx.store.contents().clone(), ctx.progress.clone());
        let (desc, size) = (layer.descriptor.clone(), spool.size());
        self.current = Some(Box::pin(async move {
            let started = Instant::now();
            progress.begin(Phase::Upload, Some(size));
            let put = store.put(&desc, &Body::Spool(Arc::new(spool))).await?;
            progress.advance(Phase::Upload, size);
            progress.end(Phase::Upload);
            let took = started.elapsed();
            Ok(Sent { put, size, took })
        }));
        Pack::all_live(layer, Arc::new(written.toc), day)
    }

    /// Whether a pack is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Waits until every pack is durable in the store. If this is dropped before, the next call continues.
    ///
    /// # Errors
    /// When the pack cannot be stored.
    pub async fn settle(&mut self) -> store::Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let sent = current.await;
        self.current = None;
        let Sent { put, size, took } = sent?;
        self.took += took;
        match put {
            Put::Stored => {
                self.moved.blobs_moved += 1;
                self.moved.bytes_moved += size;
            }
            Put::Existed => self.moved.bytes_saved += size,
        }
        Ok(())
    }

    /// What was sent, in settled packs, and the time it took.
    pub fn done(&self) -> (Moved, Duration) {
        (self.moved, self.took)
    }
}

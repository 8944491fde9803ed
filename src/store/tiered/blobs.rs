//! Blobs: from the front if they are there, otherwise downloaded from the remote once for all readers.

use std::{ops::Range, sync::Arc};

use super::{
    Core,
    counts::add,
    fill::Found,
    front::passed_by,
    look::Patience,
    unsent::{Blob, Trust},
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{
        Body, ByteStream, Put, check_range,
        error::{ErrorKind, Result},
        queue::OVER_SHARE,
        wrap::counters::{Tier, answered, unwatched},
    },
};

impl Core {
    /// For a blob in front no other check is needed: content never changes under its digest. Whether the remote has it too is
    /// checked before a name leads to it.
    pub(super) async fn stat(
        self: &Arc<Self>,
        digest: &Digest,
        patience: Patience,
    ) -> Result<Option<u64>> {
        if let Some(size) = self.front.stat(digest).await {
            return Ok(Some(size));
        }
        let (core, digest) = (self.clone(), *digest);
        let behind = async move {
            let asked = core.remote.store.stat(&digest);
            let found = core.health.ask("stat", asked).await?;
            if found.is_some() {
                core.seen.insert(&digest);
            }
            Ok(found)
        };
        // Blobs in front were answered above.
        let is_known = std::future::ready(false);
        self.look("stat", patience, is_known, behind).await
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        check_range("get", desc, &range)?;
        let differs = match self.front.get(desc, range.clone()).await {
            Ok(Some(stream)) => {
                add(&self.counts.hits, 1);
                return Ok(Some(stream));
            }
            Ok(None) => None,
            // It has another size than requested. The remote may tell which one is wrong.
            Err(e) if e.kind == ErrorKind::Corrupt => Some(e),
            Err(e) => passed_by(Err(e)),
        };
        add(&self.counts.misses, 1);
        if let Some(e) = differs {
            return Ok(Some(self.direct(desc, range).await?.ok_or(e)?));
        }
        let whole = range == (0..desc.size);
        if !whole {
            let running = self.fills.get(desc);
            if let Some(stream) = running.and_then(|fill| fill.range(&range)) {
                answered(Tier::Remote);
                return Ok(Some(stream));
            }
        }
        if !whole || !self.front.keeps(desc.size) {
            return self.direct(desc, range).await;
        }
        let Some(fill) = self.fills.join(self, desc) else {
            return self.direct(desc, range).await;
        };
        match fill.read().await? {
            Found::Stream(stream) => {
                answered(Tier::Remote);
                Ok(Some(stream))
            }
            Found::Missing => Ok(None),
            Found::NoRoom => self.direct(desc, range).await,
        }
    }

    /// Reads from the remote, bypassing the front.
    pub(super) async fn direct(
        &self,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        let asked = self.remote.store.get(desc, range);
        let found = self.health.ask("get", asked).await?;
        Ok(found.map(|stream| self.health.watched(stream)))
    }

    pub(super) async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        if self.writes_back() && self.front.keeps(desc.size) {
            self.put_back(desc, body).await
        } else {
            self.put_through(desc, body).await
        }
    }

    async fn put_through(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let asked = self.remote.store.put(desc, body);
        let done = self.health.send("put", asked).await?;
        self.seen.insert(&desc.digest);
        if self.front.keeps(desc.size) {
            passed_by(unwatched(self.front.put(desc, body)).await);
        }
        Ok(done)
    }

    async fn put_back(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        match self.keep_and_mark(desc, body).await {
            Ok(done) => Ok(done),
            // An error of the body.
            Err(e) if matches!(e.kind, ErrorKind::Corrupt | ErrorKind::Invalid) => Err(e),
            Err(e) => {
                // A caller that has used up its share would fill the log.
                if e.op != OVER_SHARE {
                    tracing::warn!(error = %e, "The local cache directory does not accept a blob, which is sent to the remote store instead");
                }
                // The front's error is more informative than that the remote is unreachable.
                self.put_through(desc, body)
                    .await
                    .map_err(|other| if other.is_temporary() { e } else { other })
            }
        }
    }

    /// The mark is written after the bytes: before it exists nothing has been acknowledged, and without it nothing may be
    /// removed.
    async fn keep_and_mark(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let digest = &desc.digest;
        let pin = self.front.uses.pin(digest).await;
        let share = self.unsent.reserve(digest, desc.size)?;
        let done = self.front.put(desc, body).await?;
        let is_sent = done == Put::Existed && self.seen.contains(digest);
        if !is_sent || self.is_marked(digest) {
            let blob = Blob::new(*digest, desc.size, Trust::Hashed);
            self.unsent.add(blob, pin, share).await?;
        }
        Ok(done)
    }
}

//! Sends blobs to the remote: in the background, and before a name leads to them.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Core,
    counts::add,
    front::passed_by,
    queue::Job,
    unsent::{Blob, Trust},
    uses::Pinned,
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{
        Body, Put,
        error::{Error, ErrorKind, Result},
    },
};

/// Concurrent checks of blobs.
pub(super) const AT_ONCE: usize = 16;

/// Converts errors about content that the remote finds wrong, or has damaged itself: they do not mean that the acknowledged blob
/// here is damaged, so it is retried and never dropped.
pub(super) fn not_ours(e: Error) -> Error {
    match e.kind {
        ErrorKind::Corrupt => Error {
            kind: ErrorKind::Invalid,
            ..e
        },
        _ => e,
    }
}

/// Whether recently seen digests ([`super::seen`]) need no new check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// They need none.
    Lately,
    /// They need one: there was an outage, during which anything may have happened.
    Again,
}

impl Core {
    /// Sends one marked blob after the other while the remote is up; never ends.
    pub(super) async fn send_all(self: Arc<Self>) {
        loop {
            self.health.up().await;
            let job = self.unsent.next().await;
            let Err(e) = self.send(&job).await else {
                continue;
            };
            if let Some(error) = self.unsent.failed(&job, e).await {
                tracing::warn!(digest = %job.work.digest, %error, "The remote store refuses a blob; it is tried again");
                add(&self.counts.send_errors, 1);
            }
        }
    }

    async fn send(&self, job: &Job<Blob>) -> Result<()> {
        let blob = &job.work;
        let desc = Descriptor::new("", blob.digest, blob.size);
        // Its bytes may be the cause of a refusal.
        let check = blob.trust == Trust::Unknown || job.refusals > 0;
        match self.front.body(&desc, check).await {
            Ok(Some(body)) => {
                self.put_behind(&desc, &body).await?;
            }
            // Its mark may have come back after a power failure, or the remote may have it from elsewhere.
            Ok(None) => {
                let why = "it is no longer in the local cache directory, or was damaged there";
                self.must_be_there(blob, why).await?;
            }
            Err(e) if e.kind == ErrorKind::Corrupt => self.must_be_there(blob, &e.message).await?,
            Err(e) => return Err(e),
        }
        self.seen.insert(&blob.digest);
        self.unsent.sent(job).await;
        Ok(())
    }

    /// Sends a blob to the remote.
    pub(super) async fn put_behind(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let put = self.remote.store.put(desc, body);
        let put = self.health.send("put", put).await.map_err(not_ours)?;
        add(&self.counts.sent_blobs, 1);
        add(&self.counts.sent_bytes, desc.size);
        Ok(put)
    }

    /// Gives up an acknowledged blob, unless the remote has it: its bytes in front were hashed and are damaged, or missing.
    ///
    /// # Errors
    /// `Corrupt` if the remote does not have it either.
    async fn must_be_there(&self, blob: &Blob, why: &str) -> Result<()> {
        let stat = self.remote.store.stat(&blob.digest);
        let found = self.health.ask("stat", stat).await.map_err(not_ours)?;
        if found == Some(blob.size) {
            return Ok(());
        }
        // Clients must be told that it does not exist.
        passed_by(self.front.remove(&[blob.digest], Pinned::Too).await);
        Err(Error::corrupt("put", why).at("", blob.digest))
    }

    /// Makes sure that the remote has the blobs that a manifest names, as far as they are in front.
    ///
    /// # Errors
    /// A temporary error as soon as the remote is known to be unreachable.
    pub(super) async fn send_children(&self, children: &[Digest], look: Look) -> Result<()> {
        stream::iter(children.to_vec())
            .map(|digest| self.ensure(digest, look))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn ensure(&self, digest: Digest, look: Look) -> Result<()> {
        if !self.unsent.has(&digest) {
            if look == Look::Lately && self.seen.contains(&digest) {
                return Ok(());
            }
            let stat = self.remote.store.stat(&digest);
            let stat = self.health.ask("stat", stat).await.map_err(not_ours)?;
            // A client found it here and did not send it, although the remote has lost or damaged it.
            let pin = self.front.uses.pin(&digest).await;
            let size = self.front.stat(&digest).await;
            if stat.is_some() && (size.is_none() || size == stat) {
                self.seen.insert(&digest);
                return Ok(());
            }
            self.seen.forget(&[digest]);
            let Some(size) = size else {
                // A manifest may name missing blobs; its reader must cope (distribution spec, "Pushing manifests").
                tracing::debug!(%digest, "A manifest names a blob that is neither in the local cache directory nor in the remote store");
                return Ok(());
            };
            tracing::info!(%digest, "The remote store lacks a blob of the local cache directory, which is uploaded");
            let blob = Blob::new(digest, size, Trust::Unknown);
            self.unsent.add(blob, pin, None).await?;
        }
        self.settled("put", &self.unsent, &[digest]).await?;
        if self.seen.contains(&digest) {
            return Ok(());
        }
        // Damaged, or sent, and forgotten since because the remote refused a publication that names it.
        let stat = self.remote.store.stat(&digest);
        let stat = self.health.ask("stat", stat).await.map_err(not_ours)?;
        if stat.is_some() {
            self.seen.insert(&digest);
            return Ok(());
        }
        let why = "it was damaged here before it was uploaded; push it again";
        Err(Error::corrupt("put", why).at("", digest))
    }
}

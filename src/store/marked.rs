//! Blobs that a prune has marked, while doors are open on the store: how both go on beside each other.
//!
//! # The decision
//!
//! The command line's prune keeps everybody out of a folder (`gc.lock` held alone), for it cannot know what others have just
//! found there. A daemon must not: builds would wait for as long as a sweep of the whole store takes, and its own handle of the
//! store, which would give up its lock for that time, is the very one that its doors use. So a daemon prunes by mark and sweep
//! with grace alone, as on S3, where there is no lock either, and never takes the lock:
//!
//! - What a door has told to be there is safe for the grace time. Clients such as BuildKit ask `HEAD`, upload nothing where the
//!   answer is yes, and publish much later. A blob that no mark names may be told: a mark made afterwards lets `grace` pass before a sweep.
//!   A blob that a mark names is *renewed* first ([`Renewing`](super::wrap::Renewing), [`Sweep::renew`]): it counts as written
//!   now, and a sweep takes only what was not written since its mark.
//! - So is what a manifest names that is published in that time: the door asks for each of its blobs, and so renews them, also
//!   after the sweep has found out what is reachable and before it removes.
//! - Renewing and removing shut each other out within one process. Between two daemons over one bucket there remain the
//!   milliseconds from a sweep's last look at a blob to its removal, for a blob that nobody has asked for since the grace time;
//!   what that loses, the next export finds missing and sends again.
//! - Each daemon has to know the marks of all: it reads them before its doors open, then every [`EVERY`], which is far less than
//!   the shortest grace time that it takes, [`MIN_GRACE`].
//! - A grace time of zero would remove what a build has found a second ago, so it is refused while doors are open, but for one
//!   way: `prune --now` ([`crate::ops::prune::now`]). It keeps other processes out by the lock, shuts the doors for the moment in
//!   which it finds out what nothing reaches, leaves what the doors have promised to clients that have not named it yet, and marks
//!   the rest. The doors are open again before anything is removed: from then on renewing protects blobs that are asked for, as
//!   above, and manifests that go are gone for everybody.
//! - Whoever is told that a manifest is there need not ask for what it names: renewing it renews all of that. And manifests are
//!   removed before what they name, indexes first, so that one that is there is whole, also after a kill in the middle.
//! - Command lines that write to the same folder or bucket without the daemon know no marks. They write what they find again
//!   once it is [`FOUND_SECS`] old, so with them beside a daemon the grace time must be at least twice that: the default is.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync;

use super::{Body, StoredBlob, Sweep, error::Result};
use crate::{artifact::Descriptor, digest::Digest, entry::Time};

/// Shortest grace time of a prune beside open doors: longer than any client takes from finding a blob to naming it.
pub const MIN_GRACE: Duration = Duration::from_hours(1);
/// How often a daemon reads which blobs are marked.
pub const EVERY: Duration = Duration::from_mins(5);
/// A blob that was written longer ago than this is written (or renewed) again where it is merely found: half of the default
/// grace time.
pub(super) const FOUND_SECS: i64 = 12 * 3600;

/// Which blobs marks name. Eight bytes of each digest are kept: what is taken for marked by mistake is renewed, which does no harm.
#[derive(Debug, Default)]
pub struct Marked {
    names: RwLock<HashSet<u64>>,
    /// The same for what a prune is about to remove, though no mark names it.
    going: RwLock<HashSet<u64>>,
    /// Of those, manifests: they count as gone from then on, for what they name goes with them.
    leaving: RwLock<HashSet<Digest>>,
    /// Held shared to renew, alone to remove.
    sweeping: sync::RwLock<()>,
    /// Keeps other processes out.
    lock: OnceLock<Lock>,
}

struct Lock(Arc<dyn Sweep>);

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl Marked {
    /// From now on these are what marks name.
    pub fn replace(&self, digests: impl IntoIterator<Item = Digest>) {
        let names = digests.into_iter().map(|d| short(&d)).collect();
        *self.names.write() = names;
    }

    /// As if marks named these, as long as the guard lives: whoever asks for one of `blobs` renews it, so that [`Sweep::remove`]
    /// leaves it if it is told the time before this call. `manifests` are gone for everybody, unless they are published again.
    pub fn going<'d>(
        self: &Arc<Self>,
        manifests: impl IntoIterator<Item = &'d Digest>,
        blobs: impl IntoIterator<Item = &'d Digest>,
    ) -> Going {
        let leaving: HashSet<Digest> = manifests.into_iter().copied().collect();
        let mut going: HashSet<u64> = blobs.into_iter().map(short).collect();
        going.extend(leaving.iter().map(short));
        *self.going.write() = going;
        *self.leaving.write() = leaving;
        Going(self.clone())
    }

    /// Says whether a manifest is about to be removed.
    pub(super) fn is_leaving(&self, digest: &Digest) -> bool {
        let leaving = self.leaving.read();
        leaving.contains(digest)
    }

    fn add(&self, digests: &[Digest]) {
        let mut names = self.names.write();
        names.extend(digests.iter().map(short));
    }

    /// Keeps other processes out of the store while the guard lives, where it can; the doors of this one stay open. `None` where it
    /// cannot.
    ///
    /// # Errors
    /// `Conflict` if others are inside.
    pub async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        match self.lock.get() {
            Some(Lock(sweep)) => sweep.lock_alone().await,
            None => Ok(None),
        }
    }

    fn forget(&self, digest: &Digest) {
        for set in [&self.names, &self.going] {
            let mut names = set.write();
            names.remove(&short(digest));
        }
        let mut leaving = self.leaving.write();
        leaving.remove(digest);
    }

    /// Says whether a blob is marked, or about to be removed.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        let mut sets = [&self.names, &self.going].into_iter();
        sets.any(|set| {
            let names = set.read();
            names.contains(&short(digest))
        })
    }

    /// Renews a blob if a mark names it; `false` if it turned out to be gone.
    ///
    /// What cannot be renewed is told all the same, and said in the log: a sweep may take it, which is a miss; to deny what is
    /// there would fail builds.
    pub(super) async fn renew(&self, sweep: &dyn Sweep, digest: &Digest) -> Result<bool> {
        if !self.has(digest) {
            return Ok(true);
        }
        let _beside = self.sweeping.read().await;
        match sweep.renew(digest).await {
            Ok(there) => {
                self.forget(digest);
                Ok(there)
            }
            Err(e) if e.is_temporary() => Err(e),
            Err(error) => {
                tracing::warn!(%digest, %error, "Marked blob cannot be renewed");
                Ok(true)
            }
        }
    }
}

fn short(digest: &Digest) -> u64 {
    let first = match digest {
        Digest::Sha256(sha256) => &sha256.0[..8],
        Digest::Sha512(sha512) => &sha512[..8],
    };
    u64::from_le_bytes(first.try_into().expect("eight bytes were taken"))
}

/// What a prune is about to remove; dropped when it has.
#[must_use]
pub struct Going(Arc<Marked>);

impl Drop for Going {
    fn drop(&mut self) {
        let mut going = self.0.going.write();
        going.clear();
        let mut leaving = self.0.leaving.write();
        leaving.clear();
    }
}

/// A sweep beside open doors: see the module.
pub(super) struct Beside {
    inner: Arc<dyn Sweep>,
    marked: Arc<Marked>,
}

impl Beside {
    pub(super) fn new(inner: Arc<dyn Sweep>, marked: Arc<Marked>) -> Self {
        // A store is opened once.
        let _ = marked.lock.set(Lock(inner.clone()));
        Self { inner, marked }
    }
}

#[async_trait]
impl Sweep for Beside {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        self.inner.blobs().await
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        self.inner.roots().await
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        self.inner.read_mark(name).await
    }

    async fn marks(&self) -> Result<Vec<String>> {
        self.inner.marks().await
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.inner.write_mark(name, bytes).await
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.inner.remove_mark(name).await
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        self.inner.replace(desc, body).await
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        self.marked.add(digests);
        let _alone = self.marked.sweeping.write().await;
        self.inner.remove(digests, unless_newer_than).await
    }

    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        self.inner.abandon_uploads(limit).await
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        self.inner.renew(digest).await
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        Ok(None)
    }
}

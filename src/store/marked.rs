//! Blobs that a prune has marked while doors are open on the store: how pruning and serving work side by side.
//!
//! # The decision
//!
//! The command line's prune locks everybody out of a folder (`gc.lock` held exclusively), since it cannot know what others have
//! just found there. A daemon must not do that: builds would wait as long as a sweep of the whole store takes, and its own
//! handle of the store, which would release its lock for that time, is the very one that its doors use. So a daemon prunes by
//! mark and sweep with grace alone, as on S3, where there is no lock either, and never takes the lock:
//!
//! - What a door has reported to exist is safe for the grace time. Clients such as BuildKit send `HEAD`, upload nothing if the
//!   blob exists, and publish much later. The existence of an unmarked blob may be reported at once: a mark made afterwards
//!   waits for `grace` before a sweep. A marked blob is *renewed* first ([`Renewing`](super::wrap::Renewing),
//!   [`Sweep::renew`]): it counts as written now, and a sweep removes only what was not written since its mark.
//! - The same holds for what a manifest names that is published in that time: the door looks up each of its blobs, and so
//!   renews them, even between the sweep's computation of reachability and its removals.
//! - Renewing and removing exclude each other within one process. Between two daemons over one bucket there remain the
//!   milliseconds from a sweep's last look at a blob to its removal, for a blob that nobody has asked for since the grace time;
//!   the next export notices such a loss and sends the blob again.
//! - Each daemon must know all marks: it reads them before its doors open, then every [`EVERY`], which is far less than the
//!   shortest grace time that it accepts, [`MIN_GRACE`].
//! - A grace time of zero would remove what a build has found a second ago, so it is refused while doors are open, with one
//!   exception: `prune --now` ([`crate::ops::prune::now`]). It excludes other processes by the lock, closes the doors only
//!   while it computes what is unreachable, keeps what the doors have promised to clients that have not named it yet, and marks
//!   the rest. The doors are open again before anything is removed: from then on renewing protects blobs that are asked for, as
//!   above, and manifests to be removed no longer exist for anybody.
//! - A client that was told that a manifest exists need not ask for what it names: renewing it renews all of that. And
//!   manifests are removed before what they name, indexes first, so that an existing one is always complete, even after a kill
//!   in the middle.
//! - Command lines that write to the same folder or bucket without the daemon know no marks. They rewrite what they find once
//!   it is [`FOUND_SECS`] old, so the grace time must be at least twice that if they run beside a daemon: the default is.

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

/// Minimum grace time of a prune beside open doors: longer than any client takes from finding a blob to naming it.
pub const MIN_GRACE: Duration = Duration::from_hours(1);
/// How often a daemon reads which blobs are marked.
pub const EVERY: Duration = Duration::from_mins(5);
/// A blob that was written longer ago than this is written (or renewed) again even if it exists: half of the default grace
/// time.
pub(super) const FOUND_SECS: i64 = 12 * 3600;

/// The blobs that marks name. Eight bytes of each digest are kept: renewing a false positive does no harm.
#[derive(Debug, Default)]
pub struct MarkedBlobs {
    names: RwLock<HashSet<u64>>,
    /// The same for blobs that a prune is about to remove although no mark names them.
    going: RwLock<HashSet<u64>>,
    /// The manifests among them: they count as removed from then on, since what they name is removed with them.
    leaving: RwLock<HashSet<Digest>>,
    /// Held shared for renewing, exclusively for removing.
    sweeping: sync::RwLock<()>,
    /// Excludes other processes.
    lock: OnceLock<Lock>,
}

struct Lock(Arc<dyn Sweep>);

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl MarkedBlobs {
    /// Replaces the set of blobs that marks name.
    pub fn replace(&self, digests: impl IntoIterator<Item = Digest>) {
        let names = digests.into_iter().map(|d| short(&d)).collect();
        *self.names.write() = names;
    }

    /// Treats these as marked while the guard lives: asking for one of `blobs` renews it, so that [`Sweep::remove`] keeps it if
    /// called with a time before this call. `manifests` no longer exist for anybody, unless they are published again.
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

    /// Returns true if a manifest is about to be removed.
    pub(super) fn is_leaving(&self, digest: &Digest) -> bool {
        let leaving = self.leaving.read();
        leaving.contains(digest)
    }

    fn add(&self, digests: &[Digest]) {
        let mut names = self.names.write();
        names.extend(digests.iter().map(short));
    }

    /// Excludes other processes from the store while the guard lives, if possible; the doors of this one stay open. `None` if
    /// it is not possible.
    ///
    /// # Errors
    /// `Conflict` if other processes use the store.
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

    /// Returns true if a blob is marked, or about to be removed.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        let mut sets = [&self.names, &self.going].into_iter();
        sets.any(|set| {
            let names = set.read();
            names.contains(&short(digest))
        })
    }

    /// Renews a blob if a mark names it; `false` if it turned out to be gone. If renewing fails, the blob is still reported to
    /// exist, and the failure is logged: a sweep may remove it, which is a miss; denying that it exists would fail builds.
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
                tracing::warn!(%digest, %error, "Could not renew a marked blob");
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

/// What a prune is about to remove; dropped after the removal.
#[must_use]
pub struct Going(Arc<MarkedBlobs>);

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
    marked: Arc<MarkedBlobs>,
}

impl Beside {
    pub(super) fn new(inner: Arc<dyn Sweep>, marked: Arc<MarkedBlobs>) -> Self {
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

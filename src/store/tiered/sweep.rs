//! Sweeps run on the remote; the front only makes sure that nothing in the backlog is swept, or believed to be swept.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;
use bytes::Bytes;

use super::{Core, front::passed_by, uses::Pinned};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    entry::Time,
    store::{
        Body, StoredBlob, Sweep,
        error::{Error, Result},
    },
};

impl Core {
    fn sweeper(&self) -> Result<&dyn Sweep> {
        self.remote.store.sweep().map(|s| &**s).ok_or_else(|| {
            let why = "the remote store cannot be swept";
            Error::unsupported("sweep", why)
        })
    }

    /// Waits until the remote has everything acknowledged so far, except what it refuses: a full remote is swept so that it can
    /// accept the rest.
    ///
    /// Refused blobs are usually not in the remote, and stay if they are: they are pinned in front, which [`Sweep::remove`]
    /// respects. The queued manifests that name them are roots.
    async fn all_sent(&self) -> Result<()> {
        for digest in self.unsent.all() {
            if self.unsent.is_refused(&digest) {
                continue;
            }
            let Err(error) = self.settled("sweep", &self.unsent, &[digest]).await else {
                continue;
            };
            if error.is_temporary() {
                return Err(error);
            }
            tracing::debug!(%digest, %error, "A sweep does not wait for a blob that the remote store refuses");
        }
        Ok(())
    }
}

#[async_trait]
impl Sweep for Core {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        self.all_sent().await?;
        self.health.ask("list", self.sweeper()?.blobs()).await
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        // The queue first: entries that leave it meanwhile are in the remote by then.
        let mut roots = self.updates.manifests();
        roots.extend(self.health.ask("list", self.sweeper()?.roots()).await?);
        roots.sort_unstable();
        roots.dedup();
        Ok(roots)
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        let asked = self.sweeper()?.read_mark(name);
        self.health.ask("read mark", asked).await
    }

    async fn marks(&self) -> Result<Vec<String>> {
        self.health.ask("list", self.sweeper()?.marks()).await
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        let asked = self.sweeper()?.write_mark(name, bytes);
        self.health.ask("write mark", asked).await
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        let asked = self.sweeper()?.remove_mark(name);
        self.health.ask("remove mark", asked).await
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        let asked = self.sweeper()?.replace(desc, body);
        self.health.send("put", asked).await
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        let needed = |d: &&Digest| !self.front.uses.is_pinned(d);
        let digests: Vec<Digest> = digests.iter().filter(needed).copied().collect();
        // From now on they must not be assumed to exist.
        self.seen.forget(&digests);
        let asked = self.sweeper()?.remove(&digests, unless_newer_than);
        let removed = self.health.ask("remove", asked).await?;
        self.seen.forget(&digests);
        passed_by(self.front.remove(&digests, Pinned::Stay).await);
        Ok(removed)
    }

    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        let asked = self.sweeper()?.abandon_uploads(limit);
        self.health.ask("list", asked).await
    }

    /// Blobs in the backlog are written when they are sent, which renews them.
    async fn renew(&self, digest: &Digest) -> Result<bool> {
        if self.unsent.has(digest) {
            return Ok(true);
        }
        let asked = self.sweeper()?.renew(digest);
        self.health.ask("renew", asked).await
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.all_sent().await?;
        let asked = self.sweeper()?.lock_alone();
        self.health.ask("lock", asked).await
    }
}

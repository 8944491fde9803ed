//! Remembers which blobs came with wrong bytes: for a while they are not there, so that nobody is sent to them again, and who
//! brings one replaces it.
//!
//! Only reading shows that a bucket holds the right number of wrong bytes, and a build that read them has failed by then. The
//! next one is not to.
#![deny(clippy::missing_trait_methods)]

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, future::ready};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Pointer, Published, Put, Resolved,
        Result, Store, Sweep, TagStore,
    },
};

/// How long: what was damaged on its way, and not in the store, is believed again after that.
const DISTRUST: Duration = Duration::from_hours(1);
/// Blobs that are remembered at most.
const MAX_KNOWN: usize = 10_000;

/// Blobs that came with wrong bytes.
#[derive(Debug, Default)]
pub struct Distrust(Mutex<HashMap<Digest, Instant>>);

impl Distrust {
    fn covers(&self, digest: &Digest) -> bool {
        let known = self.0.lock();
        known.get(digest).is_some_and(|at| at.elapsed() < DISTRUST)
    }

    /// Notes why a read failed, if the store has as many bytes as the reader asked for. Where it has not, the question may be what is
    /// wrong: anybody who may push chooses the sizes in a manifest, and must not make the blobs of others absent by it.
    async fn note(&self, store: &dyn Store, desc: &Descriptor, error: &Error) {
        if error.kind == ErrorKind::Corrupt
            && !error.other_size
            && store.stat(&desc.digest).await.ok().flatten() == Some(desc.size)
        {
            self.add(&desc.digest, error);
        }
    }

    fn add(&self, digest: &Digest, error: &Error) {
        tracing::error!(%digest, %error, "Damaged blob counts as absent until it is brought again");
        let mut known = self.0.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(*digest, Instant::now());
    }

    fn forget(&self, digest: &Digest) {
        self.0.lock().remove(digest);
    }
}

/// A store whose damaged blobs are absent once they were found.
pub struct Distrusting {
    inner: Arc<dyn Store>,
    distrust: Arc<Distrust>,
    /// Writes over the damaged one; where nobody can, it stays, and stays distrusted.
    sweep: Option<Arc<dyn Sweep>>,
}

impl Distrusting {
    /// Goes by what `inner` finds when it reads whole blobs; what is found is shared by whoever has the same `distrust`.
    pub fn new(
        inner: Arc<dyn Store>,
        distrust: Arc<Distrust>,
        sweep: Option<Arc<dyn Sweep>>,
    ) -> Self {
        Self {
            inner,
            distrust,
            sweep,
        }
    }

    /// Reads what is there: it may have been damaged only on its way.
    async fn is_whole(&self, desc: &Descriptor) -> bool {
        match self.inner.get(desc, 0..desc.size).await {
            Ok(Some(stream)) => stream.try_for_each(|_| ready(Ok(()))).await.is_ok(),
            _ => false,
        }
    }
}

#[async_trait]
impl BlobStore for Distrusting {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        if self.distrust.covers(digest) {
            return Ok(None);
        }
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let found = self.inner.get(desc, range).await;
        if let Err(error) = &found {
            self.distrust.note(&*self.inner, desc, error).await;
        }
        let (store, distrust, desc) = (self.inner.clone(), self.distrust.clone(), desc.clone());
        let watched = |stream: ByteStream| {
            let noted = move |error: Error| {
                let (store, distrust, desc) = (store.clone(), distrust.clone(), desc.clone());
                async move {
                    distrust.note(&*store, &desc, &error).await;
                    Err(error)
                }
            };
            stream.or_else(noted).boxed()
        };
        Ok(found?.map(watched))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let digest = &desc.digest;
        if !self.distrust.covers(digest) {
            return self.inner.put(desc, body).await;
        }
        let put = match &self.sweep {
            // It is never absent meanwhile, and nothing that repositories say of it goes: it may be others' too.
            Some(sweep) => {
                sweep.replace(desc, body).await?;
                Put::Stored
            }
            None => self.inner.put(desc, body).await?,
        };
        if put == Put::Stored || self.is_whole(desc).await {
            self.distrust.forget(digest);
        }
        Ok(put)
    }
}

#[async_trait]
impl TagStore for Distrusting {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.inner.resolve(reference).await
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.inner.pointer(tag).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        self.inner.publish(manifest, tag, expect).await
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.inner.tags(prefix).await
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        self.inner.tags_dated(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.inner.clock().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

    use bytes::Bytes;

    use super::*;
    use crate::store::{
        Records as _,
        disk::{Disk, Settings},
        keys,
        keys::Repo,
        wrap::Verified,
    };

    const BYTES: &[u8] = b"what a layer is made of";

    async fn read(store: &dyn Store, desc: &Descriptor) -> Result<Option<Vec<u8>>> {
        let Some(stream) = store.get(desc, 0..desc.size).await? else {
            return Ok(None);
        };
        let all: Vec<Bytes> = stream.try_collect().await?;
        Ok(Some(all.concat()))
    }

    #[tokio::test]
    async fn a_blob_that_came_damaged_is_absent_until_it_is_brought_again() {
        for sweeps in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let settings = Settings::default();
            let disk = Disk::open(dir.path(), Repo::cli(), &settings).await;
            let disk = Arc::new(disk.unwrap());
            let distrust = Arc::<Distrust>::default();
            let verified = Arc::new(Verified::new(disk.clone()));
            let sweep = sweeps.then(|| disk.clone() as Arc<dyn Sweep>);
            let store = Distrusting::new(verified.clone(), distrust.clone(), sweep.clone());
            // Another repository's.
            let other = Distrusting::new(verified, distrust, sweep);

            let desc = Descriptor::of("x/y", BYTES);
            let body = Body::Bytes(Bytes::from_static(BYTES));
            store.put(&desc, &body).await.unwrap();
            let path = dir.path().join(keys::blob(&desc.digest));
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, b"what a layer is MADE of").unwrap();
            assert!(other.stat(&desc.digest).await.unwrap().is_some());
            let found = read(&store, &desc).await.unwrap_err();
            assert_eq!(found.kind, ErrorKind::Corrupt);
            assert_eq!(other.stat(&desc.digest).await.unwrap(), None);

            let put = other.put(&desc, &body).await.unwrap();
            assert_eq!(put == Put::Stored, sweeps);
            assert_eq!(store.stat(&desc.digest).await.unwrap().is_some(), sweeps);
            if sweeps {
                assert_eq!(read(&store, &desc).await.unwrap().unwrap(), BYTES);
            }
        }
    }

    #[tokio::test]
    async fn mending_a_damaged_blob_takes_it_from_no_repository() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let disk = Disk::open(dir.path(), Repo::cli(), &settings).await;
        let disk = Arc::new(disk.unwrap());
        let theirs: Repo = "secret/app".parse().unwrap();
        let manifest = Manifest::sniff(r#"{"schemaVersion":2,"manifests":[]}"#);
        let theirs_store = disk.in_repo(theirs.clone());
        let published = theirs_store.publish(&manifest, None, &Expect::Anything);
        published.await.unwrap();
        let desc = manifest.descriptor();
        let records = [
            keys::manifest(&theirs, &desc.digest),
            keys::linked(&theirs, &desc.digest),
        ];
        let linked = Bytes::from_static(b"{}");
        disk.write_record(&records[1], linked).await.unwrap();

        // Somebody else brings it, as a blob.
        let distrust = Arc::<Distrust>::default();
        let store = Distrusting::new(disk.clone(), distrust.clone(), Some(disk.clone()));
        let error = Error::new(ErrorKind::Corrupt, "get", "damaged");
        distrust.add(&desc.digest, &error);
        let path = dir.path().join(keys::blob(&desc.digest));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![b'x'; manifest.bytes.len()]).unwrap();
        let body = Body::Bytes(manifest.bytes.clone());
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
        for key in &records {
            let read = disk.read_record(key, 1000).await.unwrap();
            assert!(read.is_some(), "{key} is gone");
        }
        let found = theirs_store.resolve(&desc.digest.into()).await.unwrap();
        assert_eq!(found.unwrap().manifest, manifest);
    }

    #[tokio::test]
    async fn nobody_makes_a_blob_absent_by_a_wrong_size_or_wrong_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let disk = Disk::open(dir.path(), Repo::cli(), &settings).await;
        let disk = Arc::new(disk.unwrap());
        let distrust = Arc::<Distrust>::default();
        let verified = Arc::new(Verified::new(disk.clone()));
        let store = Distrusting::new(verified, distrust.clone(), Some(disk.clone()));
        let desc = Descriptor::of("x/y", BYTES);
        let body = Body::Bytes(Bytes::from_static(BYTES));
        store.put(&desc, &body).await.unwrap();
        for size in [0, 1, desc.size - 1, desc.size + 1, 5 << 20] {
            let wrong = Descriptor::new("x/y", desc.digest, size);
            let found = read(&store, &wrong).await.unwrap_err();
            assert_eq!(found.kind, ErrorKind::Corrupt);
            assert!(store.stat(&desc.digest).await.unwrap().is_some(), "{size}");
        }
        // It came damaged once, and whoever brings something else leaves it there.
        let error = Error::new(ErrorKind::Corrupt, "get", "damaged");
        distrust.add(&desc.digest, &error);
        let other = Body::Bytes(Bytes::from_static(b"what a layer is MADE of"));
        let refused = store.put(&desc, &other).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Corrupt);
        assert!(disk.stat(&desc.digest).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_cannot_be_replaced_and_is_whole_is_trusted_again_when_it_is_brought() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let disk = Disk::open(dir.path(), Repo::cli(), &settings).await;
        let distrust = Arc::<Distrust>::default();
        let verified = Arc::new(Verified::new(Arc::new(disk.unwrap())));
        let store = Distrusting::new(verified, distrust.clone(), None);
        let desc = Descriptor::of("x/y", BYTES);
        let body = Body::Bytes(Bytes::from_static(BYTES));
        store.put(&desc, &body).await.unwrap();
        let error = Error::new(ErrorKind::Corrupt, "get", "damaged");
        distrust.add(&desc.digest, &error);
        assert_eq!(store.stat(&desc.digest).await.unwrap(), None);
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
        assert!(store.stat(&desc.digest).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn distrust_ends() {
        let distrust = Distrust::default();
        let digest = Digest::sha256_of(BYTES);
        distrust.add(&digest, &Error::new(ErrorKind::Corrupt, "get", "damaged"));
        assert!(distrust.covers(&digest));
        tokio::time::sleep(DISTRUST).await;
        assert!(!distrust.covers(&digest));
    }
}

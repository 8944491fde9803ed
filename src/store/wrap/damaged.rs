//! Blobs that were read with wrong bytes: for a while they count as absent, so that no other reader gets them, and the next
//! upload replaces them.
//!
//! Only reading shows that a bucket has wrong bytes of the right length, and by then the build that read them has failed. The
//! next build must not fail as well.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{
    artifact::Descriptor,
    digest::Digest,
    lately::Lately,
    store::{ByteStream, Error, ErrorKind, RepoStore, Result, Sweep},
};

/// How long a blob counts as damaged. It may have been damaged only in transit, and not in the store.
const REMEMBERED: Duration = Duration::from_hours(1);
/// Maximum number of blobs that are remembered.
const MAX_KNOWN: usize = 10_000;

/// The damaged blobs of one store; all of its repositories share them.
#[derive(Clone)]
pub struct DamagedBlobs {
    found: Arc<Lately<Digest>>,
    /// Overwrites a damaged blob; without it the blob stays damaged.
    pub(super) sweep: Option<Arc<dyn Sweep>>,
}

impl DamagedBlobs {
    /// An empty set; `sweep` replaces a damaged blob that is uploaded again.
    pub fn replaced_by(sweep: Option<Arc<dyn Sweep>>) -> Self {
        Self {
            found: Arc::new(Lately::new(MAX_KNOWN, REMEMBERED)),
            sweep,
        }
    }

    pub(super) fn contain(&self, digest: &Digest) -> bool {
        self.found.contains(digest)
    }

    /// Passes through what a reader gets, and records a failure; `store` is asked for the blob's actual size.
    pub(super) async fn watch(
        &self,
        store: &Arc<dyn RepoStore>,
        desc: &Descriptor,
        found: Result<Option<ByteStream>>,
    ) -> Result<Option<ByteStream>> {
        if let Err(error) = &found {
            self.note(&**store, desc, error).await;
        }
        let (known, store, desc) = (self.clone(), store.clone(), desc.clone());
        let watched = |stream: ByteStream| {
            let noted = move |error: Error| {
                let (known, store, desc) = (known.clone(), store.clone(), desc.clone());
                async move {
                    known.note(&*store, &desc, &error).await;
                    Err(error)
                }
            };
            stream.or_else(noted).boxed()
        };
        Ok(found?.map(watched))
    }

    /// Records a failed read, if the blob in `store` has the size that the reader asked for. Otherwise the request may be
    /// wrong: everybody who may push chooses the sizes in a manifest, and must not be able to make the blobs of others absent
    /// in that way.
    async fn note(&self, store: &dyn RepoStore, desc: &Descriptor, error: &Error) {
        if error.kind == ErrorKind::Corrupt
            && !error.other_size
            && store.stat(&desc.digest).await.ok().flatten() == Some(desc.size)
        {
            self.add(&desc.digest, error);
        }
    }

    fn add(&self, digest: &Digest, error: &Error) {
        tracing::error!(%digest, %error, "Treating a damaged blob as missing until it is pushed again");
        self.found.insert(*digest, ());
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.found.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

    use bytes::Bytes;

    use super::*;
    use crate::{
        artifact::Manifest,
        store::{
            BlobStore as _, Body, Expect, Put, Records as _, TagStore as _,
            disk::{Disk, Settings},
            keys,
            keys::Repo,
            wrap::Verified,
        },
    };

    const BYTES: &[u8] = b"what a layer is made of";

    async fn read(store: &dyn RepoStore, desc: &Descriptor) -> Result<Option<Vec<u8>>> {
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
            let sweep = sweeps.then(|| disk.clone() as Arc<dyn Sweep>);
            let damaged = DamagedBlobs::replaced_by(sweep);
            let store = Verified::remembering(disk.clone(), damaged.clone());
            // A store of another repository.
            let other = Verified::remembering(disk.clone(), damaged);

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

        // Another client uploads it, as a blob.
        let damaged = DamagedBlobs::replaced_by(Some(disk.clone()));
        let store = Verified::remembering(disk.clone(), damaged.clone());
        let error = Error::corrupt("get", "damaged");
        damaged.add(&desc.digest, &error);
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
        let damaged = DamagedBlobs::replaced_by(Some(disk.clone()));
        let store = Verified::remembering(disk.clone(), damaged.clone());
        let desc = Descriptor::of("x/y", BYTES);
        let body = Body::Bytes(Bytes::from_static(BYTES));
        store.put(&desc, &body).await.unwrap();
        for size in [0, 1, desc.size - 1, desc.size + 1, 5 << 20] {
            let wrong = Descriptor::new("x/y", desc.digest, size);
            let found = read(&store, &wrong).await.unwrap_err();
            assert_eq!(found.kind, ErrorKind::Corrupt);
            assert!(store.stat(&desc.digest).await.unwrap().is_some(), "{size}");
        }
        // It was read damaged once, and uploading something else does not change that.
        let error = Error::corrupt("get", "damaged");
        damaged.add(&desc.digest, &error);
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
        let damaged = DamagedBlobs::replaced_by(None);
        let store = Verified::remembering(Arc::new(disk.unwrap()), damaged.clone());
        let desc = Descriptor::of("x/y", BYTES);
        let body = Body::Bytes(Bytes::from_static(BYTES));
        store.put(&desc, &body).await.unwrap();
        let error = Error::corrupt("get", "damaged");
        damaged.add(&desc.digest, &error);
        assert_eq!(store.stat(&desc.digest).await.unwrap(), None);
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
        assert!(store.stat(&desc.digest).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_blob_is_believed_again_after_a_while() {
        let damaged = DamagedBlobs::replaced_by(None);
        let digest = Digest::sha256_of(BYTES);
        damaged.add(&digest, &Error::corrupt("get", "damaged"));
        assert!(damaged.contain(&digest));
        tokio::time::sleep(REMEMBERED).await;
        assert!(!damaged.contain(&digest));
    }
}

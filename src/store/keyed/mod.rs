//! The keyed store: the tree of [`super::keys`] over objects by key, written once for a folder and a bucket.
//!
//! - Holds: the representation of tags, manifests, referrers, records and roots as objects; the order in which they are written
//!   and removed.
//! - Enters: a driver ([`Objects`], [`SweptBlobs`]).
//! - Leaves: the store traits.
//! - Deliberately absent: transfer of bytes to a disk or a server, and locks.
//!
//! A name appears when its bytes are durable: a manifest and its records, then the tag.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

mod records;
mod staged;
mod sweep;
mod tags;

use staged::Staged;

use super::{
    BlobStore, Body, ByteStream, Put, StoredBlob, Version,
    error::Result,
    keys::{Key, Repo},
    records::Listed,
};
use crate::{
    artifact::{Descriptor, Manifest},
    digest::Digest,
    entry::Time,
};

/// A small object that was read.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its version; `None` if the driver has none.
    pub version: Option<Version>,
    /// When it was last written, by the store's clock; `None` if the store does not report it.
    pub modified: Option<Time>,
}

/// Condition for writing an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// None.
    None,
    /// The object does not exist.
    Absent,
    /// The object has this version.
    Is(Version),
}

/// What a listing includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Keys; size and time only if they cost nothing.
    Keys,
    /// Size and time too, as far as the store keeps them.
    All,
}

/// A driver: small objects by key, each written atomically, beside blobs by digest.
#[async_trait]
pub trait Objects: BlobStore + Clone + 'static {
    /// The store's URL, for messages.
    fn url(&self) -> &str;

    /// Returns true if a manifest without a record counts as part of every repository.
    fn finds_manifests_without_record(&self) -> bool;

    /// Reads an object of at most `limit` bytes.
    ///
    /// # Errors
    /// `Corrupt` for a longer one.
    async fn read(&self, op: &'static str, key: &str, limit: u64) -> Result<Option<Object>>;

    /// Writes an object.
    ///
    /// # Errors
    /// `Conflict` if `condition` does not hold; a driver may be unable to check it.
    async fn write(
        &self,
        op: &'static str,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<()>;

    /// Removes an object; returns whether it existed.
    async fn remove(&self, op: &'static str, key: &str) -> Result<bool>;

    /// Removes several; their absence is no error.
    async fn remove_all(&self, op: &'static str, keys: &[String]) -> Result<()>;

    /// The objects whose key consists of `prefix` and at least one more character other than `/`, in any order.
    async fn list(&self, op: &'static str, prefix: &str, detail: Detail) -> Result<Vec<Listed>>;

    /// Any of the keys that [`Self::list`] lists.
    async fn any(&self, op: &'static str, prefix: &str) -> Result<Option<String>>;

    /// The keys of all objects in the subfolders of a folder, which ends in `/`, in any order.
    async fn keys_below(&self, op: &'static str, folder: &str) -> Result<Vec<String>>;

    /// The names of the folders in a folder, which ends in `/`.
    async fn folders(&self, op: &'static str, folder: &str) -> Result<Vec<String>>;

    /// The store's clock ([`super::TagStore::clock`]).
    async fn clock(&self) -> Result<Time>;
}

/// A driver's blobs, as sweeps and repairs need them.
#[async_trait]
pub trait SweptBlobs: Objects {
    /// Stores a manifest's bytes, replacing damaged ones.
    async fn put_manifest(&self, manifest: &Manifest) -> Result<()>;

    /// See [`super::Sweep::replace`].
    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()>;

    /// See [`super::Sweep::renew`].
    async fn renew(&self, digest: &Digest) -> Result<bool>;

    /// All blobs.
    async fn blobs(&self) -> Result<Vec<StoredBlob>>;

    /// Those of these digests that exist and were not written after `limit`, with their sizes.
    async fn older(&self, digests: &[Digest], limit: Time) -> Result<Vec<(Digest, u64)>>;

    /// The keys of all records that repositories have of these manifests, each with its manifest.
    async fn records_of(&self, digests: &[Digest]) -> Result<Vec<(Digest, String)>>;

    /// Removes blobs that were not written after `limit`; returns how many, and their bytes.
    async fn remove_blobs(&self, blobs: &[(Digest, u64)], limit: Time) -> Result<(u64, u64)>;

    /// See [`super::Sweep::abandon_uploads`].
    async fn abandon_uploads(&self, limit: Time) -> Result<u64>;

    /// See [`super::Sweep::lock_alone`].
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>>;
}

/// A store of one repository over a driver; cheap to clone.
#[derive(Debug, Clone)]
pub struct Keyed<O> {
    pub(super) objects: O,
    pub(super) repo: Repo,
    /// Belongs to the repository.
    staged: Staged,
}

impl<O: Objects> Keyed<O> {
    pub(super) fn new(objects: O, repo: Repo) -> Self {
        let staged = Staged::default();
        Self {
            objects,
            repo,
            staged,
        }
    }

    /// The same store, with the tags of another repository.
    #[must_use]
    pub fn in_repo(&self, repo: Repo) -> Self {
        Self::new(self.objects.clone(), repo)
    }
}

/// The names of marks, sorted.
pub(super) fn marks_of(keys: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = keys
        .filter_map(|key| match super::keys::parse(&key) {
            Some(Key::Mark(name)) => Some(name),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[async_trait]
impl<O: Objects> BlobStore for Keyed<O> {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let found = self.objects.stat(digest).await;
        found.map_err(|e| e.at(self.objects.url(), digest))
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let found = self.objects.get(desc, range).await;
        found.map_err(|e| e.at(self.objects.url(), desc.digest))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let done = self.objects.put(desc, body).await;
        done.map_err(|e| e.at(self.objects.url(), desc.digest))
    }
}

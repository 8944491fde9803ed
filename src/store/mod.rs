//! Stores: blobs by digest, and tags.
//!
//! - Holds: the traits, the backends (disk, image layout, S3, registry), the wrappers around them, a local cache directory in
//!   front of a remote, support for tests.
//! - Enters: descriptors and re-openable bodies; manifests as bytes.
//! - Leaves: streams of bytes, manifests, errors by kind.
//! - Deliberately absent: the meaning of the bytes, Go, BuildKit, HTTP servers, the command line.

use std::ops::Range;

use async_trait::async_trait;

mod batch;
pub mod behind;
pub mod body;
pub mod by_tags;
mod check;
pub mod disk;
pub mod error;
mod handle;
pub mod ingest;
mod keyed;
pub mod keys;
pub mod layout;
pub mod marked;
pub mod net;
pub mod open;
mod pace;
pub mod published_at;
pub mod push_check;
pub mod queue;
pub mod record;
pub mod records;
pub mod registry;
pub mod repository;
pub mod s3;
pub mod scrub;
mod server_time;
mod signs;
pub mod testing;
pub mod tiered;
mod tree;
pub mod unfilled;
mod url;
pub mod wrap;

pub use body::{Body, ByteStream, Meter, Spool, SpoolWriter, collect};
use check::{check_body, check_body_blocking, check_manifest, check_range};
pub use error::{Error, ErrorKind, Result, corrupt_is_none};
pub use handle::{Repositories, Store};
pub use published_at::{PublishedAt, published_at};
pub use push_check::PushCheck;
pub use records::Records;
pub use repository::Repository;
pub use url::StoreUrl;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
};

/// Whether a put had to transfer bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The bytes were stored now.
    Stored,
    /// They existed already.
    Existed,
}

/// Bytes by digest. A miss is `Ok(None)`.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// The stored size of a blob, without reading it.
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>>;

    /// The bytes of `range` (within `desc.size`) of a blob, as they arrive.
    ///
    /// The stream is not checked against the digest here: for a range that is impossible. Readers of ranges check frames,
    /// readers of whole blobs use the `Verified` wrapper. A blob with another size than `desc.size` is `Corrupt`. The stream
    /// ends with an error if it has fewer bytes than requested.
    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>>;

    /// Stores `body` under `desc.digest`; idempotent, existing content is left untouched.
    ///
    /// Durable once it returns, so another node may `get` it at once; dropping the future leaves nothing visible.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not hash to `desc.digest` or are not `desc.size` long.
    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put>;
}

/// Opaque version of a tag (an `ETag`, a digest): equal versions mean the same content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// What a tag or digest currently refers to.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest; its bytes were checked against the digest, if one was requested or the store named one.
    pub manifest: Manifest,
    /// The tag's version; `None` if the store has none or the request was by digest.
    pub version: Option<Version>,
    /// When the tag was last written, by the store's clock; `None` if the store does not report it.
    pub modified: Option<Time>,
}

/// What a tag points at, according to its record.
#[derive(Debug, Clone)]
pub struct Pointer {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's size in bytes.
    pub size: u64,
    /// As [`Resolved::modified`].
    pub modified: Option<Time>,
    /// The manifest, if the store had to read it to answer.
    pub manifest: Option<Manifest>,
}

impl From<Resolved> for Pointer {
    fn from(found: Resolved) -> Self {
        let manifest = found.manifest;
        Self {
            digest: manifest.digest,
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
            modified: found.modified,
            manifest: Some(manifest),
        }
    }
}

/// What a caller knows of the manifest that a tag may point at, so that it need not be read after the tag.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Manifests that the caller has.
    pub manifests: &'a [Manifest],
    /// The digest that the tag probably points at: a store may read that manifest together with the tag.
    pub guess: Option<Digest>,
}

/// Condition for writing a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// None.
    Anything,
    /// The tag does not exist.
    Absent,
    /// The tag still has this version.
    Version(Version),
}

/// Result of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The tag points at the manifest.
    Done,
    /// The condition did not hold; nothing was changed.
    Conflict,
}

/// Manifests, and tags that point at them: the only mutable objects.
#[async_trait]
pub trait TagStore: Send + Sync {
    /// Reads a manifest by tag or digest.
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>>;

    /// As [`TagStore::resolve`] of a tag. A store that reads tag and manifest one after the other saves the second read if `known`
    /// has the manifest; that need not be in the store any more.
    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        let _ = known;
        self.resolve(&tag.clone().into()).await
    }

    /// What a tag points at, without reading the manifest if the store can answer without it: then that may be missing or
    /// damaged.
    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let found = self.resolve(&tag.clone().into()).await?;
        Ok(found.map(Pointer::from))
    }

    /// Stores a manifest ahead of its [`TagStore::publish`] under a tag, if that then takes fewer requests one after the other; otherwise
    /// does nothing. The blobs it names must be stored before.
    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        let _ = manifest;
        Ok(())
    }

    /// Stores a manifest and, with a tag, makes the tag point at it. The blobs it names must be stored before.
    ///
    /// Durable and visible when it returns. `expect` is guaranteed only with [`Meet::CompareAndSwap`]; other stores enforce it
    /// as far as their server does.
    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published>;

    /// All tags that start with `prefix`, sorted by bytes, unique.
    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>>;

    /// As [`TagStore::tags`], each with the time when the store wrote it, if its listing includes that without further
    /// requests. Like [`Resolved::modified`], but it may be coarser.
    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let tags = self.tags(prefix).await?;
        Ok(tags.into_iter().map(|tag| (tag, None)).collect())
    }

    /// The store's clock, accurate to a few seconds; asks the server only if no recent answer contained the time.
    async fn clock(&self) -> Result<Time>;
}

/// The blobs and tags of one repository: both together.
pub trait RepoStore: BlobStore + TagStore {}
impl<T: BlobStore + TagStore> RepoStore for T {}

/// How a store handles concurrent writers of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meet {
    /// `publish` compares and renames under a lock.
    CompareAndSwap,
    /// Side tags; conditions are only a hint.
    SideTags,
}

/// Ability: names can be removed.
#[async_trait]
pub trait Untag: Send + Sync {
    /// Removes a tag, but not its manifest, which other tags may share; `false` if the tag did not exist.
    async fn untag(&self, tag: &Tag) -> Result<bool>;
}

/// A blob in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Stored size in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: Time,
}

/// Ability: unreachable blobs can be found and removed.
#[async_trait]
pub trait Sweep: Send + Sync {
    /// Every stored blob, including the bytes of manifests.
    async fn blobs(&self) -> Result<Vec<StoredBlob>>;

    /// The digest of every manifest that any tag or part of any repository of this store names.
    async fn roots(&self) -> Result<Vec<Digest>>;

    /// Reads the document that the last marking run wrote under `name`.
    async fn read_mark(&self, name: &str) -> Result<Option<bytes::Bytes>>;

    /// Names of the marks, sorted.
    async fn marks(&self) -> Result<Vec<String>>;

    /// Writes a mark.
    async fn write_mark(&self, name: &str, bytes: bytes::Bytes) -> Result<()>;

    /// Removes a mark.
    async fn remove_mark(&self, name: &str) -> Result<()>;

    /// Overwrites the bytes stored under a blob's digest. Readers see either the old or the new ones, and records of
    /// repositories are unchanged.
    ///
    /// # Errors
    /// `Corrupt` if the bytes do not match the digest; then nothing is written.
    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()>;

    /// Removes blobs (and the records of manifests among them) that were not written since `unless_newer_than`; returns the
    /// count and bytes removed.
    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)>;

    /// Aborts uploads that were begun before `limit` and never completed, if the store keeps such uploads; returns how many. They may
    /// belong to anybody and still be in progress: only call this if no upload takes that long.
    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        let _ = limit;
        Ok(0)
    }

    /// Marks a blob as used: it counts as written now; `false` if it does not exist.
    ///
    /// # Errors
    /// `Unsupported` and `Denied` if its time cannot be changed.
    async fn renew(&self, digest: &Digest) -> Result<bool>;

    /// Excludes writers and importers while the guard lives, if the store supports it (disk); else `None`.
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>>;
}

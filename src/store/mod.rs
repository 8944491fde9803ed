//! Stores: blobs by digest, and tags.
//!
//! - Holds: the traits, the backends (disk, image layout, S3, registry), the wrappers around them, a disk in front of a
//!   remote, support for tests.
//! - Enters: descriptors and re-openable bodies; manifests as bytes.
//! - Leaves: streams of bytes, manifests, errors by kind.
//! - Deliberately absent: what the bytes mean, Go, BuildKit, HTTP servers, the command line.

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
pub mod wrap;

pub use body::{Body, ByteStream, Spool, SpoolWriter, collect};
use check::{check_body, check_body_blocking, check_manifest, check_range};
pub use error::{Error, ErrorKind, Result};
pub use handle::Store;
pub use published_at::{PublishedAt, published_at};
pub use push_check::PushCheck;
pub use records::Records;
pub use repository::Repository;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
};

/// Whether a put had to move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The bytes were stored now.
    Stored,
    /// They were there already.
    Existed,
}

/// Bytes by digest. A miss is `Ok(None)`.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// The stored size of a blob, without reading it.
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>>;

    /// The bytes of `range` (within `desc.size`) of a blob, as they come.
    ///
    /// What is streamed is not checked against the digest here: a range cannot be. Readers of ranges check frames,
    /// readers of whole blobs use the `Verified` wrapper. A blob that has another size than `desc.size` is `Corrupt`.
    /// The stream ends with an error if fewer bytes come than asked for.
    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>>;

    /// Stores `body` under `desc.digest`; idempotent, content that is already there is left untouched.
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

/// What a tag or digest stands for now.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The manifest; its bytes were checked against the digest, where one was asked for or the store named one.
    pub manifest: Manifest,
    /// The tag's version; `None` where the store has none or it was asked for by digest.
    pub version: Option<Version>,
    /// When the tag was last written, by the store's clock; `None` where the store does not say.
    pub modified: Option<Time>,
}

/// What a tag points at, as it is recorded.
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
    /// The manifest, where the store knows the rest only by reading it.
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

/// What must hold for a tag to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// There is no such tag.
    Absent,
    /// The tag is as it was read.
    Version(Version),
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The tag points at the manifest.
    Done,
    /// The expectation did not hold; nothing was changed.
    Conflict,
}

/// Manifests, and tags that point at them: the only mutable thing.
#[async_trait]
pub trait TagStore: Send + Sync {
    /// Reads a manifest by tag or digest.
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>>;

    /// What a tag points at, without reading that where the store can say it so: then it may be lost or damaged.
    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let found = self.resolve(&tag.clone().into()).await?;
        Ok(found.map(Pointer::from))
    }

    /// Stores a manifest and, with a tag, makes the tag point at it. The blobs it names must be stored already.
    ///
    /// Durable and visible when it returns. `expect` holds exactly where [`Meet::CompareAndSwap`] is promised; other
    /// stores honour it as far as their server does.
    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published>;

    /// All tags that start with `prefix`, sorted by bytes, unique.
    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>>;

    /// As [`TagStore::tags`], each with when the store wrote it, where its listing says so at no further request. Like
    /// [`Resolved::modified`], but it may be coarser.
    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let tags = self.tags(prefix).await?;
        Ok(tags.into_iter().map(|tag| (tag, None)).collect())
    }

    /// The store's clock, good to a few seconds; asks the server only if no answer told it lately.
    async fn clock(&self) -> Result<Time>;
}

/// The blobs and tags of one repository: both together.
pub trait RepoStore: BlobStore + TagStore {}
impl<T: BlobStore + TagStore> RepoStore for T {}

/// How writers of one name meet at a store (design §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meet {
    /// `publish` compares and renames under a lock.
    CompareAndSwap,
    /// Side tags; conditions are a hint only.
    SideTags,
}

/// Ability: names can be taken away.
#[async_trait]
pub trait Untag: Send + Sync {
    /// Removes a tag, never the manifest that other tags may share; `false` if there was none.
    async fn untag(&self, tag: &Tag) -> Result<bool>;
}

/// A blob as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Stored bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: Time,
}

/// Ability: unreachable blobs can be found and removed (design §5, prune).
#[async_trait]
pub trait Sweep: Send + Sync {
    /// Every blob there is, manifests' bytes among them.
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

    /// Writes a blob's bytes over whatever lies under its digest. Readers find the old ones or these, and what repositories say of it stays.
    ///
    /// # Errors
    /// `Corrupt` if they are not what the digest says; then nothing is written.
    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()>;

    /// Removes blobs (and manifests' records of them) if they were not written since `unless_newer_than`; the count and bytes removed.
    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)>;

    /// Takes back uploads that were begun before `limit` and never completed, where the store keeps such things; how many.
    ///
    /// They may be anybody's, and still be on their way: only for whoever knows that nothing takes so long.
    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        let _ = limit;
        Ok(0)
    }

    /// Says that a blob is used: it counts as written now; `false` if there is none.
    ///
    /// # Errors
    /// `Unsupported` and `Denied` where its time cannot be changed.
    async fn renew(&self, digest: &Digest) -> Result<bool>;

    /// Keeps writers and importers out while the guard lives, where the store can (disk); `None` where it cannot.
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>>;
}

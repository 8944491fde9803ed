//! One repository as a registry sees it: which of the shared blobs it shows, its manifests, tags and referrers.
//!
//! Bytes are stored once for all repositories: a blob is in every repository of the store until it is
//! deleted there. Deleting it leaves a tombstone that hides it from that repository until it is uploaded or mounted there
//! again. A manifest is in a repository if its record is.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Body, ByteStream, Expect, Pointer, Published, Put, Records, RepoStore, Resolved, Untag,
    error::{Error, Result},
    keys::{self, Repo},
    record::{self, Linked},
};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
};

mod parts;

pub use parts::TagPart;

/// Records of a repository that are read concurrently.
pub const AT_ONCE: usize = 16;

/// Whether content is in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// As a blob or a manifest of this many bytes.
    There(u64),
    /// The store has no such bytes.
    Missing,
    /// The store currently cannot tell.
    Unknown,
    /// It was deleted here.
    Deleted,
}

/// A repository of a store that holds many.
#[derive(Clone)]
pub struct Repository {
    name: Repo,
    store: Arc<dyn RepoStore>,
    untag: Arc<dyn Untag>,
    records: Arc<dyn Records>,
}

impl Repository {
    /// Creates a repository; `store` and `untag` apply to its tags.
    pub(super) fn new(
        name: Repo,
        store: Arc<dyn RepoStore>,
        untag: Arc<dyn Untag>,
        records: Arc<dyn Records>,
    ) -> Self {
        Self {
            name,
            store,
            untag,
            records,
        }
    }

    /// The same with other records, for tests of slow ones.
    #[cfg(test)]
    pub(crate) fn with_records(self, records: Arc<dyn Records>) -> Self {
        Self { records, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &Repo {
        &self.name
    }

    /// Its blobs and tags, as the verbs of the command line use them; tombstones are ignored there.
    pub fn store(&self) -> &Arc<dyn RepoStore> {
        &self.store
    }

    /// Its ability to remove tags.
    pub fn untag(&self) -> &Arc<dyn Untag> {
        &self.untag
    }

    /// Returns true if it contains anything.
    pub async fn exists(&self) -> Result<bool> {
        let prefix = keys::manifests_prefix(&self.name);
        let has_manifest = match self.records.any_record(&prefix).await? {
            Some(key) => keys::parse(&key).is_some() || !self.manifests().await?.is_empty(),
            None => false,
        };
        Ok(has_manifest || !self.tags().await?.is_empty())
    }

    /// The size of a blob that this repository shows.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let (size, gone) = tokio::try_join!(self.store.stat(digest), self.is_gone(digest))?;
        Ok(size.filter(|_| !gone))
    }

    /// As [`Self::stat_blob`], for a caller that sends a missing blob: while the store cannot tell, it counts as missing.
    pub async fn stat_or_send(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.stat_blob(digest).await {
            Err(e) if e.is_temporary() => Ok(None),
            other => other,
        }
    }

    /// Whether content is in this repository; a manifest's bytes are a blob too.
    pub async fn presence(&self, digest: &Digest) -> Result<Presence> {
        let (size, gone) = tokio::join!(self.store.stat(digest), self.is_gone(digest));
        if gone? {
            return Ok(Presence::Deleted);
        }
        match size {
            Ok(Some(size)) => Ok(Presence::There(size)),
            Ok(None) => Ok(Presence::Missing),
            Err(e) if e.is_temporary() => Ok(Presence::Unknown),
            Err(e) => Err(e),
        }
    }

    /// The bytes of `range` of a blob; ignores tombstones, which [`Self::stat_blob`] checks.
    pub async fn get_blob(
        &self,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        self.store.get(desc, range).await
    }

    /// Stores a blob and shows it here, unless it is deleted meanwhile.
    pub async fn put_blob(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let (done, gone) =
            tokio::try_join!(self.store.put(desc, body), self.is_gone(&desc.digest))?;
        if gone {
            self.remove_tombstone(&desc.digest).await?;
        }
        Ok(done)
    }

    /// Shows a blob that the store has, and returns its size; `None` if the store does not have it.
    pub async fn mount_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let size = match self.store.stat(digest).await {
            Ok(size) => size,
            // The caller then sends it.
            Err(e) if e.is_temporary() => None,
            Err(e) => return Err(e),
        };
        if size.is_some() {
            self.show(digest).await?;
        }
        Ok(size)
    }

    /// Hides a blob from this repository; `false` if it is not shown. The bytes stay until a sweep finds them unreachable.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<bool> {
        if self.stat_blob(digest).await?.is_none() {
            return Ok(false);
        }
        let key = keys::gone(&self.name, digest);
        self.records.write_record(&key, "{}".into()).await?;
        Ok(true)
    }

    /// Records that a blob was brought here by a caller who could read it. A record of [`Self::link_checked`] is stronger and
    /// is kept.
    pub async fn link(&self, digest: &Digest) -> Result<()> {
        if self.linked(digest).await?.is_some_and(Linked::proves) {
            return Ok(());
        }
        self.write_link(digest, Linked::BLOB).await
    }

    /// The record of content that was brought here; `None` if there is none. A damaged record counts like one of an older
    /// release.
    pub async fn linked(&self, digest: &Digest) -> Result<Option<Linked>> {
        let key = keys::linked(&self.name, digest);
        let link = self.records.read_record(&key, record::MAX_BYTES).await?;
        Ok(link.map(|bytes| record::decode("read record", &bytes).unwrap_or_default()))
    }

    /// Records that a manifest was brought here by a caller limited to some repositories, and that everything it names in
    /// descriptor position, except layers stored elsewhere, is linked here.
    pub async fn link_checked(&self, manifest: &Digest) -> Result<()> {
        self.write_link(manifest, Linked::MANIFEST).await
    }

    /// Returns true if [`Self::link_checked`] was done for a manifest.
    pub async fn is_checked(&self, manifest: &Digest) -> Result<bool> {
        Ok(self.linked(manifest).await?.is_some_and(|l| l.checked))
    }

    async fn write_link(&self, digest: &Digest, link: Linked) -> Result<()> {
        let key = keys::linked(&self.name, digest);
        let link = record::encode(&link);
        self.records.write_record(&key, link.into()).await
    }

    /// Records that a blob is not shown here by manifests whose children were not checked, or by links of older releases.
    pub async fn doubt(&self, digest: &Digest) -> Result<()> {
        let key = keys::doubted(&self.name, digest);
        self.records.write_record(&key, "{}".into()).await
    }

    /// All digests recorded by [`Self::doubt`], sorted by their text.
    pub async fn doubted(&self) -> Result<Vec<Digest>> {
        self.digests_below(&keys::doubted_prefix(&self.name)).await
    }

    /// The digests of one kind of record, sorted by their text.
    async fn digests_below(&self, prefix: &str) -> Result<Vec<Digest>> {
        let listed = self.records.list_records(prefix).await?;
        Ok(listed
            .iter()
            .filter_map(|r| match keys::parse(&r.key)? {
                keys::Key::Doubted(_, digest)
                | keys::Key::Gone(_, digest)
                | keys::Key::Manifest(_, digest) => Some(digest),
                _ => None,
            })
            .collect())
    }

    async fn is_gone(&self, digest: &Digest) -> Result<bool> {
        let key = keys::gone(&self.name, digest);
        let tombstone = self.records.read_record(&key, record::MAX_BYTES).await?;
        Ok(tombstone.is_some())
    }

    async fn show(&self, digest: &Digest) -> Result<()> {
        if self.is_gone(digest).await? {
            self.remove_tombstone(digest).await?;
        }
        Ok(())
    }

    /// The digests that were deleted here, sorted by their text.
    pub async fn tombstones(&self) -> Result<Vec<Digest>> {
        self.digests_below(&keys::gone_prefix(&self.name)).await
    }

    /// Removes the record that something was deleted here.
    pub async fn remove_tombstone(&self, digest: &Digest) -> Result<()> {
        let key = keys::gone(&self.name, digest);
        self.records.remove_record(&key).await
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// `Corrupt` for one whose record or bytes are lost or damaged.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<Resolved>> {
        match reference {
            Reference::Tag(_) => self.store.resolve(reference).await,
            Reference::Digest(digest) => self.manifest_by_digest(digest).await,
        }
    }

    async fn manifest_by_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        match self.known(digest).await? {
            Some(known) => self.manifest_of(digest, &known).await.map(Some),
            None => Ok(None),
        }
    }

    /// A manifest, given its metadata.
    ///
    /// # Errors
    /// `Corrupt` for one whose bytes are lost or damaged.
    pub async fn manifest_of(
        &self,
        digest: &Digest,
        known: &record::Manifested,
    ) -> Result<Resolved> {
        let lost = |why: &str| Err(Error::corrupt("resolve", why).at("", digest));
        if known.size > MAX_MANIFEST_BYTES {
            return lost("its record states a size over the limit for manifests");
        }
        let desc = Descriptor::new(&known.media_type, *digest, known.size);
        let Some(stream) = self.store.get(&desc, 0..desc.size).await? else {
            return lost("its bytes are missing");
        };
        let bytes: Vec<u8> = stream
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await?;
        if !digest.matches(&bytes) {
            return lost("its bytes are damaged");
        }
        Ok(Resolved {
            manifest: Manifest {
                media_type: known.media_type.clone(),
                bytes: bytes.into(),
                digest: *digest,
            },
            version: None,
            modified: None,
        })
    }

    /// What a tag points at, without the manifest's bytes if the store can answer without them.
    pub async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.store.pointer(tag).await
    }

    /// The pointer to the manifest with a digest, from its record.
    pub async fn pointer_to(&self, digest: &Digest) -> Result<Option<Pointer>> {
        let known = self.known(digest).await?;
        Ok(known.map(|known| Pointer {
            digest: *digest,
            media_type: known.media_type,
            size: known.size,
            modified: None,
            manifest: None,
        }))
    }

    /// The manifest that a pointer refers to.
    ///
    /// # Errors
    /// `Corrupt` for one whose bytes are lost or damaged.
    pub async fn manifest_at(&self, at: &Pointer) -> Result<Manifest> {
        let known = record::Manifested {
            media_type: at.media_type.clone(),
            size: at.size,
            subject: None,
            artifact_type: None,
        };
        let found = self.manifest_of(&at.digest, &known).await?;
        Ok(found.manifest)
    }

    /// The digests of all manifests, sorted by their text.
    pub async fn manifests(&self) -> Result<Vec<Digest>> {
        self.digests_below(&keys::manifests_prefix(&self.name))
            .await
    }

    /// The metadata of a manifest of this repository.
    pub async fn known(&self, digest: &Digest) -> Result<Option<record::Manifested>> {
        let key = keys::manifest(&self.name, digest);
        match self.records.read_record(&key, record::MAX_BYTES).await? {
            Some(bytes) => record::decode("resolve", &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Stores a manifest and makes all of `tags` point at it, one after the other. Everything it names must be stored before.
    pub async fn put_manifest(&self, manifest: &Manifest, tags: &[Tag]) -> Result<()> {
        if tags.is_empty() {
            self.publish(manifest, None).await?;
        }
        for tag in tags {
            self.publish(manifest, Some(tag)).await?;
        }
        Ok(())
    }

    async fn publish(&self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        match self.store.publish(manifest, tag, &Expect::Anything).await? {
            Published::Done => Ok(()),
            // Without a condition, only a store that contradicts itself reports this.
            Published::Conflict => Err(Error::conflict(
                "publish",
                "the tag changed during the write",
            )),
        }
    }

    /// Removes a tag, the parts it is merged from and the records of its folds; `false` if there was none.
    pub async fn delete_tag(&self, tag: &Tag) -> Result<bool> {
        // The parts first: as long as the tag exists, an interrupted deletion can be repeated. Its folds last: as long as one
        // is recorded, the manifest that the tag still points at is not treated as an independent cache.
        let had_parts = self.remove_parts(tag).await?;
        let was_there = self.untag.untag(tag).await?;
        for fold in self.folds(tag).await? {
            self.remove_fold(tag, &fold).await?;
        }
        Ok(was_there || had_parts)
    }

    /// Removes a manifest and every tag and part that points at it; `false` if there was none. Its bytes stay until a sweep.
    ///
    /// A manifest that a merged tag was served as consists of parts: `ops::cache_tags` removes those.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<bool> {
        if self.known(digest).await?.is_none() {
            return Ok(false);
        }
        for tag in self.tags().await? {
            self.remove_part(&tag, digest).await?;
        }
        for tag in self.tags_at(digest).await? {
            self.untag.untag(&tag).await?;
        }
        self.forget_manifest(digest).await
    }

    /// Removes the metadata of a manifest, but nothing that points at it; `false` if there was none.
    pub async fn forget_manifest(&self, digest: &Digest) -> Result<bool> {
        let Some(known) = self.known(digest).await? else {
            return Ok(false);
        };
        if let Some(subject) = known.subject {
            let key = keys::referrer(&self.name, &subject.digest, digest);
            self.records.remove_record(&key).await?;
        }
        let key = keys::manifest(&self.name, digest);
        self.records.remove_record(&key).await?;
        Ok(true)
    }

    /// The tags that point at a manifest.
    async fn tags_at(&self, digest: &Digest) -> Result<Vec<Tag>> {
        let tags = self.tags().await?;
        let found = stream::iter(tags).map(|tag| async move {
            let at = self.pointed(&tag).await?;
            Ok(at.filter(|d| d == digest).map(|_| tag))
        });
        found
            .buffered(AT_ONCE)
            .try_filter_map(|tag| async move { Ok(tag) })
            .try_collect()
            .await
    }

    /// The digest that a tag points at; `None` if there is no such tag, or its record cannot be read.
    pub async fn pointed(&self, tag: &Tag) -> Result<Option<Digest>> {
        match self.tagged(tag).await {
            Ok(tagged) => Ok(tagged.and_then(Result::ok).map(|t| t.digest)),
            Err(e) if e.is_unreadable() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What is wrong with the record of a tag, if anything.
    pub async fn damage_of(&self, tag: &Tag) -> Result<Option<String>> {
        match self.tagged(tag).await {
            Ok(tagged) => Ok(tagged.and_then(Result::err).map(|e| e.message)),
            Err(e) if e.is_unreadable() => Ok(Some(e.message)),
            Err(e) => Err(e),
        }
    }

    /// The record of a tag, or what is wrong with it.
    async fn tagged(&self, tag: &Tag) -> Result<Option<Result<record::Tagged>>> {
        let key = keys::tag(&self.name, tag);
        let bytes = self.records.read_record(&key, record::MAX_BYTES).await?;
        Ok(bytes.map(|b| record::decode("list", &b)))
    }

    /// The tags that point at one of `digests`, or have it as a part, with that digest.
    pub async fn tags_to(&self, digests: &BTreeSet<Digest>) -> Result<Vec<(Tag, Digest)>> {
        let mut found = Vec::new();
        for tag in self.tags().await? {
            let at = self.pointed(&tag).await?;
            let parts = self.parts(&tag).await?;
            let named = parts.iter().map(|p| p.digest).chain(at);
            let wanted = named.filter(|d| digests.contains(d));
            found.extend(wanted.map(|digest| (tag.clone(), digest)));
        }
        Ok(found)
    }

    /// All tags, sorted by bytes.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        self.store.tags("").await
    }

    /// The digests of the manifests whose subject is `subject`, sorted by their text.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Digest>> {
        let prefix = keys::referrers_prefix(&self.name, subject);
        let listed = self.records.list_records(&prefix).await?;
        Ok(listed
            .iter()
            .filter_map(|r| match keys::parse(&r.key)? {
                keys::Key::Referrer(_, _, digest) => Some(digest),
                _ => None,
            })
            .collect())
    }
}

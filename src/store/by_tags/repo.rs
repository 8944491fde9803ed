//! One repository of many: blobs are shared, manifests and tags belong to it.

use std::ops::Range;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    ByTags, Flat,
    card::{self, Card},
    is_refusal,
    names::{Folder, Name},
    records,
};
use crate::{
    artifact::{
        Descriptor, Manifest, Reference, Tag,
        descriptor::MAX_MANIFEST_BYTES,
        media,
        outline::{Named, Outline},
    },
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Expect, Published, Put, Records as _, Resolved, TagStore,
        Untag, check_manifest, check_range,
        error::{Error, ErrorKind, Result},
        keys::{self, Repo},
        record,
    },
    task,
};

/// How the store accepted a manifest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    AsManifest,
    AsBlob,
}

/// The place of a tag, and whether its name is readable there.
struct TagPlace {
    tag: Tag,
    is_clear: bool,
}

/// A repository in a store with one flat list of tags.
pub struct InRepo<S> {
    all: ByTags<S>,
    repo: Repo,
    folder: Folder,
}

impl<S: Flat> InRepo<S> {
    pub(super) fn new(all: ByTags<S>, repo: Repo) -> Self {
        Self {
            folder: Folder::of_tags(&repo),
            all,
            repo,
        }
    }

    fn flat(&self) -> &S {
        self.all.flat()
    }

    fn is_cli(&self) -> bool {
        self.repo == Repo::cli()
    }

    /// The place of a tag; `None` for one that the repository cannot have.
    fn place(&self, tag: &Tag) -> Option<TagPlace> {
        if self.is_cli() {
            return (!keys::is_reserved(tag)).then(|| TagPlace {
                tag: tag.clone(),
                is_clear: true,
            });
        }
        let place = self.folder.place(tag.as_str())?;
        Some(TagPlace {
            is_clear: matches!(self.folder.name(&place), Name::Clear(_)),
            tag: place,
        })
    }

    fn new_place(&self, op: &'static str, tag: &Tag) -> Result<TagPlace> {
        self.place(tag).ok_or_else(|| {
            let why = format!(
                "tags of this repository cannot start with `{}`, which is reserved for other repositories",
                keys::RESERVED_TAGS
            );
            Error::invalid( op, why).at("", tag)
        })
    }

    /// The bytes of a blob that was accepted as a manifest instead.
    async fn as_manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        if self.flat().manifests_are_blobs() {
            return Ok(None);
        }
        let found = self.flat().resolve(&(*digest).into()).await?;
        Ok(found.map(|r| r.manifest))
    }

    async fn range_of_manifest(
        &self,
        desc: &Descriptor,
        range: &Range<u64>,
    ) -> Result<Option<ByteStream>> {
        let Some(found) = self.as_manifest(&desc.digest).await? else {
            return Ok(None);
        };
        let size = found.bytes.len() as u64;
        if size != desc.size {
            let want = desc.size;
            let why = format!("it has {size} bytes, expected {want}");
            return Err(Error::corrupt("get", why).at("", desc.digest));
        }
        let piece = found.bytes.slice(range.start as usize..range.end as usize);
        let pieces = (!piece.is_empty()).then_some(Ok(piece));
        Ok(Some(stream::iter(pieces).boxed()))
    }

    /// A manifest, given its record.
    async fn by_record(
        &self,
        op: &'static str,
        digest: &Digest,
        media_type: &str,
        size: u64,
    ) -> Result<Option<Manifest>> {
        if size > MAX_MANIFEST_BYTES {
            let why = "its record states a size over the limit for manifests";
            return Err(Error::corrupt(op, why).at("", digest));
        }
        let desc = Descriptor::new(media_type, *digest, size);
        let Some(stream) = self.get(&desc, 0..size).await? else {
            return Ok(None);
        };
        let bytes: Vec<u8> = stream
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await?;
        if !digest.matches(&bytes) {
            let why = "the manifest's bytes do not match its digest";
            return Err(Error::corrupt(op, why).at("", digest));
        }
        Ok(Some(Manifest {
            media_type: media_type.to_owned(),
            bytes: bytes.into(),
            digest: *digest,
        }))
    }

    async fn resolve_tag(&self, tag: &Tag) -> Result<Option<Resolved>> {
        const OP: &str = "resolve";
        let Some(place) = self.place(tag) else {
            return Ok(None);
        };
        let found = self.flat().resolve(&place.tag.into()).await;
        let Some(found) = found? else {
            return Ok(None);
        };
        if self.is_cli() {
            let known = record::Manifested::of_aside(&found.manifest).await;
            self.all.0.by_tag.insert(found.manifest.digest, known);
            return Ok(Some(found));
        }
        // A registry may report when the manifest was first written: that is not the age of an image that was tagged again.
        let found = Resolved {
            modified: None,
            ..found
        };
        if place.is_clear && !card::is_card(&found.manifest) {
            return Ok(Some(found));
        }
        let key = keys::tag(&self.repo, tag);
        let bytes = records::tagged(OP, &key, &found.manifest).map_err(|e| e.at("", tag))?;
        let at: record::Tagged = record::decode(OP, &bytes).map_err(|e| e.at("", tag))?;
        let manifest = self.by_record(OP, &at.digest, &at.media_type, at.size);
        let Some(manifest) = manifest.await? else {
            let why = format!(
                "it points at manifest {}, which is missing; export again, or remove the tag",
                at.digest
            );
            return Err(Error::corrupt(OP, why).at("", tag));
        };
        Ok(Some(Resolved { manifest, ..found }))
    }

    async fn resolve_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        const OP: &str = "resolve";
        let key = keys::manifest(&self.repo, digest);
        let known = self.all.read_record(&key, record::MAX_BYTES).await?;
        let Some(known) = known else {
            return self.flat().resolve(&(*digest).into()).await;
        };
        let known: record::Manifested = record::decode(OP, &known).map_err(|e| e.at("", digest))?;
        let manifest = self
            .by_record(OP, digest, &known.media_type, known.size)
            .await?;
        Ok(manifest.map(|manifest| Resolved {
            manifest,
            version: None,
            modified: None,
        }))
    }

    /// Stores a manifest's bytes, then its metadata.
    async fn put_manifest(&self, manifest: &Manifest) -> Result<Kept> {
        let published = self.flat().publish(manifest, None, &Expect::Anything).await;
        let is_refused = match &published {
            Err(e) if !self.is_cli() => is_refused(manifest, e).await,
            _ => false,
        };
        let kept = match published {
            Ok(_) => Kept::AsManifest,
            Err(e) if is_refused => {
                tracing::debug!(error = %e, digest = %manifest.digest, "Manifest stored as a blob");
                let body = Body::from(manifest.bytes.clone());
                self.flat().put(&manifest.descriptor(), &body).await?;
                Kept::AsBlob
            }
            Err(e) => return Err(e),
        };
        let known = record::Manifested::of_aside(manifest).await;
        let bytes = bytes::Bytes::from(record::encode(&known));
        let referrer = async {
            let Some(subject) = &known.subject else {
                return Ok(());
            };
            let key = keys::referrer(&self.repo, &subject.digest, &manifest.digest);
            self.all.write_record(&key, bytes.clone()).await
        };
        let key = keys::manifest(&self.repo, &manifest.digest);
        tokio::try_join!(self.all.write_record(&key, bytes.clone()), referrer)?;
        Ok(kept)
    }

    /// Makes the tag point at the manifest directly if possible, else at a record that points at it.
    ///
    /// A manifest pushed by a client that looks like such a record must not be treated as one: the client chose what it points
    /// at.
    async fn point(
        &self,
        tag: &Tag,
        place: &TagPlace,
        manifest: &Manifest,
        kept: Kept,
        expect: &Expect,
    ) -> Result<Published> {
        let itself = kept == Kept::AsManifest && place.is_clear;
        if self.is_cli() || (itself && !card::is_card(manifest)) {
            return self
                .flat()
                .publish(manifest, Some(&place.tag), expect)
                .await;
        }
        let card = Card {
            key: keys::tag(&self.repo, tag),
            bytes: record::encode(&record::Tagged::at(manifest)).into(),
            modified: None,
        };
        let keeps = (kept == Kept::AsManifest).then(|| manifest.descriptor());
        self.all
            .write(&place.tag, &card, keeps.as_ref(), expect)
            .await
    }
}

/// Returns true if a registry does not accept a manifest as one. distribution answers 500 to non-distributable layers, unless
/// it is configured where they may be fetched from (`registry/storage/ocimanifesthandler.go`), and to a manifest without
/// `schemaVersion` 2 (`manifeststore.go`).
async fn is_refused(manifest: &Manifest, e: &Error) -> bool {
    if is_refusal(e) {
        return true;
    }
    let answered = e.kind == ErrorKind::Unavailable && !e.unheard;
    let manifest = manifest.clone();
    answered && task::parse(manifest.bytes.len(), move || is_unusual(&manifest)).await
}

fn is_unusual(manifest: &Manifest) -> bool {
    let is_foreign = |n: &Named| n.elsewhere && media::is_nondistributable(&n.media_type);
    let named = Outline::of_stored(manifest).map(|o| o.named);
    let has_foreign = || named.is_ok_and(|all| all.iter().any(is_foreign));
    let document = serde_json::from_slice::<serde_json::Value>(&manifest.bytes);
    let has_version = document.is_ok_and(|d| d["schemaVersion"] == 2);
    !has_version || has_foreign()
}

#[async_trait]
impl<S: Flat> BlobStore for InRepo<S> {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        if let Some(size) = self.flat().stat(digest).await? {
            return Ok(Some(size));
        }
        let found = self.as_manifest(digest).await?;
        Ok(found.map(|m| m.bytes.len() as u64))
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        check_range("get", desc, &range)?;
        // Check first whether the store has it as a manifest rather than as a blob.
        let first = media::is_manifest(&desc.media_type);
        if first && let Some(found) = self.range_of_manifest(desc, &range).await? {
            return Ok(Some(found));
        }
        let found = self.flat().get(desc, range.clone()).await?;
        if found.is_some() || first {
            return Ok(found);
        }
        self.range_of_manifest(desc, &range).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.flat().put(desc, body).await
    }
}

#[async_trait]
impl<S: Flat> TagStore for InRepo<S> {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        match reference {
            Reference::Tag(tag) => self.resolve_tag(tag).await,
            Reference::Digest(digest) => self.resolve_digest(digest).await,
        }
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        check_manifest(manifest)?;
        let place = match tag {
            Some(tag) => Some((tag, self.new_place("publish", tag)?)),
            None => None,
        };
        let kept = self.put_manifest(manifest).await?;
        match place {
            Some((tag, place)) => self.point(tag, &place, manifest, kept, expect).await,
            None => Ok(Published::Done),
        }
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let start = keys::tags_prefix(&self.repo);
        let listed = self.all.list_records(&format!("{start}{prefix}")).await?;
        let names = listed.iter().filter_map(|l| l.key.strip_prefix(&start));
        Ok(names.filter_map(|n| n.parse().ok()).collect())
    }

    async fn clock(&self) -> Result<Time> {
        self.flat().clock().await
    }
}

#[async_trait]
impl<S: Flat> Untag for InRepo<S> {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        match self.place(tag) {
            Some(place) => self.flat().untag(&place.tag).await,
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_of_500_refuses_only_manifests_that_the_registry_cannot_read() {
        let answered = || Error::unavailable("publish", "answered 500");
        let foreign = r#"{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"urls":["http://a/b"]}]}"#;
        for (text, want) in [
            (r#"{"schemaVersion":2,"manifests":[]}"#, false),
            (r#"{"manifests":[]}"#, true),
            (r#"{"schemaVersion":3}"#, true),
            (foreign, true),
        ] {
            let manifest = Manifest::sniff(text.to_owned());
            assert_eq!(is_refused(&manifest, &answered()).await, want, "{text}");
            assert!(
                !is_refused(&manifest, &answered().unheard()).await,
                "{text}"
            );
        }
    }
}

//! Manifests and tags: a tag is a small object that names a manifest's digest.

use async_trait::async_trait;

use super::{Condition, Detail, Keyed, Object, SweptBlobs};
use crate::{
    artifact::{Manifest, Reference, Tag, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
    entry::Time,
    store::{
        Expect, Known, Pointer, Published, Resolved, TagStore, Untag, check_manifest,
        error::{Error, ErrorKind, Result},
        keys, record,
    },
    task,
};

#[async_trait]
impl<O: SweptBlobs> TagStore for Keyed<O> {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let resolved = match reference {
            Reference::Tag(tag) => self.resolve_tag(tag).await,
            Reference::Digest(digest) => self.resolve_digest(digest).await,
        };
        resolved.map_err(|e| e.at(self.objects.url(), reference))
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        let resolved = self.resolve_known_tag(tag, known).await;
        resolved.map_err(|e| e.at(self.objects.url(), tag))
    }

    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        let staged = async {
            check_manifest(manifest)?;
            self.store_manifest(manifest).await
        };
        let staged = staged.await;
        staged.map_err(|e| e.at(self.objects.url(), manifest.digest))?;
        self.staged.add(manifest.digest);
        Ok(())
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let found = self.pointer_of(tag).await;
        found.map_err(|e| e.at(self.objects.url(), tag))
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let done = async {
            check_manifest(manifest)?;
            if !self.staged.take(&manifest.digest) {
                self.store_manifest(manifest).await?;
            }
            match tag {
                Some(tag) => self.point(tag, manifest, expect).await,
                None => Ok(Published::Done),
            }
        };
        done.await.map_err(|e| match tag {
            Some(tag) => e.at(self.objects.url(), tag),
            None => e.at(self.objects.url(), manifest.digest),
        })
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let tags = self.tags_dated(prefix).await?;
        Ok(tags.into_iter().map(|(tag, _)| tag).collect())
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let key = format!("{}{prefix}", keys::tags_prefix(&self.repo));
        let listed = self.objects.list("list tags", &key, Detail::Keys).await;
        let listed = listed.map_err(|e| e.at(self.objects.url(), format_args!("{prefix}*")))?;
        let mut tags: Vec<(Tag, Option<Time>)> = listed
            .iter()
            .filter_map(|object| match keys::parse(&object.key)? {
                keys::Key::Tag(repo, tag) if repo == self.repo => Some((tag, object.modified)),
                _ => None,
            })
            .collect();
        tags.sort_unstable();
        tags.dedup_by(|a, b| a.0 == b.0);
        Ok(tags)
    }

    async fn clock(&self) -> Result<Time> {
        let told = self.objects.clock().await;
        told.map_err(|e| e.at(self.objects.url(), ""))
    }
}

#[async_trait]
impl<O: SweptBlobs> Untag for Keyed<O> {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        let key = keys::tag(&self.repo, tag);
        let removed = self.objects.remove("remove tag", &key).await;
        removed.map_err(|e| e.at(self.objects.url(), tag))
    }
}

impl<O: SweptBlobs> Keyed<O> {
    async fn read_tag(&self, op: &'static str, tag: &Tag) -> Result<Option<Object>> {
        let key = keys::tag(&self.repo, tag);
        self.objects.read(op, &key, record::MAX_BYTES).await
    }

    async fn pointer_of(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let found = self.read_tag("resolve", tag).await?;
        found.map(|object| pointer("resolve", &object)).transpose()
    }

    async fn resolve_tag(&self, tag: &Tag) -> Result<Option<Resolved>> {
        match self.read_tag("resolve", tag).await? {
            Some(object) => self.resolve_object("resolve", &object).await.map(Some),
            None => Ok(None),
        }
    }

    /// The guessed manifest is read together with the tag: both take one round trip.
    async fn resolve_known_tag(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        const OP: &str = "resolve";
        let at_hand = |digest: &Digest| known.manifests.iter().find(|m| m.digest == *digest);
        let guess = known.guess.filter(|digest| at_hand(digest).is_none());
        let guessed = async {
            // A wrong guess is of no interest; a right one that cannot be read is read again below.
            self.read_manifest(OP, &guess?, Some(String::new()))
                .await
                .ok()?
        };
        let (object, guessed) = tokio::join!(self.read_tag(OP, tag), guessed);
        let Some(object) = object? else {
            return Ok(None);
        };
        let at = pointer(OP, &object)?;
        let found = at_hand(&at.digest).or(guessed.as_ref());
        match found.filter(|found| found.digest == at.digest) {
            Some(found) => Ok(Some(Resolved {
                manifest: Manifest {
                    media_type: at.media_type,
                    ..found.clone()
                },
                version: object.version,
                modified: at.modified,
            })),
            None => self.resolve_object(OP, &object).await.map(Some),
        }
    }

    /// Resolves a tag's object.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, or its manifest is damaged or gone.
    async fn resolve_object(&self, op: &'static str, object: &Object) -> Result<Resolved> {
        let at = pointer(op, object)?;
        let manifest = self.read_manifest(op, &at.digest, Some(at.media_type));
        let Some(manifest) = manifest.await? else {
            let why = format!(
                "it points at manifest {}, which is missing; export again to repair it, or remove the tag",
                at.digest
            );
            return Err(Error::corrupt(op, why));
        };
        Ok(Resolved {
            manifest,
            version: object.version.clone(),
            modified: at.modified,
        })
    }

    async fn resolve_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        const OP: &str = "resolve";
        let key = keys::manifest(&self.repo, digest);
        let media_type = match self.objects.read(OP, &key, record::MAX_BYTES).await? {
            Some(r) => Some(record::decode::<record::Manifested>(OP, &r.bytes)?.media_type),
            None if self.objects.finds_manifests_without_record() => None,
            None => return Ok(None),
        };
        let manifest = self.read_manifest(OP, digest, media_type).await?;
        Ok(manifest.map(|manifest| Resolved {
            manifest,
            version: None,
            modified: None,
        }))
    }

    async fn read_manifest(
        &self,
        op: &'static str,
        digest: &Digest,
        media_type: Option<String>,
    ) -> Result<Option<Manifest>> {
        let key = keys::blob(digest);
        let Some(found) = self.objects.read(op, &key, MAX_MANIFEST_BYTES).await? else {
            return Ok(None);
        };
        let bytes = found.bytes;
        if !digest.matches(&bytes) {
            let why =
                format!("the bytes of manifest {digest} are damaged; export again to repair it");
            return Err(Error::corrupt(op, why));
        }
        let media_type = if let Some(media_type) = media_type {
            media_type
        } else {
            let bytes = bytes.clone();
            let sniffed = task::parse(bytes.len(), move || Manifest::sniff(bytes)).await;
            sniffed.media_type
        };
        Ok(Some(Manifest {
            media_type,
            bytes,
            digest: *digest,
        }))
    }

    /// Stores a manifest's bytes and its metadata: concurrently, since no name points at it before both are done.
    async fn store_manifest(&self, manifest: &Manifest) -> Result<()> {
        let known = record::Manifested::of_aside(manifest).await;
        let record = record::encode(&known);
        let referrer = async {
            let Some(subject) = &known.subject else {
                return Ok(());
            };
            let key = keys::referrer(&self.repo, &subject.digest, &manifest.digest);
            self.write(&key, record.clone()).await
        };
        let key = keys::manifest(&self.repo, &manifest.digest);
        tokio::try_join!(
            self.objects.put_manifest(manifest),
            self.write(&key, record.clone()),
            referrer,
        )?;
        Ok(())
    }

    async fn write(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        let written = self
            .objects
            .write("publish", key, bytes.into(), Condition::None);
        written.await
    }

    async fn point(&self, tag: &Tag, manifest: &Manifest, expect: &Expect) -> Result<Published> {
        let condition = match expect {
            Expect::Anything => Condition::None,
            Expect::Absent => Condition::Absent,
            Expect::Version(v) => Condition::Is(v.clone()),
        };
        match self.write_tag(tag, manifest, condition).await {
            Ok(()) => Ok(Published::Done),
            Err(e) if e.kind == ErrorKind::Conflict => self.conflict(tag, manifest, expect).await,
            Err(e) => Err(e),
        }
    }

    async fn write_tag(&self, tag: &Tag, manifest: &Manifest, condition: Condition) -> Result<()> {
        let key = keys::tag(&self.repo, tag);
        let bytes = record::encode(&record::Tagged::at(manifest));
        let written = self.objects.write("publish", &key, bytes.into(), condition);
        written.await
    }

    /// Checks the current value of the tag, after the store reported that the condition does not hold.
    async fn conflict(&self, tag: &Tag, manifest: &Manifest, expect: &Expect) -> Result<Published> {
        let (now, condition) = match self.read_tag("publish", tag).await {
            Ok(None) => return Ok(Published::Conflict),
            Ok(Some(object)) => {
                let now = self.resolve_object("publish", &object).await;
                (now, object.version.map_or(Condition::None, Condition::Is))
            }
            Err(e) => (Err(e), Condition::None),
        };
        match now {
            // An earlier attempt succeeded, but its answer was lost; or somebody else wrote the same.
            Ok(now) if now.manifest.digest == manifest.digest => Ok(Published::Done),
            Ok(_) => Ok(Published::Conflict),
            // To writers a damaged tag counts as absent: it must not block them forever.
            Err(e) if e.kind == ErrorKind::Corrupt && *expect == Expect::Absent => {
                match self.write_tag(tag, manifest, condition).await {
                    Ok(()) => Ok(Published::Done),
                    Err(e) if e.kind == ErrorKind::Conflict => Ok(Published::Conflict),
                    Err(e) => Err(e),
                }
            }
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(Published::Conflict),
            Err(e) => Err(e),
        }
    }
}

/// The content of a tag's object.
fn pointer(op: &'static str, object: &Object) -> Result<Pointer> {
    let tagged: record::Tagged = record::decode(op, &object.bytes)?;
    Ok(Pointer {
        digest: tagged.digest,
        media_type: tagged.media_type,
        size: tagged.size,
        modified: object.modified,
        manifest: None,
    })
}

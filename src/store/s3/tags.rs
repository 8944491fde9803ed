//! Manifests and tags: a tag is a small object that names a manifest's digest.

use async_trait::async_trait;

use super::{
    S3,
    patience::{self, Answer},
    put::Condition,
};
use crate::{
    artifact::{Manifest, Reference, Tag, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
    entry::Time,
    store::{
        Body, Expect, Pointer, Published, Resolved, TagStore, Untag, Version, check_manifest,
        error::{Error, ErrorKind, Result},
        keys, record,
    },
    task,
};

#[async_trait]
impl TagStore for S3 {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let resolved = match reference {
            Reference::Tag(tag) => self.resolve_tag(tag).await,
            Reference::Digest(digest) => self.resolve_digest(digest).await,
        };
        resolved.map_err(|e| e.at(&self.wire.url, reference))
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let found = self.pointer_of(tag).await;
        found.map_err(|e| e.at(&self.wire.url, tag))
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let done = async {
            check_manifest(manifest)?;
            self.put_manifest(manifest).await?;
            match tag {
                Some(tag) => self.point(tag, manifest, expect).await,
                None => Ok(Published::Done),
            }
        };
        done.await.map_err(|e| match tag {
            Some(tag) => e.at(&self.wire.url, tag),
            None => e.at(&self.wire.url, manifest.digest),
        })
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let tags = self.tags_dated(prefix).await?;
        Ok(tags.into_iter().map(|(tag, _)| tag).collect())
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let key = format!("{}{prefix}", keys::tags_prefix(&self.repo));
        let listed = self.wire.list("list tags", &key).await;
        let listed = listed.map_err(|e| e.at(&self.wire.url, format_args!("{prefix}*")))?;
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
        if let Some(now) = self.wire.clock.now() {
            return Ok(now);
        }
        let asked = Box::pin(
            self.wire
                .client
                .head_bucket()
                .bucket(&self.wire.bucket)
                .send(),
        );
        let answer = patience::answer("ask the time", self.wire.stall, Answer::Soon, asked).await;
        // A refusal has a date too.
        if let Some(now) = self.wire.clock.now() {
            return Ok(now);
        }
        let silent = || {
            Error::new(
                ErrorKind::Corrupt,
                "ask the time",
                "the answer has no `Date` of its own; does a cache stand before the store?",
            )
        };
        Err(answer.err().unwrap_or_else(silent).at(&self.wire.url, ""))
    }
}

#[async_trait]
impl Untag for S3 {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        let done = async {
            let key = keys::tag(&self.repo, tag);
            // S3 answers a DELETE of nothing like one of something.
            if self.wire.head("untag", &key).await?.is_none() {
                return Ok(false);
            }
            self.wire.delete("untag", &key).await?;
            Ok(true)
        };
        done.await.map_err(|e: Error| e.at(&self.wire.url, tag))
    }
}

impl S3 {
    async fn pointer_of(&self, tag: &Tag) -> Result<Option<Pointer>> {
        const OP: &str = "resolve";
        let key = keys::tag(&self.repo, tag);
        let Some(found) = self.wire.read(OP, &key, record::MAX_BYTES).await? else {
            return Ok(None);
        };
        let tagged: record::Tagged = record::decode(OP, &found.bytes)?;
        Ok(Some(Pointer {
            digest: tagged.digest,
            media_type: tagged.media_type,
            size: tagged.size,
            modified: found.modified,
            manifest: None,
        }))
    }

    async fn resolve_tag(&self, tag: &Tag) -> Result<Option<Resolved>> {
        const OP: &str = "resolve";
        let key = keys::tag(&self.repo, tag);
        let Some(found) = self.wire.read(OP, &key, record::MAX_BYTES).await? else {
            return Ok(None);
        };
        let tagged: record::Tagged = record::decode(OP, &found.bytes)?;
        let manifest = self
            .read_manifest(&tagged.digest, Some(tagged.media_type))
            .await?;
        let Some(manifest) = manifest else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                OP,
                format!(
                    "it names manifest {}, which is not there; export again, or remove the tag",
                    tagged.digest
                ),
            ));
        };
        Ok(Some(Resolved {
            manifest,
            version: found.etag.map(Version),
            modified: found.modified,
        }))
    }

    async fn resolve_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        const OP: &str = "resolve";
        let key = keys::manifest(&self.repo, digest);
        let record = self.wire.read(OP, &key, record::MAX_BYTES).await?;
        let media_type = match record {
            Some(r) => Some(record::decode::<record::Manifested>(OP, &r.bytes)?.media_type),
            None => None,
        };
        let manifest = self.read_manifest(digest, media_type).await?;
        Ok(manifest.map(|manifest| Resolved {
            manifest,
            version: None,
            modified: None,
        }))
    }

    async fn read_manifest(
        &self,
        digest: &Digest,
        media_type: Option<String>,
    ) -> Result<Option<Manifest>> {
        let key = keys::blob(digest);
        let Some(found) = self.wire.read("resolve", &key, MAX_MANIFEST_BYTES).await? else {
            return Ok(None);
        };
        if !digest.matches(&found.bytes) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "resolve",
                format!("the bytes of manifest {digest} do not have that digest"),
            ));
        }
        let Some(media_type) = media_type else {
            let bytes = found.bytes;
            let manifest = task::parse(bytes.len(), move || Manifest::sniff(bytes)).await;
            return Ok(Some(Manifest {
                digest: *digest,
                ..manifest
            }));
        };
        Ok(Some(Manifest {
            media_type,
            bytes: found.bytes,
            digest: *digest,
        }))
    }

    /// Stores a manifest's bytes and what is known of it: at once, since no name leads there before both are done, and without
    /// looking first, since the same bytes may be written any number of times.
    async fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let blob = keys::blob(&manifest.digest);
        let (desc, body) = (manifest.descriptor(), Body::from(manifest.bytes.clone()));
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
            self.wire.put_whole(&blob, &desc, &body, Condition::None),
            self.write(&key, record.clone()),
            referrer,
        )?;
        Ok(())
    }

    async fn write(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        self.wire
            .write("publish", key, bytes.into(), Condition::None)
            .await
    }

    async fn point(&self, tag: &Tag, manifest: &Manifest, expect: &Expect) -> Result<Published> {
        const OP: &str = "publish";
        let key = keys::tag(&self.repo, tag);
        let condition = match expect {
            Expect::Anything => Condition::None,
            Expect::Absent => Condition::Absent,
            Expect::Version(v) => Condition::Is(v.0.clone()),
        };
        let bytes = record::encode(&record::Tagged::at(manifest));
        match self.wire.write(OP, &key, bytes.into(), condition).await {
            Ok(()) => Ok(Published::Done),
            Err(e) if e.kind == ErrorKind::Conflict => self.conflict(tag, manifest, expect).await,
            Err(e) => Err(e),
        }
    }

    /// Looks at what the tag is, after the store said that it is not what was expected.
    async fn conflict(&self, tag: &Tag, manifest: &Manifest, expect: &Expect) -> Result<Published> {
        match self.resolve_tag(tag).await {
            // An earlier try of ours came through, only its answer did not; or somebody wanted the same.
            Ok(Some(now)) if now.manifest.digest == manifest.digest => Ok(Published::Done),
            Ok(_) => Ok(Published::Conflict),
            // To readers a damaged tag is as good as none: it must not stand in the way for ever.
            Err(e) if e.kind == ErrorKind::Corrupt && *expect == Expect::Absent => {
                let bytes = record::encode(&record::Tagged::at(manifest));
                self.write(&keys::tag(&self.repo, tag), bytes).await?;
                Ok(Published::Done)
            }
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(Published::Conflict),
            Err(e) => Err(e),
        }
    }
}

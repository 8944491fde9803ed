//! One repository over both tiers: the store that an API server or a verb gets.
#![deny(clippy::missing_trait_methods)]

use std::{collections::BTreeMap, future::ready, ops::Range, sync::Arc};

use async_trait::async_trait;

use super::{Core, entry::Publication, front::passed_by, look::Patience};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Expect, Known, Pointer, Published, Put, Repository, Resolved,
        TagStore, Untag, Version, check_manifest,
        error::{Error, ErrorKind, Result},
        keys::{self, Repo},
        wrap::counters::unwatched,
    },
};

/// Prefix of the front's own versions: those of a tag about which the remote was not asked.
const OWN_VERSION: &str = "front:";

/// The front's version of a tag that points at `digest`.
pub(super) fn own_version(digest: &Digest) -> Version {
    Version(format!("{OWN_VERSION}{digest}"))
}

/// Reads such a version.
pub(super) fn of_own_version(version: &Version) -> Option<Digest> {
    version.0.strip_prefix(OWN_VERSION)?.parse().ok()
}

#[derive(Clone)]
pub(super) struct TieredRepo {
    pub(super) core: Arc<Core>,
    pub(super) name: Repo,
    pub(super) near: Repository,
    pub(super) remote: Repository,
    patience: Patience,
}

impl TieredRepo {
    pub(super) fn new(core: &Arc<Core>, name: &Repo, patience: Patience) -> Self {
        Self {
            core: core.clone(),
            name: name.clone(),
            near: core.front.repositories.repository(name),
            remote: core.remote.repositories.repository(name),
            patience,
        }
    }

    pub(super) fn tag_key(&self, tag: &Tag) -> String {
        keys::tag(&self.name, tag)
    }

    /// What a tag stands for according to the queue; `None` if no update of it is queued.
    pub(super) async fn queued(&self, tag: &Tag) -> Result<Option<Resolved>> {
        let Some(entry) = self.core.updates.newest(&self.tag_key(tag)) else {
            return Ok(None);
        };
        let Some(Publication { manifest, .. }) = entry.publication() else {
            return Ok(None);
        };
        let digest = manifest.digest;
        let found = self.near.store().resolve(&digest.into()).await?;
        Ok(found.map(|r| Resolved {
            version: Some(own_version(&digest)),
            modified: Some(entry.at),
            ..r
        }))
    }

    /// What a tag stands for according to the front; `None` if that is damaged.
    pub(super) async fn known(&self, tag: &Tag) -> Option<Resolved> {
        let found = self.near.store().resolve(&tag.clone().into()).await;
        let found = match found {
            // Its manifest was evicted.
            Err(e) if e.kind == ErrorKind::Corrupt => None,
            other => passed_by(other).flatten(),
        };
        found.map(|r| Resolved {
            version: Some(own_version(&r.manifest.digest)),
            ..r
        })
    }

    async fn resolve_tag(&self, tag: &Tag) -> Result<Option<Resolved>> {
        if let Some(found) = self.queued(tag).await? {
            return Ok(Some(found));
        }
        let (one, asked) = (self.clone(), tag.clone());
        let behind = async move { one.resolve_behind(&asked).await };
        let is_known = async { self.known(tag).await.is_some() };
        // A name that is not known here is a miss, so that a writer can create it.
        let front = async { Ok(self.known(tag).await) };
        self.core
            .look_or("resolve", self.patience, is_known, behind, front)
            .await
    }

    async fn point_behind(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let asked = self.remote.store().pointer(tag);
        let found = self.core.health.ask("resolve", asked).await?;
        let known = unwatched(self.near.store().pointer(tag)).await;
        let known = passed_by(known).flatten();
        if known.map(|at| at.digest) == found.as_ref().map(|at| at.digest) {
            self.was_read(tag, found.as_ref().map(|at| &at.digest));
            return Ok(found);
        }
        // The complete tag is stored in front once.
        let found = self.resolve_behind(tag).await?;
        Ok(found.map(Pointer::from))
    }

    /// What a tag stands for according to the remote; the answer is copied to the front.
    async fn resolve_behind(&self, tag: &Tag) -> Result<Option<Resolved>> {
        let writes = self.core.tag_locks.writes(&self.tag_key(tag));
        let reference = tag.clone().into();
        let asked = self.remote.store().resolve(&reference);
        let found = self.core.health.ask("resolve", asked).await?;
        self.take_on(tag, found.as_ref(), writes).await;
        self.was_read(tag, found.as_ref().map(|r| &r.manifest.digest));
        Ok(found)
    }

    /// Records that a client read a tag, which may trigger a check ([`super::lost`]). Verbs check by themselves.
    fn was_read(&self, tag: &Tag, digest: Option<&Digest>) {
        if let Some(digest) = digest.filter(|_| self.patience == Patience::Short) {
            self.core.turns.was_read(&self.name, tag, digest);
        }
    }

    /// Copies the remote's answer about a tag to the front, unless the tag was written since.
    async fn take_on(&self, tag: &Tag, found: Option<&Resolved>, writes: u64) {
        let known = unwatched(self.known(tag)).await;
        let known = known.map(|r| r.manifest.digest);
        if known == found.map(|r| r.manifest.digest) {
            return;
        }
        let key = self.tag_key(tag);
        let Some(_lock) = self.core.tag_locks.if_still(&key, writes) else {
            return;
        };
        match found {
            Some(found) => self.keep(&found.manifest, Some(tag)).await,
            None => {
                passed_by(self.near.untag().untag(tag).await);
            }
        }
    }

    /// Stores a manifest in front.
    pub(super) async fn keep(&self, manifest: &Manifest, tag: Option<&Tag>) {
        let near = self.near.store();
        let kept = unwatched(near.publish(manifest, tag, &Expect::Anything)).await;
        if passed_by(kept).is_some() {
            let size = manifest.bytes.len() as u64;
            self.core.front.uses.used(&manifest.digest, size);
            self.core.front.filled();
        }
    }

    /// An answer from the front does not protect a blob from a prune of the remote that has marked it: so for a marked blob the
    /// remote is asked, which renews it ([`marked`](crate::store::marked)). Blobs in the backlog are renewed when they are sent.
    /// While the remote is unreachable nothing can be renewed; whether it has the blob is checked before a name leads to it.
    async fn unless_swept(&self, digest: &Digest, found: Option<u64>) -> Result<Option<u64>> {
        let (Some(_), Some(marked)) = (found, self.core.remote.store.facts().marked.as_ref())
        else {
            return Ok(found);
        };
        if marked.is_leaving(digest) {
            return Ok(None);
        }
        if !marked.has(digest) || self.core.unsent.has(digest) {
            return Ok(found);
        }
        let asked = self.remote.store().stat(digest);
        match self.core.health.ask("stat", asked).await {
            Ok(behind) => Ok(behind.and(found)),
            Err(error) => {
                tracing::warn!(%digest, %error, "Marked blob cannot be renewed");
                Ok(found)
            }
        }
    }

    async fn resolve_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        let reference = Reference::Digest(*digest);
        let near = self.near.store().resolve(&reference).await;
        if let Some(Some(found)) = passed_by(near) {
            let size = found.manifest.bytes.len() as u64;
            self.core.front.uses.used(digest, size);
            return Ok(Some(found));
        }
        let asked = self.remote.store().resolve(&reference);
        let found = self.core.health.ask("resolve", asked).await?;
        if let Some(found) = &found {
            self.keep(&found.manifest, None).await;
        }
        Ok(found)
    }
}

/// The error for deletions while the remote is unreachable.
pub(super) fn refused_away(op: &'static str, why: &Error) -> Error {
    let message = format!("nothing is removed while the remote store is unreachable: {why}");
    Error::unavailable(op, message)
}

#[async_trait]
impl BlobStore for TieredRepo {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let found = self.core.stat(digest, self.patience).await?;
        self.unless_swept(digest, found).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.core.get(desc, range).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.core.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for TieredRepo {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        match reference {
            Reference::Tag(tag) => self.resolve_tag(tag).await,
            Reference::Digest(digest) => self.resolve_digest(digest).await,
        }
    }

    /// What the caller knows saves nothing here: the front answers what it has, and keeps what the remote answers.
    async fn resolve_known(&self, tag: &Tag, _: Known<'_>) -> Result<Option<Resolved>> {
        self.resolve_tag(tag).await
    }

    /// Does nothing: a manifest is sent, or queued, with its tag.
    async fn stage(&self, _: &Manifest) -> Result<()> {
        Ok(())
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let queued = self.core.updates.newest(&self.tag_key(tag));
        if let Some(entry) = &queued
            && let Some(Publication { manifest, .. }) = entry.publication()
        {
            return Ok(Some(Pointer {
                digest: manifest.digest,
                media_type: manifest.media_type.clone(),
                size: manifest.size,
                modified: Some(entry.at),
                manifest: None,
            }));
        }
        let (one, asked) = (self.clone(), tag.clone());
        let behind = async move { one.point_behind(&asked).await };
        let is_known = async { self.known(tag).await.is_some() };
        let front = async { Ok(self.known(tag).await.map(Pointer::from)) };
        self.core
            .look_or("resolve", self.patience, is_known, behind, front)
            .await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        check_manifest(manifest)?;
        self.publish_or_queue(manifest, tag, expect).await
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let tags = self.tags_dated(prefix).await?;
        Ok(tags.into_iter().map(|(tag, _)| tag).collect())
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let (one, below) = (self.clone(), prefix.to_owned());
        let behind = async move {
            let asked = one.remote.store().tags_dated(&below);
            one.core.health.ask("list tags", asked).await
        };
        let front = self.near.store().tags_dated(prefix);
        let listed = self
            .core
            .look_or("list tags", self.patience, ready(true), behind, front)
            .await?;
        let mut all: BTreeMap<Tag, Option<Time>> = listed.into_iter().collect();
        let below = format!("{}{prefix}", keys::tags_prefix(&self.name));
        for (key, _) in self.core.updates.below(&below) {
            if let Some(keys::Key::Tag(_, tag)) = keys::parse(&key) {
                // It is newer than the remote's tag.
                all.insert(tag, None);
            }
        }
        Ok(all.into_iter().collect())
    }

    async fn clock(&self) -> Result<Time> {
        let one = self.clone();
        let behind = async move {
            let asked = one.remote.store().clock();
            one.core.health.ask("clock", asked).await
        };
        let front = async { Ok(Time::now()) };
        self.core
            .look_or("clock", self.patience, ready(true), behind, front)
            .await
    }
}

#[async_trait]
impl Untag for TieredRepo {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        let key = self.tag_key(tag);
        let away = |e: Error| {
            if e.is_temporary() {
                refused_away("remove tag", &e).at("", tag)
            } else {
                e
            }
        };
        // If it were removed now, the next replayed update would bring it back.
        let _lock = self
            .settled(std::slice::from_ref(&key), &key)
            .await
            .map_err(away)?;
        let asked = self.remote.untag().untag(tag);
        let was_there = self.core.health.ask("remove tag", asked).await;
        let was_there = was_there.map_err(away)?;
        passed_by(self.near.untag().untag(tag).await);
        Ok(was_there)
    }
}

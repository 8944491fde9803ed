//! Blobs that the remote has lost, because of a lifecycle rule or a manual deletion, while the front still has them.
//!
//! Builds through this daemon would not notice and would not push them again, and everybody else would get misses. So reading a
//! tag occasionally triggers a check in the background: blobs that the tag leads to and the remote does not have are uploaded
//! again.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, future::ready, stream};

use super::{
    Core,
    front::passed_by,
    look::Patience,
    send::{AT_ONCE, not_ours},
    turns::Job,
    uses::Pinned,
};
use crate::{
    artifact::{Descriptor, Manifest, Tag, media, outline::Outline},
    digest::Digest,
    store::{
        Error, ErrorKind, Put, Repository, Sweep as _,
        behind::{Behind, Hides, Look},
        error::Result,
        keys::Repo,
    },
    task,
};

/// Maximum number of digests that are checked for one tag.
const MAX_DIGESTS: usize = 100_000;

/// The manifests and blobs that a manifest names; none for a document that cannot be parsed.
fn named(manifest: &Manifest) -> (Vec<Digest>, Vec<Digest>) {
    let outline = Outline::of(manifest).unwrap_or_default();
    let (manifests, blobs): (Vec<_>, Vec<_>) = outline
        .children()
        .partition(|named| media::is_manifest(&named.media_type));
    let digests =
        |all: Vec<&crate::artifact::outline::Named>| all.iter().map(|n| n.digest).collect();
    (digests(manifests), digests(blobs))
}

impl Core {
    /// Checks one tag after the other while the remote is up; never ends.
    pub(super) async fn look_after_all(self: Arc<Self>) {
        loop {
            let job = self.turns.next().await;
            self.health.up().await;
            let Job {
                key: (repo, tag),
                digest,
            } = &job;
            let Err(error) = self.look_after(repo, tag, digest).await else {
                continue;
            };
            tracing::warn!(%repo, %tag, %error, "A tag was not checked: the remote store may have lost content that it names");
            if error.is_temporary() {
                self.turns.forget(&job.key);
            }
        }
    }

    /// Uploads everything again that a tag leads to, that is in front, and that the remote has lost.
    async fn look_after(self: &Arc<Self>, repo: &Repo, tag: &Tag, digest: &Digest) -> Result<()> {
        let repository = self.repository(repo, Patience::Long);
        let parts = repository.parts(tag).await?;
        let mut left: Vec<Digest> = parts.iter().map(|p| p.digest).collect();
        left.push(*digest);
        let mut met: HashSet<Digest> = left.iter().copied().collect();
        while let Some(digest) = left.pop() {
            let Some(manifest) = self.recorded(&repository, &digest).await? else {
                continue;
            };
            let (manifests, mut blobs) =
                task::parse(manifest.bytes.len(), move || named(&manifest)).await;
            let room = MAX_DIGESTS.saturating_sub(met.len());
            left.extend(manifests.into_iter().take(room).filter(|d| met.insert(*d)));
            blobs.truncate(room);
            blobs.retain(|d| met.insert(*d));
            stream::iter(blobs)
                .map(|digest| self.look_after_blob(digest))
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// A manifest that has a record in the remote; without a record it was deleted, and what it names may be deleted.
    async fn recorded(&self, repository: &Repository, digest: &Digest) -> Result<Option<Manifest>> {
        let Some(known) = repository.known(digest).await? else {
            return Ok(None);
        };
        self.look_after_blob(*digest).await?;
        match repository.manifest_of(digest, &known).await {
            Ok(found) => Ok(Some(found.manifest)),
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn look_after_blob(&self, digest: Digest) -> Result<()> {
        if self.seen.contains(&digest) {
            return Ok(());
        }
        match self.restore(&digest, Look::Size).await? {
            Behind::Lost(e) => Err(e),
            Behind::Kept | Behind::SentAgain => Ok(()),
        }
    }

    /// The size of a blob that is complete only in front, and not in the backlog.
    async fn hidden(&self, digest: &Digest, look: Look) -> Result<Option<u64>> {
        // A check does not count as use.
        let size = passed_by(self.front.store.stat(digest).await).flatten();
        let waits = self.unsent.has(digest) || self.updates.manifests().contains(digest);
        let Some(size) = size.filter(|_| !waits) else {
            return Ok(None);
        };
        let stat = self.remote.store.stat(digest);
        // A blob of another size is damaged: the one in front was hashed.
        let is_there = self.health.ask("stat", stat).await? == Some(size);
        if is_there && (look == Look::Size || self.is_whole_behind(digest, size).await?) {
            self.seen.insert(digest);
            return Ok(None);
        }
        // It may have been marked meanwhile.
        Ok((!self.unsent.has(digest)).then_some(size))
    }

    /// Reads the remote's copy and checks it.
    async fn is_whole_behind(&self, digest: &Digest, size: u64) -> Result<bool> {
        let read = async {
            let Some(stream) = self
                .direct(&Descriptor::new("", *digest, size), 0..size)
                .await?
            else {
                return Ok(false);
            };
            stream.try_for_each(|_| ready(Ok(()))).await.map(|()| true)
        };
        match read.await {
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(false),
            other => other,
        }
    }

    async fn send_again(&self, digest: &Digest, size: u64, look: Look) -> Result<()> {
        let desc = Descriptor::new("", *digest, size);
        let lost = || {
            Error::corrupt("put", "the copy in the local cache directory is damaged").at("", digest)
        };
        let body = match self.front.body(&desc, true).await {
            Ok(body) => body.ok_or_else(lost)?,
            Err(e) if e.kind == ErrorKind::Corrupt => {
                // A client that pushes it again must not find it in front.
                passed_by(self.front.remove(&[*digest], Pinned::Too).await);
                return Err(lost());
            }
            Err(e) => return Err(e),
        };
        let put = self.put_behind(&desc, &body).await?;
        if look == Look::Bytes && put == Put::Existed {
            // Its size is right, but its bytes were read and are wrong.
            self.replace(&desc, &body).await.map_err(not_ours)?;
        }
        self.seen.insert(digest);
        Ok(())
    }
}

#[async_trait]
impl Hides for Core {
    async fn restore(&self, digest: &Digest, look: Look) -> Result<Behind> {
        let Some(size) = self.hidden(digest, look).await? else {
            return Ok(Behind::Kept);
        };
        self.seen.forget(&[*digest]);
        match self.send_again(digest, size, look).await {
            Ok(()) => {
                tracing::warn!(%digest, "The remote store had lost or damaged a blob, which was uploaded again: does a lifecycle rule delete blobs there?");
                Ok(Behind::SentAgain)
            }
            Err(e) => Ok(Behind::Lost(e)),
        }
    }
}

//! Replays the queue once the remote is back.
//!
//! Each step may be interrupted and repeated: a blob is stored once, a tag that already has our digest is done, and an update is
//! removed from the queue last.

use std::sync::Arc;

use super::{
    Core, LeftAlone,
    core::neighbours,
    counts::add,
    entry::{Entry, Publication, What},
    look::Patience,
    publish::{contended, holds, now_at},
    queue::Job,
    send::{Look, not_ours},
    tags::TieredRepo,
};
use crate::{
    artifact::{Manifest, Tag},
    fair::caller,
    store::{
        Expect, Published, Resolved, check_manifest,
        error::{Error, ErrorKind, Result},
        record,
    },
};

/// How often other writers may change a tag while it is replayed.
const ROUNDS: usize = 10;

/// The result of replaying an update.
enum Outcome {
    /// A record, or a manifest without a tag, is stored.
    There,
    /// The tag points at this.
    Points(Manifest),
    /// The tag points at a merge of another writer's manifest and ours.
    Merged(Manifest),
    /// The tag points at another writer's manifest.
    LeftAlone(Manifest),
}

impl Core {
    /// Replays one update after the other while the remote is up; never ends.
    pub(super) async fn replay_all(self: Arc<Self>) {
        loop {
            self.health.up().await;
            let job = self.updates.next().await;
            let replayed = async { self.finish(&job, self.replay(&job.work).await?).await };
            match caller::on_behalf_of(job.caller.clone(), replayed).await {
                Ok(()) => add(&self.counts.replayed, 1),
                Err(e) => {
                    if let Some(error) = self.updates.failed(&job, e).await {
                        tracing::warn!(%error, "The remote store refuses an update; it is tried again");
                    }
                }
            }
        }
    }

    async fn replay(self: &Arc<Self>, entry: &Entry) -> Result<Outcome> {
        match &entry.what {
            What::Record { key, bytes } => {
                let asked = self.remote.records.write_record(key, bytes.clone());
                let asked = self.health.ask("write record", asked).await;
                asked.map_err(not_ours)?;
                let back = self.remote.records.read_record(key, record::MAX_BYTES);
                self.is_back("read record", back).await?;
                Ok(Outcome::There)
            }
            What::Publish(publication) => {
                let one = self.tiered_repo(&publication.repo, Patience::Long);
                one.replay(self, publication).await
            }
        }
    }

    /// Makes sure that what was just written can be read, before it is removed from the queue: another server that answers in the
    /// remote's place may accept an upload like the remote, without storing it.
    async fn is_back<T>(
        &self,
        op: &'static str,
        read: impl Future<Output = Result<Option<T>>>,
    ) -> Result<()> {
        let read = self.health.ask(op, read).await.map_err(not_ours)?;
        let why = "the remote store accepted it but does not have it";
        let lost = || Error::unavailable(op, why).alone();
        read.map(drop).ok_or_else(lost)
    }

    /// Reports the result of an update, and removes it from the queue.
    async fn finish(self: &Arc<Self>, job: &Job<Entry>, outcome: Outcome) -> Result<()> {
        let Some((publication, tag)) = job
            .work
            .publication()
            .and_then(|p| Some((p, p.tag.as_ref()?)))
        else {
            return self.updates.done(job, None).await;
        };
        let one = self.tiered_repo(&publication.repo, Patience::Long);
        let _lock = self.tag_locks.lock(&one.tag_key(tag)).await;
        let (now, produced) = match &outcome {
            Outcome::There => (None, None),
            Outcome::Points(manifest) | Outcome::Merged(manifest) => {
                (Some(manifest), Some(manifest.digest))
            }
            Outcome::LeftAlone(theirs) => (Some(theirs), None),
        };
        if let Some(now) = now {
            // Before it is removed from the queue: if the remote becomes unreachable just then, the front knows the result.
            one.keep(now, Some(tag)).await;
        }
        self.updates.done(job, produced).await?;
        match outcome {
            Outcome::There | Outcome::Points(_) => {}
            Outcome::Merged(_) => {
                tracing::info!(repo = %one.name, %tag, "Another writer changed the tag during the outage; both manifests were merged");
                add(&self.counts.merged, 1);
            }
            Outcome::LeftAlone(theirs) => {
                let (ours, theirs) = (publication.manifest.digest, theirs.digest);
                tracing::warn!(repo = %one.name, %tag, %ours, %theirs, "Another writer changed the tag during the outage; our manifest stays readable by its digest only");
                add(&self.counts.left_alone, 1);
                self.recent.add(LeftAlone {
                    repo: one.name.clone(),
                    tag: tag.clone(),
                    ours,
                    theirs,
                });
            }
        }
        Ok(())
    }
}

impl TieredRepo {
    async fn replay(&self, core: &Arc<Core>, publication: &Publication) -> Result<Outcome> {
        let digest = publication.manifest.digest;
        let ours = self.near.store().resolve(&digest.into()).await?;
        let Some(Resolved { manifest: ours, .. }) = ours else {
            let why = "the manifest is no longer in the local cache directory";
            return Err(Error::corrupt("publish", why).at("", digest));
        };
        let (children, _) = neighbours(&ours).await;
        core.send_children(&children, Look::Again).await?;
        let Some(tag) = &publication.tag else {
            self.put(&ours, None, &Expect::Anything).await?;
            let by_digest = digest.into();
            let back = self.remote.store().resolve(&by_digest);
            core.is_back("resolve", back).await?;
            return Ok(Outcome::There);
        };
        for _ in 0..ROUNDS {
            let head = self.head(tag).await?;
            if head.as_ref().is_some_and(|h| h.manifest.digest == digest) {
                return Ok(Outcome::Points(ours));
            }
            if holds(&publication.expect, head.as_ref()) {
                if self.put(&ours, Some(tag), &now_at(head.as_ref())).await? == Published::Done {
                    core.is_back("resolve", self.remote.store().pointer(tag))
                        .await?;
                    return Ok(Outcome::Points(ours));
                }
                continue;
            }
            let Some(theirs) = head else {
                continue;
            };
            // Whatever happens to the tag, the pusher may read the manifest by its digest.
            self.put(&ours, None, &Expect::Anything).await?;
            let repository = core.repository(&self.name, Patience::Long);
            let merged = core.moved.merge(&repository, tag, &ours, &theirs.manifest);
            let Some(merged) = merged.await else {
                return Ok(Outcome::LeftAlone(theirs.manifest));
            };
            check_manifest(&merged).map_err(not_ours)?;
            let (children, _) = neighbours(&merged).await;
            core.send_children(&children, Look::Again).await?;
            if self.put(&merged, Some(tag), &now_at(Some(&theirs))).await? == Published::Done {
                core.is_back("resolve", self.remote.store().pointer(tag))
                    .await?;
                return Ok(Outcome::Merged(merged));
            }
        }
        Err(contended(tag))
    }

    /// The tag in the remote; a damaged tag counts as absent.
    async fn head(&self, tag: &Tag) -> Result<Option<Resolved>> {
        let reference = tag.clone().into();
        let asked = self.remote.store().resolve(&reference);
        match self.core.health.ask("resolve", asked).await {
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(None),
            other => other,
        }
    }

    async fn put(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let asked = self.remote.store().publish(manifest, tag, expect);
        let published = self.core.health.ask("publish", asked).await;
        published.map_err(not_ours)
    }
}

//! Publications: to the remote if it is reachable, otherwise into the queue.

use tokio::sync::MutexGuard;

use super::{
    core::neighbours,
    counts::add,
    entry::{Entry, Expected, Publication, What},
    send::Look,
    tags::{TieredRepo, of_own_version},
};
use crate::{
    artifact::{Manifest, Tag},
    digest::Digest,
    store::{
        Expect, Published, Resolved, Version,
        error::{Error, Result},
        keys,
        record::Tagged,
    },
};

impl TieredRepo {
    pub(super) async fn publish_or_queue(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let (children, subject) = neighbours(manifest).await;
        let entry = Entry::now(What::Publish(Publication {
            repo: self.name.clone(),
            tag: tag.cloned(),
            manifest: Tagged::at(manifest),
            expect: Expected::Absent,
        }));
        let lock_key = self.key_of(tag, &manifest.digest);
        // Queued updates go first, and so do the blobs that it names.
        let mut before = entry.keys(subject.as_ref());
        before.extend(entry.needs(&children));
        let ready = async {
            self.core.send_children(&children, Look::Lately).await?;
            self.settled(&before, &lock_key).await
        };
        let (lock, done) = match ready.await {
            Ok(lock) => {
                let done = self.publish_behind(manifest, tag, expect).await;
                (lock, done)
            }
            Err(e) => (self.core.tag_locks.lock(&lock_key).await, Err(e)),
        };
        let done = match done {
            // It may have succeeded. If so, the replay finds nothing left to do.
            Err(e) if e.is_temporary() && self.core.writes_back() => {
                self.enqueue(manifest, entry, expect).await
            }
            Err(e) => {
                // The remote may lack blobs that it was believed to have: the next push must check again.
                self.core.seen.forget(&children);
                Err(e)
            }
            done => done,
        };
        drop(lock);
        done
    }

    /// The key of the record that a publication is about.
    fn key_of(&self, tag: Option<&Tag>, manifest: &Digest) -> String {
        match tag {
            Some(tag) => self.tag_key(tag),
            None => keys::manifest(&self.name, manifest),
        }
    }

    /// Waits until no update with one of these keys is queued, and holds `lock_key` from then on.
    ///
    /// # Errors
    /// A temporary error as soon as the remote is unreachable.
    pub(super) async fn settled(
        &self,
        keys: &[String],
        lock_key: &str,
    ) -> Result<MutexGuard<'_, ()>> {
        loop {
            self.core
                .settled("publish", &self.core.updates, keys)
                .await?;
            let lock = self.core.tag_locks.lock(lock_key).await;
            if !keys.iter().any(|key| self.core.updates.has(key)) {
                return Ok(lock);
            }
        }
    }

    /// Publishes to the remote, and stores it in front; the tag's lock must be held.
    async fn publish_behind(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let health = &self.core.health;
        let Some(expect) = self.expect_behind(tag, expect).await? else {
            return Ok(Published::Conflict);
        };
        let asked = self.remote.store().publish(manifest, tag, &expect);
        let done = health.ask("publish", asked).await?;
        if done == Published::Done {
            self.keep(manifest, tag).await;
        }
        Ok(done)
    }

    /// Converts a version of the front into the remote's; `None` if the tag no longer has it.
    async fn expect_behind(&self, tag: Option<&Tag>, expect: &Expect) -> Result<Option<Expect>> {
        let (Some(tag), Expect::Version(version)) = (tag, expect) else {
            return Ok(Some(expect.clone()));
        };
        let Some(digest) = of_own_version(version) else {
            return Ok(Some(expect.clone()));
        };
        let reference = tag.clone().into();
        let asked = self.remote.store().resolve(&reference);
        let found = self.core.health.ask("resolve", asked).await?;
        let same = found.filter(|r| r.manifest.digest == digest);
        Ok(same.map(|r| r.version.map_or(Expect::Anything, Expect::Version)))
    }

    /// Accepts a publication while the remote is unreachable; the tag's lock must be held.
    async fn enqueue(
        &self,
        manifest: &Manifest,
        mut entry: Entry,
        expect: &Expect,
    ) -> Result<Published> {
        if *expect == Expect::Anything && self.waits_already(&entry) {
            return Ok(Published::Done);
        }
        if let What::Publish(p) = &mut entry.what
            && let Some(tag) = &p.tag
        {
            match self.expect_away(tag, expect).await? {
                Some(expected) => p.expect = expected,
                None => return Ok(Published::Conflict),
            }
        }
        let placed = self.core.around(entry, manifest).await;
        let _alone = self.core.mirror.write().await;
        self.core
            .front
            .make_room(manifest.bytes.len() as u64)
            .await?;
        let near = self.near.store();
        // Without its tag: the front's tag shows what the remote is known to have.
        near.publish(manifest, None, &Expect::Anything).await?;
        self.core
            .front
            .uses
            .used(&manifest.digest, manifest.bytes.len() as u64);
        self.core.updates.add(placed).await?;
        add(&self.core.counts.queued, 1);
        tracing::debug!(repo = %self.name, digest = %manifest.digest, "Publication is queued for the remote store");
        Ok(Published::Done)
    }

    /// Returns true if the last queued update is the same: clients repeat requests.
    fn waits_already(&self, entry: &Entry) -> bool {
        let Some(ours) = entry.publication() else {
            return false;
        };
        let key = self.key_of(ours.tag.as_ref(), &ours.manifest.digest);
        let newest = self.core.updates.newest(&key);
        newest.is_some_and(|e| e.publication().is_some_and(|p| p.manifest == ours.manifest))
    }

    /// What the remote is expected to have when the update of a tag is replayed; `None` if the caller's own expectation does not
    /// hold according to the front and the queue.
    async fn expect_away(&self, tag: &Tag, expect: &Expect) -> Result<Option<Expected>> {
        let queued = self.queued(tag).await?;
        let is_queued = queued.is_some();
        let known = match queued {
            Some(queued) => Some(queued),
            None => self.known(tag).await,
        };
        let known: Option<Digest> = known.map(|r: Resolved| r.manifest.digest);
        let by_digest = known.map_or(Expected::Absent, Expected::Digest);
        Ok(match expect {
            Expect::Anything => Some(by_digest),
            Expect::Absent => known.is_none().then_some(Expected::Absent),
            Expect::Version(version) => match of_own_version(version) {
                Some(digest) => (known == Some(digest)).then_some(by_digest),
                // A version of the remote from before the outage, which the remote will recognize. It does not know versions that
                // were written here since.
                None if is_queued => None,
                None => Some(Expected::Version(version.0.clone())),
            },
        })
    }
}

/// The condition for the remote once the replay's expectation was found to hold.
pub(super) fn now_at(head: Option<&Resolved>) -> Expect {
    match head {
        None => Expect::Absent,
        Some(head) => head
            .version
            .clone()
            .map_or(Expect::Anything, Expect::Version),
    }
}

/// Returns true if the remote has what was expected.
pub(super) fn holds(expected: &Expected, head: Option<&Resolved>) -> bool {
    match (expected, head) {
        // If there is no tag, nothing newer can be overwritten.
        (_, None) => true,
        (Expected::Absent, Some(_)) => false,
        (Expected::Digest(digest), Some(head)) => head.manifest.digest == *digest,
        (Expected::Version(version), Some(head)) => {
            head.version.as_ref() == Some(&Version(version.clone()))
        }
    }
}

/// The error if other writers keep changing the tag.
pub(super) fn contended(tag: &Tag) -> Error {
    let why = "other writers keep changing the tag";
    Error::conflict("publish", why).at("", tag)
}

//! The queue of blobs in front that the remote is not known to have: their marks.

use std::slice;

use super::{
    ledger::File,
    queue::{Job, Placed, Queue, Work},
    uses::Pin,
};
use crate::{
    digest::Digest,
    fair::{Share, caller},
    store::error::Result,
};

/// How far the bytes of a blob in front can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// They were just hashed while they were received.
    Hashed,
    /// They were stored earlier, and must be hashed before they are sent.
    Unknown,
}

/// A marked blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) trust: Trust,
}

impl Blob {
    pub(super) fn new(digest: Digest, size: u64, trust: Trust) -> Self {
        Self {
            digest,
            size,
            trust,
        }
    }
}

impl Work for Blob {
    type Key = Digest;

    // By other files, or by the backlog.
    const FULL: &'static str = "the local cache directory (front_max_size) is";
    const MANY: &'static str = "bytes";

    fn file(&self, _: u64) -> File {
        File::Mark {
            digest: self.digest,
            size: self.size,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    fn amount(&self) -> u64 {
        self.size
    }
}

impl Placed<Blob> {
    /// A blob that is pinned in front.
    pub(super) fn pinned(blob: Blob, pin: Pin) -> Self {
        Self {
            keys: vec![blob.digest],
            needs: Vec::new(),
            _pins: vec![pin],
            work: blob,
        }
    }
}

impl Queue<Blob> {
    /// Reserves space for a blob before it is stored, so that a blob without space is not stored; `None` if it is already marked.
    ///
    /// # Errors
    /// `Full`, also if the caller on whose behalf this task works has its share.
    pub(super) fn reserve(&self, digest: &Digest, size: u64) -> Result<Option<Share>> {
        if self.has(digest) {
            return Ok(None);
        }
        self.share(size).map(Some)
    }

    /// Marks a blob that is in front, and pinned there; durable when it returns. It uses the `share` that was reserved for it;
    /// without one it counts regardless of how much is left, since it was acknowledged earlier.
    pub(super) async fn add(&self, blob: Blob, pin: Pin, share: Option<Share>) -> Result<()> {
        if self.has(&blob.digest) {
            return Ok(());
        }
        let share = share.unwrap_or_else(|| self.shares.count(caller::current(), blob.size));
        self.keep(Placed::pinned(blob, pin), share).await
    }

    /// Returns true if the remote refused it, and it will be retried.
    pub(super) fn is_refused(&self, digest: &Digest) -> bool {
        let items = self.items.lock();
        let mut marked = items.with(slice::from_ref(digest));
        marked.any(|(_, item)| item.rest.refusals > 0)
    }

    /// All blobs that are currently marked.
    pub(super) fn all(&self) -> Vec<Digest> {
        self.items.lock().by_key.keys().copied().collect()
    }

    /// Removes the mark of a blob that the remote has.
    pub(super) async fn sent(&self, job: &Job<Blob>) {
        if let Err(error) = self.ledger.remove(job.work.file(job.seq)).await {
            // It is checked again at the next start.
            tracing::warn!(%error, digest = %job.work.digest, "The mark of a blob that was sent could not be removed");
        }
        self.remove(job);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;
    use crate::store::{
        Error, ErrorKind,
        tiered::{ledger::Ledger, uses::Uses},
    };

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    async fn unsent(dir: &std::path::Path) -> (Queue<Blob>, Arc<Uses>) {
        let (ledger, _lock) = Ledger::open(dir).await.unwrap();
        let (unsent, uses) = (Queue::new(ledger, 1000), Arc::new(Uses::default()));
        for n in 1..=3 {
            let (pin, share) = (uses.pin(&d(n)).await, unsent.reserve(&d(n), 10).unwrap());
            let blob = Blob::new(d(n), 10, Trust::Hashed);
            unsent.add(blob, pin, share).await.unwrap();
        }
        (unsent, uses)
    }

    #[tokio::test]
    async fn oldest_goes_first_but_for_one_that_somebody_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, uses) = unsent(dir.path()).await;
        let third = [d(3)];
        let mut waits = Box::pin(unsent.settled(&third));
        assert!(waits.as_mut().now_or_never().is_none());
        let first = unsent.next().await;
        assert_eq!(first.work.digest, d(3));
        assert_eq!(unsent.next().await.work.digest, d(1));
        unsent.sent(&first).await;
        waits.await.unwrap();
        assert!(!uses.is_pinned(&d(3)) && uses.is_pinned(&d(2)));
        assert_eq!((unsent.left().count, unsent.left().amount), (2, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_one_rests_and_tells_who_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, _uses) = unsent(dir.path()).await;
        let job = unsent.next().await;
        let digest = [job.work.digest];
        let waits = unsent.settled(&digest);
        let refuse = async {
            tokio::task::yield_now().await;
            let no = Error::denied("put", "no");
            assert!(unsent.failed(&job, no).await.is_some());
        };
        let (told, ()) = tokio::join!(waits, refuse);
        assert_eq!(told.unwrap_err().kind, ErrorKind::Denied);
        assert!(unsent.is_refused(&d(1)) && !unsent.is_refused(&d(2)));
        assert_ne!(unsent.next().await.seq, job.seq);
        assert_ne!(unsent.next().await.seq, job.seq);
        let before = Instant::now();
        let again = unsent.next().await;
        // It is hashed before it is sent again.
        assert_eq!((again.seq, again.refusals), (job.seq, 1));
        assert!(before.elapsed().as_secs() >= 2);
    }

    #[tokio::test]
    async fn one_that_was_put_back_is_next() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, _uses) = unsent(dir.path()).await;
        let (first, second) = (unsent.next().await, unsent.next().await);
        let away = Error::unavailable("put", "away");
        assert!(unsent.failed(&second, away).await.is_none());
        assert_eq!(unsent.next().await.seq, second.seq);
        assert_ne!(unsent.next().await.seq, first.seq);
    }

    #[tokio::test]
    async fn marks_go_when_blobs_were_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, _uses) = unsent(dir.path()).await;
        let job = unsent.next().await;
        unsent.sent(&job).await;
        let job = unsent.next().await;
        let damaged = Error::corrupt("put", "test");
        assert!(unsent.failed(&job, damaged).await.is_none());
        assert_eq!(unsent.ledger.files().await.unwrap().len(), 1);
        assert_eq!(unsent.ledger.aside(), 1);
    }
}

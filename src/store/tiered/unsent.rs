//! Blobs in front that the remote is not known to have, and the order in which they are sent.

use std::collections::{HashMap, HashSet, VecDeque};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    ledger::Ledger,
    uses::Pin,
    wait::{Check, Rest, until},
};
use crate::{
    digest::Digest,
    entry::Time,
    fair::{Refused, Share, Shares, caller},
    store::{
        error::{Error, Result},
        queue::{over_share, queue_full},
    },
};

/// How far the bytes of a blob in front can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// They were just hashed while they were received.
    New,
    /// They were stored earlier, and must be hashed before they are sent.
    Old,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Sending,
    Resting,
}

struct Item {
    size: u64,
    since: Time,
    state: State,
    rest: Rest,
    bytes: Bytes,
    _share: Share,
    _pin: Pin,
}

impl Item {
    fn new(size: u64, since: Time, bytes: Bytes, share: Share, pin: Pin) -> Self {
        Self {
            size,
            since,
            state: State::Waiting,
            rest: Rest::default(),
            bytes,
            _share: share,
            _pin: pin,
        }
    }
}

#[derive(Default)]
struct Items {
    all: HashMap<Digest, Item>,
    /// Contains all waiting blobs, but also duplicates and blobs that are no longer there.
    order: VecDeque<Digest>,
    resting: HashSet<Digest>,
    bytes: u64,
}

/// A blob whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) bytes: Bytes,
}

/// Summary of the unsent blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Left {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    pub(super) oldest: Option<Time>,
}

/// The marked blobs.
pub(super) struct Unsent {
    ledger: Ledger,
    items: Mutex<Items>,
    changed: Notify,
    shares: Shares,
}

impl Unsent {
    /// An empty list; there is space for `most` bytes in front.
    pub(super) fn new(ledger: Ledger, most: u64) -> Self {
        Self {
            ledger,
            items: Mutex::default(),
            changed: Notify::new(),
            shares: Shares::new(most),
        }
    }

    /// Changes the space in front to `most` bytes.
    pub(super) fn limit(&self, most: u64) {
        self.shares.limit(most);
    }

    /// Takes the bytes of a blob from the share of the caller on whose behalf this task works.
    fn share(&self, size: u64, bytes: Bytes) -> Result<Share> {
        let who = caller::current();
        // Older bytes were already acknowledged.
        if bytes == Bytes::New {
            match self.shares.take(who.clone(), size) {
                Ok(share) => return Ok(share),
                Err(Refused::Caller) => return Err(over_share("bytes")),
                // Other files, or the backlog, have taken the disk.
                Err(Refused::All) => {
                    return Err(queue_full("the local cache directory (front_max_size) is"));
                }
            }
        }
        Ok(self.shares.count(who, size))
    }

    /// Reserves space for a blob before it is stored, so that a blob without space is not stored; `None` if it is already marked.
    ///
    /// # Errors
    /// `Full` if the caller on whose behalf this task works has as many bytes as are left for all others ([`Shares`]).
    pub(super) fn reserve(&self, digest: &Digest, size: u64) -> Result<Option<Share>> {
        if self.contains(digest) {
            return Ok(None);
        }
        self.share(size, Bytes::New).map(Some)
    }

    /// Marks a blob that is in front, and pinned there; durable when it returns. It uses the `share` that was reserved for it.
    ///
    /// # Errors
    /// As [`Self::reserve`], without a share.
    pub(super) async fn add(
        &self,
        digest: &Digest,
        size: u64,
        bytes: Bytes,
        pin: Pin,
        share: Option<Share>,
    ) -> Result<()> {
        if self.contains(digest) {
            return Ok(());
        }
        let share = match share {
            Some(share) => share,
            None => self.share(size, bytes)?,
        };
        self.ledger.mark(digest, size).await?;
        let item = Item::new(size, Time::now(), bytes, share, pin);
        self.insert(digest, item);
        Ok(())
    }

    /// Takes over a mark of an earlier process.
    pub(super) fn take_over(&self, digest: &Digest, size: u64, since: Time, pin: Pin) {
        let share = self.shares.count(None, size);
        self.insert(digest, Item::new(size, since, Bytes::Old, share, pin));
    }

    fn insert(&self, digest: &Digest, item: Item) {
        let mut items = self.items.lock();
        if items.all.contains_key(digest) {
            return;
        }
        items.bytes += item.size;
        items.all.insert(*digest, item);
        items.order.push_back(*digest);
        drop(items);
        self.changed.notify_waiters();
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.items.lock().all.contains_key(digest)
    }

    /// Returns true if the remote refused it, and it will be retried.
    pub(super) fn is_refused(&self, digest: &Digest) -> bool {
        let items = self.items.lock();
        items.all.get(digest).is_some_and(|i| i.rest.refusals > 0)
    }

    /// What is left to be sent.
    pub(super) fn left(&self) -> Left {
        let items = self.items.lock();
        Left {
            blobs: items.all.len() as u64,
            bytes: items.bytes,
            oldest: items.all.values().map(|i| i.since).min(),
        }
    }

    /// Why the remote refused an item that will be retried.
    pub(super) fn why(&self) -> Option<Error> {
        let items = self.items.lock();
        items.all.values().find_map(|item| item.rest.why())
    }

    /// All blobs that are currently marked.
    pub(super) fn all(&self) -> Vec<Digest> {
        self.items.lock().all.keys().copied().collect()
    }

    /// Waits for the next one to send; it must be given back by one of the following.
    pub(super) async fn next(&self) -> Job {
        until(&self.changed, || self.items.lock().take()).await
    }

    /// Removes the mark of a blob that the remote has.
    pub(super) async fn sent(&self, job: &Job) {
        if let Err(error) = self.ledger.unmark(&job.digest, job.size).await {
            // It is checked again at the next start.
            tracing::warn!(%error, digest = %job.digest, "Mark of a blob that was sent stays");
        }
        self.drop_item(&job.digest);
    }

    /// Sets aside a blob that can never be sent.
    pub(super) async fn lost(&self, job: &Job, why: &str) {
        self.ledger.set_mark_aside(&job.digest, job.size, why).await;
        self.drop_item(&job.digest);
    }

    fn drop_item(&self, digest: &Digest) {
        let mut items = self.items.lock();
        let gone = items.all.remove(digest);
        if let Some(item) = &gone {
            items.bytes -= item.size;
        }
        drop(items);
        // After releasing the lock: its pin takes another one.
        drop(gone);
        self.changed.notify_waiters();
    }

    /// Puts a blob back because the remote became unreachable meanwhile; it is the next one again.
    pub(super) fn put_back(&self, job: &Job) {
        let mut items = self.items.lock();
        if let Some(item) = items.all.get_mut(&job.digest) {
            item.state = State::Waiting;
            items.order.push_front(job.digest);
        }
        drop(items);
        self.changed.notify_waiters();
    }

    /// The remote refuses it; it is tried again after a pause.
    pub(super) fn refused(&self, job: &Job, why: Error) {
        let mut items = self.items.lock();
        if let Some(item) = items.all.get_mut(&job.digest) {
            item.state = State::Resting;
            item.rest.refused(why);
            // Hash the bytes before the next attempt, to find out whether they are the cause.
            item.bytes = Bytes::Old;
            items.resting.insert(job.digest);
        }
        drop(items);
        self.changed.notify_waiters();
    }

    /// Waits until the remote has a blob, which gets the next turn.
    ///
    /// # Errors
    /// Why the remote refuses it.
    pub(super) async fn until_sent(&self, digest: &Digest) -> Result<()> {
        let before = {
            let mut items = self.items.lock();
            let Some(item) = items.all.get_mut(digest) else {
                return Ok(());
            };
            let before = item.rest.refusals;
            if item.state != State::Sending {
                item.state = State::Waiting;
                items.order.push_front(*digest);
            }
            before
        };
        self.changed.notify_waiters();
        until(&self.changed, || match self.items.lock().all.get(digest) {
            None => Check::Now(Ok(())),
            Some(item) if item.rest.refusals > before => {
                Check::Now(item.rest.why().map_or(Ok(()), Err))
            }
            Some(_) => Check::Later(None),
        })
        .await
    }

    /// Waits until nothing is left.
    pub(super) async fn empty(&self) {
        until(&self.changed, || {
            if self.items.lock().all.is_empty() {
                Check::Now(())
            } else {
                Check::Later(None)
            }
        })
        .await;
    }

    /// Ends all pauses.
    pub(super) fn hurry(&self) {
        let mut items = self.items.lock();
        for item in items.all.values_mut() {
            item.rest.hurry();
        }
        drop(items);
        self.changed.notify_waiters();
    }
}

impl Items {
    fn take(&mut self) -> Check<Job> {
        let wake = self.wake();
        while let Some(digest) = self.order.pop_front() {
            let Some(item) = self.all.get_mut(&digest) else {
                continue;
            };
            if item.state == State::Waiting {
                item.state = State::Sending;
                return Check::Now(Job {
                    digest,
                    size: item.size,
                    bytes: item.bytes,
                });
            }
        }
        Check::Later(wake)
    }

    /// Wakes blobs whose pause is over; returns when the next pause ends.
    fn wake(&mut self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let (all, order) = (&mut self.all, &mut self.order);
        self.resting.retain(|digest| {
            let Some(item) = all.get_mut(digest).filter(|i| i.state == State::Resting) else {
                return false;
            };
            if let Some(at) = item.rest.until() {
                next = Some(next.map_or(at, |n| n.min(at)));
                return true;
            }
            item.state = State::Waiting;
            order.push_back(*digest);
            false
        });
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::store::{ErrorKind, tiered::uses::Uses};

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    async fn unsent(dir: &std::path::Path) -> (Unsent, Arc<Uses>) {
        let (ledger, _lock) = Ledger::open(dir).await.unwrap();
        let (unsent, uses) = (Unsent::new(ledger, 1000), Arc::new(Uses::default()));
        for n in 1..=3 {
            let pin = uses.pin(&d(n)).await;
            unsent.add(&d(n), 10, Bytes::New, pin, None).await.unwrap();
        }
        (unsent, uses)
    }

    #[tokio::test]
    async fn oldest_goes_first_but_for_one_that_somebody_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, uses) = unsent(dir.path()).await;
        let third = d(3);
        let mut waits = Box::pin(unsent.until_sent(&third));
        assert!(waits.as_mut().now_or_never().is_none());
        let first = unsent.next().await;
        assert_eq!(first.digest, d(3));
        assert_eq!(unsent.next().await.digest, d(1));
        unsent.sent(&first).await;
        waits.await.unwrap();
        assert!(!uses.is_pinned(&d(3)) && uses.is_pinned(&d(2)));
        assert_eq!((unsent.left().blobs, unsent.left().bytes), (2, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_one_rests_and_tells_who_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, _uses) = unsent(dir.path()).await;
        let job = unsent.next().await;
        let waits = unsent.until_sent(&job.digest);
        let refuse = async {
            tokio::task::yield_now().await;
            unsent.refused(&job, Error::new(ErrorKind::Denied, "put", "no"));
        };
        let (told, ()) = tokio::join!(waits, refuse);
        assert_eq!(told.unwrap_err().kind, ErrorKind::Denied);
        assert_ne!(unsent.next().await, job);
        assert_ne!(unsent.next().await, job);
        let before = Instant::now();
        let again = unsent.next().await;
        // It is hashed before it is sent again.
        assert_eq!((again.digest, again.bytes), (job.digest, Bytes::Old));
        assert!(before.elapsed().as_secs() >= 2);
    }

    #[tokio::test]
    async fn marks_go_when_blobs_were_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (unsent, _uses) = unsent(dir.path()).await;
        let job = unsent.next().await;
        unsent.sent(&job).await;
        let job = unsent.next().await;
        unsent.lost(&job, "test").await;
        assert_eq!(unsent.ledger.marks().await.unwrap().len(), 1);
        assert_eq!(unsent.ledger.aside(), 1);
    }
}

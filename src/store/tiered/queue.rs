//! Updates that were acknowledged while the remote was unreachable, in order.
//!
//! Updates of one tag form a chain: each expects the result of its predecessor's replay. Others are replayed concurrently, but
//! none before the updates that it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    entry::{Entry, Expected, What},
    ledger::Ledger,
    uses::Pin,
    wait::{Check, Rest, until},
};
use crate::{
    digest::Digest,
    entry::Time,
    fair::{Key, Refused, Share, Shares, caller},
    store::{
        error::{Error, Result},
        keys::{self, Repo},
        queue::{over_share, queue_full},
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Resting,
}

struct Queued {
    entry: Entry,
    keys: Vec<String>,
    needs: Vec<String>,
    state: State,
    rest: Rest,
    share: Share,
    _pins: Vec<Pin>,
}

#[derive(Default)]
struct Items {
    all: BTreeMap<u64, Queued>,
    by_key: BTreeMap<String, BTreeSet<u64>>,
    next: u64,
}

/// An entry with its context.
pub(super) struct Placed {
    pub(super) entry: Entry,
    /// The subject of its manifest.
    pub(super) subject: Option<Digest>,
    /// The children of its manifest.
    pub(super) children: Vec<Digest>,
    /// Keep blobs in front that the remote may not have.
    pub(super) pins: Vec<Pin>,
}

impl Placed {
    /// An entry without context.
    pub(super) fn alone(entry: Entry) -> Self {
        Self {
            entry,
            subject: None,
            children: Vec::new(),
            pins: Vec::new(),
        }
    }
}

/// An entry whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) seq: u64,
    pub(super) entry: Entry,
    /// The caller that caused it; unknown for entries of an earlier process.
    pub(super) caller: Option<Key>,
}

/// The queue.
pub(super) struct Queue {
    ledger: Ledger,
    items: Mutex<Items>,
    changed: Notify,
    shares: Shares,
}

impl Queue {
    /// An empty queue for at most `most` entries.
    pub(super) fn new(ledger: Ledger, most: usize) -> Self {
        Self {
            ledger,
            items: Mutex::default(),
            changed: Notify::new(),
            shares: Shares::new(most as u64),
        }
    }

    /// Adds an entry of the caller on whose behalf this task works ([`caller::current`]); durable when it returns. Entries of one
    /// tag must be added one after the other.
    ///
    /// # Errors
    /// `Full`, including when there are too many entries, or too many of that caller ([`Shares`]).
    pub(super) async fn add(&self, placed: Placed) -> Result<()> {
        let share = self.shares.take(caller::current(), 1);
        let share = share.map_err(|refused| match refused {
            Refused::All => queue_full("the queue of updates is"),
            Refused::Caller => over_share("updates"),
        })?;
        let seq = {
            let mut items = self.items.lock();
            items.next += 1;
            items.next
        };
        self.ledger.write(seq, placed.entry.encode()).await?;
        self.insert(seq, placed, share);
        Ok(())
    }

    /// Takes over an entry of an earlier process. Its caller is unknown: it counts only towards the total limit.
    pub(super) fn take_over(&self, seq: u64, placed: Placed) {
        self.insert(seq, placed, self.shares.count(None, 1));
    }

    fn insert(&self, seq: u64, placed: Placed, share: Share) {
        let keys = placed.entry.keys(placed.subject.as_ref());
        let mut items = self.items.lock();
        items.next = items.next.max(seq);
        for key in &keys {
            items.by_key.entry(key.clone()).or_default().insert(seq);
        }
        let queued = Queued {
            needs: placed.entry.needs(&placed.children),
            entry: placed.entry,
            keys,
            state: State::Waiting,
            rest: Rest::default(),
            share,
            _pins: placed.pins,
        };
        items.all.insert(seq, queued);
        drop(items);
        self.changed.notify_waiters();
    }

    /// The last update that writes the record with this key.
    pub(super) fn newest(&self, key: &str) -> Option<Entry> {
        let items = self.items.lock();
        let seq = items.by_key.get(key)?.last()?;
        Some(items.all.get(seq)?.entry.clone())
    }

    /// Returns true if an update writes the record with this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.items.lock().by_key.contains_key(key)
    }

    /// The keys of records that updates write, consisting of `prefix` and more characters without a `/`, with the last update.
    pub(super) fn below(&self, prefix: &str) -> Vec<(String, Entry)> {
        let items = self.items.lock();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        items
            .by_key
            .range::<str, _>(from)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| !key[prefix.len()..].contains('/'))
            .filter_map(|(key, seqs)| {
                let entry = items.all.get(seqs.last()?)?.entry.clone();
                Some((key.clone(), entry))
            })
            .collect()
    }

    /// The repositories with queued updates.
    pub(super) fn repositories(&self) -> BTreeSet<Repo> {
        let items = self.items.lock();
        let names = items.by_key.keys().filter_map(|key| {
            let rest = key.strip_prefix(keys::REPOSITORIES)?;
            Repo::unescape(rest.split('/').next()?)
        });
        names.collect()
    }

    /// The queued manifests.
    pub(super) fn manifests(&self) -> Vec<Digest> {
        let items = self.items.lock();
        let all = items.all.values().filter_map(|q| q.entry.publication());
        all.map(|p| p.manifest.digest).collect()
    }

    /// The number of queued updates, and the time of the oldest.
    pub(super) fn left(&self) -> (u64, Option<Time>) {
        let items = self.items.lock();
        let oldest = items.all.values().map(|q| q.entry.at).min();
        (items.all.len() as u64, oldest)
    }

    /// Why the remote refused an item that will be retried.
    pub(super) fn why(&self) -> Option<Error> {
        let items = self.items.lock();
        items.all.values().find_map(|queued| queued.rest.why())
    }

    /// Waits for the next one to replay; it must be given back by one of the following.
    pub(super) async fn next(&self) -> Job {
        until(&self.changed, || self.items.lock().take()).await
    }

    /// Removes a finished job. `produced` is what its tag points at now, unless the tag was left unchanged; the next update of
    /// the tag expects it.
    pub(super) async fn done(&self, job: &Job, produced: Option<Digest>) -> Result<()> {
        if let Some(produced) = produced
            && let Some((seq, entry)) = self.successor(job, produced)
        {
            // Before this one is removed: replaying this one twice gives the same result, but its successor must not be left with
            // an outdated expectation.
            self.ledger.write(seq, entry.encode()).await?;
            if let Some(queued) = self.items.lock().all.get_mut(&seq) {
                queued.entry = entry;
            }
        }
        self.ledger.remove(job.seq).await?;
        self.drop_item(job.seq);
        Ok(())
    }

    /// The next update of the same tag, if it does not expect what was produced.
    fn successor(&self, job: &Job, produced: Digest) -> Option<(u64, Entry)> {
        let done = job.entry.publication()?;
        let key = keys::tag(&done.repo, done.tag.as_ref()?);
        let items = self.items.lock();
        let after = (Bound::Excluded(job.seq), Bound::Unbounded);
        let seq = *items.by_key.get(&key)?.range(after).next()?;
        let mut entry = items.all.get(&seq)?.entry.clone();
        match &mut entry.what {
            What::Publish(p)
                if p.expect == Expected::Digest(done.manifest.digest)
                    && done.manifest.digest != produced =>
            {
                p.expect = Expected::Digest(produced);
            }
            _ => return None,
        }
        Some((seq, entry))
    }

    /// Sets aside a job that can never be replayed.
    pub(super) async fn damaged(&self, job: &Job, why: &str) {
        self.ledger.set_entry_aside(job.seq, why).await;
        self.drop_item(job.seq);
    }

    fn drop_item(&self, seq: u64) {
        let mut items = self.items.lock();
        let gone = items.all.remove(&seq);
        for key in gone.iter().flat_map(|q| &q.keys) {
            if let Some(seqs) = items.by_key.get_mut(key) {
                seqs.remove(&seq);
                if seqs.is_empty() {
                    items.by_key.remove(key);
                }
            }
        }
        drop(items);
        // After releasing the lock: its pins take another one.
        drop(gone);
        self.changed.notify_waiters();
    }

    /// Puts a job back because the remote became unreachable meanwhile.
    pub(super) fn put_back(&self, job: &Job) {
        if let Some(queued) = self.items.lock().all.get_mut(&job.seq) {
            queued.state = State::Waiting;
        }
        self.changed.notify_waiters();
    }

    /// The remote refuses it; it is tried again after a pause.
    pub(super) fn refused(&self, job: &Job, why: Error) {
        if let Some(queued) = self.items.lock().all.get_mut(&job.seq) {
            queued.state = State::Resting;
            queued.rest.refused(why);
        }
        self.changed.notify_waiters();
    }

    /// Waits until no update writes any record with one of these keys; refused updates are retried at once.
    ///
    /// # Errors
    /// Why the remote refuses such an update.
    pub(super) async fn settled(&self, keys: &[String]) -> Result<()> {
        let before = self.hurry_for(keys);
        until(&self.changed, || {
            let items = self.items.lock();
            let seqs = keys.iter().filter_map(|key| items.by_key.get(key));
            let mut waits = false;
            for seq in seqs.flatten() {
                waits = true;
                let known = before.get(seq).copied().unwrap_or(0);
                let refused = items.all.get(seq).filter(|q| q.rest.refusals > known);
                if let Some(why) = refused.and_then(|q| q.rest.why()) {
                    return Check::Now(Err(why));
                }
            }
            if waits {
                return Check::Later(None);
            }
            Check::Now(Ok(()))
        })
        .await
    }

    /// Ends the pauses of the updates that write such records; returns how often each was refused so far.
    fn hurry_for(&self, keys: &[String]) -> BTreeMap<u64, u32> {
        let mut items = self.items.lock();
        let seqs = keys.iter().filter_map(|key| items.by_key.get(key));
        let seqs: Vec<u64> = seqs.flatten().copied().collect();
        let mut refusals = BTreeMap::new();
        for seq in seqs {
            if let Some(queued) = items.all.get_mut(&seq) {
                queued.rest.hurry();
                refusals.insert(seq, queued.rest.refusals);
            }
        }
        drop(items);
        if !refusals.is_empty() {
            self.changed.notify_waiters();
        }
        refusals
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
        for queued in self.items.lock().all.values_mut() {
            queued.rest.hurry();
        }
        self.changed.notify_waiters();
    }
}

impl Items {
    fn take(&mut self) -> Check<Job> {
        let mut wake: Option<Instant> = None;
        let mut found = None;
        for (seq, queued) in &self.all {
            if queued.state == State::Running || !self.is_first(*seq, queued) {
                continue;
            }
            let rests = queued.rest.until();
            if let Some(at) = rests.filter(|_| queued.state == State::Resting) {
                wake = Some(wake.map_or(at, |w| w.min(at)));
            } else {
                found = Some(*seq);
                break;
            }
        }
        let Some(queued) = found.and_then(|seq| self.all.get_mut(&seq)) else {
            return Check::Later(wake);
        };
        queued.state = State::Running;
        Check::Now(Job {
            seq: found.unwrap_or_default(),
            entry: queued.entry.clone(),
            caller: queued.share.caller().cloned(),
        })
    }

    /// Returns true if no earlier update writes the same records, or those that it needs.
    fn is_first(&self, seq: u64, queued: &Queued) -> bool {
        let mut keys = queued.keys.iter().chain(&queued.needs);
        keys.all(|key| {
            let first = self.by_key.get(key).and_then(BTreeSet::first);
            first.is_none_or(|first| *first >= seq)
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::store::ErrorKind;
    use crate::{artifact::Tag, store::record::Tagged, store::tiered::entry::Publication};

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    fn placed(manifest: u8, tag: Option<&str>, expect: Expected, children: &[u8]) -> Placed {
        let tag: Option<Tag> = tag.map(|t| t.parse().unwrap());
        Placed {
            entry: Entry::now(What::Publish(Publication {
                repo: Repo::cli(),
                tag,
                manifest: Tagged {
                    digest: d(manifest),
                    media_type: "a/b".to_owned(),
                    size: 1,
                },
                expect,
            })),
            subject: None,
            children: children.iter().map(|n| d(*n)).collect(),
            pins: Vec::new(),
        }
    }

    async fn queue(dir: &std::path::Path) -> Queue {
        let (ledger, _lock) = Ledger::open(dir).await.unwrap();
        Queue::new(ledger, 5)
    }

    fn digest_of(job: &Job) -> Digest {
        job.entry.publication().unwrap().manifest.digest
    }

    #[tokio::test]
    async fn updates_of_one_tag_go_one_after_the_other_and_others_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        queue
            .add(placed(1, Some("a"), Expected::Absent, &[]))
            .await
            .unwrap();
        queue
            .add(placed(2, Some("a"), Expected::Digest(d(1)), &[]))
            .await
            .unwrap();
        queue
            .add(placed(3, Some("b"), Expected::Absent, &[]))
            .await
            .unwrap();
        let (first, other) = (queue.next().await, queue.next().await);
        assert_eq!([digest_of(&first), digest_of(&other)], [d(1), d(3)]);
        assert!(queue.next().now_or_never().is_none());
        queue.done(&first, Some(d(1))).await.unwrap();
        assert_eq!(digest_of(&queue.next().await), d(2));
    }

    #[tokio::test]
    async fn an_index_waits_for_its_manifests() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        queue
            .add(placed(1, None, Expected::Absent, &[]))
            .await
            .unwrap();
        queue
            .add(placed(2, Some("a"), Expected::Absent, &[1]))
            .await
            .unwrap();
        let child = queue.next().await;
        assert!(queue.next().now_or_never().is_none());
        queue.done(&child, None).await.unwrap();
        assert_eq!(digest_of(&queue.next().await), d(2));
    }

    #[tokio::test]
    async fn successor_expects_what_was_produced_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        queue
            .add(placed(1, Some("a"), Expected::Absent, &[]))
            .await
            .unwrap();
        queue
            .add(placed(2, Some("a"), Expected::Digest(d(1)), &[]))
            .await
            .unwrap();
        queue
            .add(placed(3, Some("a"), Expected::Digest(d(2)), &[]))
            .await
            .unwrap();
        let job = queue.next().await;
        queue.done(&job, Some(d(9))).await.unwrap();
        let second = queue.next().await;
        let expect = |e: &Entry| e.publication().unwrap().expect.clone();
        assert_eq!(expect(&second.entry), Expected::Digest(d(9)));
        let read = Entry::decode(&queue.ledger.read(second.seq).await.unwrap());
        assert_eq!(expect(&read.unwrap()), Expected::Digest(d(9)));
        queue.done(&second, None).await.unwrap();
        assert_eq!(expect(&queue.next().await.entry), Expected::Digest(d(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_update_stops_its_own_tag_only() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        queue
            .add(placed(1, Some("a"), Expected::Absent, &[]))
            .await
            .unwrap();
        queue
            .add(placed(2, Some("a"), Expected::Digest(d(1)), &[]))
            .await
            .unwrap();
        queue
            .add(placed(3, Some("b"), Expected::Absent, &[]))
            .await
            .unwrap();
        let job = queue.next().await;
        queue.refused(&job, Error::new(ErrorKind::Denied, "publish", "no"));
        let key = keys::tag(&Repo::cli(), &"a".parse().unwrap());
        assert_eq!(digest_of(&queue.next().await), d(3));
        assert!(queue.next().now_or_never().is_none());
        // By itself, after its pause.
        assert_eq!(queue.next().await.seq, job.seq);
        // Or for somebody who waits, and is told.
        queue.refused(&job, Error::new(ErrorKind::Denied, "publish", "no"));
        let keys = [key];
        let mut waits = Box::pin(queue.settled(&keys));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(queue.next().now_or_never().unwrap().seq, job.seq);
        queue.refused(&job, Error::new(ErrorKind::Full, "publish", "no"));
        assert_eq!(waits.await.unwrap_err().kind, ErrorKind::Full);
    }

    #[tokio::test]
    async fn a_full_queue_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        for n in 0..5 {
            queue
                .add(placed(n, None, Expected::Absent, &[]))
                .await
                .unwrap();
        }
        let e = queue.add(placed(6, None, Expected::Absent, &[])).await;
        assert_eq!(e.unwrap_err().kind, ErrorKind::Full);
        assert_eq!(queue.below(&keys::manifests_prefix(&Repo::cli())).len(), 5);
        assert!(queue.below("r/cachectl/").is_empty());
    }
}

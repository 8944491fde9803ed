//! The queue of updates: names and records that were acknowledged while the remote was unreachable.
//!
//! Updates of one tag form a chain: each expects the result of its predecessor's replay. None is replayed before the updates that
//! it needs.

use std::{collections::BTreeSet, ops::Bound};

use super::{
    entry::{Entry, Expected, What},
    ledger::File,
    queue::{Job, Placed, Queue, Work},
    uses::Pin,
};
use crate::{
    digest::Digest,
    store::{
        error::Result,
        keys::{self, Repo},
    },
};

impl Work for Entry {
    /// The key of a record.
    type Key = String;

    const FULL: &'static str = "the queue of updates is";
    const MANY: &'static str = "updates";

    fn file(&self, seq: u64) -> File {
        File::Entry(seq)
    }

    fn bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn amount(&self) -> u64 {
        1
    }
}

impl Placed<Entry> {
    /// An entry whose manifest has this subject and these children.
    pub(super) fn around(
        entry: Entry,
        subject: Option<&Digest>,
        children: &[Digest],
        pins: Vec<Pin>,
    ) -> Self {
        Self {
            keys: entry.keys(subject),
            needs: entry.needs(children),
            work: entry,
            _pins: pins,
        }
    }

    /// An entry without a manifest.
    pub(super) fn alone(entry: Entry) -> Self {
        Self::around(entry, None, &[], Vec::new())
    }
}

impl Queue<Entry> {
    /// Adds an entry; durable when it returns. Entries of one tag must be added one after the other.
    ///
    /// # Errors
    /// `Full`, including when there are too many entries, or too many of the caller on whose behalf this task works.
    pub(super) async fn add(&self, placed: Placed<Entry>) -> Result<()> {
        let share = self.share(placed.work.amount())?;
        self.keep(placed, share).await
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
                let entry = items.all.get(seqs.last()?)?.placed.work.clone();
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
        let all = items.all.values();
        let all = all.filter_map(|item| item.placed.work.publication());
        all.map(|p| p.manifest.digest).collect()
    }

    /// Removes a finished job. `produced` is what its tag points at now, unless the tag was left unchanged; the next update of
    /// the tag expects it.
    pub(super) async fn done(&self, job: &Job<Entry>, produced: Option<Digest>) -> Result<()> {
        if let Some(produced) = produced
            && let Some((seq, entry)) = self.successor(job, produced)
        {
            // Before this one is removed: replaying this one twice gives the same result, but its successor must not be left with
            // an outdated expectation.
            let file = File::Entry(seq);
            self.ledger.write(file, entry.encode()).await?;
            if let Some(next) = self.items.lock().all.get_mut(&seq) {
                next.placed.work = entry;
            }
        }
        self.ledger.remove(File::Entry(job.seq)).await?;
        self.remove(job);
        Ok(())
    }

    /// The next update of the same tag, if it does not expect what was produced.
    fn successor(&self, job: &Job<Entry>, produced: Digest) -> Option<(u64, Entry)> {
        let done = job.work.publication()?;
        let key = keys::tag(&done.repo, done.tag.as_ref()?);
        let items = self.items.lock();
        let after = (Bound::Excluded(job.seq), Bound::Unbounded);
        let seq = *items.by_key.get(&key)?.range(after).next()?;
        let mut entry = items.all.get(&seq)?.placed.work.clone();
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
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{
        artifact::Tag,
        store::{
            Error, ErrorKind,
            record::Tagged,
            tiered::{entry::Publication, ledger::Ledger},
        },
    };

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    fn placed(manifest: u8, tag: Option<&str>, expect: Expected, children: &[u8]) -> Placed<Entry> {
        let tag: Option<Tag> = tag.map(|t| t.parse().unwrap());
        let entry = Entry::now(What::Publish(Publication {
            repo: Repo::cli(),
            tag,
            manifest: Tagged {
                digest: d(manifest),
                media_type: "a/b".to_owned(),
                size: 1,
            },
            expect,
        }));
        let children: Vec<Digest> = children.iter().map(|n| d(*n)).collect();
        Placed::around(entry, None, &children, Vec::new())
    }

    async fn queue(dir: &std::path::Path) -> Queue<Entry> {
        let (ledger, _lock) = Ledger::open(dir).await.unwrap();
        Queue::new(ledger, 5)
    }

    async fn add(queue: &Queue<Entry>, placed: Placed<Entry>) {
        queue.add(placed).await.unwrap();
    }

    fn digest_of(job: &Job<Entry>) -> Digest {
        job.work.publication().unwrap().manifest.digest
    }

    #[tokio::test]
    async fn updates_of_one_tag_go_one_after_the_other_and_others_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        add(&queue, placed(1, Some("a"), Expected::Absent, &[])).await;
        add(&queue, placed(2, Some("a"), Expected::Digest(d(1)), &[])).await;
        add(&queue, placed(3, Some("b"), Expected::Absent, &[])).await;
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
        add(&queue, placed(1, None, Expected::Absent, &[])).await;
        add(&queue, placed(2, Some("a"), Expected::Absent, &[1])).await;
        let child = queue.next().await;
        assert!(queue.next().now_or_never().is_none());
        queue.done(&child, None).await.unwrap();
        assert_eq!(digest_of(&queue.next().await), d(2));
    }

    #[tokio::test]
    async fn successor_expects_what_was_produced_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        add(&queue, placed(1, Some("a"), Expected::Absent, &[])).await;
        add(&queue, placed(2, Some("a"), Expected::Digest(d(1)), &[])).await;
        add(&queue, placed(3, Some("a"), Expected::Digest(d(2)), &[])).await;
        let job = queue.next().await;
        queue.done(&job, Some(d(9))).await.unwrap();
        let second = queue.next().await;
        let expect = |e: &Entry| e.publication().unwrap().expect.clone();
        assert_eq!(expect(&second.work), Expected::Digest(d(9)));
        let read = Entry::decode(&queue.ledger.read(File::Entry(second.seq)).await.unwrap());
        assert_eq!(expect(&read.unwrap()), Expected::Digest(d(9)));
        queue.done(&second, None).await.unwrap();
        assert_eq!(expect(&queue.next().await.work), Expected::Digest(d(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_update_stops_its_own_tag_only() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        add(&queue, placed(1, Some("a"), Expected::Absent, &[])).await;
        add(&queue, placed(2, Some("a"), Expected::Digest(d(1)), &[])).await;
        add(&queue, placed(3, Some("b"), Expected::Absent, &[])).await;
        let job = queue.next().await;
        let no = |kind| Error::new(kind, "publish", "no");
        assert!(queue.failed(&job, no(ErrorKind::Denied)).await.is_some());
        let key = keys::tag(&Repo::cli(), &"a".parse().unwrap());
        assert_eq!(digest_of(&queue.next().await), d(3));
        assert!(queue.next().now_or_never().is_none());
        // By itself, after its pause.
        assert_eq!(queue.next().await.seq, job.seq);
        // Or for somebody who waits, and is told.
        queue.failed(&job, no(ErrorKind::Denied)).await;
        let keys = [key];
        let mut waits = Box::pin(queue.settled(&keys));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(queue.next().now_or_never().unwrap().seq, job.seq);
        queue.failed(&job, no(ErrorKind::Full)).await;
        assert_eq!(waits.await.unwrap_err().kind, ErrorKind::Full);
    }

    #[tokio::test]
    async fn a_full_queue_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(dir.path()).await;
        for n in 0..5 {
            add(&queue, placed(n, None, Expected::Absent, &[])).await;
        }
        let e = queue.add(placed(6, None, Expected::Absent, &[])).await;
        assert_eq!(e.unwrap_err().kind, ErrorKind::Full);
        assert_eq!(queue.below(&keys::manifests_prefix(&Repo::cli())).len(), 5);
        assert!(queue.below("r/cachectl/").is_empty());
    }
}

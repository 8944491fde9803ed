//! Work for the remote that was acknowledged, in order. Each piece of work is a file in the ledger until the remote has it, so that
//! it survives a kill.
//!
//! Work has keys, which name what the remote has once it is done. It waits for all earlier work with one of its keys, or with a key
//! that it needs. Other work is done concurrently.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    ledger::{File, Ledger},
    uses::Pin,
    wait::{Check, Rest, until},
};
use crate::{
    entry::Time,
    fair::{Key, Refused, Share, Shares, caller},
    store::{
        error::{Error, ErrorKind, Result},
        queue::{over_share, queue_full},
    },
};

/// A kind of work.
pub(super) trait Work: Clone {
    /// Names something that the remote has once the work is done.
    type Key: Ord + Clone;

    /// What is full if there is no space for more work, for an error.
    const FULL: &'static str;
    /// What a caller with too much work has too many of, for an error.
    const MANY: &'static str;

    /// Its file in the ledger, if it has this number in the queue.
    fn file(&self, seq: u64) -> File;

    /// The bytes of that file.
    fn bytes(&self) -> Vec<u8>;

    /// How much it uses of the space for all work.
    fn amount(&self) -> u64;
}

/// Work with its context.
pub(super) struct Placed<W: Work> {
    pub(super) work: W,
    /// Names what the remote has once it is done.
    pub(super) keys: Vec<W::Key>,
    /// Names what the remote must have before.
    pub(super) needs: Vec<W::Key>,
    /// Keep blobs in front that the remote may not have.
    pub(super) _pins: Vec<Pin>,
}

/// Work whose turn it is.
#[derive(Debug, Clone)]
pub(super) struct Job<W> {
    pub(super) seq: u64,
    pub(super) work: W,
    /// How often the remote has refused it.
    pub(super) refusals: u32,
    /// The caller that caused it; unknown for work of an earlier process.
    pub(super) caller: Option<Key>,
}

/// Summary of what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Left {
    pub(super) count: u64,
    /// The sum of [`Work::amount`].
    pub(super) amount: u64,
    pub(super) oldest: Option<Time>,
}

/// Work in the queue.
pub(super) struct Item<W: Work> {
    pub(super) placed: Placed<W>,
    since: Time,
    /// A worker has it.
    is_taken: bool,
    pub(super) rest: Rest,
    share: Share,
}

/// The items, in their order.
pub(super) struct Items<W: Work> {
    pub(super) all: BTreeMap<u64, Item<W>>,
    pub(super) by_key: BTreeMap<W::Key, BTreeSet<u64>>,
    /// They go first, since somebody waits for them.
    urgent: BTreeSet<u64>,
    last: u64,
}

pub(super) struct Queue<W: Work> {
    pub(super) ledger: Ledger,
    pub(super) items: Mutex<Items<W>>,
    changed: Notify,
    pub(super) shares: Shares,
}

impl<W: Work> Queue<W> {
    /// An empty queue with space for `most` ([`Work::amount`]).
    pub(super) fn new(ledger: Ledger, most: u64) -> Self {
        Self {
            ledger,
            items: Mutex::new(Items {
                all: BTreeMap::new(),
                by_key: BTreeMap::new(),
                urgent: BTreeSet::new(),
                last: 0,
            }),
            changed: Notify::new(),
            shares: Shares::new(most),
        }
    }

    /// Changes the space to `most`.
    pub(super) fn limit(&self, most: u64) {
        self.shares.limit(most);
    }

    /// Takes an amount of the space for the caller on whose behalf this task works ([`caller::current`]).
    ///
    /// # Errors
    /// `Full` if too little is left, or the caller has as much as is left for all others ([`Shares`]).
    pub(super) fn share(&self, amount: u64) -> Result<Share> {
        let share = self.shares.take(caller::current(), amount);
        share.map_err(|refused| match refused {
            Refused::All => queue_full(W::FULL),
            Refused::Caller => over_share(W::MANY),
        })
    }

    /// Adds work that has its share; durable when it returns.
    pub(super) async fn keep(&self, placed: Placed<W>, share: Share) -> Result<()> {
        let seq = {
            let mut items = self.items.lock();
            items.last += 1;
            items.last
        };
        let (file, bytes) = (placed.work.file(seq), placed.work.bytes());
        self.ledger.write(file, bytes).await?;
        self.insert(seq, Time::now(), placed, share);
        Ok(())
    }

    /// Takes over work of an earlier process, with the number in the name of its file. Its caller is unknown: it counts only
    /// towards the total.
    pub(super) fn take_over(&self, seq: Option<u64>, since: Time, placed: Placed<W>) {
        let share = self.shares.count(None, placed.work.amount());
        let seq = seq.unwrap_or_else(|| self.items.lock().last + 1);
        self.insert(seq, since, placed, share);
    }

    fn insert(&self, seq: u64, since: Time, placed: Placed<W>, share: Share) {
        let file = placed.work.file(seq);
        let item = Item {
            placed,
            since,
            is_taken: false,
            rest: Rest::default(),
            share,
        };
        let mut items = self.items.lock();
        let mut others = items.with(&item.placed.keys);
        // Another task may have added the same meanwhile.
        if others.any(|(seq, other)| other.placed.work.file(seq) == file) {
            return;
        }
        drop(others);
        items.last = items.last.max(seq);
        for key in &item.placed.keys {
            items.by_key.entry(key.clone()).or_default().insert(seq);
        }
        items.all.insert(seq, item);
        drop(items);
        self.changed.notify_waiters();
    }

    /// Returns true if work with this key is left.
    pub(super) fn has(&self, key: &W::Key) -> bool {
        self.items.lock().by_key.contains_key(key)
    }

    /// The last work with this key.
    pub(super) fn newest(&self, key: &W::Key) -> Option<W> {
        let items = self.items.lock();
        let last = items.with(slice::from_ref(key)).last();
        last.map(|(_, item)| item.placed.work.clone())
    }

    /// Summary of what waits.
    pub(super) fn left(&self) -> Left {
        let items = self.items.lock();
        let all = || items.all.values();
        Left {
            count: items.all.len() as u64,
            amount: all().map(|item| item.placed.work.amount()).sum(),
            oldest: all().map(|item| item.since).min(),
        }
    }

    /// Why the remote refused work that will be retried.
    pub(super) fn why(&self) -> Option<Error> {
        let items = self.items.lock();
        items.all.values().find_map(|item| item.rest.why())
    }

    /// Waits for the next work to do; it must be given back by one of the following.
    pub(super) async fn next(&self) -> Job<W> {
        until(&self.changed, || self.items.lock().take()).await
    }

    /// Removes work whose file is gone.
    pub(super) fn remove(&self, job: &Job<W>) {
        let mut items = self.items.lock();
        items.urgent.remove(&job.seq);
        let gone = items.all.remove(&job.seq);
        for key in gone.iter().flat_map(|item| &item.placed.keys) {
            if let Some(seqs) = items.by_key.get_mut(key) {
                seqs.remove(&job.seq);
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

    /// Takes back work that failed. It is tried again when the remote is reachable again, or after a pause if the remote refuses
    /// it; it is set aside if it can never be done. Returns the refusal.
    pub(super) async fn failed(&self, job: &Job<W>, why: Error) -> Option<Error> {
        if why.kind == ErrorKind::Corrupt {
            let file = job.work.file(job.seq);
            self.ledger.set_aside(file, &why.to_string()).await;
            self.remove(job);
            return None;
        }
        let refusal = (!why.is_temporary()).then(|| why.told());
        if let Some(item) = self.items.lock().all.get_mut(&job.seq) {
            item.is_taken = false;
            if refusal.is_some() {
                item.rest.refused(why);
            }
        }
        self.changed.notify_waiters();
        refusal
    }

    /// Waits until no work with one of these keys is left. Such work goes first, and refused work is retried at once.
    ///
    /// # Errors
    /// Why the remote refuses such work.
    pub(super) async fn settled(&self, keys: &[W::Key]) -> Result<()> {
        let before = self.hurry_for(keys);
        until(&self.changed, || {
            let items = self.items.lock();
            let mut left = items.with(keys).peekable();
            if left.peek().is_none() {
                return Check::Now(Ok(()));
            }
            let refused = left.find(|(seq, item)| {
                let known = before.get(seq).copied().unwrap_or(0);
                item.rest.refusals > known
            });
            match refused.and_then(|(_, item)| item.rest.why()) {
                Some(why) => Check::Now(Err(why)),
                None => Check::Later(None),
            }
        })
        .await
    }

    /// Makes work with these keys urgent; returns how often each was refused so far.
    fn hurry_for(&self, keys: &[W::Key]) -> BTreeMap<u64, u32> {
        let mut items = self.items.lock();
        let found = items.with(keys).map(|(seq, i)| (seq, i.rest.refusals));
        let before: BTreeMap<u64, u32> = found.collect();
        for seq in before.keys() {
            items.urgent.insert(*seq);
            if let Some(item) = items.all.get_mut(seq) {
                item.rest.hurry();
            }
        }
        drop(items);
        self.changed.notify_waiters();
        before
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
        for item in self.items.lock().all.values_mut() {
            item.rest.hurry();
        }
        self.changed.notify_waiters();
    }
}

impl<W: Work> Items<W> {
    /// The items with these keys.
    pub(super) fn with(&self, keys: &[W::Key]) -> impl Iterator<Item = (u64, &Item<W>)> {
        let seqs = keys.iter().filter_map(|key| self.by_key.get(key)).flatten();
        seqs.filter_map(|seq| Some((*seq, self.all.get(seq)?)))
    }

    fn take(&mut self) -> Check<Job<W>> {
        let mut wake: Option<Instant> = None;
        let mut order = self.urgent.iter().chain(self.all.keys()).copied();
        let found = order.find(|seq| {
            let Some(item) = self.all.get(seq).filter(|item| !item.is_taken) else {
                return false;
            };
            if let Some(at) = item.rest.until() {
                wake = Some(wake.map_or(at, |w| w.min(at)));
                return false;
            }
            self.is_first(*seq, item)
        });
        let Some((seq, item)) = found.and_then(|seq| Some((seq, self.all.get_mut(&seq)?))) else {
            return Check::Later(wake);
        };
        item.is_taken = true;
        self.urgent.remove(&seq);
        Check::Now(Job {
            seq,
            work: item.placed.work.clone(),
            refusals: item.rest.refusals,
            caller: item.share.caller().cloned(),
        })
    }

    /// Returns true if no earlier work has one of its keys, or one that it needs.
    fn is_first(&self, seq: u64, item: &Item<W>) -> bool {
        let mut keys = item.placed.keys.iter().chain(&item.placed.needs);
        keys.all(|key| {
            let first = self.by_key.get(key).and_then(BTreeSet::first);
            first.is_none_or(|first| *first >= seq)
        })
    }
}

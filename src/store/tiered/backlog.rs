//! The backlog: what is still to be sent, for callers that want to see it or wait for it.

use std::{collections::VecDeque, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::{Core, Mode, Numbers, Reachable};
use crate::{artifact::Tag, digest::Digest, entry::Time, store::keys::Repo};

/// How many tags that were left unchanged are remembered.
const REMEMBERED: usize = 32;

/// A tag that was written here during an outage, and meanwhile by another writer in the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// Its repository.
    pub repo: Repo,
    /// Its name.
    pub tag: Tag,
    /// The manifest pushed here; still readable by its digest.
    pub ours: Digest,
    /// The manifest that the tag points at.
    pub theirs: Digest,
}

/// What waits, and the tiers, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogStatus {
    /// When writes are acknowledged.
    pub mode: Mode,
    /// The remote.
    pub remote: Reachable,
    /// Blobs that the remote is not known to have.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Queued updates of tags, manifests and records.
    pub updates: u64,
    /// Why the remote recently refused one of them although it is up.
    pub refused: Option<String>,
    /// Age of the oldest queued item.
    pub oldest: Option<Duration>,
    /// Bytes of blobs in front.
    pub front_bytes: u64,
    /// Maximum bytes of blobs in front.
    pub front_max_bytes: u64,
    /// Acknowledged items that could not be read back or sent: files that an operator should examine.
    pub set_aside: u64,
    /// Counts since the start.
    pub numbers: Numbers,
    /// Tags that were recently left unchanged, the oldest first.
    pub left_alone: Vec<LeftAlone>,
}

impl BacklogStatus {
    /// Returns true if the remote has everything that was acknowledged, except items that were set aside.
    pub fn is_flushed(&self) -> bool {
        self.waiting() == 0
    }

    /// How many blobs and updates wait.
    pub fn waiting(&self) -> u64 {
        self.blobs + self.updates
    }

    /// Why it waits, and whether something is lost, in words without secrets; `None` if nothing is wrong.
    pub fn trouble(&self) -> Option<String> {
        let mut trouble = Vec::new();
        if !self.remote.up {
            let why = &self.remote.why;
            trouble.push(format!("the remote store is unreachable: {why}"));
        } else if let Some(why) = &self.refused {
            trouble.push(format!("the remote store refuses it: {why}"));
        }
        if self.set_aside > 0 {
            let count = self.set_aside;
            trouble.push(format!("{count} files were set aside: see the log"));
        }
        (!trouble.is_empty()).then(|| trouble.join("; "))
    }
}

/// Ability: acknowledged items that are not in the remote yet can be inspected, and waited for.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// The current state; answers at once, without a request to the remote.
    fn status(&self) -> BacklogStatus;

    /// The current state of the remote.
    fn remote(&self) -> Reachable;

    /// Waits until the remote is up, or unreachable.
    async fn turned(&self, up: bool);

    /// Retries everything at once, and waits until nothing is left or `deadline` is over; returns what is left then.
    async fn flush(&self, deadline: Instant) -> BacklogStatus;
}

/// The last tags that were left unchanged.
#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<LeftAlone>>);

impl Recent {
    pub(super) fn add(&self, one: LeftAlone) {
        let mut all = self.0.lock();
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        all.push_back(one);
    }

    fn all(&self) -> Vec<LeftAlone> {
        let all = self.0.lock();
        all.iter().cloned().collect()
    }
}

fn age(since: Time) -> Duration {
    Duration::from_secs(u64::try_from(Time::now().secs - since.secs).unwrap_or(0))
}

#[async_trait]
impl Backlog for Core {
    fn status(&self) -> BacklogStatus {
        let unsent = self.unsent.left();
        let updates = self.updates.left();
        BacklogStatus {
            mode: self.settings.mode,
            remote: self.health.now(),
            blobs: unsent.count,
            bytes: unsent.amount,
            updates: updates.count,
            refused: self
                .updates
                .why()
                .or_else(|| self.unsent.why())
                .map(|e| e.to_string()),
            oldest: unsent
                .oldest
                .into_iter()
                .chain(updates.oldest)
                .min()
                .map(age),
            front_bytes: self.front.uses.bytes(),
            front_max_bytes: self.front.room.max_bytes,
            set_aside: self.ledger.aside(),
            numbers: self.counts.numbers(),
            left_alone: self.recent.all(),
        }
    }

    fn remote(&self) -> Reachable {
        self.health.now()
    }

    async fn turned(&self, up: bool) {
        self.health.turned(up).await;
    }

    async fn flush(&self, deadline: Instant) -> BacklogStatus {
        self.health.hurry();
        self.unsent.hurry();
        self.updates.hurry();
        let all = async {
            // Updates first: a replay may mark blobs.
            self.updates.empty().await;
            self.unsent.empty().await;
        };
        // The result is what is left then.
        let _ = timeout_at(deadline, all).await;
        self.status()
    }
}

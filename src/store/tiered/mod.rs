//! A disk in front of a remote store: the store of a daemon, fast where possible, and never losing what it has acknowledged.
//!
//! - Holds: the choice of the tier for each request, downloads into the front, the backlog, the space in front.
//! - Enters: two opened stores, a folder for state that must survive a kill.
//! - Leaves: a store with many repositories like any other, and a [`Backlog`].
//! - Deliberately absent: the handling of tags that changed meanwhile ([`Moved`]), timers of the daemon, protocols.
//!
//! *Write-through*: acknowledged when the remote has it. *Write-back*: a blob is acknowledged
//! when it is durable in front and marked (`ledger`); a tag, a manifest or a record when the remote has all of it, or, while the
//! remote is unreachable (`health`), when it is in the queue. Only the remote defines what a name stands for, so that any number
//! of daemons over one remote are one service; the front's knowledge of names is used only while the remote is unreachable.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

mod backlog;
mod blobs;
mod core;
mod counts;
mod entry;
mod fill;
mod front;
mod health;
mod ledger;
mod look;
mod lost;
mod pieces;
mod publish;
mod queue;
mod records;
mod replay;
mod seen;
mod send;
mod sweep;
mod tag_locks;
mod tags;
#[cfg(test)]
mod tests;
mod turns;
mod unsent;
mod updates;
mod uses;
mod wait;

pub use backlog::{Backlog, BacklogStatus, LeftAlone};
pub use counts::Numbers;
pub use front::Room;
pub use health::Reachable;

use super::{
    Meet, Records, Repositories, Repository, Store, error::Result, handle::Facts, ingest::Evict,
    keys::Repo,
};
use crate::{
    artifact::{Manifest, Tag},
    task::{self, Task},
};
use core::Core;
use look::Patience;

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When the remote has it; while the remote is unreachable, only pieces of unfinished uploads are accepted.
    WriteThrough,
    /// Blobs when they are durable here; names too while the remote is unreachable.
    WriteBack,
}

/// Settings of the tiers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// When a write is acknowledged.
    pub mode: Mode,
    /// How much space the front may use.
    pub room: Room,
    /// Folder for the backlog; must not be shared with other daemons. Best on the front's file system.
    pub state_dir: PathBuf,
    /// Blobs that are uploaded concurrently.
    pub sends: usize,
    /// Cold blobs that are downloaded concurrently.
    pub fills: usize,
    /// Queued updates that are replayed concurrently.
    pub replays: usize,
    /// Maximum number of queued updates.
    pub max_queued: usize,
}

impl Settings {
    /// The default settings.
    pub fn new(mode: Mode, state_dir: PathBuf) -> Self {
        Self {
            mode,
            room: Room::default(),
            state_dir,
            sends: 8,
            fills: 16,
            replays: 4,
            max_queued: 10_000,
        }
    }
}

/// Decides about a tag that was written here during an outage, and meanwhile by another writer in the remote.
#[async_trait]
pub trait Moved: Send + Sync {
    /// A manifest that contains both `ours` and `theirs`; its blobs must be stored in `repository` when this returns. May be
    /// called more than once for the same two, and must then return the same.
    ///
    /// It must not write the tag itself, or `ours`: both wait for its answer.
    ///
    /// `None` leaves the tag at `theirs`, which is logged and reported; `ours` stays readable by its digest.
    async fn merge(
        &self,
        repository: &Repository,
        tag: &Tag,
        ours: &Manifest,
        theirs: &Manifest,
    ) -> Option<Manifest>;
}

/// Leaves every changed tag unchanged.
#[derive(Debug, Clone, Copy)]
pub struct NeverMerge;

#[async_trait]
impl Moved for NeverMerge {
    async fn merge(&self, _: &Repository, _: &Tag, _: &Manifest, _: &Manifest) -> Option<Manifest> {
        None
    }
}

/// A disk in front of a remote. Background work ends when it is dropped; the remaining backlog is sent after the next start.
pub struct Tiered {
    core: Arc<Core>,
    /// Of the front and of the remote.
    _tasks: Vec<Task<()>>,
}

impl Tiered {
    /// Puts `near`, a `disk:` store used only by this daemon, in front of `remote`, and continues with the backlog of an earlier
    /// process in `settings.state_dir`.
    ///
    /// The remote must verify content that is read from it: it is not hashed again here. Its `retry_for` is how long a request is
    /// retried until it counts as failed: some seconds.
    ///
    /// # Errors
    /// `Invalid` for unsuitable stores and settings, `Conflict` if another daemon uses the same folder; errors of the disk. The
    /// remote is not contacted.
    pub async fn open(
        near: Store,
        remote: Store,
        settings: Settings,
        moved: Arc<dyn Moved>,
    ) -> Result<Self> {
        let (sends, replays) = (settings.sends.max(1), settings.replays.max(1));
        let core = Arc::new(Core::open(near, remote, settings, moved).await?);
        let mut tasks = Vec::new();
        let (health, remote) = (core.clone(), core.remote.records.clone());
        tasks.push(task::spawn("probe", async move {
            health.health.probe(remote).await;
        }));
        let left = core.clone();
        let drop_pieces = async move { left.drop_pieces().await };
        tasks.push(task::spawn("drop pieces", drop_pieces));
        let front = core.clone();
        tasks.push(task::spawn("keep room", async move {
            loop {
                front.front.keep_room().await;
                front.unsent.limit(front.front.most_bytes().await);
            }
        }));
        tasks.push(task::spawn("look after", core.clone().look_after_all()));
        for _ in 0..sends {
            tasks.push(task::spawn("send", core.clone().send_all()));
        }
        for _ in 0..replays {
            tasks.push(task::spawn("replay", core.clone().replay_all()));
        }
        Ok(Self {
            core,
            _tasks: tasks,
        })
    }

    /// The backlog, and the state of the remote.
    pub fn backlog(&self) -> Arc<dyn Backlog> {
        self.core.clone()
    }

    /// The tiers as one store.
    pub fn store(self: &Arc<Self>) -> Store {
        let (near, remote) = (&self.core.front.store, &self.core.remote.store);
        let meet = match self.core.settings.mode {
            Mode::WriteThrough => remote.facts().meet,
            // An unreachable store cannot compare and swap.
            Mode::WriteBack => Meet::SideTags,
        };
        let facts = Facts {
            spool_dir: Some(self.core.front.spool_dir.clone()),
            metrics: [&near.facts().metrics[..], &remote.facts().metrics[..]].concat(),
            is_verified: remote.facts().is_verified,
            repositories: Some(self.clone()),
            marked: remote.facts().marked.clone(),
            scrubber: near.facts().scrubber.clone(),
            hides: Some(self.core.clone()),
            ..Facts::of(remote.url().clone(), meet)
        };
        let cli = self.core.tiered_repo(&Repo::cli(), Patience::Long);
        let sweep = remote.sweep().map(|_| self.core.clone() as _);
        Store::new(cli.clone(), Some(cli), sweep, facts)
    }

    /// All repositories for a server whose clients wait: what the front knows is answered from it as soon as the remote is slow.
    ///
    /// Whoever removes by what it reads, such as a prune, goes by [`Self::store`] instead.
    pub fn hasty(self: &Arc<Self>) -> Arc<dyn Repositories> {
        Arc::new(Hasty(self.clone()))
    }

    /// Called when the front's disk is too full for an upload: evicts blobs that are not needed in front and that the remote can
    /// provide, but not for a caller whose unfinished uploads take half of the space: they might never fit.
    pub fn evict(&self) -> Box<Evict> {
        let core = self.core.clone();
        Box::new(move |unfinished| {
            let may_go = core.health.is_up() && unfinished <= core.front.room.max_bytes / 2;
            if may_go {
                core.front.filled();
            }
            may_go
        })
    }
}

impl Repositories for Tiered {
    fn repository(&self, name: &Repo) -> Repository {
        self.core.repository(name, Patience::Long)
    }

    fn records(&self) -> Arc<dyn Records> {
        self.core.records(Patience::Long)
    }
}

/// See [`Tiered::hasty`].
struct Hasty(Arc<Tiered>);

impl Repositories for Hasty {
    fn repository(&self, name: &Repo) -> Repository {
        self.0.core.repository(name, Patience::Short)
    }

    fn records(&self) -> Arc<dyn Records> {
        self.0.core.records(Patience::Short)
    }
}

//! The state shared by all parts of the tiers, and reading it back on start.

use std::sync::Arc;

use tokio::sync::{RwLock, Semaphore};

use super::{
    Mode, Moved, Settings,
    backlog::Recent,
    counts::Counts,
    entry::Entry,
    fill::Fills,
    front::Front,
    health::Health,
    ledger::{File, Ledger},
    look::{MAX_LEFT, Patience},
    queue::{Placed, Queue, Work},
    records::TieredRecords,
    seen::Seen,
    tag_locks::TagLocks,
    tags::TieredRepo,
    turns::Turns,
    unsent::{Blob, Trust},
};
use crate::{
    artifact::{Manifest, Reference, outline::Outline},
    digest::Digest,
    fs,
    store::{
        Records, Repositories, Repository, Store,
        error::{Error, Result},
        keys::Repo,
        record::Manifested,
    },
    task,
};

pub(super) struct Remote {
    pub(super) store: Store,
    pub(super) repositories: Arc<dyn Repositories>,
    pub(super) records: Arc<dyn Records>,
}

pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) front: Front,
    pub(super) remote: Remote,
    pub(super) health: Arc<Health>,
    pub(super) seen: Seen,
    pub(super) unsent: Queue<Blob>,
    pub(super) updates: Queue<Entry>,
    pub(super) ledger: Ledger,
    pub(super) fills: Arc<Fills>,
    /// Slots for requests to the remote that continue although nobody waits for them.
    pub(super) looks: Arc<Semaphore>,
    pub(super) tag_locks: TagLocks,
    /// Held exclusively while an update is added to the front and the queue, and shared while the front copies an answer of the
    /// remote, which must not overwrite an update that was just accepted.
    pub(super) mirror: RwLock<()>,
    pub(super) counts: Arc<Counts>,
    pub(super) recent: Recent,
    pub(super) turns: Turns,
    pub(super) moved: Arc<dyn Moved>,
    _lock: fs::Lock,
}

/// The children of a manifest, which must exist with it, and its subject. None for a document that cannot be parsed.
pub(super) async fn neighbours(manifest: &Manifest) -> (Vec<Digest>, Option<Digest>) {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || neighbours_of(&manifest)).await
}

fn neighbours_of(manifest: &Manifest) -> (Vec<Digest>, Option<Digest>) {
    let outline = Outline::of(manifest).unwrap_or_default();
    let mut children: Vec<Digest> = outline.children().map(|n| n.digest).collect();
    children.sort_unstable();
    children.dedup();
    // Parsed the same way as for the record.
    let subject = Manifested::of(manifest).subject.map(|s| s.digest);
    (children, subject)
}

impl Core {
    pub(super) async fn open(
        near: Store,
        remote: Store,
        settings: Settings,
        moved: Arc<dyn Moved>,
    ) -> Result<Self> {
        let writable = remote.untag().is_some();
        let Some(repositories) = remote.facts().repositories.clone().filter(|_| writable) else {
            let why = "this kind of store cannot be used behind a local cache directory; use s3: or disk:";
            let refused = Error::unsupported("open", why);
            return Err(refused.at(&remote.url().to_string(), ""));
        };
        if !remote.facts().is_verified {
            let why = "the remote store must verify the digests of what is read from it";
            return Err(Error::invalid("open", why));
        }
        let counts = Arc::new(Counts::default());
        let (ledger, lock) = Ledger::open(&settings.state_dir).await?;
        let health = Arc::new(Health::new(remote.url().to_string()));
        let core = Self {
            front: Front::new(near, settings.room, counts.clone())?,
            remote: Remote {
                store: remote,
                records: repositories.records(),
                repositories,
            },
            seen: Seen::new(health.clone()),
            health,
            unsent: Queue::new(ledger.clone(), settings.room.max_bytes),
            updates: Queue::new(ledger.clone(), settings.max_queued as u64),
            ledger,
            fills: Arc::new(Fills::new(settings.fills)),
            looks: Arc::new(Semaphore::new(MAX_LEFT)),
            tag_locks: TagLocks::new(),
            mirror: RwLock::new(()),
            counts,
            recent: Recent::default(),
            turns: Turns::default(),
            moved,
            settings,
            _lock: lock,
        };
        core.read_back().await?;
        Ok(core)
    }

    pub(super) fn tiered_repo(
        self: &Arc<Self>,
        name: &Repo,
        patience: Patience,
    ) -> Arc<TieredRepo> {
        Arc::new(TieredRepo::new(self, name, patience))
    }

    pub(super) fn records(self: &Arc<Self>, patience: Patience) -> Arc<dyn Records> {
        let core = self.clone();
        Arc::new(TieredRecords { core, patience })
    }

    /// A repository in the form that an API server gets.
    pub(super) fn repository(self: &Arc<Self>, name: &Repo, patience: Patience) -> Repository {
        let one = self.tiered_repo(name, patience);
        Repository::new(name.clone(), one.clone(), one, self.records(patience))
    }

    /// Returns true if a prune of the remote has marked a blob.
    pub(super) fn is_marked(&self, digest: &Digest) -> bool {
        let marked = self.remote.store.facts().marked.as_ref();
        marked.is_some_and(|marked| marked.has(digest))
    }

    pub(super) fn writes_back(&self) -> bool {
        self.settings.mode == Mode::WriteBack
    }

    /// Waits until no work with one of these keys is left in `queue`.
    ///
    /// # Errors
    /// Why the remote refuses such work; a temporary error as soon as the remote is known to be unreachable.
    pub(super) async fn settled<W: Work>(
        &self,
        op: &'static str,
        queue: &Queue<W>,
        keys: &[W::Key],
    ) -> Result<()> {
        tokio::select! {
            settled = queue.settled(keys) => settled,
            () = self.health.lost() => Err(self.health.away(op)),
        }
    }

    /// Continues with the items that an earlier process left. Unreadable ones are set aside, and do not block the rest.
    async fn read_back(&self) -> Result<()> {
        for (file, at) in self.ledger.files().await? {
            match file {
                File::Mark { digest, size } => {
                    let blob = Blob::new(digest, size, Trust::Unknown);
                    let pin = self.front.uses.pin(&digest).await;
                    self.unsent.take_over(None, at, Placed::pinned(blob, pin));
                }
                File::Entry(seq) => {
                    let read = async {
                        let bytes = self.ledger.read(file).await.map_err(|e| e.to_string())?;
                        self.place(Entry::decode(&bytes)?).await
                    };
                    match read.await {
                        Ok(placed) => self.updates.take_over(Some(seq), placed.work.at, placed),
                        Err(why) => self.ledger.set_aside(file, &why).await,
                    }
                }
            }
        }
        let (blobs, updates) = (self.unsent.left(), self.updates.left().count);
        if updates > 0 || blobs.count > 0 {
            tracing::info!(
                updates,
                blobs = blobs.count,
                bytes = blobs.amount,
                "Continuing with unsent data of an earlier process"
            );
        }
        Ok(())
    }

    /// Adds the information about an entry that the queue needs.
    ///
    /// # Errors
    /// A message, if its manifest is not in front.
    async fn place(&self, entry: Entry) -> std::result::Result<Placed<Entry>, String> {
        let Some(publication) = entry.publication() else {
            return Ok(Placed::alone(entry));
        };
        let digest = publication.manifest.digest;
        let near = self.front.repositories.repository(&publication.repo);
        let found = near.store().resolve(&Reference::Digest(digest)).await;
        let gone = || format!("manifest {digest} is no longer in the local cache directory");
        let found = found.map_err(|e| e.to_string())?.ok_or_else(gone)?;
        Ok(self.around(entry, &found.manifest).await)
    }

    /// As [`Self::place`], with the given manifest.
    pub(super) async fn around(&self, entry: Entry, manifest: &Manifest) -> Placed<Entry> {
        let (children, subject) = neighbours(manifest).await;
        let mut pins = vec![self.front.uses.pin(&manifest.digest).await];
        for child in &children {
            pins.push(self.front.uses.pin(child).await);
        }
        Placed::around(entry, subject.as_ref(), &children, pins)
    }
}

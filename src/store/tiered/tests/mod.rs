//! Tiers over real disk stores, with a switch between them and the remote.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::*;
use crate::{
    artifact::{Descriptor, Reference},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Pointer, Published, Put, Records,
        RepoStore, Resolved, StoreUrl, StoredBlob, Sweep, TagStore, Untag,
        open::{self, Options},
        records::Listed,
        testing::{Faults, Faulty},
        wrap::Verified,
    },
};

mod chaos;
mod conform;
mod kills;
mod lost;
mod marks;
mod outages;
mod reads;
mod replays;
mod room;
mod unreachable;

impl BacklogStatus {
    /// Nothing waits, for tests of those who ask.
    pub(crate) fn of_nothing() -> Self {
        Self {
            mode: Mode::WriteBack,
            remote: Reachable {
                up: true,
                since: Duration::ZERO,
                why: String::new(),
                kind: None,
                outages: 0,
            },
            blobs: 0,
            bytes: 0,
            updates: 0,
            refused: None,
            oldest: None,
            front_bytes: 0,
            front_max_bytes: 0,
            set_aside: 0,
            numbers: Numbers::default(),
            left_alone: Vec::new(),
        }
    }
}

/// What happens on the way to a store.
#[derive(Default)]
struct Link {
    /// Nothing gets through.
    cut: AtomicBool,
    /// How the store is unreachable.
    way: Mutex<Option<Way>>,
    /// What was asked, in order.
    asked: Mutex<Vec<String>>,
    /// What is written is acknowledged, and is not there then.
    forgets: AtomicBool,
    /// Operations of this name are refused, for this reason.
    refused: Mutex<Option<(&'static str, ErrorKind)>>,
    /// The next put finds the disk full.
    full: AtomicBool,
    faults: Option<Faults>,
    /// Each store that is asked for has other luck.
    seed: AtomicU64,
    /// Downloads that break off or are damaged, in turn: the byte at which they do.
    damage: Mutex<Vec<Damage>>,
    /// Downloads give a piece for each of these.
    slow: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
    steps: Option<Arc<Steps>>,
}

/// A way of being unreachable, as the wrapper below that tries again shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody listens there.
    Refused,
    /// DNS does not know it.
    NoName,
    /// Black-holed, stopped or half-open: there is no answer. What was asked is answered when it is back.
    Silent,
    /// Answers come, but after a minute.
    Crawls,
    /// 500 to everything.
    Broken,
}

impl Way {
    /// How long it is tried again.
    const RETRIED: Duration = Duration::from_secs(4);

    async fn fail(self, link: &Link, op: &'static str) -> Result<()> {
        let unavailable = |why: &str| Error::unavailable(op, why);
        match self {
            Self::Silent => {
                while *link.way.lock() == Some(self) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                return Ok(());
            }
            Self::Crawls => {
                tokio::time::sleep(Duration::from_mins(1)).await;
                return Ok(());
            }
            _ => tokio::time::sleep(Self::RETRIED).await,
        }
        Err(match self {
            Self::Refused => unavailable("connection refused").unheard(),
            Self::NoName => unavailable("dns error: unknown host").unheard(),
            _ => unavailable("answered 500 InternalError"),
        })
    }
}

#[derive(Clone, Copy)]
enum Damage {
    Break(usize),
    Flip(usize),
}

/// Counts what is asked of any store, and lets nothing happen from one of these on: what a kill leaves.
#[derive(Default)]
struct Steps {
    made: AtomicUsize,
    last: AtomicUsize,
    killed: Notify,
}

impl Link {
    async fn pass(&self, op: &'static str, key: impl std::fmt::Display) -> Result<()> {
        if let Some(steps) = &self.steps
            && steps.made.fetch_add(1, SeqCst) >= steps.last.load(SeqCst)
        {
            steps.killed.notify_one();
            std::future::pending::<()>().await;
        }
        self.asked.lock().push(format!("{op} {key}"));
        let way = *self.way.lock();
        if let Some(way) = way {
            way.fail(self, op).await?;
        }
        if self.cut.load(SeqCst) {
            return Err(Error::unavailable(op, "cut on purpose"));
        }
        if op == "put" && self.full.swap(false, SeqCst) {
            return Err(Error::full(op, "full on purpose"));
        }
        match *self.refused.lock() {
            Some((refused, kind)) if refused == op => {
                Err(Error::new(kind, op, "refused on purpose"))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, op: &'static str) {
        *self.refused.lock() = Some((op, ErrorKind::Denied));
    }

    fn refuse_nothing(&self) {
        *self.refused.lock() = None;
    }

    fn with_faults(&self, store: Arc<dyn RepoStore>) -> Arc<dyn RepoStore> {
        match self.faults {
            Some(faults) => {
                let seed = self.seed.fetch_add(1, SeqCst);
                Arc::new(Faulty::new(store, faults, seed))
            }
            None => store,
        }
    }

    fn asked(&self, op: &str) -> usize {
        let asked = self.asked.lock();
        asked
            .iter()
            .filter(|a| a.split(' ').next() == Some(op))
            .count()
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, SeqCst);
    }
}

/// A store at the other end of a link.
#[derive(Clone)]
struct Linked {
    link: Arc<Link>,
    /// What comes is verified at this end.
    verified: bool,
    store: Arc<dyn RepoStore>,
    untag: Arc<dyn Untag>,
    records: Arc<dyn Records>,
    sweep: Arc<dyn Sweep>,
    repositories: Arc<dyn Repositories>,
}

impl Linked {
    /// The front.
    fn near(link: &Arc<Link>, opened: &Store) -> Store {
        Self::between(link, opened, false)
    }

    /// The remote.
    fn behind(link: &Arc<Link>, opened: &Store) -> Store {
        Self::between(link, opened, true)
    }

    fn between(link: &Arc<Link>, opened: &Store, verified: bool) -> Store {
        let repositories = opened.facts().repositories.clone().unwrap();
        let linked = Arc::new(Self {
            link: link.clone(),
            verified,
            store: link.with_faults(opened.contents().clone()),
            untag: opened.untag().cloned().unwrap(),
            records: repositories.records(),
            sweep: opened.sweep().cloned().unwrap(),
            repositories,
        });
        let store = opened.clone().with_contents(linked.clone().end());
        let store = store.with_untag(linked.clone());
        let store = store.with_sweep(Some(linked.clone()));
        store.with(|facts| {
            facts.is_verified = verified;
            facts.repositories = Some(linked);
        })
    }

    /// What is at this end of the link.
    fn end(self: Arc<Self>) -> Arc<dyn RepoStore> {
        if self.verified {
            Arc::new(Verified::new(self))
        } else {
            self
        }
    }
}

impl Repositories for Linked {
    fn repository(&self, name: &Repo) -> Repository {
        let inner = self.repositories.repository(name);
        let one = Arc::new(Self {
            store: self.link.with_faults(inner.store().clone()),
            untag: inner.untag().clone(),
            ..self.clone()
        });
        let end = one.clone().end();
        Repository::new(name.clone(), end, one, Arc::new(self.clone()))
    }

    fn records(&self) -> Arc<dyn Records> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl BlobStore for Linked {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.link.pass("stat", digest).await?;
        self.store.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.link.pass("get", desc.digest).await?;
        let Some(stream) = self.store.get(desc, range).await? else {
            return Ok(None);
        };
        let damage = {
            let mut damage = self.link.damage.lock();
            (!damage.is_empty()).then(|| damage.remove(0))
        };
        let stream = match damage {
            None => stream,
            Some(damage) => damaged(stream, damage).await?,
        };
        let Some(slow) = self.link.slow.lock().clone() else {
            return Ok(Some(stream));
        };
        let slowly = stream.and_then(move |piece| {
            let slow = slow.clone();
            async move {
                slow.acquire().await.unwrap().forget();
                Ok(piece)
            }
        });
        Ok(Some(slowly.boxed()))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.link.pass("put", desc.digest).await?;
        if self.link.forgets.load(SeqCst) {
            return Ok(Put::Stored);
        }
        self.store.put(desc, body).await
    }
}

async fn damaged(stream: ByteStream, damage: Damage) -> Result<ByteStream> {
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    let mut bytes = pieces.concat();
    let mut end = None;
    match damage {
        Damage::Flip(at) => bytes[at] ^= 1,
        Damage::Break(at) => {
            bytes.truncate(at);
            end = Some(Err(Error::unavailable("get", "broken on purpose")));
        }
    }
    let pieces = bytes
        .chunks(64 << 10)
        .map(|c| Ok(Bytes::copy_from_slice(c)));
    let all: Vec<_> = pieces.chain(end).collect();
    Ok(futures_util::stream::iter(all).boxed())
}

#[async_trait]
impl TagStore for Linked {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.link.pass("resolve", reference).await?;
        self.store.resolve(reference).await
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        self.link.pass("resolve", tag).await?;
        self.store.pointer(tag).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let name = tag.map_or_else(|| manifest.digest.to_string(), ToString::to_string);
        self.link.pass("publish", name).await?;
        if self.link.forgets.load(SeqCst) {
            return Ok(Published::Done);
        }
        self.store.publish(manifest, tag, expect).await
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.link.pass("tags", prefix).await?;
        self.store.tags(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.link.pass("clock", "").await?;
        self.store.clock().await
    }
}

#[async_trait]
impl Untag for Linked {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        self.link.pass("untag", tag).await?;
        self.untag.untag(tag).await
    }
}

#[async_trait]
impl Records for Linked {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        self.link.pass("read", key).await?;
        // On a bad day there are outages too: a probe is not always answered.
        if self.link.faults.is_some() && self.link.seed.fetch_add(1, SeqCst).is_multiple_of(3) {
            return Err(Error::unavailable("read", "a bad day"));
        }
        self.records.read_record(key, limit).await
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.link.pass("write", key).await?;
        if self.link.forgets.load(SeqCst) {
            return Ok(());
        }
        self.records.write_record(key, bytes).await
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        self.link.pass("remove", key).await?;
        self.records.remove_record(key).await
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.link.pass("list", prefix).await?;
        self.records.list_records(prefix).await
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        self.link.pass("repositories", "").await?;
        self.records.repositories().await
    }
}

#[async_trait]
impl Sweep for Linked {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        self.link.pass("blobs", "").await?;
        self.sweep.blobs().await
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        self.link.pass("roots", "").await?;
        self.sweep.roots().await
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        self.sweep.read_mark(name).await
    }

    async fn marks(&self) -> Result<Vec<String>> {
        self.sweep.marks().await
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.sweep.write_mark(name, bytes).await
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.sweep.remove_mark(name).await
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        self.link.pass("renew", &digest.to_string()).await?;
        self.sweep.renew(digest).await
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        self.link.pass("put", desc.digest).await?;
        self.sweep.replace(desc, body).await
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        self.link.pass("sweep", digests.len()).await?;
        self.sweep.remove(digests, unless_newer_than).await
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.sweep.lock_alone().await
    }
}

/// A disk store; with the table `vetted` one that hashes what changed, as a daemon opens its front.
async fn disk(path: &Path, vetted: Option<std::path::PathBuf>) -> Store {
    let options = Options {
        verified: false,
        vetted,
        concurrency: 64,
        ..Options::default()
    };
    let url = StoreUrl::Disk(path.to_owned());
    open::open(&url, &options).await.unwrap()
}

/// Folders of two stores and of a daemon's state; each start is a new daemon on them.
struct World {
    dir: tempfile::TempDir,
    settings: Settings,
    moved: Arc<dyn Moved>,
}

/// A daemon that runs.
struct Daemon {
    tiered: Arc<Tiered>,
    /// To the remote.
    link: Arc<Link>,
    /// To the front.
    near: Arc<Link>,
}

impl World {
    fn new(mode: Mode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let room = Room {
            min_free_bytes: 0,
            ..Room::default()
        };
        Self {
            settings: Settings {
                room,
                ..Settings::new(mode, dir.path().join("state"))
            },
            dir,
            moved: Arc::new(NeverMerge),
        }
    }

    async fn start(&self) -> Daemon {
        self.start_with(None).await
    }

    async fn start_with(&self, steps: Option<Arc<Steps>>) -> Daemon {
        let link = || Link {
            steps: steps.clone(),
            ..Link::default()
        };
        self.start_over(link(), link()).await
    }

    async fn start_over(&self, near: Link, link: Link) -> Daemon {
        let (near, link) = (Arc::new(near), Arc::new(link));
        let (front, behind) = (self.near().await, self.remote().await);
        let tiered = Tiered::open(
            Linked::near(&near, &front),
            Linked::behind(&link, &behind),
            self.settings.clone(),
            self.moved.clone(),
        )
        .await
        .unwrap();
        Daemon {
            tiered: Arc::new(tiered),
            link,
            near,
        }
    }

    async fn near(&self) -> Store {
        let vetted = self.dir.path().join("vetted");
        disk(&self.dir.path().join("near"), Some(vetted)).await
    }

    /// The remote as others see it.
    async fn remote(&self) -> Store {
        disk(&self.dir.path().join("remote"), None).await
    }

    /// What a tag is at the remote, with all that its manifest names; every byte is checked.
    async fn at_remote(&self, repo: &str, tag: &str) -> Option<Manifest> {
        let remote = self.remote().await;
        let remote = remote.repository(&repo.parse().unwrap()).unwrap();
        let found = remote.manifest(&name(tag)).await.unwrap()?;
        check_children(&remote, &found.manifest).await;
        Some(found.manifest)
    }

    fn files(&self, folder: &str) -> Vec<std::path::PathBuf> {
        let items = std::fs::read_dir(self.dir.path().join(folder)).unwrap();
        items.map(|i| i.unwrap().path()).collect()
    }
}

async fn check_children(repository: &Repository, manifest: &Manifest) {
    for child in super::core::neighbours(manifest).await.0 {
        let size = repository.stat_blob(&child).await.unwrap();
        let size = size.unwrap_or_else(|| panic!("{child} is missing"));
        let desc = Descriptor::new("", child, size);
        let bytes = read(repository, &desc).await.unwrap().unwrap();
        assert!(child.matches(&bytes), "{child} has other bytes");
    }
}

impl Daemon {
    fn repo(&self, name: &str) -> Repository {
        self.tiered.repository(&name.parse().unwrap())
    }

    fn status(&self) -> BacklogStatus {
        self.tiered.backlog().status()
    }

    /// Waits for the queue as `cachectl flush --wait` does.
    async fn flush(&self) -> BacklogStatus {
        self.flush_for(Duration::from_mins(2)).await
    }

    async fn flush_for(&self, limit: Duration) -> BacklogStatus {
        let deadline = Instant::now() + limit;
        self.tiered.backlog().flush(deadline).await
    }

    /// The remote goes away, and that is noticed.
    async fn outage(&self) {
        self.link.cut(true);
        let asked = self.repo("probe").manifest(&name("x")).await;
        assert!(asked.unwrap().is_none());
        assert!(!self.status().remote.up);
    }

    /// The remote comes back, and that is noticed.
    async fn back(&self) {
        self.link.cut(false);
        self.tiered.core.health.up().await;
    }
}

fn name(tag: &str) -> Reference {
    Reference::Tag(tag.parse().unwrap())
}

fn data(len: usize, seed: u64) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn blob(bytes: &Bytes) -> (Descriptor, Body) {
    let desc = Descriptor::of("application/octet-stream", bytes);
    (desc, Body::Bytes(bytes.clone()))
}

/// An image of these layers.
fn image(layers: &[&Descriptor], id: u64) -> Manifest {
    let doc = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::artifact::media::IMAGE_MANIFEST,
        "layers": layers,
        "annotations": { "id": id.to_string() },
    });
    Manifest::sniff(doc.to_string())
}

async fn read(repository: &Repository, desc: &Descriptor) -> Result<Option<Vec<u8>>> {
    let Some(stream) = repository.get_blob(desc, 0..desc.size).await? else {
        return Ok(None);
    };
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(Some(pieces.concat()))
}

/// Pushes an image of one layer, as a client does.
async fn push(repository: &Repository, tag: &str, seed: u64) -> Result<Manifest> {
    let (desc, body) = blob(&data(5000, seed));
    repository.put_blob(&desc, &body).await?;
    let manifest = image(&[&desc], seed);
    repository
        .put_manifest(&manifest, &[tag.parse().unwrap()])
        .await?;
    Ok(manifest)
}

/// What a tag points at.
async fn points(repository: &Repository, tag: &str) -> Option<Digest> {
    let found = repository.manifest(&name(tag)).await.unwrap();
    found.map(|r| r.manifest.digest)
}

//! Unfinished uploads of a daemon: bytes are appended and hashed as they arrive, and survive a restart.
//!
//! Each is stored in `uploads/<id>` (see [`super::keys`]). It becomes a [`Spool`], so that a store on the same file system takes
//! it over without a copy.
//!
//! [`Uploads`] adds support for several daemons over one bucket: each may get any request of an upload.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    fs::Metadata,
    io,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

mod gathered;
mod owners;
mod room;
mod session;
mod shared;

pub use owners::{OVER_QUOTA, Quota};
pub use shared::{Finished, Uploads};

use gathered::Gathered;
use owners::Owners;
use session::{Session, io_at};

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{
    ByteStream, Spool,
    body::UntilRemoved,
    error::{Error, ErrorKind, Result},
    keys::Repo,
};
use crate::{digest::Sha256, fs, random, task};

/// Bytes that are collected before they are written and hashed: limits the memory of an upload to about four times this.
const BATCH_BYTES: usize = 128 << 10;
/// How often a write is retried after space was freed for it, and how long uploads that were told to end may take to do so.
const ROOM_TRIES: u32 = 5;
/// The same while the front evicts blobs, before any upload is removed.
const EVICT_TRIES: u32 = 5;
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// How long a request waits for another one of the same upload.
const BUSY: Duration = Duration::from_secs(10);
/// How often a file is opened that changes meanwhile: another process may write to it.
const REOPEN_TRIES: u32 = 3;
/// Name of the files.
const PREFIX: &str = "up-";
/// Idle uploads whose files are kept open.
const MAX_OPEN: usize = 128;
/// Maximum number of uploads that are remembered as interrupted.
const MAX_BROKEN: usize = 10_000;
/// The process that ended an upload without a byte for this long, and left its file, is not about to store it.
const LEFT: Duration = Duration::from_mins(1);

/// Names an upload and binds it to its repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId {
    random: [u8; 16],
    /// The first bytes of the SHA-256 of the repository's name.
    repo: Box<[u8]>,
}

/// Bytes of the hash that binds an upload to its repository: enough to prevent collisions of names.
const MARK_BYTES: usize = 16;
/// As in releases up to 0.1, which may run next to us: their uploads can be continued here. Uploads begun here have more bytes.
const OLD_MARK_BYTES: usize = 4;

impl UploadId {
    fn new(repo: &Repo) -> Self {
        Self {
            random: random::bytes(),
            repo: hash_of(repo)[..MARK_BYTES].into(),
        }
    }

    /// Returns true if it was begun in `repo`.
    pub fn is_of(&self, repo: &Repo) -> bool {
        hash_of(repo).starts_with(&self.repo)
    }
}

fn hash_of(repo: &Repo) -> [u8; 32] {
    Sha256::of(repo.as_str().as_bytes()).0
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}-{}",
            const_hex::encode(self.random),
            const_hex::encode(&self.repo)
        )
    }
}

impl FromStr for UploadId {
    type Err = ();

    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        let (random, repo) = s.split_once('-').ok_or(())?;
        let id = Self {
            random: const_hex::decode_to_array(random).map_err(drop)?,
            repo: const_hex::decode(repo).map_err(drop)?.into(),
        };
        if ![MARK_BYTES, OLD_MARK_BYTES].contains(&id.repo.len()) {
            return Err(());
        }
        // Accept only one spelling per upload.
        (id.to_string() == s).then_some(id).ok_or(())
    }
}

/// The error of a request that has waited too long for another request of its upload.
fn busy(id: &UploadId) -> Error {
    let why = "another request is still sending to this upload";
    Error::conflict("upload", why).at("", id)
}

/// Result of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The upload now has this many bytes.
    Size(u64),
    /// The range does not begin at the end of the upload, which has this many bytes; nothing was appended.
    OutOfOrder(u64),
    /// The length of the body differs from its range; the received part is kept.
    WrongLength(u64),
    /// There is no such upload.
    Unknown,
}

/// Called to free space on a full disk, for an owner with that many bytes in unfinished uploads; returns true if some space may
/// become free.
pub type Evict = dyn Fn(u64) -> bool + Send + Sync;

/// Removes the bytes of an upload; removing a large file takes a while. `false` if there are none.
async fn remove(spool: Option<Spool>) -> bool {
    let is_there = spool.is_some();
    task::blocking(move || drop(spool)).await;
    is_there
}

type OpenSessions = Mutex<HashMap<UploadId, Arc<AsyncMutex<Session>>>>;

/// An upload that has ended, whose file is still there: as long as its session is known, no request opens that file again, which may be
/// a stored blob's by then.
struct Ended {
    open: Arc<OpenSessions>,
    id: UploadId,
    session: Arc<AsyncMutex<Session>>,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended upload {}", self.id)
    }
}

impl UntilRemoved for Ended {}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        // Another upload may have the name by now.
        if open
            .get(&self.id)
            .is_some_and(|known| Arc::ptr_eq(known, &self.session))
        {
            open.remove(&self.id);
        }
    }
}

/// For how long nobody has written to a file.
fn rested(found: &Metadata, now: SystemTime) -> Duration {
    let modified = found.modified().ok();
    let rested = modified.and_then(|m| now.duration_since(m).ok());
    rested.unwrap_or_default()
}

/// All uploads of one folder.
pub struct Ingests {
    dir: PathBuf,
    open: Arc<OpenSessions>,
    /// Uploads whose last request was interrupted: few clients continue those.
    broken: Mutex<HashSet<UploadId>>,
    owners: Owners,
    evict: OnceLock<Box<Evict>>,
    /// Whether a store has the uploads too, so that they continue without their files here.
    lives_elsewhere: bool,
    /// Whether that store could not be reached lately: then uploads continue only with their files here.
    store_is_away: Arc<AtomicBool>,
}

impl Ingests {
    /// Uploads in `dir`, which is created if missing; with `lives_elsewhere` they are in a store too.
    fn open(dir: &Path, lives_elsewhere: bool) -> Result<Self> {
        fs::make_dirs(dir).map_err(|e| Error::io("open", e))?;
        Ok(Self {
            dir: dir.to_owned(),
            open: Arc::default(),
            broken: Mutex::default(),
            owners: Owners::default(),
            evict: OnceLock::new(),
            lives_elsewhere,
            store_is_away: Arc::default(),
        })
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.dir.join(format!("{PREFIX}{id}"))
    }

    /// Bytes of an upload of an earlier process, and how long it has been idle. Blocks.
    fn left(&self, id: &UploadId) -> Option<(u64, Duration)> {
        let found = self.path(id).metadata().ok()?;
        let rested = found.modified().ok().and_then(|m| m.elapsed().ok());
        Some((found.len(), rested.unwrap_or_default()))
    }

    /// Begins an upload to `repo`.
    pub async fn begin(&self, repo: &Repo) -> Result<UploadId> {
        let id = UploadId::new(repo);
        self.begin_as(&id).await?;
        Ok(id)
    }

    /// Begins the upload `id`, which does not exist here, with no content.
    async fn begin_as(&self, id: &UploadId) -> Result<()> {
        self.begin_and(id, || {}).await
    }

    /// As [`Self::begin_as`]; then calls `also`, which may block, once its file exists.
    async fn begin_and(&self, id: &UploadId, also: impl FnOnce() + Send + 'static) -> Result<()> {
        let path = self.path(id);
        let create = move || {
            let session = Session::create(&path)?;
            also();
            Ok::<_, Error>(session)
        };
        let session = task::blocking(create).await?;
        self.owners.on_disk(id);
        self.keep_open(id, session);
        Ok(())
    }

    /// Keeps an upload's file open for the next request, up to a limit: other idle uploads are reopened when they continue.
    /// `None` if the file was removed or grew since it was opened.
    fn keep_open(&self, id: &UploadId, session: Session) -> Option<Arc<AsyncMutex<Session>>> {
        let mut open = self.open.lock();
        if let Some(known) = open.get(id) {
            return Some(known.clone());
        }
        // Whoever removes it is known here until it is gone.
        if !session.is_whole_file() {
            return None;
        }
        if open.len() >= MAX_OPEN {
            let is_used = |session: &Arc<AsyncMutex<Session>>| {
                // One that has ended stays until its file is removed.
                Arc::strong_count(session) > 1 || session.try_lock().is_ok_and(|s| s.ended)
            };
            open.retain(|_, session| is_used(session));
        }
        let session = Arc::new(AsyncMutex::new(session));
        open.insert(id.clone(), session.clone());
        Some(session)
    }

    /// The upload's session, opened again if need be.
    async fn session(&self, id: &UploadId) -> Result<Option<Arc<AsyncMutex<Session>>>> {
        for _ in 0..REOPEN_TRIES {
            if let Some(there) = self.open.lock().get(id).cloned() {
                return Ok(Some(there));
            }
            let path = self.path(id);
            let Some(found) = task::blocking(move || Session::reopen(&path)).await? else {
                return Ok(None);
            };
            if let Some(kept) = self.keep_open(id, found) {
                return Ok(Some(kept));
            }
        }
        Err(busy(id))
    }

    /// The upload's own lock, which its other requests wait for.
    async fn lock(&self, id: &UploadId) -> Result<Option<OwnedMutexGuard<Session>>> {
        let Some(session) = self.session(id).await? else {
            return Ok(None);
        };
        match tokio::time::timeout(BUSY, session.lock_owned()).await {
            Ok(guard) => Ok((!guard.ended).then_some(guard)),
            Err(_) => Err(busy(id)),
        }
    }

    /// The number of received bytes of an upload; `None` if there is no such upload.
    pub async fn size(&self, id: &UploadId) -> Result<Option<u64>> {
        Ok(self.lock(id).await?.map(|s| s.size))
    }

    /// As [`Self::size`], without waiting for an active request, and without hashing the bytes of an earlier process.
    async fn length(&self, id: &UploadId) -> Result<Option<u64>> {
        let there = self.open.lock().get(id).cloned();
        if let Some(Ok(session)) = there.as_deref().map(AsyncMutex::try_lock) {
            return Ok((!session.ended).then_some(session.size));
        }
        let path = self.path(id);
        let found = task::blocking(move || path.symlink_metadata().ok()).await;
        Ok(found.filter(Metadata::is_file).map(|m| m.len()))
    }

    /// Reads a part of the received bytes of an upload; `None` if there is no such upload.
    async fn read(&self, id: &UploadId, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(session) = self.lock(id).await? else {
            return Ok(None);
        };
        task::blocking(move || session.read(range).map(Some)).await
    }

    /// Appends `body`; with a `range` only if that begins at the end of the upload, and is as long as the body.
    ///
    /// Bytes received before an error are kept, so that the client can continue from there. No thread waits for the client: bytes
    /// are written in batches, or at once if the client pauses.
    pub async fn append(
        &self,
        id: &UploadId,
        range: Option<Range<u64>>,
        mut body: ByteStream,
    ) -> Result<Appended> {
        let Some(mut session) = self.lock(id).await? else {
            return Ok(Appended::Unknown);
        };
        self.broken.lock().remove(id);
        self.owners.on_disk(id);
        if let Some(range) = &range
            && range.start != session.size
        {
            return Ok(Appended::OutOfOrder(session.size));
        }
        let mut left = range.as_ref().map(|r| r.end - r.start);
        let mut gathered = Gathered::next(&mut body, &mut left).await;
        while !gathered.batch.is_empty() {
            let write = self.write(id, session, gathered.batch.into_pieces());
            // The next batch is collected while this one is written; after the end it is empty.
            let next = async {
                match gathered.end {
                    None => Gathered::next(&mut body, &mut left).await,
                    Some(end) => Gathered::ended(end),
                }
            };
            let written;
            (written, gathered) = tokio::join!(write, next);
            session = written?;
        }
        if let Some(Err(error)) = gathered.end {
            let mut broken = self.broken.lock();
            if broken.len() >= MAX_BROKEN {
                broken.clear();
            }
            broken.insert(id.clone());
            return Err(error);
        }
        Ok(match left {
            Some(1..) => Appended::WrongLength(session.size),
            _ => Appended::Size(session.size),
        })
    }

    /// Writes a batch; if the disk is full, frees space: first by evicting blobs that can be fetched again, then by removing
    /// uploads of the owner that fills the disk.
    async fn write(
        &self,
        id: &UploadId,
        mut session: OwnedMutexGuard<Session>,
        pieces: VecDeque<Bytes>,
    ) -> Result<OwnedMutexGuard<Session>> {
        let mut pieces = pieces;
        let (mut evictions, mut tries) = (0, 0);
        loop {
            let written;
            // The thread owns the lock: even if the request is dropped, the batch is written completely.
            (session, pieces, written) = task::blocking(move || {
                let written = session.write(&mut pieces);
                (session, pieces, written)
            })
            .await;
            let Err(error) = written else {
                return Ok(session);
            };
            if error.kind != ErrorKind::Full {
                return Err(error);
            }
            if evictions < EVICT_TRIES && self.evict(id) {
                evictions += 1;
            } else if !self.make_room(id, tries + 1 >= ROOM_TRIES).await || tries == ROOM_TRIES {
                drop(session);
                self.drop_file(id).await?;
                return Err(error);
            } else {
                tries += 1;
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// Ends an upload: its bytes, with their SHA-256. `None` if there is no such upload.
    pub async fn finish(&self, id: &UploadId) -> Result<Option<Spool>> {
        let session = self.lock(id).await?;
        // Not earlier: while a request sends to it, it counts.
        self.owners.forget(id);
        self.end(id, session)
    }

    fn end(
        &self,
        id: &UploadId,
        session: Option<OwnedMutexGuard<Session>>,
    ) -> Result<Option<Spool>> {
        let Some(mut session) = session else {
            return Ok(None);
        };
        session.ended = true;
        let same = OwnedMutexGuard::mutex(&session).clone();
        self.open.lock().insert(id.clone(), same.clone());
        let ended = Ended {
            open: self.open.clone(),
            id: id.clone(),
            session: same,
        };
        // Nothing here waits for a disk.
        let digest = session.hasher.clone().finish().into();
        let file = session.file.try_clone();
        let file = file.map_err(io_at(&session.path, "open"))?;
        let spool = Spool::adopt(file, &session.path, digest, session.size)?;
        Ok(Some(spool.keeping(Box::new(ended))))
    }

    /// Ends an upload and removes its bytes; `false` if there was none.
    pub async fn cancel(&self, id: &UploadId) -> Result<bool> {
        let spool = self.finish(id).await?;
        Ok(remove(spool).await)
    }

    /// Removes the bytes of an upload that continues elsewhere and still counts towards its owner's limit; `false` if there are
    /// none.
    async fn drop_file(&self, id: &UploadId) -> Result<bool> {
        let session = self.lock(id).await?;
        self.owners.left_disk(id);
        Ok(remove(self.end(id, session)?).await)
    }

    /// As [`Self::cancel`], without waiting for an active request: also `false` if there is one.
    async fn cancel_resting(&self, id: &UploadId) -> Result<bool> {
        self.unless_busy(id, self.cancel(id)).await
    }

    async fn unless_busy(
        &self,
        id: &UploadId,
        done: impl Future<Output = Result<bool>>,
    ) -> Result<bool> {
        let session = self.open.lock().get(id).cloned();
        if session.is_some_and(|session| session.try_lock().is_err()) {
            return Ok(false);
        }
        match done.await {
            Err(e) if e.kind == ErrorKind::Conflict => Ok(false),
            done => done,
        }
    }

    /// Notes in the file of an upload, across restarts, whether it has acknowledged bytes that the store lacks: `is_ahead` is
    /// asked with how many have come.
    async fn set_ahead(&self, id: &UploadId, is_ahead: impl Fn(u64) -> bool) -> Result<()> {
        let Some(session) = self.lock(id).await? else {
            return Ok(());
        };
        let is_ahead = is_ahead(session.size);
        task::blocking(move || session.set_ahead(is_ahead)).await
    }

    /// Uploads that have acknowledged bytes which the store lacks.
    async fn ahead(&self) -> Result<Vec<UploadId>> {
        self.list(session::is_ahead).await
    }

    /// Uploads of which the store has all acknowledged bytes, and to which nothing came for `age`.
    async fn copies(&self, age: Duration) -> Result<Vec<UploadId>> {
        let now = SystemTime::now();
        let is_copy =
            move |found: &Metadata| !session::is_ahead(found) && rested(found, now) >= age;
        self.list(is_copy).await
    }

    /// Number of uploads; 0 if the folder cannot be read. Blocks, but only for listing a folder of uploads.
    pub fn count(&self) -> usize {
        let ours = |item: &std::fs::DirEntry| {
            let name = item.file_name();
            name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
        };
        let items = std::fs::read_dir(&self.dir).into_iter().flatten();
        items.filter_map(io::Result::ok).filter(ours).count()
    }

    /// Uploads that received nothing for `age`.
    pub async fn idle(&self, age: Duration) -> Result<Vec<UploadId>> {
        let now = SystemTime::now();
        self.list(move |found| rested(found, now) > age).await
    }

    /// Uploads whose files here match.
    async fn list(
        &self,
        is_wanted: impl Fn(&Metadata) -> bool + Send + 'static,
    ) -> Result<Vec<UploadId>> {
        let dir = self.dir.clone();
        let listed = task::blocking(move || -> io::Result<Vec<UploadId>> {
            let mut wanted = Vec::new();
            for item in std::fs::read_dir(&dir)? {
                let item = item?;
                let name = item.file_name().to_string_lossy().into_owned();
                if let Some(id) = name.strip_prefix(PREFIX)
                    && item.metadata().is_ok_and(|found| is_wanted(&found))
                {
                    wanted.extend(id.parse::<UploadId>().ok());
                }
            }
            Ok(wanted)
        });
        listed.await.map_err(io_at(&self.dir, "list"))
    }

    /// Removes uploads that received nothing for `age`; returns how many.
    pub async fn expire(&self, age: Duration) -> Result<u64> {
        self.owners.forget_idle(age);
        let mut count = 0;
        for id in self.idle(age).await? {
            count += u64::from(self.cancel_resting(&id).await?);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

    use futures_util::StreamExt as _;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn ids_bind_to_one_repository_and_those_of_older_daemons_go_on() {
        let repo = |name: &str| name.parse::<Repo>().unwrap();
        // Two names whose SHA-256 begin with the same four bytes.
        let (one, other) = (repo("own/r5319"), repo("own/r32486"));
        assert_eq!(hash_of(&one)[..4], hash_of(&other)[..4]);
        let id = UploadId::new(&one);
        assert!(id.is_of(&one) && !id.is_of(&other));
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        let old: UploadId = format!(
            "{}-{}",
            "0a".repeat(16),
            const_hex::encode(&hash_of(&one)[..4])
        )
        .parse()
        .unwrap();
        assert!(old.is_of(&one) && !old.is_of(&repo("own/x")));
        for bad in [
            "",
            "0a-0a",
            &format!("{}-", "0a".repeat(16)),
            &format!("{}-0a0a0a", "0a".repeat(16)),
        ] {
            assert!(bad.parse::<UploadId>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_writes_to_an_upload_that_has_ended_and_may_be_a_stored_blob() {
        let dir = tempfile::tempdir().unwrap();
        let ingests = Ingests::open(dir.path(), false).unwrap();
        let id = ingests.begin(&Repo::cli()).await.unwrap();
        let body = |bytes: &'static [u8]| {
            futures_util::stream::iter([Ok(Bytes::from_static(bytes))]).boxed()
        };
        ingests.append(&id, None, body(b"blob")).await.unwrap();
        let other = Ingests::open(dir.path(), false).unwrap();
        assert_eq!(other.size(&id).await.unwrap(), Some(4));
        let spool = ingests.finish(&id).await.unwrap().unwrap();
        // By this process, while the file is still there.
        assert_eq!(ingests.size(&id).await.unwrap(), None);
        let more = ingests.append(&id, None, body(b"more")).await;
        assert_eq!(more.unwrap(), Appended::Unknown);
        // By another one, once the store has it: whether it had opened the file before or not.
        let stored = dir.path().join("stored");
        std::fs::hard_link(spool.path(), &stored).unwrap();
        let more = other.append(&id, None, body(b"more")).await;
        assert_eq!(more.unwrap_err().kind, ErrorKind::Conflict);
        let third = Ingests::open(dir.path(), false).unwrap();
        assert_eq!(third.size(&id).await.unwrap(), None);
        drop(spool);
        assert_eq!(std::fs::read(&stored).unwrap(), b"blob");
        assert_eq!(ingests.size(&id).await.unwrap(), None);
        assert!(!ingests.path(&id).exists());
    }

    #[tokio::test]
    async fn a_file_that_is_removed_while_it_is_opened_again_gets_no_more_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let ingests = Ingests::open(dir.path(), false).unwrap();
        let id = ingests.begin(&Repo::cli()).await.unwrap();
        let opened = || Session::reopen(&ingests.path(&id)).unwrap().unwrap();
        let (before, again, short) = (opened(), opened(), opened());
        let bytes = futures_util::stream::iter([Ok(Bytes::from_static(b"bytes"))]);
        ingests.append(&id, None, bytes.boxed()).await.unwrap();
        ingests.open.lock().clear();
        assert!(ingests.keep_open(&id, short).is_none());
        assert!(ingests.cancel(&id).await.unwrap());
        assert!(ingests.keep_open(&id, before).is_none());
        ingests.begin_as(&id).await.unwrap();
        ingests.open.lock().clear();
        assert!(ingests.keep_open(&id, again).is_none());
        assert!(ingests.keep_open(&id, opened()).is_some());
    }

    #[tokio::test]
    async fn uploads_are_not_kept_where_a_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        let ingests = Ingests::open(&real, false).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let led = Ingests::open(&link, false).unwrap();
        assert!(led.begin(&Repo::cli()).await.is_err());
        // Nor is an upload that is one gone on with.
        let id = ingests.begin(&Repo::cli()).await.unwrap();
        assert!(led.size(&id).await.is_err());
        let (path, other) = (ingests.path(&id), dir.path().join("other"));
        std::fs::rename(&path, &other).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        ingests.open.lock().clear();
        assert!(ingests.size(&id).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_somebody_sends_to_counts_and_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let ingests = Ingests::open(dir.path(), false).unwrap();
        ingests.owners.set(Quota {
            uploads: 9,
            bytes: 10,
        });
        let sent = ingests.begin(&Repo::cli()).await.unwrap();
        let resting = ingests.begin(&Repo::cli()).await.unwrap();
        ingests.owners.begin(&sent, "a", false).unwrap();
        ingests.owners.grow(&sent, 6).unwrap();
        let request = ingests.lock(&sent).await.unwrap().unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(ingests.expire(Duration::ZERO).await.unwrap(), 1);
        assert!(began.elapsed() < BUSY && ingests.size(&resting).await.unwrap().is_none());
        let refused = ingests.cancel(&sent).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert_eq!(ingests.owners.bytes_beside(&sent), 6);
        ingests.owners.grow(&sent, 5).unwrap_err();
        drop(request);
        assert!(ingests.cancel(&sent).await.unwrap());
        assert_eq!(ingests.owners.bytes_beside(&sent), 0);
    }

    #[tokio::test]
    async fn uploads_at_rest_keep_no_file_open_and_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let ingests = Ingests::open(dir.path(), false).unwrap();
        let body = |bytes: &'static [u8]| {
            futures_util::stream::iter([Ok(Bytes::from_static(bytes))]).boxed()
        };
        let first = ingests.begin(&Repo::cli()).await.unwrap();
        ingests.append(&first, None, body(b"at ")).await.unwrap();
        for _ in 0..2 * MAX_OPEN {
            ingests.begin(&Repo::cli()).await.unwrap();
            assert!(ingests.open.lock().len() <= MAX_OPEN);
        }
        ingests.append(&first, None, body(b"last")).await.unwrap();
        let spool = ingests.finish(&first).await.unwrap().unwrap();
        assert_eq!(spool.digest(), Digest::sha256_of(b"at last"));
    }

    #[tokio::test]
    async fn request_that_waited_for_an_ended_upload_does_not_touch_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let ingests = Arc::new(Ingests::open(dir.path(), false).unwrap());
        let id = ingests.begin(&Repo::cli()).await.unwrap();
        let body = |bytes: &'static [u8]| {
            futures_util::stream::iter([Ok(Bytes::from_static(bytes))]).boxed()
        };
        ingests.append(&id, None, body(b"right")).await.unwrap();
        let held = ingests.lock(&id).await.unwrap().unwrap();
        let late = {
            let (ingests, id) = (ingests.clone(), id.clone());
            task::spawn("late", async move {
                ingests.append(&id, None, body(b"wrong")).await
            })
        };
        // It has the session and waits for its lock, as a request does that comes while the last one is answered.
        while Arc::strong_count(ingests.open.lock().get(&id).unwrap()) < 3 {
            tokio::task::yield_now().await;
        }
        let mut held = held;
        held.ended = true;
        drop(held);
        assert_eq!(late.join().await.unwrap(), Appended::Unknown);
        let path = ingests.path(&id);
        assert_eq!(std::fs::read(path).unwrap(), b"right");
    }
}

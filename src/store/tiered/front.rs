//! The disk in front: local blobs, within limits of space.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Mutex, Notify, OnceCell};

use super::{
    counts::Counts,
    uses::{Pinned, Uses},
};
use crate::{
    artifact::Descriptor,
    digest::{Digest, Hasher},
    entry::Time,
    fs,
    store::{
        Body, ByteStream, Put, Records, Repositories, Spool, SpoolWriter, Store, StoreUrl, Sweep,
        error::{Error, ErrorKind, Result},
        keys,
        queue::queue_full,
    },
    task,
};

/// How many bytes are read and hashed, or copied, at once.
const PIECE_BYTES: usize = 1 << 20;
/// Blobs that are removed under one claim: a caller that wants to keep one of them waits that long.
const CLAIM: usize = 32;
/// How often the file system's free space is checked, which other programs use too.
const LOOK: Duration = Duration::from_secs(30);
/// For larger blobs the free space is checked before they are stored.
const BIG_BYTES: u64 = 4 << 20;

/// How much space the front may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Maximum bytes of blobs, temporarily a little more.
    pub max_bytes: u64,
    /// The fraction of `max_bytes` that remains after an eviction; over 0, up to 1.
    pub low_water: f64,
    /// Bytes of the file system that must stay free.
    pub min_free_bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            max_bytes: 20 << 30,
            low_water: 0.9,
            min_free_bytes: 1 << 30,
        }
    }
}

impl Room {
    /// The same for a file system of `total` bytes: on a small one only a twentieth must stay free, since otherwise everything in
    /// front would have to be evicted.
    #[must_use]
    pub fn on(self, total: u64) -> Self {
        let min_free_bytes = self.min_free_bytes.min(total / 20);
        Self {
            max_bytes: self.max_bytes.min(total - min_free_bytes),
            min_free_bytes,
            ..self
        }
    }

    fn low_bytes(&self) -> u64 {
        (self.max_bytes as f64 * self.low_water) as u64
    }
}

pub(super) struct Front {
    pub(super) store: Store,
    pub(super) repositories: Arc<dyn Repositories>,
    pub(super) records: Arc<dyn Records>,
    pub(super) spool_dir: PathBuf,
    pub(super) uses: Arc<Uses>,
    sweep: Arc<dyn Sweep>,
    root: PathBuf,
    pub(super) room: Room,
    counts: Arc<Counts>,
    /// Set once the blobs existing at the start have been listed: a large front must not delay the start.
    looked: OnceCell<()>,
    /// Whether it was logged that the file system is nearly full.
    told: AtomicBool,
    one_at_a_time: Mutex<()>,
    /// Notified when the disk is full, or bytes were stored other than by [`Self::put`].
    full: Notify,
}

/// Ignores a failure of the front, since the remote store can do without it.
pub(super) fn passed_by<T>(done: Result<T>) -> Option<T> {
    done.inspect_err(|error| tracing::warn!(%error, "Bypassing the local cache directory"))
        .ok()
}

impl Front {
    /// Takes over a disk store.
    ///
    /// # Errors
    /// `Invalid` for anything but a writable disk store.
    pub(super) fn new(near: Store, room: Room, counts: Arc<Counts>) -> Result<Self> {
        let refused = |why: &str| Error::invalid("open", why);
        let facts = near.facts();
        let StoreUrl::Disk(root) = &facts.url else {
            return Err(refused("the local cache directory must be a disk: store"));
        };
        let (Some(repositories), Some(sweep), Some(spool_dir)) =
            (&facts.repositories, near.sweep(), &facts.spool_dir)
        else {
            return Err(refused("the local cache directory must be writable"));
        };
        if room.max_bytes == 0 || !(room.low_water > 0.0 && room.low_water <= 1.0) {
            return Err(refused(
                "the local cache directory needs a size over 0, and a low water mark over 0 and up to 1",
            ));
        }
        Ok(Self {
            uses: Arc::default(),
            records: repositories.records(),
            repositories: repositories.clone(),
            spool_dir: spool_dir.to_owned(),
            sweep: sweep.clone(),
            root: root.clone(),
            store: near,
            room,
            counts,
            looked: OnceCell::new(),
            told: AtomicBool::new(false),
            one_at_a_time: Mutex::new(()),
            full: Notify::new(),
        })
    }

    /// Returns true if a blob of this size is kept here at all.
    pub(super) fn keeps(&self, size: u64) -> bool {
        size <= self.room.low_bytes()
    }

    /// The size of a blob in front.
    pub(super) async fn stat(&self, digest: &Digest) -> Option<u64> {
        let size = passed_by(self.store.stat(digest).await).flatten();
        if let Some(size) = size {
            self.uses.used(digest, size);
        }
        size
    }

    /// Reads a blob in front.
    pub(super) async fn get(
        &self,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        let found = self.store.get(desc, range).await?;
        if found.is_some() {
            self.uses.used(&desc.digest, desc.size);
        }
        Ok(found)
    }

    /// Stores a blob; if the disk is full, others are evicted for it.
    pub(super) async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        if self.store.stat(&desc.digest).await? != Some(desc.size) {
            self.make_room(desc.size).await?;
        }
        let mut done = self.store.put(desc, body).await;
        if done.as_ref().is_err_and(|e| e.kind == ErrorKind::Full) {
            self.give_up(desc.size.saturating_mul(2)).await?;
            done = self.store.put(desc, body).await;
        }
        if done.is_ok() {
            self.uses.used(&desc.digest, desc.size);
        }
        done
    }

    /// The bytes of a blob as a body that stays complete even if the blob is evicted; `None` if it is not in front. `check`
    /// hashes them first.
    ///
    /// # Errors
    /// `Corrupt` if they do not match the digest.
    pub(super) async fn body(&self, desc: &Descriptor, check: bool) -> Result<Option<Body>> {
        // A file that was modified since it was hashed is hashed again by this call, and removed if it is damaged.
        if self.store.stat(&desc.digest).await?.is_none() {
            return Ok(None);
        }
        let from = self.root.join(keys::blob(&desc.digest));
        let (dir, desc) = (self.spool_dir.clone(), desc.clone());
        task::blocking(move || body(&from, &dir, &desc, check)).await
    }

    /// Removes blobs from the front.
    pub(super) async fn remove(&self, digests: &[Digest], pinned: Pinned) -> Result<()> {
        for some in digests.chunks(CLAIM) {
            let claim = self.uses.claim_all(some, pinned);
            self.sweep.remove(&claim.digests(), FOR_EVER).await?;
            claim.removed();
        }
        Ok(())
    }

    /// Makes space for `size` bytes.
    ///
    /// # Errors
    /// `Full` if all remaining blobs are needed.
    pub(super) async fn make_room(&self, size: u64) -> Result<()> {
        let over = self.over(size).await?;
        if over == 0 {
            return Ok(());
        }
        self.give_up(over).await?;
        // There may be enough space on the file system even if not enough could be freed; the write will tell.
        if self.uses.bytes().saturating_add(size) > self.room.max_bytes {
            return Err(queue_full("the local cache directory (front_max_size) is"));
        }
        Ok(())
    }

    /// How many bytes must be evicted before `size` more bytes can be stored.
    async fn over(&self, size: u64) -> Result<u64> {
        let after = self.uses.bytes().saturating_add(size);
        let mut over = 0;
        if after > self.room.max_bytes {
            over = after.saturating_sub(self.room.low_bytes());
        }
        if size == 0 || size >= BIG_BYTES {
            let wanted = self.room.min_free_bytes.saturating_add(size);
            if let Some(free) = self.free_bytes().await?
                && free < wanted
            {
                if !self.told.swap(true, Relaxed) {
                    let left_free = self.room.min_free_bytes;
                    tracing::warn!(
                        free,
                        left_free,
                        "The file system of the local cache directory is nearly full; blobs are evicted"
                    );
                }
                let slack = self.room.min_free_bytes / 8;
                over = over.max((wanted - free).saturating_add(slack));
            }
        }
        Ok(over)
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        let root = self.root.clone();
        let free = task::blocking(move || fs::Dir::open(root)?.free_bytes());
        free.await.map_err(|e| Error::io("look for room", e))
    }

    /// Lists the blobs existing at the start, once.
    pub(super) async fn look(&self) -> Result<()> {
        let look = async || {
            self.uses.seed(self.sweep.blobs().await?);
            Ok(())
        };
        self.looked.get_or_try_init(look).await.copied()
    }

    /// Evicts blobs of `bytes` in total, or all blobs that are not needed.
    async fn give_up(&self, bytes: u64) -> Result<()> {
        self.look().await?;
        let _alone = self.one_at_a_time.lock().await;
        let candidates = self.uses.candidates();
        let mut left = bytes;
        for some in candidates.chunks(CLAIM) {
            if left == 0 {
                break;
            }
            let enough = some.iter().scan(0, |sum, c| {
                let before = *sum;
                *sum += c.size;
                Some(before)
            });
            let count = enough.take_while(|before| *before < left).count();
            let claim = self.uses.claim(&some[..count]);
            self.sweep.remove(&claim.digests(), FOR_EVER).await?;
            claim.removed();
            left = left.saturating_sub(claim.bytes());
            self.counts
                .evicted(claim.digests().len() as u64, claim.bytes());
        }
        Ok(())
    }

    /// Reports that the disk is full, or that bytes were stored other than by [`Self::put`].
    pub(super) fn filled(&self) {
        self.full.notify_one();
    }

    /// Keeps the front within its limits, whatever fills the disk: checks when notified, and periodically.
    pub(super) async fn keep_room(&self) {
        passed_by(self.look().await);
        let _ = tokio::time::timeout(LOOK, self.full.notified()).await;
        let over = passed_by(self.over(0).await).unwrap_or(0);
        if over > 0 {
            passed_by(self.give_up(over).await);
        }
    }

    /// Maximum bytes of blobs in front, given the current use of the disk by other files. Unfinished uploads do not count as
    /// other files, since they are removed when space is needed.
    pub(super) async fn most_bytes(&self) -> u64 {
        let most = self.room.max_bytes;
        match passed_by(self.free_bytes().await).flatten() {
            Some(free) => {
                let ours = self
                    .uses
                    .bytes()
                    .saturating_add(self.unfinished_bytes().await);
                let all = ours.saturating_add(free);
                most.min(all.saturating_sub(self.room.min_free_bytes))
            }
            None => most,
        }
    }

    async fn unfinished_bytes(&self) -> u64 {
        let dir = self.spool_dir.clone();
        task::blocking(move || {
            let items = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let sizes = items.filter_map(|item| item.metadata().ok());
            // A blob that is being read has a second name here.
            let sizes = sizes.filter(|m| m.is_file() && m.nlink() == 1);
            sizes.map(|m| m.blocks().saturating_mul(512)).sum()
        })
        .await
    }
}

/// No matter when it was written.
const FOR_EVER: Time = Time {
    secs: i64::MAX,
    nanos: 0,
};

fn body(from: &Path, dir: &Path, desc: &Descriptor, check: bool) -> Result<Option<Body>> {
    let io = |e: fs::Error| Error::io("read", e);
    let opened = File::open(from).map_err(|e| fs::Error::new("open", from, e));
    let Some(mut file) = fs::missing_is_none(opened).map_err(io)? else {
        return Ok(None);
    };
    let is_sha256 = matches!(desc.digest, Digest::Sha256(_));
    if check {
        verify(&mut file, from, desc)?;
    }
    // For another digest algorithm a spool would need the SHA-256, which requires reading the bytes.
    if is_sha256 && let Some(link) = link(from, dir) {
        let spool = Spool::adopt(file, &link, desc.digest, desc.size)?;
        return Ok(Some(Body::Spool(Arc::new(spool))));
    }
    let mut spool = SpoolWriter::create(dir)?;
    file.rewind()
        .map_err(|e| io(fs::Error::new("read", from, e)))?;
    std::io::copy(&mut file, &mut spool).map_err(|e| io(fs::Error::new("copy", from, e)))?;
    Ok(Some(Body::Spool(Arc::new(spool.finish()))))
}

/// Another name of the blob's file, which the caller must remove; `None` if the file system does not support hard links.
fn link(from: &Path, dir: &Path) -> Option<PathBuf> {
    // Leftovers of a dead process are removed together with its spools.
    let name = format!("spool-{:016x}", fastrand::u64(..));
    let linked = || -> fs::Result<()> {
        let (folder, file) = (from.parent(), from.file_name());
        let (Some(folder), Some(file)) = (folder, file) else {
            return Err(fs::Error::new("link", from, std::io::ErrorKind::NotFound));
        };
        let to = fs::Dir::open(dir)?;
        fs::Dir::open(folder)?.hard_link(file.as_encoded_bytes(), &to, name.as_bytes())
    };
    linked()
        .inspect_err(|error| tracing::debug!(%error, "Blob is copied instead of linked"))
        .ok()
        .map(|()| dir.join(&name))
}

fn verify(file: &mut File, path: &Path, desc: &Descriptor) -> Result<()> {
    let mut hasher: Hasher = desc.digest.hasher();
    let (mut buf, mut size) = (vec![0; PIECE_BYTES], 0);
    loop {
        let n = file
            .read(&mut buf)
            .map_err(|e| Error::io("read", fs::Error::new("read", path, e)))?;
        if n == 0 {
            break;
        }
        hasher.update(&buf[..n]);
        size += n as u64;
    }
    if size == desc.size && hasher.finish() == desc.digest {
        return Ok(());
    }
    let message = "its bytes in the local cache directory do not match the digest";
    Err(Error::corrupt("read", message).at("", desc.digest))
}

//! The disk store: [`Keyed`] over a folder, for any number of processes at once.
//!
//! Its invariants: a name appears when its bytes are durable; a tag is compared and renamed under its lock; users hold
//! `meta/gc.lock` shared and a sweep holds it exclusively, so nothing that a user has seen or written disappears while its
//! store is open.
//!
//! A damaged tag, or one whose manifest is damaged, is `Corrupt` to readers and absent to writers: the next export repairs it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BlobStore, Body, ByteStream, Put, StoredBlob, Version,
    error::{Error, Result},
    keyed::{Condition, Detail, Keyed, Object, Objects, SweptBlobs},
    keys::{self, Key, Repo},
    record,
    records::Listed,
    tree::{
        Tree,
        entered::{Entered, StopOnDrop},
    },
};

pub use super::tree::entered::Settings;
use crate::{
    artifact::{Descriptor, Manifest},
    digest::{Digest, Sha256},
    entry::Time,
    fs,
};

/// A store in a folder.
pub type Disk = Keyed<Folder>;

/// The driver of a folder.
#[derive(Debug, Clone)]
pub struct Folder {
    pub(super) entered: Entered,
    pub(super) tree: Tree,
}

impl Disk {
    /// Opens the store at `root` for one of its repositories, creating the folder if missing.
    ///
    /// A folder that is not writable is opened read-only. Left-over files of dead processes are removed if no other process
    /// uses the store.
    ///
    /// # Errors
    /// `NoSuchStore` if it does not exist and may not be created; `Timeout` if a sweep runs for longer than `lock_wait`.
    pub async fn open(root: &Path, repo: Repo, settings: &Settings) -> Result<Self> {
        let tree = Tree::new(root, keys::UPLOADS.trim_end_matches('/')).private(settings.private);
        let (tags, manifests) = (keys::tags_prefix(&repo), keys::manifests_prefix(&repo));
        let folders = ["blobs/sha256", keys::MARKS, keys::LOCKS, &tags, &manifests];
        let name = format!("disk:{}", root.display());
        let entered = Entered::open(&tree, name, keys::GC_LOCK, &folders, settings).await?;
        Ok(Self::new(Folder { entered, tree }, repo))
    }

    /// Where spools should be written: on the same file system, removed together with the store's own left-over files. `None`
    /// if nothing can be written.
    pub fn spool_dir(&self) -> Option<PathBuf> {
        self.objects.entered.spool_dir()
    }

    /// Returns true if nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.spool_dir().is_none()
    }
}

impl Folder {
    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl std::fmt::Display + Sync + ?Sized),
        work: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tree = self.tree.clone();
        self.entered.run(op, key, move || work(&tree)).await
    }

    /// As [`Self::run`], for changes.
    async fn change<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl std::fmt::Display + Sync + ?Sized),
        work: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.entered.writable(op, key)?;
        self.run(op, key, work).await
    }

    /// Takes the lock of a tag, if `key` is the key of a tag.
    async fn lock(&self, op: &'static str, key: &str) -> Result<Option<fs::Lock>> {
        let Some(Key::Tag(repo, tag)) = keys::parse(key) else {
            return Ok(None);
        };
        let lock_key = keys::tag_lock(&repo, &tag);
        self.entered.lock(op, &tag, &lock_key).await.map(Some)
    }
}

/// The version of an object is its content: a comparison covers what was read, regardless of what was there in between.
fn version(bytes: &[u8]) -> Version {
    Version(Sha256::of(bytes).to_hex())
}

fn read(tree: &Tree, op: &'static str, key: &str, limit: u64) -> Result<Option<Object>> {
    let Some(bytes) = tree.read(op, key, limit)? else {
        return Ok(None);
    };
    let is_tag = matches!(keys::parse(key), Some(Key::Tag(..)));
    let modified = if is_tag { tree.time(op, key)? } else { None };
    Ok(Some(Object {
        version: is_tag.then(|| version(&bytes)),
        bytes: bytes.into(),
        modified,
    }))
}

fn write(
    tree: &Tree,
    op: &'static str,
    key: &str,
    bytes: &[u8],
    condition: &Condition,
) -> Result<()> {
    let holds = match condition {
        Condition::None => true,
        Condition::Absent => tree.read(op, key, record::MAX_BYTES)?.is_none(),
        Condition::Is(wanted) => {
            let now = tree.read(op, key, record::MAX_BYTES)?;
            now.is_some_and(|now| version(&now) == *wanted)
        }
    };
    if !holds {
        let why = "it changed since it was read";
        return Err(Error::conflict(op, why));
    }
    // The record of a manifest rarely changes, and is written with each push of it.
    let is_known = matches!(
        keys::parse(key),
        Some(Key::Manifest(..) | Key::Referrer(..))
    );
    if is_known && tree.read(op, key, record::MAX_BYTES)?.as_deref() == Some(bytes) {
        return Ok(());
    }
    tree.write(op, key, bytes)
}

#[async_trait]
impl BlobStore for Folder {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let (d, tree) = (*digest, self.tree.clone());
        let at_hand = || self.tree.blob_size_at_hand(digest);
        let work = move || tree.blob_size(&d);
        self.entered.look("stat", digest, at_hand, work).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let (want, wanted, tree) = (desc.clone(), range.clone(), self.tree.clone());
        let at_hand = || self.tree.blob_range_at_hand(desc, range);
        let work = move || tree.blob_range(&want, wanted);
        self.entered.look("get", &desc.digest, at_hand, work).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.change("put", &desc.digest, move |tree| {
            tree.put_blob(&want, &body, &stop)
        })
        .await
    }
}

#[async_trait]
impl Objects for Folder {
    fn url(&self) -> &str {
        self.entered.name()
    }

    fn finds_manifests_without_record(&self) -> bool {
        false
    }

    async fn read(&self, op: &'static str, key: &str, limit: u64) -> Result<Option<Object>> {
        let (at, tree) = (key.to_owned(), self.tree.clone());
        let at_hand = || {
            // A tag's time is not part of its version.
            if matches!(keys::parse(key), Some(Key::Tag(..))) {
                return fs::Cached::Unknown;
            }
            self.tree.read_at_hand(key, limit).and_then(|bytes| {
                fs::Cached::There(Object {
                    bytes: bytes.into(),
                    version: None,
                    modified: None,
                })
            })
        };
        let work = move || read(&tree, op, &at, limit);
        self.entered.look(op, key, at_hand, work).await
    }

    async fn write(
        &self,
        op: &'static str,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<()> {
        self.entered.writable(op, key)?;
        let lock = self.lock(op, key).await?;
        let at = key.to_owned();
        self.run(op, key, move |tree| {
            // Held until the rename is done, even if the caller no longer waits for it.
            let _lock = lock;
            write(tree, op, &at, &bytes, &condition)
        })
        .await
    }

    async fn remove(&self, op: &'static str, key: &str) -> Result<bool> {
        self.entered.writable(op, key)?;
        let lock = self.lock(op, key).await?;
        let at = key.to_owned();
        self.run(op, key, move |tree| {
            let _lock = lock;
            tree.remove(op, &at)
        })
        .await
    }

    async fn remove_all(&self, op: &'static str, keys: &[String]) -> Result<()> {
        let shown = if let [key] = keys { key } else { "several" };
        let keys = keys.to_vec();
        self.change(op, shown, move |tree| {
            keys.iter()
                .try_for_each(|key| tree.remove(op, key).map(drop))
        })
        .await
    }

    async fn list(&self, op: &'static str, prefix: &str, detail: Detail) -> Result<Vec<Listed>> {
        let at = prefix.to_owned();
        self.run(op, prefix, move |tree| match detail {
            Detail::All => tree.list_files(op, &at, usize::MAX),
            Detail::Keys => {
                let keys = tree.keys(op, &at)?.into_iter();
                Ok(keys.map(Listed::of_key).collect())
            }
        })
        .await
    }

    async fn any(&self, op: &'static str, prefix: &str) -> Result<Option<String>> {
        let at = prefix.to_owned();
        let listed = self.run(op, prefix, move |tree| tree.list_files(op, &at, 1));
        Ok(listed.await?.pop().map(|l| l.key))
    }

    async fn keys_below(&self, op: &'static str, folder: &str) -> Result<Vec<String>> {
        let at = folder.to_owned();
        self.run(op, folder, move |tree| {
            let mut all = Vec::new();
            for name in tree.list(op, &at)? {
                all.extend(tree.keys(op, &format!("{at}{name}/"))?);
            }
            Ok(all)
        })
        .await
    }

    async fn folders(&self, op: &'static str, folder: &str) -> Result<Vec<String>> {
        let at = folder.to_owned();
        self.run(op, folder, move |tree| tree.list(op, &at)).await
    }

    async fn clock(&self) -> Result<Time> {
        self.entered.clock().await
    }
}

#[async_trait]
impl SweptBlobs for Folder {
    async fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let doc = manifest.clone();
        let put = self.change("publish", &manifest.digest, move |tree| {
            tree.put_manifest(&doc)
        });
        put.await
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.change("put", &desc.digest, move |tree| {
            tree.replace_blob(&want, &body, &stop)
        })
        .await
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        let d = *digest;
        self.change("renew", digest, move |tree| tree.renew_blob(&d))
            .await
    }

    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        self.run("list", "blobs", Tree::list_blobs).await
    }

    async fn older(&self, digests: &[Digest], limit: Time) -> Result<Vec<(Digest, u64)>> {
        let digests = digests.to_vec();
        self.run("remove", "blobs", move |tree| {
            let mut older = Vec::new();
            for digest in digests {
                let stat = tree.stat_blob("remove", &digest)?;
                older.extend(stat.filter(|s| s.mtime <= limit).map(|s| (digest, s.size)));
            }
            Ok(older)
        })
        .await
    }

    /// Looks up each of them: there may be many more records.
    async fn records_of(&self, digests: &[Digest]) -> Result<Vec<(Digest, String)>> {
        let digests = digests.to_vec();
        self.run("remove", "blobs", move |tree| {
            let names = tree.list("remove", keys::REPOSITORIES)?;
            let repos: Vec<Repo> = names.iter().filter_map(|n| Repo::unescape(n)).collect();
            let mut records = Vec::new();
            for digest in &digests {
                for repo in &repos {
                    let of_repo = records_in(tree, repo, digest)?.into_iter();
                    records.extend(of_repo.map(|key| (*digest, key)));
                }
            }
            Ok(records)
        })
        .await
    }

    async fn remove_blobs(&self, blobs: &[(Digest, u64)], limit: Time) -> Result<(u64, u64)> {
        let blobs = blobs.to_vec();
        self.change("remove", "blobs", move |tree| {
            let (mut count, mut bytes) = (0, 0);
            for (digest, _) in &blobs {
                if let Some(size) = tree.remove_blob(digest, limit)? {
                    count += 1;
                    bytes += size;
                }
            }
            Ok((count, bytes))
        })
        .await
    }

    async fn abandon_uploads(&self, _limit: Time) -> Result<u64> {
        Ok(0)
    }

    /// Releases this process's own shared lock: reachability must be computed under the guard. The same handle of the store
    /// must not be used for a sweep and for exports at once.
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.entered.writable("lock", "")?;
        let guard = self.entered.alone().await?;
        Ok(Some(Box::new(guard)))
    }
}

/// The keys of the records that a repository may have of a manifest.
fn records_in(tree: &Tree, repo: &Repo, digest: &Digest) -> Result<Vec<String>> {
    let key = keys::manifest(repo, digest);
    let mut records = vec![keys::linked(repo, digest)];
    if let Some(bytes) = tree.read("remove", &key, record::MAX_BYTES)? {
        let known = record::decode::<record::Manifested>("remove", &bytes).ok();
        if let Some(subject) = known.and_then(|known| known.subject) {
            records.push(keys::referrer(repo, &subject.digest, digest));
        }
        records.push(key);
    }
    Ok(records)
}

#[cfg(test)]
mod tests;

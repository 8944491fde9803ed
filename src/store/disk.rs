//! The disk store: the tree of [`super::keys`] in a folder, for any number of processes at once.
//!
//! What holds it together: a name appears when its bytes are durable (blobs, then the manifest's record, then the
//! tag); a tag is compared and renamed under its lock; users hold `meta/gc.lock` shared and a sweep holds it alone, so
//! nothing that a user has seen or written goes away while its store is open.
//!
//! A tag that is damaged, or whose manifest is, is `Corrupt` to readers and absent to writers: the next export heals it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BlobStore, Body, ByteStream, Expect, Published, Put, Resolved, StoredBlob, Sweep, TagStore,
    Untag, Version,
    body::file_stream,
    error::{Error, ErrorKind, Result},
    keys::{self, Key, Repo},
    record,
    tree::{
        Tree,
        gate::{self, Gate},
    },
};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
    entry::Time,
    fs, task,
};

/// Largest mark that is read.
const MAX_MARK_BYTES: u64 = 1 << 30;

/// How a disk store is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nothing is made or changed, not even a lock's file.
    pub read_only: bool,
    /// Longest wait for somebody else's lock: a sweep's, a tag's.
    pub lock_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read_only: false,
            lock_wait: Duration::from_secs(30),
        }
    }
}

/// A store in a folder.
#[derive(Debug, Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tree: Tree,
    repo: Repo,
    name: String,
    gate: Arc<Gate>,
    /// Why nothing can be written; `None` if it can.
    read_only: Option<String>,
    lock_wait: Duration,
}

/// Set when the future that waits for the work is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Disk {
    /// Opens the store at `root` for one repository of it, making the folder where it is missing.
    ///
    /// A folder that we may only read is opened read-only. Left-overs of dead processes go if nobody else is inside.
    ///
    /// # Errors
    /// `NoSuchStore` if it is not there and may not be made; `Timeout` if a sweep runs for longer than `lock_wait`.
    pub async fn open(root: &Path, repo: Repo, settings: &Settings) -> Result<Self> {
        let name = format!("disk:{}", root.display());
        let tree = Tree::new(root, keys::UPLOADS.trim_end_matches('/'));
        Self::enter(tree, repo, settings, &name)
            .await
            .map_err(|e| e.at(&name, ""))
    }

    async fn enter(tree: Tree, repo: Repo, settings: &Settings, name: &str) -> Result<Self> {
        let read_only = if settings.read_only {
            Some("it was opened read-only".to_owned())
        } else {
            let (tree, repo) = (tree.clone(), repo.clone());
            task::blocking(move || make(&tree, &repo)).await?
        };
        let entry = if read_only.is_some() {
            let there = tree.clone();
            if !task::blocking(move || fs::Dir::open_if_there(there.root()).map(|d| d.is_some()))
                .await
                .map_err(|e| Error::io("open", e))?
            {
                return Err(Error::new(
                    ErrorKind::NoSuchStore,
                    "open",
                    "the folder does not exist",
                ));
            }
            gate::Entry::Reader
        } else {
            gate::Entry::Writer
        };
        let stale = tree.clone();
        let clean = move || match stale.remove_stale() {
            Ok(0) => {}
            Ok(files) => tracing::debug!(files, "Left-overs of dead processes removed"),
            Err(error) => tracing::warn!(%error, "Left-overs of dead processes stay"),
        };
        let lock = tree.path(keys::GC_LOCK);
        let gate = Gate::enter(lock, entry, settings.lock_wait, clean).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                tree,
                repo,
                name: name.to_owned(),
                gate,
                read_only,
                lock_wait: settings.lock_wait,
            }),
        })
    }

    /// Where spools should be written: on the same file system, swept with the store's own left-overs. `None` if nothing can be written.
    pub fn spool_dir(&self) -> Option<PathBuf> {
        let inner = &self.inner;
        inner
            .read_only
            .is_none()
            .then(|| inner.tree.temp_dir().to_owned())
    }

    /// Says whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only.is_some()
    }

    /// Runs blocking `work` inside the gate.
    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &impl std::fmt::Display,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        let done = match inner.gate.be_inside(op).await {
            Ok(()) => task::blocking(move || work(&inner)).await,
            Err(e) => Err(e),
        };
        done.map_err(|e| e.at(&self.inner.name, key))
    }

    fn writable(&self, op: &'static str, key: &impl std::fmt::Display) -> Result<()> {
        match &self.inner.read_only {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Denied, op, why).at(&self.inner.name, key)),
        }
    }

    /// Takes the lock of a tag.
    async fn lock_tag(&self, op: &'static str, tag: &Tag) -> Result<fs::Lock> {
        let inner = &self.inner;
        let path = inner.tree.path(&keys::tag_lock(&inner.repo, tag));
        let budget = inner.lock_wait;
        match gate::poll(&path, fs::LockMode::Exclusive, gate::Entry::Writer, budget).await {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(Error::new(
                ErrorKind::Timeout,
                op,
                format!(
                    "another process has held its lock for over {}s",
                    budget.as_secs()
                ),
            )),
            Err(e) => Err(Error::io(op, e)),
        }
        .map_err(|e| e.at(&inner.name, tag))
    }
}

/// Makes the tree; `Some` says why it cannot be written.
fn make(tree: &Tree, repo: &Repo) -> Result<Option<String>> {
    let (tags, manifests) = (keys::tags_prefix(repo), keys::manifests_prefix(repo));
    let folders = [
        "blobs/sha256",
        keys::MARKS,
        keys::LOCKS,
        tags.as_str(),
        manifests.as_str(),
    ]
    .map(|k| k.trim_end_matches('/'));
    // A file made and removed tells a folder that only looks writable (read-only mount, other owner).
    let made = tree
        .make(&folders)
        .map_err(|e| Error::io("open", e))
        .and_then(|()| tree.temp("open").map(drop));
    match made {
        Ok(()) => Ok(None),
        Err(e) if e.kind == ErrorKind::Denied => Ok(Some(e.message)),
        Err(e) => Err(e),
    }
}

impl Inner {
    fn resolve_tag(&self, op: &'static str, tag: &Tag) -> Result<Option<Resolved>> {
        let key = keys::tag(&self.repo, tag);
        let Some(bytes) = self.tree.read(op, &key, record::MAX_BYTES)? else {
            return Ok(None);
        };
        let tagged: record::Tagged = record::decode(op, &bytes)?;
        let manifest = self.read_manifest(op, &tagged.digest, tagged.media_type)?;
        let Some(manifest) = manifest else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                op,
                format!(
                    "it points at {}, which is gone; export again to repair it",
                    tagged.digest
                ),
            ));
        };
        let (folder, name) = key.rsplit_once('/').expect("the key of a tag has folders");
        let stat = fs::Dir::open(self.tree.path(folder))
            .and_then(|d| d.stat(name.as_bytes()))
            .map_err(|e| Error::io(op, e))?;
        Ok(Some(Resolved {
            version: Some(version(&manifest.digest)),
            manifest,
            modified: stat.map(|s| s.mtime),
        }))
    }

    fn resolve_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        let key = keys::manifest(&self.repo, digest);
        let Some(bytes) = self.tree.read("resolve", &key, record::MAX_BYTES)? else {
            return Ok(None);
        };
        let known: record::Manifested = record::decode("resolve", &bytes)?;
        let manifest = self.read_manifest("resolve", digest, known.media_type)?;
        Ok(manifest.map(|manifest| Resolved {
            manifest,
            version: None,
            modified: None,
        }))
    }

    fn read_manifest(
        &self,
        op: &'static str,
        digest: &Digest,
        media_type: String,
    ) -> Result<Option<Manifest>> {
        let bytes = self
            .tree
            .read(op, &keys::blob(digest), MAX_MANIFEST_BYTES)?;
        match bytes {
            None => Ok(None),
            Some(bytes) if digest.matches(&bytes) => Ok(Some(Manifest {
                media_type,
                bytes: bytes.into(),
                digest: *digest,
            })),
            Some(_) => Err(Error::new(
                ErrorKind::Corrupt,
                op,
                format!("the bytes of manifest {digest} are damaged; export again to repair it"),
            )),
        }
    }

    /// Manifest's bytes, then its records: no record names bytes that are not there.
    fn store_manifest(&self, manifest: &Manifest) -> Result<()> {
        let desc = manifest.descriptor();
        let damaged = self
            .read_manifest("publish", &desc.digest, String::new())
            .is_err();
        if damaged {
            self.tree.remove("publish", &keys::blob(&desc.digest))?;
        }
        let body = Body::Bytes(manifest.bytes.clone());
        self.tree.put_blob(&desc, &body, &AtomicBool::new(false))?;
        let known = record::Manifested::of(manifest);
        if let Some(subject) = &known.subject {
            let key = keys::referrer(&self.repo, &subject.digest, &desc.digest);
            self.tree.write("publish", &key, &record::encode(&desc))?;
        }
        let key = keys::manifest(&self.repo, &desc.digest);
        let bytes = record::encode(&known);
        if self
            .tree
            .read("publish", &key, record::MAX_BYTES)?
            .as_deref()
            == Some(&bytes)
        {
            return Ok(());
        }
        self.tree.write("publish", &key, &bytes)
    }

    /// Compares and renames; the tag's lock must be held.
    fn write_tag(&self, manifest: &Manifest, tag: &Tag, expect: &Expect) -> Result<Published> {
        let current = match self.resolve_tag("publish", tag) {
            Ok(current) => current.and_then(|r| r.version),
            Err(e) if e.kind == ErrorKind::Corrupt => None,
            Err(e) => return Err(e),
        };
        let holds = match expect {
            Expect::Anything => true,
            Expect::Absent => current.is_none(),
            Expect::Version(v) => current.as_ref() == Some(v),
        };
        if !holds {
            return Ok(Published::Conflict);
        }
        let bytes = record::encode(&record::Tagged::at(manifest));
        self.tree
            .write("publish", &keys::tag(&self.repo, tag), &bytes)?;
        Ok(Published::Done)
    }

    fn repos(&self, op: &'static str) -> Result<Vec<String>> {
        self.tree.list(op, keys::REPOSITORIES)
    }

    /// Removes what the repositories' records say of a manifest.
    fn forget(&self, digest: &Digest, repos: &[String]) -> Result<()> {
        for name in repos {
            let Some(repo) = Repo::unescape(name) else {
                continue;
            };
            let key = keys::manifest(&repo, digest);
            let Some(bytes) = self.tree.read("remove", &key, record::MAX_BYTES)? else {
                continue;
            };
            let subject = record::decode::<record::Manifested>("remove", &bytes)
                .ok()
                .and_then(|m| m.subject);
            if let Some(subject) = subject {
                let key = keys::referrer(&repo, &subject.digest, digest);
                self.tree.remove("remove", &key)?;
            }
            self.tree.remove("remove", &key)?;
        }
        Ok(())
    }

    /// What the tags and parts of one repository name.
    fn roots_of(&self, repo: &str, roots: &mut Vec<Digest>) -> Result<()> {
        let mut files: Vec<String> = Vec::new();
        let tags = format!("{}{repo}/tags", keys::REPOSITORIES);
        let parts = format!("{}{repo}/parts", keys::REPOSITORIES);
        for tag in self.tree.list("list", &tags)? {
            files.push(format!("{tags}/{tag}"));
        }
        for tag in self.tree.list("list", &parts)? {
            for part in self.tree.list("list", &format!("{parts}/{tag}"))? {
                files.push(format!("{parts}/{tag}/{part}"));
            }
        }
        for key in files {
            // Not ours, not a name.
            if keys::parse(&key).is_none() {
                continue;
            }
            // A name that cannot be read could need anything, so nothing may be swept.
            if let Some(bytes) = self.tree.read("list", &key, record::MAX_BYTES)? {
                let tagged: record::Tagged =
                    record::decode("list", &bytes).map_err(|e| e.at("", &key))?;
                roots.push(tagged.digest);
            }
        }
        Ok(())
    }
}

/// A tag's version is the digest that it points at: who compares gets what was read, whatever was there in between.
fn version(digest: &Digest) -> Version {
    Version(digest.to_string())
}

#[async_trait]
impl BlobStore for Disk {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let d = *digest;
        self.run("stat", digest, move |i| i.tree.blob_size(&d))
            .await
    }

    async fn get(
        &self,
        desc: &Descriptor,
        range: std::ops::Range<u64>,
    ) -> Result<Option<ByteStream>> {
        let want = desc.clone();
        let found = self
            .run("get", &desc.digest, move |i| {
                open_range(&i.tree, &want, &range).map(|f| f.map(|f| (f, range)))
            })
            .await?;
        let key = self.inner.tree.path(&keys::blob(&desc.digest));
        Ok(found.map(|(file, range)| file_stream(Arc::new(file), key, range)))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.writable("put", &desc.digest)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.run("put", &desc.digest, move |i| {
            i.tree.put_blob(&want, &body, &stop)
        })
        .await
    }
}

/// Opens a blob and checks its size and the range.
pub(super) fn open_range(
    tree: &Tree,
    desc: &Descriptor,
    range: &std::ops::Range<u64>,
) -> Result<Option<std::fs::File>> {
    super::check_range("get", desc, range)?;
    match tree.open_blob("get", &desc.digest)? {
        None => Ok(None),
        Some((file, size)) if size == desc.size => Ok(Some(file)),
        Some((_, size)) => Err(Error::new(
            ErrorKind::Corrupt,
            "get",
            format!("it has {size} bytes, expected {}", desc.size),
        )),
    }
}

#[async_trait]
impl TagStore for Disk {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let asked = reference.clone();
        self.run("resolve", reference, move |i| match &asked {
            Reference::Tag(tag) => i.resolve_tag("resolve", tag),
            Reference::Digest(digest) => i.resolve_digest(digest),
        })
        .await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        super::check_manifest(manifest).map_err(|e| e.at(&self.inner.name, manifest.digest))?;
        self.writable("publish", &manifest.digest)?;
        let doc = manifest.clone();
        self.run("publish", &manifest.digest, move |i| i.store_manifest(&doc))
            .await?;
        let Some(tag) = tag else {
            return Ok(Published::Done);
        };
        let lock = self.lock_tag("publish", tag).await?;
        let (doc, to, expect) = (manifest.clone(), tag.clone(), expect.clone());
        self.run("publish", tag, move |i| {
            // Held until the rename is done, even if nobody waits for it any more.
            let _lock = lock;
            i.write_tag(&doc, &to, &expect)
        })
        .await
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let start = prefix.to_owned();
        self.run("list tags", &prefix, move |i| {
            let names = i
                .tree
                .list("list tags", &keys::tags_prefix(&i.repo))?
                .into_iter();
            Ok(names
                .filter(|n| n.starts_with(&start))
                .filter_map(|n| n.parse().ok())
                .collect())
        })
        .await
    }

    async fn clock(&self) -> Result<Time> {
        Ok(Time::now())
    }
}

#[async_trait]
impl Untag for Disk {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        self.writable("remove tag", tag)?;
        let lock = self.lock_tag("remove tag", tag).await?;
        let name = tag.clone();
        self.run("remove tag", tag, move |i| {
            let _lock = lock;
            i.tree.remove("remove tag", &keys::tag(&i.repo, &name))
        })
        .await
    }
}

#[async_trait]
impl Sweep for Disk {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        self.run("list", &"blobs", |i| i.tree.list_blobs()).await
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        self.run("list", &"tags", |i| {
            let mut roots = Vec::new();
            for repo in i.repos("list")? {
                i.roots_of(&repo, &mut roots)?;
            }
            roots.sort_unstable();
            roots.dedup();
            Ok(roots)
        })
        .await
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        let key = keys::mark(name);
        self.run("read mark", &name, move |i| {
            i.tree.read("read mark", &key, MAX_MARK_BYTES)
        })
        .await
        .map(|m| m.map(Bytes::from))
    }

    async fn marks(&self) -> Result<Vec<String>> {
        self.run("list", &"marks", |i| {
            Ok(marks_of(i.tree.list("list", keys::MARKS)?))
        })
        .await
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.writable("write mark", &name)?;
        let key = keys::mark(name);
        self.run("write mark", &name, move |i| {
            i.tree.write("write mark", &key, &bytes)
        })
        .await
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.writable("remove mark", &name)?;
        let key = keys::mark(name);
        self.run("remove mark", &name, move |i| {
            i.tree.remove("remove mark", &key).map(drop)
        })
        .await
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        self.writable("remove", &"blobs")?;
        let digests = digests.to_vec();
        self.run("remove", &"blobs", move |i| {
            let repos = i.repos("remove")?;
            let (mut count, mut bytes) = (0, 0);
            for digest in &digests {
                // What was written since stays, and so does what is known of it.
                if i.tree
                    .blob_time(digest)?
                    .is_some_and(|t| t > unless_newer_than)
                {
                    continue;
                }
                i.forget(digest, &repos)?;
                if let Some(size) = i.tree.remove_blob(digest, unless_newer_than)? {
                    count += 1;
                    bytes += size;
                }
            }
            Ok((count, bytes))
        })
        .await
    }

    /// Our own shared lock is given up for it: reachability must be computed under the guard. One handle of the store
    /// must not be used for a sweep and for exports at once.
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.writable("lock", &"")?;
        let alone = self.inner.gate.alone().await;
        match alone {
            Ok(guard) => Ok(Some(Box::new(guard))),
            Err(e) => Err(e.at(&self.inner.name, "")),
        }
    }
}

/// The names of marks from the names of their files, sorted.
pub(super) fn marks_of(files: Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = files
        .into_iter()
        .filter_map(
            |file| match keys::parse(&format!("{}{file}", keys::MARKS)) {
                Some(Key::Mark(name)) => Some(name),
                _ => None,
            },
        )
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests;

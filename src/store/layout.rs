//! The image layout store: a folder that any OCI tool can read, and that BuildKit's `type=local` reads and writes.
//!
//! ```text
//! oci-layout, index.json, blobs/<alg>/<hex>     the image layout (OCI image spec, `image-layout.md`)
//! index.json.lock                               BuildKit's lock
//! .cachectl/                                    cachectl's own files: gc.lock, index.lock, tmp/, marks/
//! ```
//!
//! A tag is an entry of `index.json` with `org.opencontainers.image.ref.name`. Changes of the index are serialized by our lock;
//! BuildKit tries its own lock only once, and the build fails if it is taken, so that lock is held just for the last re-read
//! and the rename. BuildKit itself takes no lock while it writes blobs: sweep with a grace time longer than its exports.

use std::{
    collections::HashSet,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use self::index::{Index, MAX_INDEX_BYTES};
use super::{
    BlobStore, Body, ByteStream, Expect, Published, Put, Resolved, StoredBlob, Sweep, TagStore,
    Untag, Version,
    by_tags::Flat,
    check_manifest,
    error::{Error, ErrorKind, Result},
    keyed::marks_of,
    tree::{
        Tree,
        entered::{Entered, StopOnDrop},
    },
};
use crate::{
    artifact::{
        Descriptor, Manifest, Reference, Tag,
        descriptor::MAX_MANIFEST_BYTES,
        mentions::{self, Mention},
    },
    digest::Digest,
    entry::Time,
    fs,
};

mod index;
#[cfg(test)]
mod tests;

pub use super::tree::entered::Settings;

const INDEX: &str = "index.json";
const BUILDKIT_LOCK: &str = "index.json.lock";
const VERSION_FILE: &str = "oci-layout";
const VERSION_DOC: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
const OUR_LOCK: &str = ".cachectl/index.lock";
const GC_LOCK: &str = ".cachectl/gc.lock";
const TEMP: &str = ".cachectl/tmp";
const MARKS: &str = ".cachectl/marks";
/// Largest mark that is read.
const MAX_MARK_BYTES: u64 = 1 << 30;
/// How often a torn index is read again: BuildKit rewrites it in place.
const TORN_READS: u32 = 10;

/// A store in an image layout; cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    pub(super) entered: Entered,
    pub(super) tree: Tree,
    lock_wait: Duration,
}

impl Layout {
    /// Opens the layout at `root`, creating it if missing.
    ///
    /// A folder that is not writable is opened read-only, without leaving a trace.
    ///
    /// # Errors
    /// `NoSuchStore` if it does not exist and may not be created; `Invalid` if it has another major version.
    pub async fn open(root: &Path, settings: &Settings) -> Result<Self> {
        let tree = Tree::new(root, TEMP).private(settings.private);
        let name = format!("oci-layout:{}", root.display());
        let folders = ["blobs/sha256", MARKS];
        let entered = Entered::open(&tree, name, GC_LOCK, &folders, settings).await?;
        let layout = Self {
            entered,
            tree,
            lock_wait: settings.lock_wait,
        };
        layout.check_version().await?;
        Ok(layout)
    }

    /// Where spools should be written: on the same file system. `None` if nothing can be written.
    pub fn spool_dir(&self) -> Option<PathBuf> {
        self.entered.spool_dir()
    }

    /// Returns true if nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.spool_dir().is_none()
    }

    async fn check_version(&self) -> Result<()> {
        let writable = !self.is_read_only();
        let found = self.run("open", "", move |tree| {
            let found = tree.read("open", VERSION_FILE, 4096)?;
            if found.is_none() && writable {
                tree.write("open", VERSION_FILE, VERSION_DOC.as_bytes())?;
            }
            Ok(found)
        });
        if let Some(bytes) = found.await? {
            let doc: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let version = doc["imageLayoutVersion"].as_str().unwrap_or("none");
            if version == "none" && writable {
                // Damaged: only one content is possible there.
                self.run("open", "", |tree| {
                    tree.write("open", VERSION_FILE, VERSION_DOC.as_bytes())
                })
                .await?;
            } else if !version.starts_with("1.") {
                let message = format!("`{VERSION_FILE}` says version {version}, expected 1.0.0");
                return Err(Error::corrupt("open", message).at(self.entered.name(), ""));
            }
        }
        // Other tools refuse a layout without an index.
        if writable
            && self
                .run("open", "", |t| t.read("open", INDEX, MAX_INDEX_BYTES))
                .await?
                .is_none()
        {
            self.update("open", "", |_, _| Ok(())).await?;
        }
        Ok(())
    }

    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl std::fmt::Display + Sync + ?Sized),
        work: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tree = self.tree.clone();
        self.entered.run(op, key, move || work(&tree)).await
    }

    /// Reads the index; retries if it is just being rewritten.
    async fn index(&self, op: &'static str) -> Result<Index> {
        for _ in 0..TORN_READS {
            match self.run(op, INDEX, move |tree| read_index(op, tree)).await {
                Err(e) if e.kind == ErrorKind::Corrupt => sleep(Duration::from_millis(20)).await,
                done => return done,
            }
        }
        self.run(op, INDEX, move |tree| read_index(op, tree)).await
    }

    /// Runs `change` under both locks and writes the index if it has changed.
    async fn update<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl std::fmt::Display + Sync + ?Sized),
        change: impl FnOnce(&mut Index, &Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let ours = self.entered.lock(op, key, OUR_LOCK).await?;
        let theirs = self.lock_buildkit(op, key).await?;
        self.run(op, key, move |tree| {
            let before = read_index(op, tree)?;
            let mut index = before.clone();
            let done = change(&mut index, tree)?;
            if index != before || tree.file_is_missing(op, INDEX)? {
                tree.write(op, INDEX, &index.encode(op, &before)?)?;
            }
            // Held until the rename is done, even if the caller no longer waits for it.
            drop((theirs, ours));
            Ok(done)
        })
        .await
    }

    /// Takes BuildKit's lock. The lock file must stay: BuildKit removes it after use, and removing a lock file while another
    /// process waits for it admits two holders. So after locking, the file must still be the one at that path.
    async fn lock_buildkit(
        &self,
        op: &'static str,
        key: &(impl std::fmt::Display + Sync + ?Sized),
    ) -> Result<fs::Lock> {
        let end = Instant::now() + self.lock_wait;
        loop {
            let lock = self.entered.lock(op, key, BUILDKIT_LOCK).await?;
            let (lock, same) = self
                .run(op, key, move |tree| {
                    let is_same = || -> fs::Result<bool> {
                        let path = tree.path(BUILDKIT_LOCK);
                        let held = lock.stat().map_err(|e| fs::Error::new("stat", &path, e))?;
                        let there = fs::Dir::open(tree.root())?.stat(BUILDKIT_LOCK.as_bytes())?;
                        Ok(there.is_some_and(|s| (s.dev, s.ino) == (held.dev, held.ino)))
                    };
                    let same = is_same().map_err(|e| Error::io(op, e))?;
                    Ok((lock, same))
                })
                .await?;
            if same {
                return Ok(lock);
            }
            if Instant::now() >= end {
                let message = format!("`{BUILDKIT_LOCK}` keeps being created and removed");
                return Err(Error::timeout(op, message).at(self.entered.name(), key));
            }
        }
    }
}

fn read_index(op: &'static str, tree: &Tree) -> Result<Index> {
    match tree.read(op, INDEX, MAX_INDEX_BYTES)? {
        None => Ok(Index::empty()),
        Some(bytes) => Index::parse(op, &bytes),
    }
}

fn resolve_tag(
    op: &'static str,
    tree: &Tree,
    index: &Index,
    tag: &Tag,
) -> Result<Option<Resolved>> {
    let Some(desc) = index.find(tag) else {
        return Ok(None);
    };
    match tree.read_manifest(op, &desc.digest, desc.media_type)? {
        Some(manifest) => Ok(Some(Resolved {
            version: Some(Version(manifest.digest.to_string())),
            manifest,
            // The format has no field for it.
            modified: None,
        })),
        None => Err(Error::corrupt(
            op,
            format!(
                "it points at {}, which is missing; export again to repair it",
                desc.digest
            ),
        )),
    }
}

/// A manifest by digest; a blob that is not a manifest (too long, no JSON object) is a miss.
fn resolve_digest(tree: &Tree, index: &Index, digest: &Digest) -> Result<Option<Resolved>> {
    if tree
        .blob_size(digest)?
        .is_none_or(|size| size > MAX_MANIFEST_BYTES)
    {
        return Ok(None);
    }
    let named = index.media_type(digest);
    let Some(mut manifest) = tree.read_manifest("resolve", digest, String::new())? else {
        return Ok(None);
    };
    manifest.media_type = match named {
        Some(media_type) => media_type,
        None if index::children(&manifest.bytes).is_some() => {
            Manifest::sniff(manifest.bytes.clone()).media_type
        }
        None => return Ok(None),
    };
    Ok(Some(Resolved {
        manifest,
        version: None,
        modified: None,
    }))
}

/// All digests that the entries of the index need.
///
/// # Errors
/// `Corrupt` if a manifest on the way is damaged: its needs are unknown, so nothing may be removed. For an intact but
/// meaningless one, every digest that its bytes may name counts.
fn reachable(tree: &Tree, index: &Index) -> Result<HashSet<Digest>> {
    let (mut needed, mut opened) = (HashSet::new(), HashSet::new());
    let mut todo = index.roots("remove")?;
    while let Some(digest) = todo.pop() {
        needed.insert(digest);
        if !opened.insert(digest) {
            continue;
        }
        // Missing or too long contents name nothing.
        if tree
            .blob_size(&digest)?
            .is_none_or(|size| size > MAX_MANIFEST_BYTES)
        {
            continue;
        }
        let Some(manifest) = tree.read_manifest("remove", &digest, String::new())? else {
            continue;
        };
        mentions::all(&manifest.bytes, &mut |child, mention| {
            needed.insert(child);
            if mention != Mention::Text {
                todo.push(child);
            }
        });
        // Other tools' indexes may give manifests any media type.
        let children = index::children(&manifest.bytes).into_iter().flatten();
        todo.extend(
            children.filter_map(|(child, may_name_others)| may_name_others.then_some(child)),
        );
    }
    Ok(needed)
}

#[async_trait]
impl BlobStore for Layout {
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
        self.entered.writable("put", &desc.digest)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.run("put", &desc.digest, move |tree| {
            tree.put_blob(&want, &body, &stop)
        })
        .await
    }
}

#[async_trait]
impl TagStore for Layout {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let index = self.index("resolve").await?;
        let asked = reference.clone();
        self.run("resolve", reference, move |tree| match &asked {
            Reference::Tag(tag) => resolve_tag("resolve", tree, &index, tag),
            Reference::Digest(digest) => resolve_digest(tree, &index, digest),
        })
        .await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        check_manifest(manifest).map_err(|e| e.at(self.entered.name(), manifest.digest))?;
        self.entered.writable("publish", &manifest.digest)?;
        let doc = manifest.clone();
        self.run("publish", &manifest.digest, move |tree| {
            tree.put_manifest(&doc)
        })
        .await?;
        let Some(tag) = tag else {
            return Ok(Published::Done);
        };
        let (desc, name, expect) = (manifest.descriptor(), tag.clone(), expect.clone());
        let done = self.update("publish", tag, move |index, tree| {
            let current = match resolve_tag("publish", tree, index, &name) {
                Ok(current) => current.and_then(|r| r.version),
                Err(e) if e.kind == ErrorKind::Corrupt => None,
                Err(e) => return Err(e),
            };
            let holds = match &expect {
                Expect::Anything => true,
                Expect::Absent => current.is_none(),
                Expect::Version(v) => current.as_ref() == Some(v),
            };
            if !holds {
                return Ok(Published::Conflict);
            }
            index.set(&name, &desc);
            Ok(Published::Done)
        });
        done.await
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        Ok(self.index("list tags").await?.tags(prefix))
    }

    async fn clock(&self) -> Result<Time> {
        self.entered.clock().await
    }
}

#[async_trait]
impl Flat for Layout {
    fn manifests_are_blobs(&self) -> bool {
        true
    }

    async fn standing(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.tags(prefix).await
    }
}

#[async_trait]
impl Untag for Layout {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        self.entered.writable("remove tag", tag)?;
        let name = tag.clone();
        self.update("remove tag", tag, move |index, _| Ok(index.remove(&name)))
            .await
    }
}

fn mark_key(name: &str) -> String {
    super::keys::mark(name).replace(super::keys::MARKS, &format!("{MARKS}/"))
}

#[async_trait]
impl Sweep for Layout {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        self.run("list", "blobs", Tree::list_blobs).await
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        let index = self.index("list").await?;
        let mut roots = index
            .roots("list")
            .map_err(|e| e.at(self.entered.name(), INDEX))?;
        roots.sort_unstable();
        roots.dedup();
        Ok(roots)
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        let key = mark_key(name);
        let read = self.run("read mark", name, move |t| {
            t.read("read mark", &key, MAX_MARK_BYTES)
        });
        Ok(read.await?.map(Bytes::from))
    }

    async fn marks(&self) -> Result<Vec<String>> {
        let files = self.run("list", "marks", |t| t.list("list", MARKS)).await?;
        let keys = files
            .into_iter()
            .map(|file| format!("{}{file}", super::keys::MARKS));
        Ok(marks_of(keys))
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.entered.writable("write mark", name)?;
        let key = mark_key(name);
        self.run("write mark", name, move |t| {
            t.write("write mark", &key, &bytes)
        })
        .await
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.entered.writable("remove mark", name)?;
        let key = mark_key(name);
        self.run("remove mark", name, move |t| {
            t.remove("remove mark", &key).map(drop)
        })
        .await
    }

    /// Blobs that an entry of the index needs, through manifests and indexes, are kept in any case: other tools write here that
    /// do not know our marks.
    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        self.entered.writable("remove", "blobs")?;
        let digests = digests.to_vec();
        // Under both locks, so that no name appears meanwhile.
        self.update("remove", "blobs", move |index, tree| {
            let needed = reachable(tree, index)?;
            let (mut count, mut bytes) = (0, 0);
            for digest in digests.iter().filter(|d| !needed.contains(d)) {
                if let Some(size) = tree.remove_blob(digest, unless_newer_than)? {
                    index.forget(digest);
                    count += 1;
                    bytes += size;
                }
            }
            Ok((count, bytes))
        })
        .await
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        self.entered.writable("put", &desc.digest)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.run("put", &desc.digest.to_string(), move |t| {
            t.replace_blob(&want, &body, &stop)
        })
        .await
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        self.entered.writable("renew", digest)?;
        let d = *digest;
        self.run("renew", &digest.to_string(), move |t| t.renew_blob(&d))
            .await
    }

    /// Excludes other cachectl processes, but not BuildKit. As for the disk store, check again under the guard.
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.entered.writable("lock", "")?;
        let guard = self.entered.alone().await?;
        Ok(Some(Box::new(guard)))
    }
}

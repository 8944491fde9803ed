//! The disk store: the tree of [`super::keys`] in a folder, for any number of processes at once.
//!
//! What holds it together: a name appears when its bytes are durable (blobs, then the manifest's record, then the
//! tag); a tag is compared and renamed under its lock; users hold `meta/gc.lock` shared and a sweep holds it alone, so
//! nothing that a user has seen or written goes away while its store is open.
//!
//! A tag that is damaged, or whose manifest is, is `Corrupt` to readers and absent to writers: the next export heals it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BlobStore, Body, ByteStream, Expect, Pointer, Published, Put, Records, Resolved, StoredBlob,
    Sweep, TagStore, Untag, Version,
    error::{Error, ErrorKind, Result},
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
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    fs,
};

/// Largest mark that is read.
const MAX_MARK_BYTES: u64 = 1 << 30;

/// A store in a folder.
#[derive(Debug, Clone)]
pub struct Disk {
    pub(super) entered: Entered,
    pub(super) files: Files,
}

/// The blocking part.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) tree: Tree,
    repo: Repo,
}

impl Disk {
    /// Opens the store at `root` for one repository of it, making the folder where it is missing.
    ///
    /// A folder that we may only read is opened read-only. Left-overs of dead processes go if nobody else is inside.
    ///
    /// # Errors
    /// `NoSuchStore` if it is not there and may not be made; `Timeout` if a sweep runs for longer than `lock_wait`.
    pub async fn open(root: &Path, repo: Repo, settings: &Settings) -> Result<Self> {
        let tree = Tree::new(root, keys::UPLOADS.trim_end_matches('/')).private(settings.private);
        let (tags, manifests) = (keys::tags_prefix(&repo), keys::manifests_prefix(&repo));
        let folders = ["blobs/sha256", keys::MARKS, keys::LOCKS, &tags, &manifests];
        let name = format!("disk:{}", root.display());
        let entered = Entered::open(&tree, name, keys::GC_LOCK, &folders, settings).await?;
        Ok(Self {
            entered,
            files: Files { tree, repo },
        })
    }

    /// Where spools should be written: on the same file system, swept with the store's own left-overs. `None` if nothing can be written.
    pub fn spool_dir(&self) -> Option<PathBuf> {
        self.entered.spool_dir()
    }

    /// Says whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.spool_dir().is_none()
    }

    /// The same store, with the tags of another repository.
    #[must_use]
    pub fn in_repo(&self, repo: Repo) -> Self {
        Self {
            entered: self.entered.clone(),
            files: Files {
                tree: self.files.tree.clone(),
                repo,
            },
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl std::fmt::Display + Sync + ?Sized),
        work: impl FnOnce(&Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = self.files.clone();
        self.entered.run(op, key, move || work(&files)).await
    }

    /// Takes the lock of a tag.
    async fn lock_tag(&self, op: &'static str, tag: &Tag) -> Result<fs::Lock> {
        let key = keys::tag_lock(&self.files.repo, tag);
        self.entered.lock(op, tag, &key).await
    }
}

impl Files {
    fn pointer(&self, op: &'static str, tag: &Tag) -> Result<Option<Pointer>> {
        let key = keys::tag(&self.repo, tag);
        let Some(bytes) = self.tree.read(op, &key, record::MAX_BYTES)? else {
            return Ok(None);
        };
        let tagged: record::Tagged = record::decode(op, &bytes)?;
        let (folder, name) = key.rsplit_once('/').expect("the key of a tag has folders");
        let stat = self
            .tree
            .dir(folder)
            .and_then(|d| d.stat(name.as_bytes()))
            .map_err(|e| Error::io(op, e))?;
        Ok(Some(Pointer {
            digest: tagged.digest,
            media_type: tagged.media_type,
            size: tagged.size,
            modified: stat.map(|s| s.mtime),
            manifest: None,
        }))
    }

    fn resolve_tag(&self, op: &'static str, tag: &Tag) -> Result<Option<Resolved>> {
        let Some(at) = self.pointer(op, tag)? else {
            return Ok(None);
        };
        let manifest = self.tree.read_manifest(op, &at.digest, at.media_type)?;
        let Some(manifest) = manifest else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                op,
                format!(
                    "it points at {}, which is gone; export again to repair it",
                    at.digest
                ),
            ));
        };
        Ok(Some(Resolved {
            version: Some(version(&manifest.digest)),
            manifest,
            modified: at.modified,
        }))
    }

    fn resolve_digest(&self, digest: &Digest) -> Result<Option<Resolved>> {
        let key = keys::manifest(&self.repo, digest);
        let Some(bytes) = self.tree.read("resolve", &key, record::MAX_BYTES)? else {
            return Ok(None);
        };
        let known: record::Manifested = record::decode("resolve", &bytes)?;
        let manifest = self
            .tree
            .read_manifest("resolve", digest, known.media_type)?;
        Ok(manifest.map(|manifest| Resolved {
            manifest,
            version: None,
            modified: None,
        }))
    }

    /// Manifest's bytes, then its records: no record names bytes that are not there.
    fn store_manifest(&self, manifest: &Manifest) -> Result<()> {
        self.tree.put_manifest(manifest)?;
        let desc = manifest.descriptor();
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
            self.tree.remove("remove", &keys::linked(&repo, digest))?;
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
        let mut damaged = false;
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
            let read = self.tree.read("list", &key, record::MAX_BYTES);
            let tagged = read.and_then(|bytes| {
                let bytes = bytes.map(|bytes| record::decode::<record::Tagged>("list", &bytes));
                bytes.transpose()
            });
            match tagged {
                Ok(tagged) => roots.extend(tagged.map(|t| t.digest)),
                Err(e) if e.is_unreadable() => {
                    record::warn_of_damaged_name(&key, &e);
                    damaged = true;
                }
                Err(e) => return Err(e.at("", &key)),
            }
        }
        if damaged {
            let manifests = format!("{}{repo}/manifests", keys::REPOSITORIES);
            for name in self.tree.list("list", &manifests)? {
                roots.extend(keys::parsed_manifest(&format!("{manifests}/{name}")));
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
        let (d, tree) = (*digest, self.files.tree.clone());
        let at_hand = || self.files.tree.blob_size_at_hand(digest);
        let work = move || tree.blob_size(&d);
        self.entered.look("stat", digest, at_hand, work).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let (want, wanted, tree) = (desc.clone(), range.clone(), self.files.tree.clone());
        let at_hand = || self.files.tree.blob_range_at_hand(desc, range);
        let work = move || tree.blob_range(&want, wanted);
        self.entered.look("get", &desc.digest, at_hand, work).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.entered.writable("put", &desc.digest)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.run("put", &desc.digest, move |i| {
            i.tree.put_blob(&want, &body, &stop)
        })
        .await
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

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let asked = tag.clone();
        self.run("resolve", tag, move |i| i.pointer("resolve", &asked))
            .await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        super::check_manifest(manifest).map_err(|e| e.at(self.entered.name(), manifest.digest))?;
        self.entered.writable("publish", &manifest.digest)?;
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
        self.entered.clock().await
    }
}

#[async_trait]
impl Untag for Disk {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        self.entered.writable("remove tag", tag)?;
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
impl Records for Disk {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let (at, tree) = (key.to_owned(), self.files.tree.clone());
        let at_hand = || self.files.tree.read_at_hand(key, limit);
        let work = move || tree.read("read record", &at, limit);
        let read = self.entered.look("read record", key, at_hand, work).await?;
        Ok(read.map(Bytes::from))
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.entered.writable("write record", key)?;
        let at = key.to_owned();
        self.run("write record", key, move |f| {
            f.tree.write("write record", &at, &bytes)
        })
        .await
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        self.entered.writable("remove record", key)?;
        let at = key.to_owned();
        self.run("remove record", key, move |f| {
            f.tree.remove("remove record", &at).map(drop)
        })
        .await
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        let at = prefix.to_owned();
        self.run("list records", prefix, move |f| {
            f.tree.list_files("list records", &at, usize::MAX)
        })
        .await
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        let at = prefix.to_owned();
        let listed = self.run("list records", prefix, move |f| {
            f.tree.list_files("list records", &at, 1)
        });
        Ok(listed.await?.pop().map(|l| l.key))
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        let names = self
            .run("list", "repositories", |f| f.repos("list"))
            .await?;
        let mut repos: Vec<Repo> = names.iter().filter_map(|n| Repo::unescape(n)).collect();
        repos.sort_unstable();
        Ok(repos)
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
        self.entered.writable("write mark", &name)?;
        let key = keys::mark(name);
        self.run("write mark", &name, move |i| {
            i.tree.write("write mark", &key, &bytes)
        })
        .await
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.entered.writable("remove mark", &name)?;
        let key = keys::mark(name);
        self.run("remove mark", &name, move |i| {
            i.tree.remove("remove mark", &key).map(drop)
        })
        .await
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        self.entered.writable("remove", &"blobs")?;
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

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        self.entered.writable("put", &desc.digest)?;
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let (want, body) = (desc.clone(), body.clone());
        self.run("put", &desc.digest, move |i| {
            i.tree.replace_blob(&want, &body, &stop)
        })
        .await
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        self.entered.writable("renew", digest)?;
        let d = *digest;
        self.run("renew", digest, move |i| i.tree.renew_blob(&d))
            .await
    }

    /// Our own shared lock is given up for it: reachability must be computed under the guard. One handle of the store
    /// must not be used for a sweep and for exports at once.
    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.entered.writable("lock", &"")?;
        let guard = self.entered.alone().await?;
        Ok(Some(Box::new(guard)))
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

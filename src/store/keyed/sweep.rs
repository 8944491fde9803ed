//! What prune needs: all blobs, all roots, marks, removal.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Condition, Detail, Keyed, SweptBlobs, marks_of};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    entry::Time,
    store::{
        Body, StoredBlob, Sweep,
        error::Result,
        keys::{self, Key},
        record,
    },
};

/// Small objects that are read concurrently.
const CONCURRENCY: usize = 16;
/// Blobs that are checked again and then removed in one batch: the shorter the time in between, the better.
const BATCH: usize = 500;
/// Longest mark that is read.
const MAX_MARK_BYTES: u64 = 1 << 30;

#[async_trait]
impl<O: SweptBlobs> Sweep for Keyed<O> {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        let blobs = self.objects.blobs().await;
        blobs.map_err(|e| e.at(self.objects.url(), "blobs"))
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        let roots = self.all_roots().await;
        let roots = roots.map_err(|e| e.at(self.objects.url(), "tags"))?;
        Ok(roots.into_iter().collect())
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        let key = keys::mark(name);
        let read = self.objects.read("read mark", &key, MAX_MARK_BYTES).await;
        let read = read.map_err(|e| e.at(self.objects.url(), name))?;
        Ok(read.map(|object| object.bytes))
    }

    async fn marks(&self) -> Result<Vec<String>> {
        let listed = self.objects.list("list marks", keys::MARKS, Detail::Keys);
        let listed = listed
            .await
            .map_err(|e| e.at(self.objects.url(), "marks"))?;
        Ok(marks_of(listed.into_iter().map(|listed| listed.key)))
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        let key = keys::mark(name);
        let written = self
            .objects
            .write("write mark", &key, bytes, Condition::None);
        written.await.map_err(|e| e.at(self.objects.url(), name))
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        let keys = [keys::mark(name)];
        let removed = self.objects.remove_all("remove mark", &keys).await;
        removed.map_err(|e| e.at(self.objects.url(), name))
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        let replaced = self.objects.replace(desc, body).await;
        replaced.map_err(|e| e.at(self.objects.url(), desc.digest))
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        let removed = self.remove_older(digests, unless_newer_than).await;
        removed.map_err(|e| e.at(self.objects.url(), "blobs"))
    }

    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        let aborted = self.objects.abandon_uploads(limit).await;
        aborted.map_err(|e| e.at(self.objects.url(), ""))
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        let renewed = self.objects.renew(digest).await;
        renewed.map_err(|e| e.at(self.objects.url(), digest))
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        let lock = self.objects.lock_alone().await;
        lock.map_err(|e| e.at(self.objects.url(), ""))
    }
}

impl<O: SweptBlobs> Keyed<O> {
    async fn all_roots(&self) -> Result<BTreeSet<Digest>> {
        let mut roots = BTreeSet::new();
        for name in self
            .objects
            .folders("list roots", keys::REPOSITORIES)
            .await?
        {
            let repo = format!("{}{name}/", keys::REPOSITORIES);
            self.roots_of(&repo, &mut roots).await?;
        }
        Ok(roots)
    }

    /// The digests that the tags and parts of one repository name. If a tag cannot be read, all of its manifests.
    async fn roots_of(&self, repo: &str, roots: &mut BTreeSet<Digest>) -> Result<()> {
        const OP: &str = "list roots";
        let parts = format!("{repo}parts/");
        let parts = self.objects.keys_below(OP, &parts).await?;
        roots.extend(parts.iter().filter_map(|key| match keys::parse(key)? {
            Key::Part(_, _, digest) => Some(digest),
            _ => None,
        }));
        let tags = self
            .objects
            .list(OP, &format!("{repo}tags/"), Detail::Keys)
            .await?;
        // Keys that are not ours are not names.
        let tags = tags
            .into_iter()
            .filter(|listed| keys::parse(&listed.key).is_some());
        let read = stream::iter(tags)
            .map(|listed| self.tagged(listed.key))
            .buffer_unordered(CONCURRENCY);
        let read: Vec<Tagged> = read.try_collect().await?;
        if read.iter().any(|tagged| matches!(tagged, Tagged::Damaged)) {
            let manifests = format!("{repo}manifests/");
            let manifests = self.objects.list(OP, &manifests, Detail::Keys).await?;
            let digests = manifests
                .iter()
                .filter_map(|o| keys::parsed_manifest(&o.key));
            roots.extend(digests);
        }
        roots.extend(read.into_iter().filter_map(|tagged| match tagged {
            Tagged::At(digest) => Some(digest),
            Tagged::Gone | Tagged::Damaged => None,
        }));
        Ok(())
    }

    async fn tagged(&self, key: String) -> Result<Tagged> {
        const OP: &str = "list roots";
        let found = self.objects.read(OP, &key, record::MAX_BYTES).await;
        let tagged = found.and_then(|found| {
            let found = found.map(|object| record::decode::<record::Tagged>(OP, &object.bytes));
            found.transpose()
        });
        match tagged {
            Ok(Some(tagged)) => Ok(Tagged::At(tagged.digest)),
            Ok(None) => Ok(Tagged::Gone),
            Err(e) if e.is_unreadable() => {
                record::warn_of_damaged_name(&key, &e);
                Ok(Tagged::Damaged)
            }
            Err(e) => Err(e.at("", &key)),
        }
    }

    async fn remove_older(&self, digests: &[Digest], limit: Time) -> Result<(u64, u64)> {
        if digests.is_empty() {
            return Ok((0, 0));
        }
        let records = self.objects.records_of(digests).await?;
        let (mut count, mut bytes) = (0, 0);
        for batch in digests.chunks(BATCH) {
            let old = self.objects.older(batch, limit).await?;
            let gone: HashSet<&Digest> = old.iter().map(|(digest, _)| digest).collect();
            // Records first: one without its blob would promise something that does not exist.
            let of_gone = records.iter().filter(|(digest, _)| gone.contains(digest));
            let keys: Vec<String> = of_gone.map(|(_, key)| key.clone()).collect();
            self.objects.remove_all("remove", &keys).await?;
            let removed = self.objects.remove_blobs(&old, limit).await?;
            count += removed.0;
            bytes += removed.1;
        }
        Ok((count, bytes))
    }
}

enum Tagged {
    At(Digest),
    Gone,
    Damaged,
}

//! A store in memory, the simplest implementation of what every store must do.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, Expect, Published, Put, Resolved, Result, StoredBlob,
        Sweep, TagStore, Untag, Version, check_body, check_manifest, check_range,
    },
};

/// Its name in messages.
const NAME: &str = "memory:";

/// Blobs and tags in maps; compares and swaps.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<Digest, (Bytes, Time)>,
    media_types: BTreeMap<Digest, String>,
    tags: BTreeMap<Tag, (Digest, Time)>,
    marks: BTreeMap<String, Bytes>,
    /// Seconds by which the store's clock is ahead of the node's.
    ahead_secs: i64,
    /// The store's clock is stopped.
    stopped: Option<Time>,
    /// The store does not report when a tag was written.
    tells_no_times: bool,
    /// Removed tags are still listed.
    deletes_no_tags: bool,
    /// The removed tags.
    emptied: BTreeSet<Tag>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the store's clock ahead of the node's by this many seconds; for tests of wrong clocks and of age.
    pub fn set_clock_ahead(&self, secs: i64) {
        self.state.lock().ahead_secs = secs;
    }

    /// Stops the store's clock; for tests of simultaneous events.
    pub fn stop_clock(&self, at: Time) {
        self.state.lock().stopped = Some(at);
    }

    /// From now on the store does not report when a tag was written, like a registry; for tests.
    pub fn tell_no_times(&self) {
        self.state.lock().tells_no_times = true;
    }

    /// From now on a removed tag is still listed, as in a registry that cannot delete tags; for tests.
    pub fn delete_no_tags(&self) {
        self.state.lock().deletes_no_tags = true;
    }

    /// Replaces the stored bytes of a blob, without any check: damage, for tests.
    pub fn damage(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        let mut state = self.state.lock();
        let now = state.now();
        state.blobs.insert(*digest, (bytes.into(), now));
    }

    /// Removes a blob even if it is needed: loss, for tests. Returns whether it existed.
    pub fn lose(&self, digest: &Digest) -> bool {
        self.state.lock().blobs.remove(digest).is_some()
    }

    /// Flips a bit of a stored blob: damage, for tests.
    pub fn flip(&self, digest: &Digest, at: usize) {
        let mut state = self.state.lock();
        if let Some((bytes, _)) = state.blobs.get_mut(digest) {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            *bytes = flipped.into();
        }
    }

    /// Digests of all packs (they end in their magic), the most recent one last; for tests.
    pub fn packs(&self) -> Vec<Digest> {
        let state = self.state.lock();
        let mut found: Vec<_> = state.blobs.iter().collect();
        found.sort_by_key(|(_, (_, at))| *at);
        let is_pack = |b: &Bytes| b.ends_with(b"cachectl");
        found
            .into_iter()
            .filter(|(_, (b, _))| is_pack(b))
            .map(|(d, _)| *d)
            .collect()
    }
}

impl State {
    fn now(&self) -> Time {
        let now = self.stopped.unwrap_or_else(Time::now);
        Time {
            secs: now.secs + self.ahead_secs,
            ..now
        }
    }

    fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        let (bytes, _) = self.blobs.get(digest)?;
        Some(Manifest {
            media_type: self.media_types.get(digest)?.clone(),
            bytes: bytes.clone(),
            digest: *digest,
        })
    }
}

#[async_trait]
impl BlobStore for Memory {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let state = self.state.lock();
        Ok(state.blobs.get(digest).map(|(b, _)| b.len() as u64))
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        check_range("get", desc, &range).map_err(|e| e.at(NAME, desc.digest))?;
        let Some((bytes, _)) = self.state.lock().blobs.get(&desc.digest).cloned() else {
            return Ok(None);
        };
        if bytes.len() as u64 != desc.size {
            return Err(Error::other_size(bytes.len() as u64, desc.size).at(NAME, desc.digest));
        }
        Ok(Some(Body::Bytes(bytes).stream(range)))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        check_body("put", desc, body)
            .await
            .map_err(|e| e.at(NAME, desc.digest))?;
        let bytes = body.read(0..desc.size).await?;
        let mut state = self.state.lock();
        if state
            .blobs
            .get(&desc.digest)
            .is_some_and(|(b, _)| b.len() == bytes.len())
        {
            return Ok(Put::Existed);
        }
        let now = state.now();
        state.blobs.insert(desc.digest, (bytes, now));
        Ok(Put::Stored)
    }
}

#[async_trait]
impl TagStore for Memory {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        let state = self.state.lock();
        let (digest, written) = match reference {
            Reference::Digest(d) => (*d, None),
            Reference::Tag(tag) => match state.tags.get(tag) {
                Some((d, at)) => (*d, Some(*at)),
                None => return Ok(None),
            },
        };
        let corrupt = |m: &str| Error::corrupt("resolve", m).at(NAME, reference);
        match state.manifest(&digest) {
            Some(manifest) if digest.matches(&manifest.bytes) => Ok(Some(Resolved {
                manifest,
                version: written.map(|_| Version(digest.to_string())),
                modified: written.filter(|_| !state.tells_no_times),
            })),
            Some(_) => Err(corrupt("the manifest's bytes are damaged")),
            None if written.is_some() => Err(corrupt("the manifest it points at is gone")),
            None => Ok(None),
        }
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        check_manifest(manifest).map_err(|e| e.at(NAME, manifest.digest))?;
        let mut state = self.state.lock();
        let now = state.now();
        state
            .blobs
            .insert(manifest.digest, (manifest.bytes.clone(), now));
        state
            .media_types
            .insert(manifest.digest, manifest.media_type.clone());
        let Some(tag) = tag else {
            return Ok(Published::Done);
        };
        // A name whose manifest is damaged or missing is absent to writers: the next export repairs it.
        let current = state.tags.get(tag).and_then(|(d, _)| state.manifest(d));
        let current = current
            .filter(|m| m.digest.matches(&m.bytes))
            .map(|m| m.digest.to_string());
        let holds = match expect {
            Expect::Anything => true,
            Expect::Absent => current.is_none(),
            Expect::Version(Version(v)) => current.as_ref() == Some(v),
        };
        if !holds {
            return Ok(Published::Conflict);
        }
        state.emptied.remove(tag);
        state.tags.insert(tag.clone(), (manifest.digest, now));
        Ok(Published::Done)
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        let state = self.state.lock();
        let tags = state.tags.keys().chain(&state.emptied);
        let tags = tags.filter(|t| t.as_str().starts_with(prefix));
        let tags: BTreeSet<&Tag> = tags.collect();
        Ok(tags.into_iter().cloned().collect())
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        let state = self.state.lock();
        let tags = state.tags.iter();
        let tags = tags.filter(|(tag, _)| tag.as_str().starts_with(prefix));
        let told = |at: &Time| Some(*at).filter(|_| !state.tells_no_times);
        Ok(tags.map(|(tag, (_, at))| (tag.clone(), told(at))).collect())
    }

    async fn clock(&self) -> Result<Time> {
        Ok(self.state.lock().now())
    }
}

#[async_trait]
impl Untag for Memory {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        let mut state = self.state.lock();
        let was_there = state.tags.remove(tag).is_some();
        if was_there && state.deletes_no_tags {
            state.emptied.insert(tag.clone());
        }
        Ok(was_there)
    }
}

#[async_trait]
impl Sweep for Memory {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        let state = self.state.lock();
        let blobs = state
            .blobs
            .iter()
            .map(|(digest, (bytes, modified))| StoredBlob {
                digest: *digest,
                size: bytes.len() as u64,
                modified: *modified,
            });
        Ok(blobs.collect())
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        let mut roots: Vec<_> = self.state.lock().tags.values().map(|(d, _)| *d).collect();
        roots.sort_unstable();
        roots.dedup();
        Ok(roots)
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.state.lock().marks.get(name).cloned())
    }

    async fn marks(&self) -> Result<Vec<String>> {
        Ok(self.state.lock().marks.keys().cloned().collect())
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.state.lock().marks.insert(name.to_owned(), bytes);
        Ok(())
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.state.lock().marks.remove(name);
        Ok(())
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        check_body("put", desc, body)
            .await
            .map_err(|e| e.at(NAME, desc.digest))?;
        let bytes = body.read(0..desc.size).await?;
        let mut state = self.state.lock();
        let now = state.now();
        state.blobs.insert(desc.digest, (bytes, now));
        Ok(())
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        let mut state = self.state.lock();
        let (mut count, mut size) = (0, 0);
        for digest in digests {
            let old = state
                .blobs
                .get(digest)
                .is_some_and(|(_, at)| *at <= unless_newer_than);
            if old && let Some((bytes, _)) = state.blobs.remove(digest) {
                state.media_types.remove(digest);
                count += 1;
                size += bytes.len() as u64;
            }
        }
        Ok((count, size))
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        let now = self.clock().await?;
        let mut state = self.state.lock();
        let blob = state.blobs.get_mut(digest);
        Ok(blob.map(|(_, modified)| *modified = now).is_some())
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Meet, testing::conformance};

    #[tokio::test]
    async fn memory_is_a_store() {
        conformance::run_all(async || {
            let store = Arc::new(Memory::new());
            conformance::Subject {
                store: store.clone(),
                meet: Meet::CompareAndSwap,
                untag: Some(store.clone()),
                sweep: Some(store),
                spool_dir: None,
                keep: Box::new(()),
            }
        })
        .await;
    }
}

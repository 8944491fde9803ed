//! The files that make acknowledgements survive a kill: they record what the remote does not have yet.
//!
//! ```text
//! lock                          held while a daemon works here
//! unsent/<alg>-<hex>.<size>     empty: this blob in front is not known to be in the remote
//! entries/<16 hex>.json         super::entry::Entry: an update that is queued for the remote, in this order
//! aside/…                       what could not be read back or sent, for an operator to examine
//! temp/                         unfinished files
//! ```
//!
//! A mark has no content, so that only its name must be durable; the size in the name saves a `stat` of the blob.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    digest::Digest,
    entry::Time,
    fs,
    store::{
        error::{Error, ErrorKind, Result},
        keys,
        tree::{
            Tree,
            gate::{self, Entry},
        },
    },
    task,
};

const UNSENT: &str = "unsent";
const ENTRIES: &str = "entries";
const ASIDE: &str = "aside";
/// Longest wait for a daemon that is about to exit.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Longest entry that is read, in bytes.
const MAX_ENTRY_BYTES: u64 = 64 << 10;

/// A marked blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// When it was marked.
    pub(super) at: Time,
}

/// The folder.
#[derive(Clone)]
pub(super) struct Ledger {
    tree: Tree,
    aside: Arc<AtomicU64>,
}

fn io(e: fs::Error) -> Error {
    Error::io("keep", e)
}

fn mark_of(digest: &Digest, size: u64) -> String {
    format!("{}.{size}", keys::flat(digest))
}

fn parse_mark(name: &str) -> Option<(Digest, u64)> {
    let (digest, size) = name.split_once('.')?;
    Some((keys::unflat(digest)?, size.parse().ok()?))
}

fn entry_of(seq: u64) -> String {
    format!("{ENTRIES}/{seq:016x}.json")
}

fn parse_entry(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".json").filter(|h| h.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

impl Ledger {
    /// Opens the folder and locks out other daemons while the lock lives.
    ///
    /// # Errors
    /// `Conflict` if another daemon uses it.
    pub(super) async fn open(dir: &Path) -> Result<(Self, fs::Lock)> {
        let tree = Tree::new(dir, "temp");
        let made = tree.clone();
        task::blocking(move || {
            made.make(&[UNSENT.into(), ENTRIES.into(), ASIDE.into()])
                .map_err(io)
        })
        .await?;
        let lock = gate::poll(
            &tree,
            "lock",
            fs::LockMode::Exclusive,
            Entry::Writer,
            LOCK_WAIT,
        )
        .await;
        let Some(lock) = lock.map_err(io)? else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "open",
                format!("another daemon works in `{}`", dir.display()),
            ));
        };
        let ledger = Self {
            tree,
            aside: Arc::default(),
        };
        let count = ledger
            .run(|tree| {
                tree.remove_stale()?;
                Ok(tree.list("open", ASIDE)?.len())
            })
            .await?;
        ledger.aside.store(count as u64, Relaxed);
        Ok((ledger, lock))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tree = self.tree.clone();
        task::blocking(move || work(&tree)).await
    }

    /// Marks a blob; durable when it returns.
    pub(super) async fn mark(&self, digest: &Digest, size: u64) -> Result<()> {
        let name = mark_of(digest, size);
        self.run(move |tree| {
            let dir = tree.dir(UNSENT).map_err(io)?;
            match dir.create_file(name.as_bytes(), 0o600) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io(e)),
                _ => {}
            }
            dir.sync().map_err(io)
        })
        .await
    }

    /// Removes a mark. A power failure may bring it back, which only costs a request to the remote.
    pub(super) async fn unmark(&self, digest: &Digest, size: u64) -> Result<()> {
        let name = mark_of(digest, size);
        self.run(move |tree| {
            let dir = tree.dir(UNSENT).map_err(io)?;
            dir.remove_file(name.as_bytes()).map_err(io)
        })
        .await
    }

    /// All marks, the oldest first; other files are set aside.
    pub(super) async fn marks(&self) -> Result<Vec<Marked>> {
        let listed = self
            .run(|tree| tree.list_files("open", &format!("{UNSENT}/"), usize::MAX))
            .await?;
        let mut marks = Vec::new();
        for file in listed {
            let name = file.key.strip_prefix(UNSENT).unwrap_or_default();
            match parse_mark(name.trim_start_matches('/')) {
                Some((digest, size)) => marks.push(Marked {
                    digest,
                    size,
                    at: file.modified.unwrap_or_default(),
                }),
                None => self.set_aside(&file.key, "it is no mark of a blob").await,
            }
        }
        marks.sort_by_key(|m| m.at);
        Ok(marks)
    }

    /// Sets the mark of a blob aside.
    pub(super) async fn set_mark_aside(&self, digest: &Digest, size: u64, why: &str) {
        let key = format!("{UNSENT}/{}", mark_of(digest, size));
        self.set_aside(&key, why).await;
    }

    /// Writes an entry, replacing the one with this number; durable when it returns.
    pub(super) async fn write(&self, seq: u64, bytes: Vec<u8>) -> Result<()> {
        self.run(move |tree| tree.write("keep", &entry_of(seq), &bytes))
            .await
    }

    /// Removes an entry durably.
    pub(super) async fn remove(&self, seq: u64) -> Result<()> {
        self.run(move |tree| tree.remove("keep", &entry_of(seq)).map(drop))
            .await
    }

    /// The numbers of all entries, in order; other files are set aside.
    pub(super) async fn entries(&self) -> Result<Vec<u64>> {
        let names = self.run(|tree| tree.list("open", ENTRIES)).await?;
        let mut seqs = Vec::new();
        for name in names {
            if let Some(seq) = parse_entry(&name) {
                seqs.push(seq);
            } else {
                let key = format!("{ENTRIES}/{name}");
                self.set_aside(&key, "it is no entry of the queue").await;
            }
        }
        seqs.sort_unstable();
        Ok(seqs)
    }

    /// The bytes of an entry.
    pub(super) async fn read(&self, seq: u64) -> Result<Vec<u8>> {
        let read = self
            .run(move |tree| tree.read("open", &entry_of(seq), MAX_ENTRY_BYTES))
            .await?;
        read.ok_or_else(|| Error::new(ErrorKind::Corrupt, "open", "it is gone"))
    }

    /// Sets an entry aside.
    pub(super) async fn set_entry_aside(&self, seq: u64, why: &str) {
        self.set_aside(&entry_of(seq), why).await;
    }

    /// Moves a file out of the way, for an operator to examine.
    async fn set_aside(&self, key: &str, why: &str) {
        tracing::error!(file = %self.tree.path(key).display(), why, "Set aside: it was acknowledged and cannot be sent");
        self.aside.fetch_add(1, Relaxed);
        let from = key.to_owned();
        let moved = self
            .run(move |tree| {
                let (folder, name) = from.rsplit_once('/').unwrap_or(("", &from));
                let to = format!("{name}.{:08x}", fastrand::u32(..));
                let dir = tree.dir(folder).map_err(io)?;
                let aside = tree.dir(ASIDE).map_err(io)?;
                dir.rename(name.as_bytes(), &aside, to.as_bytes())
                    .map_err(io)
            })
            .await;
        if let Err(error) = moved {
            tracing::warn!(%error, "It stays where it is");
        }
    }

    /// How many files are set aside.
    pub(super) fn aside(&self) -> u64 {
        self.aside.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    #[tokio::test]
    async fn marks_and_entries_are_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, lock) = Ledger::open(dir.path()).await.unwrap();
        ledger.mark(&d(1), 10).await.unwrap();
        ledger.mark(&d(1), 10).await.unwrap();
        ledger.mark(&Digest::Sha512([3; 64]), 0).await.unwrap();
        for seq in [300, 2, 17] {
            ledger.write(seq, vec![seq as u8]).await.unwrap();
        }
        ledger.remove(17).await.unwrap();
        drop(lock);
        let (ledger, _lock) = Ledger::open(dir.path()).await.unwrap();
        let mut marks = ledger.marks().await.unwrap();
        marks.sort_by_key(|m| m.size);
        assert_eq!((marks[1].digest, marks[1].size), (d(1), 10));
        assert_eq!(marks.len(), 2);
        ledger.unmark(&d(1), 10).await.unwrap();
        assert_eq!(ledger.marks().await.unwrap().len(), 1);
        assert_eq!(ledger.entries().await.unwrap(), [2, 300]);
        assert_eq!(ledger.read(2).await.unwrap(), [2]);
        assert_eq!(ledger.aside(), 0);
    }

    #[tokio::test]
    async fn what_is_not_ours_is_set_aside_and_stays_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, lock) = Ledger::open(dir.path()).await.unwrap();
        std::fs::write(dir.path().join("unsent/x"), "").unwrap();
        std::fs::write(dir.path().join("entries/x.json"), "").unwrap();
        assert!(ledger.marks().await.unwrap().is_empty());
        assert!(ledger.entries().await.unwrap().is_empty());
        assert_eq!(ledger.aside(), 2);
        drop(lock);
        let (ledger, _lock) = Ledger::open(dir.path()).await.unwrap();
        assert_eq!(ledger.aside(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn two_daemons_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Ledger::open(dir.path()).await.unwrap();
        let second = Ledger::open(dir.path()).await.err().unwrap();
        assert_eq!(second.kind, ErrorKind::Conflict);
    }
}

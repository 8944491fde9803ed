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
        error::{Error, Result},
        keys,
        records::Listed,
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
/// Highest number of an entry that is read back: later entries need higher ones.
const MAX_SEQ: u64 = u64::MAX / 2;
/// Longest entry that is read, in bytes.
const MAX_ENTRY_BYTES: u64 = 64 << 10;

/// A file of the ledger: something that was acknowledged and that the remote does not have yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    /// The mark of a blob in front.
    Mark { digest: Digest, size: u64 },
    /// The entry with this number.
    Entry(u64),
}

impl File {
    fn key(&self) -> String {
        match self {
            Self::Mark { digest, size } => format!("{UNSENT}/{}.{size}", keys::flat(digest)),
            Self::Entry(seq) => format!("{ENTRIES}/{seq:016x}.json"),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let (folder, name) = key.split_once('/')?;
        let file = if folder == ENTRIES {
            let seq = u64::from_str_radix(name.strip_suffix(".json")?, 16).ok()?;
            (seq <= MAX_SEQ).then_some(Self::Entry(seq))?
        } else {
            let (digest, size) = name.split_once('.')?;
            Self::Mark {
                digest: keys::unflat(digest)?,
                size: size.parse().ok()?,
            }
        };
        // Other spellings are not ours.
        (file.key() == key).then_some(file)
    }

    fn seq(&self) -> Option<u64> {
        match self {
            Self::Mark { .. } => None,
            Self::Entry(seq) => Some(*seq),
        }
    }
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

fn folder_of<'k>(tree: &Tree, key: &'k str) -> Result<(fs::Dir, &'k str)> {
    let (folder, name) = key.split_once('/').unwrap_or(("", key));
    Ok((tree.dir(folder).map_err(io)?, name))
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
            return Err(Error::conflict(
                "open",
                format!("another daemon uses `{}`", dir.display()),
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

    /// Writes a file, replacing an existing one; durable when it returns.
    pub(super) async fn write(&self, file: File, bytes: Vec<u8>) -> Result<()> {
        let key = file.key();
        self.run(move |tree| {
            if !bytes.is_empty() {
                return tree.write("keep", &key, &bytes);
            }
            // Only its name must be durable.
            let (dir, name) = folder_of(tree, &key)?;
            match dir.create_file(name.as_bytes(), 0o600) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io(e)),
                _ => {}
            }
            dir.sync().map_err(io)
        })
        .await
    }

    /// Removes a file: an entry durably, but a power failure may bring a mark back, which only costs a request to the remote.
    pub(super) async fn remove(&self, file: File) -> Result<()> {
        let key = file.key();
        self.run(move |tree| match file {
            File::Entry(_) => tree.remove("keep", &key).map(drop),
            File::Mark { .. } => {
                let (dir, name) = folder_of(tree, &key)?;
                dir.remove_file(name.as_bytes()).map_err(io)
            }
        })
        .await
    }

    /// All files and the times at which they were written: marks, the oldest first, then entries in their order. Unknown files
    /// are set aside.
    pub(super) async fn files(&self) -> Result<Vec<(File, Time)>> {
        let listed = self
            .run(|tree| {
                let list = |folder| tree.list_files("open", &format!("{folder}/"), usize::MAX);
                Ok([list(UNSENT)?, list(ENTRIES)?].concat())
            })
            .await?;
        let mut files = Vec::new();
        for Listed { key, modified, .. } in listed {
            if let Some(file) = File::parse(&key) {
                files.push((file, modified.unwrap_or_default()));
            } else {
                let why = "it is neither a mark of a blob nor an entry of the queue";
                self.set_key_aside(key, why).await;
            }
        }
        files.sort_by_key(|(file, at)| (file.seq(), *at));
        Ok(files)
    }

    /// The bytes of a file.
    pub(super) async fn read(&self, file: File) -> Result<Vec<u8>> {
        let read = self
            .run(move |tree| tree.read("open", &file.key(), MAX_ENTRY_BYTES))
            .await?;
        read.ok_or_else(|| Error::corrupt("open", "it no longer exists"))
    }

    /// Moves a file out of the way, for an operator to examine.
    pub(super) async fn set_aside(&self, file: File, why: &str) {
        self.set_key_aside(file.key(), why).await;
    }

    async fn set_key_aside(&self, key: String, why: &str) {
        tracing::error!(file = %self.tree.path(&key).display(), why, "Set aside: it was acknowledged and cannot be sent");
        self.aside.fetch_add(1, Relaxed);
        let moved = self
            .run(move |tree| {
                let (dir, name) = folder_of(tree, &key)?;
                let to = format!("{name}.{:08x}", fastrand::u32(..));
                let aside = tree.dir(ASIDE).map_err(io)?;
                dir.rename(name.as_bytes(), &aside, to.as_bytes())
                    .map_err(io)
            })
            .await;
        if let Err(error) = moved {
            tracing::warn!(%error, "It could not be moved, and stays where it is");
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
    use crate::store::ErrorKind;

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    async fn files(ledger: &Ledger) -> Vec<File> {
        let files = ledger.files().await.unwrap().into_iter();
        files.map(|(file, _)| file).collect()
    }

    #[tokio::test]
    async fn marks_and_entries_are_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, lock) = Ledger::open(dir.path()).await.unwrap();
        let mark = |digest, size| File::Mark { digest, size };
        let marks = [mark(d(1), 10), mark(Digest::Sha512([3; 64]), 0)];
        for file in [marks[0], marks[0], marks[1]] {
            ledger.write(file, Vec::new()).await.unwrap();
        }
        for (file, secs) in marks.iter().zip([20, 10]) {
            let path = std::fs::File::open(dir.path().join(file.key())).unwrap();
            fs::set_file_mtime(&path, Time { secs, nanos: 0 }).unwrap();
        }
        for seq in [300, 2, 17] {
            let bytes = vec![seq as u8];
            ledger.write(File::Entry(seq), bytes).await.unwrap();
        }
        ledger.remove(File::Entry(17)).await.unwrap();
        drop(lock);
        let (ledger, _lock) = Ledger::open(dir.path()).await.unwrap();
        let entries = [File::Entry(2), File::Entry(300)];
        assert_eq!(
            files(&ledger).await,
            [marks[1], marks[0], entries[0], entries[1]]
        );
        ledger.remove(marks[0]).await.unwrap();
        assert_eq!(files(&ledger).await, [marks[1], entries[0], entries[1]]);
        assert_eq!(ledger.read(entries[0]).await.unwrap(), [2]);
        assert_eq!(ledger.aside(), 0);
    }

    #[test]
    fn files_are_named_as_ever() {
        let hex = "ab".repeat(32);
        for (key, file) in [
            (
                format!("unsent/sha256-{hex}.17"),
                File::Mark {
                    digest: format!("sha256:{hex}").parse().unwrap(),
                    size: 17,
                },
            ),
            ("entries/000000000000012c.json".to_owned(), File::Entry(300)),
        ] {
            assert_eq!(file.key(), key);
            assert_eq!(File::parse(&key), Some(file));
        }
    }

    #[tokio::test]
    async fn what_is_not_ours_is_set_aside_and_stays_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, lock) = Ledger::open(dir.path()).await.unwrap();
        std::fs::write(dir.path().join("unsent/x"), "").unwrap();
        for name in ["x", "+00000000000000f", "ffffffffffffffff"] {
            let path = dir.path().join(format!("entries/{name}.json"));
            std::fs::write(path, "").unwrap();
        }
        assert!(ledger.files().await.unwrap().is_empty());
        assert_eq!(ledger.aside(), 4);
        drop(lock);
        let (ledger, _lock) = Ledger::open(dir.path()).await.unwrap();
        assert!(ledger.files().await.unwrap().is_empty());
        assert_eq!(ledger.aside(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn two_daemons_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Ledger::open(dir.path()).await.unwrap();
        let second = Ledger::open(dir.path()).await.err().unwrap();
        assert_eq!(second.kind, ErrorKind::Conflict);
    }
}

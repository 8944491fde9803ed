//! A tree opened by a store: its gate is held, blocking work runs on a thread, errors get the store's name.

use std::{
    fmt::Display,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Tree, folders as store_folders,
    gate::{self, Alone, Gate},
};
use crate::{
    entry::Time,
    fs::{self, Cached},
    store::error::{Error, ErrorKind, Result},
    task,
};

/// Settings for opening a store in a folder.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nothing is created or changed, not even a lock file.
    pub read_only: bool,
    /// A new folder is accessible to this user only; otherwise as the umask says. Everything created in it follows its
    /// permission bits.
    pub private: bool,
    /// Maximum wait for other processes' locks: a sweep's, a tag's.
    pub lock_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read_only: false,
            private: false,
            lock_wait: Duration::from_secs(30),
        }
    }
}

/// Set when the future that waits for the work is dropped.
pub(in crate::store) struct StopOnDrop(pub(in crate::store) Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A tree with its gate held; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct Entered(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tree: Tree,
    name: String,
    gate: Arc<Gate>,
    /// Why nothing can be written; `None` if it can.
    read_only: Option<String>,
    lock_wait: Duration,
}

impl Entered {
    /// Creates the tree with `folders`, if permitted, and enters it by the lock at `gate_key`.
    pub(in crate::store) async fn open(
        tree: &Tree,
        name: String,
        gate_key: &str,
        folders: &[&str],
        settings: &Settings,
    ) -> Result<Self> {
        let entered = Self::enter(tree, &name, gate_key, folders, settings).await;
        entered.map_err(|e| e.at(&name, ""))
    }

    async fn enter(
        tree: &Tree,
        name: &str,
        gate_key: &str,
        folders: &[&str],
        settings: &Settings,
    ) -> Result<Self> {
        let read_only = find_out(tree, folders, settings).await?;
        let entry = match read_only {
            Some(_) => gate::Entry::Reader,
            None => gate::Entry::Writer,
        };
        let stale = tree.clone();
        let clean = move || match stale.remove_stale() {
            Ok(0) => {}
            Ok(files) => tracing::debug!(files, "Removed leftovers of dead processes"),
            Err(error) => tracing::warn!(%error, "Could not remove leftovers of dead processes"),
        };
        let gate = Gate::enter(tree.clone(), gate_key, entry, settings.lock_wait, clean).await?;
        Ok(Self(Arc::new(Inner {
            tree: tree.clone(),
            name: name.to_owned(),
            gate,
            read_only,
            lock_wait: settings.lock_wait,
        })))
    }

    /// The store's URL, for messages.
    pub(in crate::store) fn name(&self) -> &str {
        &self.0.name
    }

    /// Where spools should be written; `None` if nothing can be written.
    pub(in crate::store) fn spool_dir(&self) -> Option<PathBuf> {
        let writable = self.0.read_only.is_none();
        writable.then(|| self.0.tree.temp_dir())
    }

    /// The clock of the file system, which determines the times of tags: it may differ from a node's own clock, which may be
    /// wrong. The node's clock if nothing can be written.
    pub(in crate::store) async fn clock(&self) -> Result<Time> {
        if self.0.read_only.is_some() {
            return Ok(Time::now());
        }
        let tree = self.0.tree.clone();
        let told = self.run("read the clock", "", move || {
            let file = fs::Dir::open(tree.root()).and_then(|d| d.nameless_file());
            let stat = file.and_then(|f| {
                fs::stat_file(&f).map_err(|e| fs::Error::new("stat", tree.root(), e))
            });
            Ok(stat.map(|s| s.ctime))
        });
        // File systems without unnamed files, and full ones.
        Ok(told.await?.unwrap_or_else(|error| {
            tracing::debug!(%error, "The file system does not report its time; using this node's clock");
            Time::now()
        }))
    }

    /// Runs blocking `work` inside the gate.
    pub(in crate::store) async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl Display + Sync + ?Sized),
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = match self.0.gate.be_inside(op).await {
            Ok(()) => task::blocking(work).await,
            Err(e) => Err(e),
        };
        done.map_err(|e| e.at(&self.0.name, key))
    }

    /// Looks up something that may be `at_hand`: only if that is unknown, a thread is used for blocking `work`.
    pub(in crate::store) async fn look<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &(impl Display + Sync + ?Sized),
        at_hand: impl FnOnce() -> Cached<T> + Send,
        work: impl FnOnce() -> Result<Option<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        let done = match self.0.gate.be_inside(op).await {
            Ok(()) => match at_hand() {
                Cached::There(found) => Ok(Some(found)),
                Cached::Missing => Ok(None),
                Cached::Unknown => task::blocking(work).await,
            },
            Err(e) => Err(e),
        };
        done.map_err(|e| e.at(&self.0.name, key))
    }

    /// Refuses changes in a read-only store.
    pub(in crate::store) fn writable(
        &self,
        op: &'static str,
        key: &(impl Display + ?Sized),
    ) -> Result<()> {
        match &self.0.read_only {
            None => Ok(()),
            Some(why) => Err(Error::denied(op, why).at(&self.0.name, key)),
        }
    }

    /// Takes the lock with the file at `lock_key`.
    ///
    /// # Errors
    /// `Timeout` if another holder keeps it.
    pub(in crate::store) async fn lock(
        &self,
        op: &'static str,
        key: &(impl Display + Sync + ?Sized),
        lock_key: &str,
    ) -> Result<fs::Lock> {
        let (tree, budget) = (&self.0.tree, self.0.lock_wait);
        let path = tree.path(lock_key);
        let mode = fs::LockMode::Exclusive;
        match gate::poll(tree, lock_key, mode, gate::Entry::Writer, budget).await {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(Error::timeout(
                op,
                format!(
                    "another process has held the lock `{}` for over {}s",
                    path.display(),
                    budget.as_secs()
                ),
            )),
            Err(e) => Err(Error::io(op, e)),
        }
        .map_err(|e| e.at(&self.0.name, key))
    }

    /// Excludes everybody else while the guard lives.
    pub(in crate::store) async fn alone(&self) -> Result<Alone> {
        let alone = self.0.gate.alone().await;
        alone.map_err(|e| e.at(&self.0.name, ""))
    }
}

/// Creates the tree; `Some` says why it is read-only.
async fn find_out(tree: &Tree, folders: &[&str], settings: &Settings) -> Result<Option<String>> {
    let read_only = settings.read_only;
    let tree = tree.clone();
    let plain = |f: &&str| f.trim_end_matches('/').to_owned();
    let folders: Vec<String> = folders.iter().map(plain).collect();
    task::blocking(move || {
        let why = if read_only {
            Some("it was opened read-only".to_owned())
        } else {
            make(&tree, &folders)?
        };
        store_folders::warn_of_owner(tree.root());
        let Some(why) = why else {
            return Ok(None);
        };
        match fs::Dir::open_if_there(tree.root()) {
            Ok(Some(_)) => Ok(Some(why)),
            Ok(None) => Err(Error::new(
                ErrorKind::NoSuchStore,
                "open",
                format!("the folder does not exist ({why})"),
            )),
            Err(e) => Err(Error::io("open", e)),
        }
    })
    .await
}

fn make(tree: &Tree, folders: &[String]) -> Result<Option<String>> {
    // Creating and removing a file detects a folder that only looks writable (read-only mount, other owner).
    let made = tree
        .make(folders)
        .map_err(|e| Error::io("open", e))
        .and_then(|()| tree.temp("open").map(drop));
    match made {
        Ok(()) => Ok(None),
        Err(e) if e.kind == ErrorKind::Denied => Ok(Some(e.message)),
        Err(e) => Err(e),
    }
}

//! Concurrent access to a tree: many users at once, or a single sweep.
//!
//! The lock is `flock`, so it ends with the process in any case. It is taken by polling: a blocked thread could not be told to
//! stop, and a stopped holder must not stop everybody forever.

use std::{io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::Tree;
use crate::{
    backoff::Backoff,
    fs::{self, Lock, LockMode},
    store::error::{Error, Result},
    task,
};

/// Pauses between attempts to take the lock.
const KNOCKS: Backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));
/// Pause between checks whether a sweep of ours could begin.
const STEP: Duration = Duration::from_millis(5);

/// How a tree is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Entry {
    /// The lock file is created if missing.
    Writer,
    /// Nothing is created: without a lock file, or if it may not be opened, we enter without a lock.
    Reader,
}

/// The lock of a tree, held shared while this lives, except during a sweep.
#[derive(Debug)]
pub(in crate::store) struct Gate {
    tree: Tree,
    /// Key of the lock file.
    key: String,
    entry: Entry,
    budget: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Held shared; `None` if a reader has no lock.
    Inside(#[expect(dead_code, reason = "held for its drop")] Option<Lock>),
    /// Released for a sweep of ours that could not begin, and not yet taken again.
    Outside,
    /// Released for a sweep of ours that waits for others to leave: our other operations wait with it, or they would block it.
    Leaving,
    /// A sweep of ours is running.
    Alone,
}

/// Takes the lock at `key` of `tree`, retrying until `budget` has passed; `None` if it was never free.
pub(in crate::store) async fn poll(
    tree: &Tree,
    key: &str,
    mode: LockMode,
    entry: Entry,
    budget: Duration,
) -> fs::Result<Option<Lock>> {
    let end = Instant::now() + budget;
    let mut tries = 0;
    loop {
        let (tree, key) = (tree.clone(), key.to_owned());
        let lock = task::blocking(move || match entry {
            Entry::Writer => tree.try_lock(&key, mode),
            Entry::Reader => tree.try_existing_lock(&key, mode),
        })
        .await?;
        if lock.is_some() || Instant::now() >= end {
            return Ok(lock);
        }
        sleep(KNOCKS.pause(tries)).await;
        tries += 1;
    }
}

impl Gate {
    /// Enters, waiting at most `budget` for a running sweep. `when_alone` runs first if nobody else is inside.
    pub(in crate::store) async fn enter(
        tree: Tree,
        key: &str,
        entry: Entry,
        budget: Duration,
        when_alone: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Self>> {
        if entry == Entry::Writer {
            let lock = poll(&tree, key, LockMode::Exclusive, entry, Duration::ZERO).await;
            if let Some(lock) = lock.map_err(|e| Error::io("open", e))? {
                task::blocking(move || {
                    when_alone();
                    drop(lock);
                })
                .await;
            }
        }
        let gate = Arc::new(Self {
            tree,
            key: key.to_owned(),
            entry,
            budget,
            state: Mutex::new(State::Outside),
        });
        gate.be_inside("open").await?;
        Ok(gate)
    }

    /// Makes sure that no other process sweeps from now on; returns at once, except after a sweep that could not begin.
    ///
    /// # Errors
    /// `Timeout` while a sweep is running.
    pub(in crate::store) async fn be_inside(&self, op: &'static str) -> Result<()> {
        while matches!(*self.state.lock(), State::Leaving) {
            // Not for long: a sweep that cannot begin gives up.
            sleep(STEP.mul_f64(0.5 + fastrand::f64())).await;
        }
        if !matches!(*self.state.lock(), State::Outside) {
            return Ok(());
        }
        match poll(
            &self.tree,
            &self.key,
            LockMode::Shared,
            self.entry,
            self.budget,
        )
        .await
        {
            Ok(Some(lock)) => {
                *self.state.lock() = State::Inside(Some(lock));
                Ok(())
            }
            Ok(None) => Err(Error::timeout(
                op,
                format!(
                    "a prune has held `{}` for over {}s; try again when it has ended",
                    self.tree.path(&self.key).display(),
                    self.budget.as_secs()
                ),
            )),
            Err(e) if self.entry == Entry::Reader && may_go_without(&e) => {
                *self.state.lock() = State::Inside(None);
                Ok(())
            }
            Err(e) => Err(Error::io(op, e)),
        }
    }

    /// Waits until nobody else is inside and excludes everybody while the guard lives.
    ///
    /// Our own shared lock is released for it, so what was read before may be gone: check again under the guard.
    ///
    /// # Errors
    /// `Conflict` if others stay inside for longer than the budget.
    pub(in crate::store) async fn alone(self: &Arc<Self>) -> Result<Alone> {
        let leaving = Leaving::begin(self);
        let lock = poll(
            &self.tree,
            &self.key,
            LockMode::Exclusive,
            Entry::Writer,
            self.budget,
        )
        .await
        .map_err(|e| Error::io("lock", e))?;
        if let Some(lock) = lock {
            *self.state.lock() = State::Alone;
            drop(leaving);
            return Ok(Alone {
                lock: Some(lock),
                gate: self.clone(),
            });
        }
        drop(leaving);
        self.be_inside("lock").await?;
        Err(Error::conflict(
            "lock",
            format!(
                "other processes (a daemon, exports or imports) have used it for over {}s; try again when they have ended, or prune through the daemon that serves it (--daemon)",
                self.budget.as_secs()
            ),
        ))
    }
}

/// The shared lock, released until the sweep begins or this is dropped: the wait for others may be cancelled.
struct Leaving<'g>(&'g Gate);

impl<'g> Leaving<'g> {
    fn begin(gate: &'g Gate) -> Self {
        *gate.state.lock() = State::Leaving;
        Self(gate)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if matches!(*state, State::Leaving) {
            *state = State::Outside;
        }
    }
}

fn may_go_without(e: &fs::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Excludes everybody else from a tree while it lives.
#[derive(Debug)]
pub(in crate::store) struct Alone {
    lock: Option<Lock>,
    gate: Arc<Gate>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.lock = None;
        // Back inside at once if nobody else entered meanwhile; otherwise the next operation waits for it.
        *self.gate.state.lock() = match self.gate.tree.try_lock(&self.gate.key, LockMode::Shared) {
            Ok(Some(lock)) => State::Inside(Some(lock)),
            _ => State::Outside,
        };
    }
}

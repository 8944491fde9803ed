//! How much happens at once: places that can be made more or fewer while they are used; open files.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{serve::turn::Turn, task};

/// Open files that we need besides connections: the store's own, logs, the runtime's.
const OTHER_FILES: u64 = 64;
/// Open files of a connection under way: itself, a file that is read or written, a connection to the remote store.
const FILES_A_CONNECTION: u64 = 3;
/// Connections where nothing else is said.
const CONNECTIONS: usize = 1024;

/// A number of places.
#[derive(Debug)]
pub struct Limit {
    places: Arc<Semaphore>,
    size: Mutex<usize>,
}

impl Limit {
    /// So many places, at least one.
    pub fn new(size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(size)),
            size: Mutex::new(size),
        }
    }

    /// Takes a place, waiting for one as long as it takes; first come, first served. Cancel-safe.
    pub async fn take(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// Takes a place that can be given back for a while.
    pub async fn turn(&self) -> Turn {
        Turn::take(self.places.clone()).await
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        let size = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
        size.saturating_sub(self.places.available_permits())
    }

    /// Changes how many there are; where fewer shall be and all are taken, as they become free.
    pub fn resize(&self, new: usize) {
        let new = new.clamp(1, Semaphore::MAX_PERMITS);
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *size, new);
        if new >= old {
            self.places.add_permits(new - old);
            return;
        }
        let places = self.places.clone();
        let fewer = u32::try_from(old - new).unwrap_or(u32::MAX);
        task::spawn("fewer places", async move {
            if let Ok(places) = places.acquire_many_owned(fewer).await {
                places.forget();
            }
        })
        .detach();
    }
}

/// Raises the limit of open files as far as this process may; says what it is then.
pub fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let hard = now.maximum.unwrap_or(u64::MAX);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        },
    );
    match raised {
        Ok(()) => hard,
        Err(error) => {
            tracing::debug!(%error, "Limit of open files stays as it is");
            now.current.unwrap_or(u64::MAX)
        }
    }
}

/// Connections that may be open: as many as are wanted, and no more than the open files are for.
pub fn connections(wanted: Option<usize>, open_files: u64) -> usize {
    let possible = open_files.saturating_sub(OTHER_FILES) / FILES_A_CONNECTION;
    // With fewer nothing works; what then fails says that it is for want of open files.
    let possible = usize::try_from(possible.max(8)).unwrap_or(usize::MAX);
    if let Some(wanted) = wanted.filter(|w| *w > possible) {
        tracing::warn!(
            wanted,
            possible,
            open_files,
            "Fewer connections than max_connections: raise the limit of open files (LimitNOFILE, ulimit -n)"
        );
    }
    wanted.unwrap_or(CONNECTIONS).min(possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_become_fewer_as_they_are_given_back() {
        let limit = Limit::new(3);
        let (a, b) = (limit.take().await, limit.take().await);
        limit.resize(1);
        drop((a, b));
        tokio::task::yield_now().await;
        let _one = limit.take().await;
        assert_eq!(limit.taken(), 1);
        assert!(limit.places.try_acquire().is_err());
    }

    #[tokio::test]
    async fn more_places_are_there_at_once() {
        let limit = Limit::new(1);
        let _one = limit.take().await;
        limit.resize(2);
        let _two = limit.take().await;
        assert_eq!(limit.taken(), 2);
    }

    #[test]
    fn connections_fit_the_open_files() {
        assert_eq!(connections(None, 1_000_000), 1024);
        assert_eq!(connections(None, 256), 64);
        assert_eq!(connections(Some(5000), 1 << 20), 5000);
        assert_eq!(connections(Some(500), 256), 64);
        assert_eq!(connections(None, 20), 8);
    }
}

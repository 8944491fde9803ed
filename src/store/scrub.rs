//! Stores in folders whose blobs are hashed before they are reported to exist, and again periodically.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{
    disk::{Disk, Folder},
    error::Result,
    layout::Layout,
    tree::{
        Tree,
        entered::{Entered, StopOnDrop},
        vetted::{Pace, Vetted},
    },
};
use crate::{entry::Time, task};

pub use super::tree::vetted::Findings;

/// Leaves most of a disk, and of a core, to waiting requests: about 70 MB/s.
const PACE: Pace = Pace {
    pause: Duration::from_millis(12),
};

/// Hashes blobs of a store in the background.
#[derive(Debug, Clone)]
pub struct Scrubber {
    entered: Entered,
    tree: Tree,
    vetted: Arc<Vetted>,
}

impl Disk {
    /// The same store, which returns no blob whose bytes were not hashed since they last changed; `table`, a file used by this
    /// process alone, records which were.
    pub async fn vetting(mut self, table: PathBuf) -> (Self, Scrubber) {
        let Folder { entered, tree } = &mut self.objects;
        let scrubber = Scrubber::open(entered, tree, table).await;
        *tree = scrubber.tree.clone();
        (self, scrubber)
    }
}

impl Layout {
    /// As [`Disk::vetting`].
    pub async fn vetting(mut self, table: PathBuf) -> (Self, Scrubber) {
        let scrubber = Scrubber::open(&self.entered, &self.tree, table).await;
        self.tree = scrubber.tree.clone();
        (self, scrubber)
    }
}

impl Scrubber {
    async fn open(entered: &Entered, tree: &Tree, table: PathBuf) -> Self {
        let vetted = Arc::new(task::blocking(move || Vetted::open(table)).await);
        Self {
            entered: entered.clone(),
            tree: tree.clone().vetting(vetted.clone()),
            vetted,
        }
    }

    /// Hashes, at a limited speed, the blobs that were not hashed for `age`, and returns how many. Damaged ones are removed.
    ///
    /// Aborted when dropped; the work done so far counts.
    ///
    /// # Errors
    /// Those of listing the store.
    pub async fn scrub(&self, age: Duration) -> Result<u64> {
        let stop = Arc::new(AtomicBool::new(false));
        let _guard = StopOnDrop(stop.clone());
        let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let not_since = Time::now().secs.saturating_sub(age);
        let tree = self.tree.clone();
        let blobs = self.entered.run("list", "blobs", move || tree.list_blobs());
        let mut count = 0;
        for blob in blobs.await? {
            let (digest, tree, stop) = (blob.digest, self.tree.clone(), stop.clone());
            let looked = self.entered.run("scrub", &digest, move || {
                tree.look_again(&digest, not_since, PACE, &stop)
            });
            count += u64::from(looked.await?);
        }
        Ok(count)
    }

    /// Saves the results for the next process.
    ///
    /// # Errors
    /// The file system's.
    pub async fn save(&self) -> Result<()> {
        let vetted = self.vetted.clone();
        task::blocking(move || vetted.save()).await
    }

    /// The results since the store was opened.
    pub fn findings(&self) -> Findings {
        self.vetted.findings()
    }
}

#[cfg(test)]
mod tests;

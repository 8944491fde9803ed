//! Stores in folders whose blobs are hashed before they count as there, and again from time to time.

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

/// Leaves most of a disk, and of a core, to those who wait: about 70 MB/s.
const PACE: Pace = Pace {
    pause: Duration::from_millis(12),
};

/// Looks at the blobs of a store that nobody asked for.
#[derive(Debug, Clone)]
pub struct Scrubber {
    entered: Entered,
    tree: Tree,
    vetted: Arc<Vetted>,
}

impl Disk {
    /// The same store, which hands out no blob whose bytes were not hashed since they last changed; which those are is
    /// kept in `table`, a file of this process alone.
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

    /// Hashes, at a pace, the blobs that were not hashed for `age`, and says how many. Damaged ones are removed.
    ///
    /// Given up when it is dropped; what was done by then counts.
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

    /// Keeps what is known for the next process.
    ///
    /// # Errors
    /// The file system's.
    pub async fn save(&self) -> Result<()> {
        let vetted = self.vetted.clone();
        task::blocking(move || vetted.save()).await
    }

    /// What was found since the store was opened.
    pub fn findings(&self) -> Findings {
        self.vetted.findings()
    }
}

#[cfg(test)]
mod tests;

//! Uploads that have ended and are about to be stored.

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use tokio::sync::Notify;

use super::{UploadId, Uploads};
use crate::store::{Spool, error::Error};

/// The bytes of an upload that has ended. While they wait for an unreachable store they count towards its owner's limit, until
/// this is dropped.
pub struct Finished {
    /// The bytes, and their SHA-256.
    pub spool: Arc<Spool>,
    uploads: Arc<Uploads>,
    owner: Box<str>,
    /// Their share of the owner's limit.
    held: OnceLock<UploadId>,
    give_up: Arc<Notify>,
}

impl Finished {
    pub(super) fn new(uploads: &Arc<Uploads>, owner: &str, spool: Spool) -> Self {
        Self {
            spool: spool.into(),
            uploads: uploads.clone(),
            owner: owner.into(),
            held: OnceLock::new(),
            give_up: Arc::default(),
        }
    }

    /// Records that the store is unreachable, and that the bytes only wait for it: on a full disk they may be removed for others.
    pub fn waits(&self) {
        self.uploads
            .local
            .store_is_away
            .store(true, Ordering::Relaxed);
        let (owners, size) = (&self.uploads.local.owners, self.spool.size());
        let hold = || owners.hold(&self.owner, size, self.give_up.clone());
        self.held.get_or_init(hold);
    }

    /// Waits until the bytes must be removed: the disk is full, and their owner has the most bytes.
    pub async fn given_up(&self) -> Error {
        self.give_up.notified().await;
        filler()
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spool.fmt(f)
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        if let Some(held) = self.held.get() {
            self.uploads.local.owners.forget(held);
        }
    }
}

/// The error when bytes of the owner that fills the disk are removed.
pub(super) fn filler() -> Error {
    let why = "the disk is full, and the uploads of this caller take most of it";
    Error::full("upload", why)
}

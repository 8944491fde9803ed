//! Permission to change a target, which the caller that waits for the placement can revoke.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use crate::source::{Error, Result};

const UNUSED: u8 = 0;
const USED: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Permission to change the target. It can be revoked between two changes, so it is certain whether the target was changed.
#[derive(Debug, Clone, Default)]
pub struct Leave(Arc<AtomicU8>);

impl Leave {
    /// Must be called before each change.
    ///
    /// # Errors
    /// The permission was revoked: nothing more may be changed.
    pub fn ask(&self) -> Result<()> {
        let used = self
            .0
            .compare_exchange(UNUSED, USED, Ordering::SeqCst, Ordering::SeqCst);
        match used {
            Ok(_) | Err(USED) => Ok(()),
            Err(_) => Err(Error::GivenUp),
        }
    }

    /// Revokes the permission; returns true if the target is already being changed: then the placement reports its progress.
    pub fn take_back(&self) -> bool {
        self.0.swap(TAKEN_BACK, Ordering::SeqCst) == USED
    }

    /// Revokes the permission when the returned guard is dropped, for instance on an interruption.
    pub fn while_awaited(&self) -> Awaited {
        Awaited(self.clone())
    }
}

/// Guard of a caller that waits for the placement.
#[derive(Debug)]
pub struct Awaited(Leave);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.take_back();
    }
}

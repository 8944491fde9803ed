//! Leave to change a target, which whoever waits for the placement can take back.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use crate::source::{Error, Result};

const UNUSED: u8 = 0;
const USED: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Leave to change the target. Between two changes it can be taken back; so it is certain whether the target was changed.
#[derive(Debug, Clone, Default)]
pub struct Leave(Arc<AtomicU8>);

impl Leave {
    /// Asked before each change.
    ///
    /// # Errors
    /// It was taken back: nothing more may be changed.
    pub fn ask(&self) -> Result<()> {
        let used = self
            .0
            .compare_exchange(UNUSED, USED, Ordering::SeqCst, Ordering::SeqCst);
        match used {
            Ok(_) | Err(USED) => Ok(()),
            Err(_) => Err(Error::GivenUp),
        }
    }

    /// Takes it back; returns whether the target is being changed: then the placement says how far it came.
    pub fn take_back(&self) -> bool {
        self.0.swap(TAKEN_BACK, Ordering::SeqCst) == USED
    }

    /// Takes it back when the answer is dropped, as on an interruption.
    pub fn while_awaited(&self) -> Awaited {
        Awaited(self.clone())
    }
}

/// Somebody waits for the placement.
#[derive(Debug)]
pub struct Awaited(Leave);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.take_back();
    }
}

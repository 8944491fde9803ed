//! Ability: to say what was acknowledged here and waits to be sent to the remote store behind, and to send it now.

use std::time::Duration;

use async_trait::async_trait;

use super::error::Result;

/// What waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Updates of tags.
    pub tags: u64,
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Age of the oldest; `None` where nothing waits.
    pub oldest: Option<Duration>,
    /// Why the last try failed, in words without secrets; `None` where it did not.
    pub trouble: Option<String>,
}

impl Waiting {
    /// Says whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.tags == 0 && self.blobs == 0
    }
}

/// A queue in front of a remote store.
#[async_trait]
pub trait Queue: Send + Sync {
    /// What waits now; asks nobody and answers at once.
    fn waiting(&self) -> Waiting;

    /// Tries now rather than at the next turn, and returns when nothing waits any more; cancel-safe.
    ///
    /// # Errors
    /// When the remote store refuses something for good; while it is away this waits.
    async fn flush(&self) -> Result<()>;
}

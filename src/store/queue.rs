//! Ability: to say what was acknowledged here and waits to be sent to the remote store behind, and to send it now.

use std::time::Duration;

use async_trait::async_trait;

use super::error::{Error, ErrorKind, Result};

/// What was tried where a caller has its share of what may wait, as [`Error::op`]; the words are for that caller.
pub const OVER_SHARE: &str = "share the queue";

/// What was tried where what waits for the remote store fills all that it may, as [`Error::op`]; the words are for clients.
pub const QUEUE_FULL: &str = "add to the queue";

/// The refusal of more, whoever asks, until the remote store has taken some; `Full`. `what` is full, by which setting.
pub(super) fn queue_full(what: &str) -> Error {
    let why = format!(
        "{what} full of what waits for the remote store, which has to take some first; a prune does not help"
    );
    Error::new(ErrorKind::Full, QUEUE_FULL, why)
}

/// The refusal of more `what` of a caller, while others may still add some; `Full`.
pub(super) fn over_share(what: &str) -> Error {
    let why = format!(
        "too many {what} of this caller wait for the remote store; the rest of the queue is for others: push again when the store has taken some"
    );
    Error::new(ErrorKind::Full, OVER_SHARE, why)
}

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

//! Errors for data that exceeds the limits of the upload queue.

use super::error::Error;

/// Value of [`Error::op`] when a caller has used up its share of the queue; its text is for that caller.
pub const OVER_SHARE: &str = "share the queue";

/// Value of [`Error::op`] when the queue for the remote store is full; its text is for clients.
pub const QUEUE_FULL: &str = "add to the queue";

/// Refuses further data of any caller until the remote store has taken some; `Full`. `what` is full, by which setting.
pub(super) fn queue_full(what: &str) -> Error {
    let why = format!(
        "{what} full of writes that wait for the remote store, which must accept some first; a prune does not help"
    );
    Error::full(QUEUE_FULL, why)
}

/// Refuses further `what` of one caller, while others may still add some; `Full`.
pub(super) fn over_share(what: &str) -> Error {
    let why = format!(
        "too many {what} of this caller wait for the remote store, and the rest of the queue is reserved for others: push again when the store has accepted some"
    );
    Error::full(OVER_SHARE, why)
}

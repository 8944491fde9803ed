//! The refusals of more to send to a remote store than may wait for it.

use super::error::{Error, ErrorKind};

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

//! What a push that was refused says about those of others.

use crate::store::{
    Error, ErrorKind,
    queue::{OVER_SHARE, QUEUE_FULL},
};

/// Why the store takes no pushes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The store, or the disk, is full.
    NoRoom,
    /// What waits for the remote store has all the room that it may have.
    QueueFull,
    /// The disk cannot be written to: it is read-only, or broken, or not this user's.
    Disk,
}

impl Refused {
    /// What `error` says about pushes of others.
    pub fn by(error: &Error) -> Option<Self> {
        match error.kind {
            // Others have room.
            ErrorKind::Full if error.op == OVER_SHARE => None,
            ErrorKind::Full if error.op == QUEUE_FULL => Some(Self::QueueFull),
            ErrorKind::Full => Some(Self::NoRoom),
            ErrorKind::Denied | ErrorKind::Io if error.is_of_file() => Some(Self::Disk),
            _ => None,
        }
    }

    /// In words for anybody.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoRoom => "no room left",
            Self::QueueFull => "the local queue is full of what waits for the remote store",
            Self::Disk => "the disk cannot be written to",
        }
    }
}

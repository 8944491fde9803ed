//! What a refused push means for other pushes.

use crate::store::{
    Error, ErrorKind,
    queue::{OVER_SHARE, QUEUE_FULL},
};

/// Why the store currently accepts no pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushesBlocked {
    /// The store, or the disk, is full.
    NoRoom,
    /// The queue for the remote store has reached its maximum size.
    QueueFull,
    /// The disk is not writable: it is read-only, faulty, or not writable for this user.
    Disk,
}

impl PushesBlocked {
    /// What `error` means for other pushes.
    pub fn by(error: &Error) -> Option<Self> {
        match error.kind {
            // Other callers have room.
            ErrorKind::Full if error.op == OVER_SHARE => None,
            ErrorKind::Full if error.op == QUEUE_FULL => Some(Self::QueueFull),
            ErrorKind::Full => Some(Self::NoRoom),
            ErrorKind::Denied | ErrorKind::Io if error.is_of_file() => Some(Self::Disk),
            _ => None,
        }
    }

    /// A description for everybody.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoRoom => "the store is full",
            Self::QueueFull => "the local queue for the remote store is full",
            Self::Disk => "the disk is not writable",
        }
    }
}

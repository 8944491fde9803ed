//! What a ticket knows of a transfer, and of waiting.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::Transfer;

/// Whether there is a transfer.
#[derive(Default)]
pub(super) enum Moves {
    #[default]
    No,
    /// While the client is slow, or the request rests: its place is for others.
    Rests,
    Yes(Transfer),
}

impl Moves {
    /// Its place, for others.
    pub(super) fn rest(&mut self) -> Option<Transfer> {
        match std::mem::take(self) {
            Self::No => None,
            Self::Rests => {
                *self = Self::Rests;
                None
            }
            Self::Yes(transfer) => {
                *self = Self::Rests;
                Some(transfer)
            }
        }
    }

    pub(super) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Yes(transfer) => transfer.poll_cut(cx),
            Self::No | Self::Rests => Poll::Pending,
        }
    }
}

/// How long a request waited for others.
#[derive(Default)]
pub(super) struct Waits {
    pub(super) before: Duration,
    pub(super) since: Option<Instant>,
}

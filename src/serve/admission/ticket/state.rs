//! What a ticket tracks about a transfer, and about waiting.

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
    /// While the client is slow, or the request rests: others may have its slot.
    Rests,
    Yes(Transfer),
}

impl Moves {
    /// Returns its slot, for others.
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

/// How long a request has waited for others.
#[derive(Default)]
pub(super) struct Waits {
    pub(super) before: Duration,
    pub(super) since: Option<Instant>,
}

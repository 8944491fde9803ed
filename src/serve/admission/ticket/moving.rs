//! What a ticket holds while its request's bytes are in transit.

use std::{
    future::poll_fn,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use parking_lot::Mutex;

use super::{Full, Ticket, state::Moves};
use crate::serve::admission::Transfers;

impl Ticket {
    /// Takes the slots again that the request needs to continue sending or receiving.
    pub(in crate::serve::admission) async fn move_on(&self) {
        let admission = &self.0.admission;
        for (moves, among) in [
            (&self.0.large, &admission.large_transfers),
            (&self.0.transfer, &admission.transfers),
        ] {
            let rests = matches!(*moves.lock(), Moves::Rests);
            if rests {
                let transfer = among.enter_again(&self.0.key).await;
                *moves.lock() = Moves::Yes(transfer);
            }
        }
    }

    /// Takes a slot among transfers, unless it has one, without holding a work permit while waiting.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn transfer(&self) -> Result<(), Full> {
        let among = &self.0.admission.transfers;
        self.moves(&self.0.transfer, among).await
    }

    /// Takes a slot among large manifests and lists in memory, unless it has one, without holding a work permit while waiting.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn large_transfer(&self) -> Result<(), Full> {
        let among = &self.0.admission.large_transfers;
        self.moves(&self.0.large, among).await
    }

    async fn moves(&self, moves: &Mutex<Moves>, among: &Transfers) -> Result<(), Full> {
        if self.moves_now(moves, among) {
            return Ok(());
        }
        let transfer = self.aside(among.enter(&self.0.key)).await?;
        *moves.lock() = Moves::Yes(transfer);
        Ok(())
    }

    /// Takes a slot among large manifests and lists in memory if one is free; `false` if it would have to wait.
    pub fn large_transfer_now(&self) -> bool {
        self.moves_now(&self.0.large, &self.0.admission.large_transfers)
    }

    fn moves_now(&self, moves: &Mutex<Moves>, among: &Transfers) -> bool {
        if matches!(*moves.lock(), Moves::Yes(_)) {
            return true;
        }
        let Some(transfer) = among.enter_now(&self.0.key) else {
            return false;
        };
        *moves.lock() = Moves::Yes(transfer);
        true
    }

    /// The same as [`Self::large_transfer`] for the request's body, until [`Self::drop_body`].
    ///
    /// # Errors
    /// [`Full`].
    pub async fn large_body(&self) -> Result<(), Full> {
        self.large_transfer().await?;
        self.0.keeps_body.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that the request's body is no longer in memory.
    pub fn drop_body(&self) {
        self.0.keeps_body.store(false, Ordering::Relaxed);
        self.end_transfers();
    }

    pub(super) fn end_transfers(&self) {
        let ended =
            [&self.0.transfer, &self.0.large].map(|moves| std::mem::take(&mut *moves.lock()));
        // Not under the lock: the next one gets their slots immediately.
        drop(ended);
    }

    /// Notes that the body has been received.
    pub(in crate::serve::admission) fn end_transfer(&self) {
        let ended = std::mem::take(&mut *self.0.transfer.lock());
        drop(ended);
    }

    /// Returns true if its response has a slot among transfers, or had one before it rested.
    pub(in crate::serve::admission) fn is_transfer(&self) -> bool {
        self.is_large() || !matches!(*self.0.transfer.lock(), Moves::No)
    }

    pub(in crate::serve::admission) fn is_large(&self) -> bool {
        !matches!(*self.0.large.lock(), Moves::No)
    }

    /// Ready when its transfer is cut off; wakes only the task that asked last.
    pub(in crate::serve::admission) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        let transfer = self.0.transfer.lock().poll_cut(cx);
        let large = self.0.large.lock().poll_cut(cx);
        if transfer.is_ready() || large.is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Waits for `work`, unless the request's transfer is cut off for another caller.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Result<T, Full> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = poll_fn(|cx| self.poll_cut(cx)) => Err(Full {
                pool: self.0.admission.large_transfers.places().name(),
            }),
        }
    }
}

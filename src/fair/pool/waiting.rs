//! Waiting for a slot.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{Key, Permit, Shared};

pub(super) enum Asked {
    Taken(Permit),
    Queued(QueuedWaiter),
    Refused,
}

/// A waiter's end of the queue; dropped, it leaves the queue. Ends with `None` if it is refused.
pub(super) struct QueuedWaiter {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) ticket: u64,
    pub(super) granted: oneshot::Receiver<Permit>,
}

impl Future for QueuedWaiter {
    type Output = Option<Permit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.granted).poll(cx).map(Result::ok)
    }
}

impl Drop for QueuedWaiter {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(caller) = state.callers.get_mut(&self.key) else {
            return;
        };
        let at = caller.waiting.iter().position(|w| w.ticket == self.ticket);
        if let Some(at) = at {
            caller.waiting.remove(at);
            state.waiting -= 1;
            state.tidy(&self.key);
            self.shared.show(&state);
        }
    }
}

//! What a request knows of its connection.
//!
//! A response that nobody reads is never asked for more, so nothing that happens to its body ends it: the connection is
//! ended. And while the client takes nothing, no response on the connection gives the server more to keep for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use axum::http::Extensions;
use tokio::sync::Notify;

/// A connection, as its requests see it; among their extensions.
#[derive(Debug, Clone, Default)]
pub struct Connection(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    end: Notify,
    /// Whom to wake once the client reads on; `None` while it reads.
    blocked: Mutex<Option<Vec<Waker>>>,
}

impl Connection {
    /// That of the request; where nobody put one, one that ends nothing and is never blocked.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Ends the connection with all its requests.
    pub fn hang_up(&self) {
        self.0.end.notify_one();
    }

    /// Ends when the connection is to end. Cancel-safe.
    pub async fn ends(&self) {
        self.0.end.notified().await;
    }

    /// Notes that the client stopped reading, or goes on.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        let waiting = std::mem::replace(&mut *self.blocked(), is_blocked.then(Vec::new));
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Ready while the client reads.
    pub(super) fn poll_reads(&self, cx: &Context<'_>) -> Poll<()> {
        let mut blocked = self.blocked();
        let Some(waiting) = &mut *blocked else {
            return Poll::Ready(());
        };
        if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn blocked(&self) -> MutexGuard<'_, Option<Vec<Waker>>> {
        // Nothing can panic while it is held.
        let blocked = &self.0.blocked;
        blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

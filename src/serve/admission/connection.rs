//! State of a connection that its requests share.
//!
//! The server does not ask a response for more while its client reads nothing, so nothing that happens to the body can end it:
//! the connection is ended instead. While the client reads nothing, no response on the connection makes the server buffer more
//! for it. And if all requests of a connection wait for their client, the connection is idle: others may have its slot.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::http::Extensions;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};

/// A connection, as its requests see it; part of their extensions.
#[derive(Debug, Clone, Default)]
pub struct Connection(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    end: Notify,
    /// Tasks to wake when the client resumes reading; `None` while it reads.
    blocked: Mutex<Option<Vec<Waker>>>,
    requests: Mutex<Requests>,
}

#[derive(Debug)]
struct Requests {
    open: usize,
    /// How many of them wait for their client.
    waiting: usize,
    /// How many of those are uploads.
    sending: usize,
    /// When the last one ended, or began to wait.
    since: Instant,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            open: 0,
            waiting: 0,
            sending: 0,
            since: Instant::now(),
        }
    }
}

/// What a connection is used for while the daemon does nothing for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// Slow uploads and nothing else: aborting one makes its client send the data again.
    Sending,
    /// Its requests wait for their client, which sends slowly or does not read.
    Waiting,
    /// No request at all.
    Empty,
}

/// A request, until the last byte of its response.
#[derive(Debug)]
pub struct InProgress(Connection);

/// A request that waits for its client.
#[derive(Debug)]
pub struct WaitsForClient {
    connection: Connection,
    is_upload: bool,
}

impl Connection {
    /// The connection of the request; if none was set, one that ends nothing and is never blocked.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Ends the connection with all its requests.
    pub fn hang_up(&self) {
        self.0.end.notify_one();
    }

    /// Returns when the connection is to end. Cancel-safe.
    pub async fn ends(&self) {
        self.0.end.notified().await;
    }

    /// Notes that the client stopped or resumed reading.
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

    /// Begins a request.
    pub fn begin(&self) -> InProgress {
        self.requests().open += 1;
        InProgress(self.clone())
    }

    /// Notes that a request has been waiting for its client since that moment.
    pub(super) fn wait_for_client(&self, since: Instant) -> WaitsForClient {
        self.wait(since, false)
    }

    /// The same for a slow upload.
    pub fn wait_for_upload(&self, since: Instant) -> WaitsForClient {
        self.wait(since, true)
    }

    fn wait(&self, since: Instant, is_upload: bool) -> WaitsForClient {
        let mut requests = self.requests();
        requests.waiting += 1;
        requests.sending += usize::from(is_upload);
        requests.since = requests.since.max(since);
        WaitsForClient {
            connection: self.clone(),
            is_upload,
        }
    }

    /// Whether the daemon does nothing for it, and since how long.
    pub fn rests(&self) -> Option<(Rest, Duration)> {
        let requests = self.requests();
        let rest = match requests.open {
            0 => Rest::Empty,
            open if open > requests.waiting => return None,
            _ if requests.sending > 0 => Rest::Sending,
            _ => Rest::Waiting,
        };
        Some((rest, requests.since.elapsed()))
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        let requests = &self.0.requests;
        requests.lock()
    }

    fn blocked(&self) -> MutexGuard<'_, Option<Vec<Waker>>> {
        let blocked = &self.0.blocked;
        blocked.lock()
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.open -= 1;
        requests.since = Instant::now();
    }
}

impl Drop for WaitsForClient {
    fn drop(&mut self) {
        let mut requests = self.connection.requests();
        requests.waiting -= 1;
        requests.sending -= usize::from(self.is_upload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_rests_without_requests_and_while_all_of_them_wait_for_their_client() {
        let second = Duration::from_secs(1);
        let connection = Connection::default();
        tokio::time::advance(second).await;
        assert_eq!(connection.rests(), Some((Rest::Empty, second)));
        let one = connection.begin();
        let two = connection.begin();
        let waits = connection.wait_for_client(Instant::now());
        assert_eq!(connection.rests(), None, "one of them is worked on");
        drop(two);
        tokio::time::advance(second).await;
        assert_eq!(connection.rests(), Some((Rest::Waiting, second)));
        drop(waits);
        assert_eq!(connection.rests(), None);
        let waits = connection.wait_for_upload(Instant::now());
        assert_eq!(connection.rests(), Some((Rest::Sending, Duration::ZERO)));
        drop(waits);
        assert_eq!(connection.rests(), None);
        drop(one);
        assert_eq!(connection.rests(), Some((Rest::Empty, Duration::ZERO)));
    }
}

//! Shutdown: the signals that request it, and the work that remains before it.

use std::{future::pending, io};

use futures_util::future::join_all;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};

use crate::{serve::admission::Pool, store::tiered::Backlog, task::Task};

/// The signals that this process handles from now on.
pub(super) struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Reload the settings.
    Reload,
    /// Shut down; the signal's number.
    End(u8),
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.term.recv() => Asked::End(15),
            _ = self.int.recv() => Asked::End(2),
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    /// Waits for a signal that requests shutdown; returns its number. Cancel-safe.
    pub(super) async fn end(&mut self) -> u8 {
        loop {
            if let Asked::End(number) = self.next().await {
                return number;
            }
        }
    }
}

/// Unfinished work.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Connections with unanswered requests.
    pub(super) connections: usize,
    /// Blobs and updates that were not sent to the remote store.
    pub(super) queued: u64,
}

/// Waits for the listeners to end, then sends the upload queue to the remote store, both within one time limit.
pub(super) async fn drain(
    serving: Vec<Task<()>>,
    connections: &Pool,
    backlog: Option<&dyn Backlog>,
    until: Instant,
) -> Left {
    let mut left = Left::default();
    let ended = timeout_at(until, join_all(serving.into_iter().map(Task::join))).await;
    if ended.is_err() {
        left.connections = connections.taken();
    }
    if let Some(backlog) = backlog {
        // If it exceeds the time limit, it is not waited for: its data is safe.
        left.queued = tokio::select! {
            left = backlog.flush(until) => left.waiting(),
            () = overdue(until) => 1,
        };
        let queue = "remote store";
        match left.queued {
            0 => tracing::info!(queue, "Upload queue drained"),
            left => tracing::info!(queue, left, "Upload queue not drained"),
        }
    }
    left
}

/// Returns a little after `until`.
async fn overdue(until: Instant) {
    match until.checked_add(std::time::Duration::from_millis(500)) {
        Some(then) => tokio::time::sleep_until(then).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::{
        serve::admission::{self, Key},
        store::tiered::{BacklogStatus, Reachable},
        task,
    };

    struct Slow(Duration);

    #[async_trait]
    impl Backlog for Slow {
        fn status(&self) -> BacklogStatus {
            BacklogStatus::of_nothing()
        }

        fn remote(&self) -> Reachable {
            self.status().remote
        }

        async fn turned(&self, _: bool) {}

        async fn flush(&self, _: Instant) -> BacklogStatus {
            tokio::time::sleep(self.0).await;
            self.status()
        }
    }

    async fn drained(serving: Duration, queue: Duration) -> (Left, Duration) {
        let began = Instant::now();
        let serving = vec![task::spawn("serving", tokio::time::sleep(serving))];
        let none = admission::Queue { total: 0, each: 0 };
        let connections = Pool::new("connections", 4, none);
        let take = || connections.enter(Key::Socket);
        let _two = (take().await.unwrap(), take().await.unwrap());
        let until = began + Duration::from_secs(10);
        let left = drain(serving, &connections, Some(&Slow(queue)), until).await;
        (left, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_then_the_queue_are_waited_for() {
        let (left, elapsed) = drained(Duration::from_secs(3), Duration::from_secs(4)).await;
        assert_eq!(left, Left::default());
        assert_eq!(elapsed.as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_is_waited_for_longer_than_the_time() {
        let hours = Duration::from_hours(1);
        let (left, elapsed) = drained(hours, hours).await;
        assert_eq!((left.connections, left.queued), (2, 1));
        assert_eq!(elapsed.as_secs(), 10);
    }
}

//! The end: signals that ask for it, and what still has to be done before it.

use std::{future::pending, io, sync::Arc};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};

use crate::{serve::admission::Pool, task::Task};

/// What must reach another place before the end.
#[async_trait]
pub trait Queue: Send + Sync {
    /// What it is called in the log.
    fn name(&self) -> &'static str;

    /// Works until nothing is left, or until then; says how many things are left. What is left must be safe: the process ends
    /// next.
    async fn drain(&self, until: Instant) -> u64;
}

/// Signals that this process listens to from the moment this is made.
pub(super) struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Read settings again.
    Reload,
    /// End; the signal's number.
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

    /// Waits for a signal that ends; its number. Cancel-safe.
    pub(super) async fn end(&mut self) -> u8 {
        loop {
            if let Asked::End(number) = self.next().await {
                return number;
            }
        }
    }
}

/// What was left undone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Connections with requests that were not answered.
    pub(super) connections: usize,
    /// Things in queues.
    pub(super) queued: u64,
}

/// Waits for the listeners to end, then empties the queues, both within one time.
pub(super) async fn drain(
    serving: Vec<Task<()>>,
    connections: &Pool,
    queues: &[Arc<dyn Queue>],
    until: Instant,
) -> Left {
    let mut left = Left::default();
    let ended = timeout_at(until, join_all(serving.into_iter().map(Task::join))).await;
    if ended.is_err() {
        left.connections = connections.taken();
    }
    for queue in queues {
        let rest = queue.drain(until);
        // A queue that does not keep to the time is not waited for: what is in it is safe.
        let count = tokio::select! {
            count = rest => count,
            () = overdue(until) => 1,
        };
        match count {
            0 => tracing::info!(queue = queue.name(), "Queue drained"),
            left => tracing::info!(queue = queue.name(), left, "Queue not drained"),
        }
        left.queued += count;
    }
    left
}

/// Ends a little after `until`.
async fn overdue(until: Instant) {
    match until.checked_add(std::time::Duration::from_millis(500)) {
        Some(then) => tokio::time::sleep_until(then).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        serve::admission::{self, Key},
        task,
    };

    struct Slow(Duration);

    #[async_trait]
    impl Queue for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }

        async fn drain(&self, _: Instant) -> u64 {
            tokio::time::sleep(self.0).await;
            0
        }
    }

    async fn drained(serving: Duration, queue: Duration) -> (Left, Duration) {
        let began = Instant::now();
        let serving = vec![task::spawn("serving", tokio::time::sleep(serving))];
        let none = admission::Queue { total: 0, each: 0 };
        let connections = Pool::new("connections", 4, none);
        let take = || connections.enter(Key::Socket);
        let _two = (take().await.unwrap(), take().await.unwrap());
        let queues: Vec<Arc<dyn Queue>> = vec![Arc::new(Slow(queue))];
        let until = began + Duration::from_secs(10);
        let left = drain(serving, &connections, &queues, until).await;
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

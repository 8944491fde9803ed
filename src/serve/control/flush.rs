//! The upload queue for a remote store, and flushing it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use super::{error::Asked, stream::Messages};
use crate::{
    proto::v1,
    store::{
        Error, Result,
        tiered::{Backlog, BacklogStatus},
    },
    task::{self, Task},
};

/// How often a flush with a waiting client reports what is left.
const TICK: Duration = Duration::from_secs(1);

/// A moment that is never reached.
const NEVER: Duration = Duration::from_hours(24 * 365);

pub(super) fn message(status: &BacklogStatus) -> v1::Queue {
    v1::Queue {
        tags: status.updates,
        blobs: status.blobs,
        bytes: status.bytes,
        oldest_seconds: status.oldest.map(|age| age.as_secs()),
        trouble: status.trouble(),
    }
}

/// Uploads the queue, however long that takes.
///
/// # Errors
/// `Unsupported` if something was ever set aside: an operator who removes the disk because of this answer would lose it.
async fn flush(backlog: &dyn Backlog) -> Result<()> {
    match backlog.flush(Instant::now() + NEVER).await.set_aside {
        0 => Ok(()),
        count => {
            let why = format!(
                "{count} acknowledged entries cannot be uploaded and were set aside: see the log, and `queue/aside` in the state folder"
            );
            Err(Error::unsupported("flush", why))
        }
    }
}

/// What a caller is told about the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    /// The size of the queue.
    Counts,
    /// Only that there is a queue. The number of queued blobs would tell a caller limited to some repositories whether the
    /// store already knew what it pushed.
    Nothing,
}

fn told(backlog: &dyn Backlog, tells: Tells) -> v1::FlushResponse {
    let queue = match tells {
        Tells::Counts => message(&backlog.status()),
        Tells::Nothing => v1::Queue::default(),
    };
    v1::FlushResponse { queue: Some(queue) }
}

/// Flushes without a waiting client: only the latest one.
#[derive(Default)]
pub(super) struct Flushes(Mutex<Option<Task<()>>>);

impl Flushes {
    /// Starts a flush and returns the state of the queue; cancels the one that was started before.
    pub(super) fn start(
        &self,
        backlog: Arc<dyn Backlog>,
        tells: Tells,
    ) -> Messages<v1::FlushResponse> {
        let now = told(&*backlog, tells);
        let work = task::spawn("flush", async move {
            if let Err(error) = flush(&*backlog).await {
                tracing::warn!(%error, "Could not flush the queue");
            }
        });
        *self.0.lock() = Some(work);
        Messages::one(now)
    }
}

/// Flushes, and reports once a second what is left until it is done; stopped with the stream.
pub(super) fn wait(
    backlog: Arc<dyn Backlog>,
    tells: Tells,
    asked: Asked,
    own: String,
) -> Messages<v1::FlushResponse> {
    let (out, received) = mpsc::channel(4);
    let work = async move {
        let end = {
            let work = flush(&*backlog);
            tokio::pin!(work);
            let mut tick = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    end = &mut work => break end,
                    // A client that does not read misses one; the next one is more recent.
                    _ = tick.tick() => drop(out.try_send(Ok(told(&*backlog, tells)).into())),
                }
            }
        };
        let last = match end {
            Ok(()) => Ok(told(&*backlog, tells)),
            Err(e) => Err(asked.status(&e.into(), &own)),
        };
        // If the client is gone, there is nothing to do.
        let _ = out.send(last.into()).await;
    };
    Messages::new(received, task::spawn("flush", work))
}

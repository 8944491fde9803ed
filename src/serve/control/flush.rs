//! What waits to be sent to a remote store, and sending it now.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{error::Asked, stream::Messages};
use crate::{
    proto::v1,
    store::{Queue, queue::Waiting},
    task::{self, Task},
};

/// How often a flush that is waited for tells what is left.
const TICK: Duration = Duration::from_secs(1);

/// As a message.
pub(super) fn message(w: Waiting) -> v1::Queue {
    v1::Queue {
        tags: w.tags,
        blobs: w.blobs,
        bytes: w.bytes,
        oldest_seconds: w.oldest.map(|age| age.as_secs()),
        trouble: w.trouble,
    }
}

/// What a caller is told of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    /// What waits.
    Counts,
    /// That there is a queue. How many blobs wait would tell a caller limited to some repositories whether what it pushed was known.
    Nothing,
}

fn told(queue: &dyn Queue, tells: Tells) -> v1::FlushResponse {
    let queue = match tells {
        Tells::Counts => message(queue.waiting()),
        Tells::Nothing => v1::Queue::default(),
    };
    v1::FlushResponse { queue: Some(queue) }
}

/// Flushes that nobody waits for: the last one.
#[derive(Default)]
pub(super) struct Flushes(Mutex<Option<Task<()>>>);

impl Flushes {
    /// Starts a flush and says what waits; the one that was started before is dropped for it.
    pub(super) fn start(&self, queue: Arc<dyn Queue>, tells: Tells) -> Messages<v1::FlushResponse> {
        let now = told(&*queue, tells);
        let work = task::spawn("flush", async move {
            if let Err(error) = queue.flush().await {
                tracing::warn!(%error, "Queue not flushed");
            }
        });
        *self.0.lock() = Some(work);
        Messages::one(now)
    }
}

/// Flushes, and tells what is left once a second until it is done; stopped with the stream.
pub(super) fn wait(
    queue: Arc<dyn Queue>,
    tells: Tells,
    asked: Asked,
    own: String,
) -> Messages<v1::FlushResponse> {
    let (out, received) = mpsc::channel(4);
    let work = async move {
        let end = {
            let work = queue.flush();
            tokio::pin!(work);
            let mut tick = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    end = &mut work => break end,
                    // A client that does not read misses one; the next says more.
                    _ = tick.tick() => drop(out.try_send(Ok(told(&*queue, tells)).into())),
                }
            }
        };
        let last = match end {
            Ok(()) => Ok(told(&*queue, tells)),
            Err(e) => Err(asked.status(&e.into(), &own)),
        };
        // Without anybody to hear it there is nothing to do.
        let _ = out.send(last.into()).await;
    };
    Messages::new(received, task::spawn("flush", work))
}

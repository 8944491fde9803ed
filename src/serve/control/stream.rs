//! A verb as a stream of messages: progress while it works, then its report in parts. Ends with the client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tonic::{Response, Status};
use tracing::Instrument as _;

use super::relay::Relay;
use crate::{
    progress::Progress,
    proto::{InParts as _, Message},
    task::{self, Task},
};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(200);
/// Messages that wait for a slow client.
const WAITING: usize = 16;

/// Messages of a call; dropping it, as happens when the client goes away, stops the work.
pub(super) struct Messages<M> {
    received: mpsc::Receiver<Result<M, Status>>,
    _work: Option<Task<()>>,
}

impl<M> Messages<M> {
    /// What `work` sends.
    pub(super) fn new(received: mpsc::Receiver<Result<M, Status>>, work: Task<()>) -> Self {
        Self {
            received,
            _work: Some(work),
        }
    }

    /// One message.
    pub(super) fn one(message: M) -> Self {
        let (out, received) = mpsc::channel(1);
        // There is room for one.
        let _ = out.try_send(Ok(message));
        Self {
            received,
            _work: None,
        }
    }
}

impl<M> Stream for Messages<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.received.poll_recv(cx)
    }
}

/// Starts `work` with a watcher whose news go into the stream, before the report.
pub(super) fn start<M: Message, F>(work: impl FnOnce(Progress) -> F) -> Response<Messages<M>>
where
    F: Future<Output = Result<M::Report, Status>> + Send + 'static,
{
    let relay = Arc::new(Relay::default());
    let (out, received) = mpsc::channel(WAITING);
    let work = work(relay.clone());
    let run = run(work, relay, out).instrument(tracing::Span::current());
    Response::new(Messages::new(received, task::spawn("control call", run)))
}

async fn run<M: Message>(
    work: impl Future<Output = Result<M::Report, Status>>,
    relay: Arc<Relay>,
    out: mpsc::Sender<Result<M, Status>>,
) {
    tokio::pin!(work);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        tokio::select! {
            end = &mut work => break end,
            // The work does not wait for a slow client: what finds no room is added up.
            _ = tick.tick() => {
                for progress in relay.take(out.capacity()) {
                    let _ = out.try_send(Ok(M::progress(progress)));
                }
            }
        }
    };
    let last = relay.take(usize::MAX).into_iter().map(M::progress);
    let mut messages: Vec<Result<M, Status>> = last.map(Ok).collect();
    match end {
        Ok(report) => messages.extend(report.in_parts().into_iter().map(M::report).map(Ok)),
        Err(status) => messages.push(Err(status)),
    }
    for message in messages {
        if out.send(message).await.is_err() {
            // Nobody is left to hear it.
            return;
        }
    }
}

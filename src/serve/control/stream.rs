//! A verb as a stream of messages: progress while it works, then its report in parts. It ends when the client disconnects.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tonic::{Response, Status};
use tracing::Instrument as _;

use super::{
    relay::Relay,
    unread::{Kept, Unread},
};
use crate::{
    fair::caller,
    progress::Progress,
    proto::{InParts as _, Message},
    serve::admission::Key,
    task::{self, Task},
};

/// How often progress is reported.
const TICK: Duration = Duration::from_millis(200);
/// Messages that wait for a slow client.
const WAITING: usize = 16;

/// A message, with the memory that its report takes.
pub(super) struct AccountedMessage<M> {
    message: Result<M, Status>,
    kept: Option<Arc<Kept>>,
}

impl<M> From<Result<M, Status>> for AccountedMessage<M> {
    fn from(message: Result<M, Status>) -> Self {
        Self {
            message,
            kept: None,
        }
    }
}

/// Messages of a call; dropping it, as happens when the client disconnects, stops the work.
pub(super) struct Messages<M> {
    received: mpsc::Receiver<AccountedMessage<M>>,
    /// The memory of the report whose last message was taken: it is in transit to the client.
    kept: Option<Arc<Kept>>,
    _work: Option<Task<()>>,
}

impl<M> Messages<M> {
    /// The messages that `work` sends.
    pub(super) fn new(received: mpsc::Receiver<AccountedMessage<M>>, work: Task<()>) -> Self {
        Self {
            received,
            kept: None,
            _work: Some(work),
        }
    }

    pub(super) fn one(message: M) -> Self {
        let (out, received) = mpsc::channel(1);
        // The channel has room for one.
        let _ = out.try_send(Ok(message).into());
        Self {
            received,
            kept: None,
            _work: None,
        }
    }
}

impl<M> Stream for Messages<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let told = ready!(self.received.poll_recv(cx));
        Poll::Ready(told.map(|told| {
            self.kept = told.kept;
            told.message
        }))
    }
}

/// Starts `work` with a watcher whose events are sent to the stream, before the report. The report counts as unread by its
/// caller until the client has received it.
pub(super) fn start<M: Message, F>(
    room: (Arc<Unread>, Key),
    work: impl FnOnce(Progress) -> F,
) -> Response<Messages<M>>
where
    F: Future<Output = Result<M::Report, Status>> + Send + 'static,
{
    let relay = Arc::new(Relay::default());
    let (out, received) = mpsc::channel(WAITING);
    let work = work(relay.clone());
    let run = run(room, work, relay, out).instrument(tracing::Span::current());
    Response::new(Messages::new(received, task::spawn("control call", run)))
}

async fn run<M: Message>(
    (unread, key): (Arc<Unread>, Key),
    work: impl Future<Output = Result<M::Report, Status>>,
    relay: Arc<Relay>,
    out: mpsc::Sender<AccountedMessage<M>>,
) {
    let work = caller::on_behalf_of(Some(key.clone()), work);
    tokio::pin!(work);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        tokio::select! {
            end = &mut work => break end,
            // The work does not wait for a slow client: events without room are summed up.
            _ = tick.tick() => {
                for progress in relay.take(out.capacity()) {
                    let _ = out.try_send(Ok(M::progress(progress)).into());
                }
            }
        }
    };
    let last = relay.take(usize::MAX).into_iter().map(M::progress);
    let mut messages: Vec<AccountedMessage<M>> = last.map(|m| Ok(m).into()).collect();
    let kept = end.and_then(|report| {
        let kept = unread.keep(&key, report.encoded_len() as u64)?;
        Ok((report, Arc::new(kept)))
    });
    match kept {
        Ok((report, kept)) => {
            messages.extend(report.in_parts().into_iter().map(|part| AccountedMessage {
                message: Ok(M::report(part)),
                kept: Some(kept.clone()),
            }));
        }
        Err(status) => messages.push(Err(status).into()),
    }
    for message in messages {
        if out.send(message).await.is_err() {
            // Nobody is listening any more.
            return;
        }
    }
}

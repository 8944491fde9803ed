//! Bodies that are counted in transit.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::watch::{State, Watch};
use crate::serve::admission::Fault;

/// A request's body, whose bytes are added to `received`.
pub(super) fn incoming(body: Body, received: Arc<AtomicU64>) -> Body {
    Body::new(body.inspect_frame(move |frame| {
        let length = frame.data_ref().map_or(0, Bytes::len);
        received.fetch_add(length as u64, Relaxed);
    }))
}

/// Returns true if a response ended early because of its client, or because others needed its slot.
fn is_fault(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<Fault>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A response's body; the request has ended when it is dropped, which the server does when it has taken the last byte or the
/// client has disconnected.
pub(super) struct Outgoing {
    inner: Body,
    watch: Watch,
}

impl Outgoing {
    pub(super) fn new(inner: Body, mut watch: Watch) -> Self {
        watch.reach(State::Sending);
        Self { inner, watch }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        // Streams of stores do their work here, and attribute it to this request's span.
        let inner = Pin::new(&mut this.inner);
        let next = this.watch.span.in_scope(|| inner.poll_frame(cx));
        match &next {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                this.watch.sent += length as u64;
                if let Some(trailers) = frame.trailers_ref() {
                    this.watch.called(trailers);
                }
                // Many servers do not poll again once they know that there is no more.
                if this.inner.is_end_stream() {
                    this.watch.reach(State::Ended);
                }
            }
            // Cut off for another caller: not a failure.
            Poll::Ready(Some(Err(error))) if is_fault(error) => {}
            Poll::Ready(Some(Err(_))) => this.watch.reach(State::Failed),
            Poll::Ready(None) => this.watch.reach(State::Ended),
            Poll::Pending => {}
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

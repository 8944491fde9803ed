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

use super::watch::{State, Watch};
use crate::serve::admission::Fault;

type Next = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

/// A request's body.
pub(super) struct Incoming {
    inner: Body,
    received: Arc<AtomicU64>,
}

impl Incoming {
    pub(super) fn new(inner: Body, received: Arc<AtomicU64>) -> Self {
        Self { inner, received }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        let next = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &next
            && let Some(data) = frame.data_ref()
        {
            self.received.fetch_add(data.len() as u64, Relaxed);
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

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
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

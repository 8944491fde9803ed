//! A response's body that holds a value until its last byte is sent, or the client has disconnected.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};

/// A body, and a value that is dropped with it.
pub(super) struct GuardedBody<T> {
    body: Body,
    _what: T,
}

impl<T> GuardedBody<T> {
    pub(super) fn new(body: Body, what: T) -> Self {
        Self { body, _what: what }
    }
}

impl<T: Unpin> http_body::Body for GuardedBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

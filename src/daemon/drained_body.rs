//! A request body whose unused rest is read and discarded.
//!
//! A client that gets its answer before it has sent its whole body, and is then disconnected, often never sees the answer: the
//! kernel discards data sent to a peer that is still sending (RFC 9112, 9.6). So the rest is read for a while, and discarded.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::task;

/// Limits, in bytes and time, for a client to notice that it was answered.
const MAX_BYTES: usize = 256 << 20;
const MAX_TIME: Duration = Duration::from_secs(5);

/// A body that is read to its end after it is dropped.
pub(super) struct DrainOnDrop(Option<Body>);

impl DrainOnDrop {
    pub(super) fn new(body: Body) -> Self {
        Self(Some(body))
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        if let Some(rest) = rest {
            task::spawn("linger", tokio::time::timeout(MAX_TIME, drain(rest))).detach();
        }
    }
}

async fn drain(mut body: Body) {
    let mut read = 0;
    // An error ends it too: the client has disconnected.
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_BYTES {
            return;
        }
    }
}

impl http_body::Body for DrainOnDrop {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}

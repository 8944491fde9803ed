//! How long we wait: for an answer, for the next bytes to be taken ([`Watch`](crate::store::net::Watch): for those of a body).
//!
//! Ours rather than the SDK's stalled-stream protection: that one lets one byte a second pass, and its read timeout runs
//! from the first byte of a request, which no upload on a slow line would survive (reference/oci-and-s3.md §4.1).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::SdkBody,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Frame, SizeHint};
use tokio::time::Duration;

use super::error::from_sdk;
use crate::{
    progress::span,
    store::{
        body::ByteStream,
        error::{Error, ErrorKind, Result},
    },
};

/// How finely an upload is counted: a slow line takes one of these within the stall time.
const PIECE_BYTES: usize = 64 << 10;

/// How long a server may take to answer once it has the whole request, in stall times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Reads: it only has to look.
    Soon = 1,
    /// Writes and listings: it has work to do, and our last bytes may still wait in buffers on the way.
    Later = 3,
    /// Completing an upload: S3 says that this can take minutes.
    AfterWork = 12,
}

/// Waits for the answer to a request whose body is small or none.
///
/// # Errors
/// `Timeout` if there is none in time, and whatever the answer says.
pub(super) async fn answer<T, E>(
    op: &'static str,
    stall: Duration,
    patience: Answer,
    sent: impl Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    within(op, stall, patience, sent)
        .await?
        .map_err(|e| from_sdk(op, e))
}

/// As [`answer`], but leaves what the answer says to the caller.
pub(super) async fn within<T>(
    op: &'static str,
    stall: Duration,
    patience: Answer,
    sent: impl Future<Output = T>,
) -> Result<T> {
    let limit = stall * patience as u32;
    tokio::time::timeout(limit, sent)
        .await
        .map_err(|_| no_answer(op, limit))
}

fn no_answer(op: &'static str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        op,
        format!("no answer in {}", span(limit)),
    )
    .unheard()
}

/// Counts what the wire has taken of one request's body.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    bytes: Arc<AtomicU64>,
    of: u64,
}

/// Makes the body of a request of `bytes`, of exactly `len` bytes, and its counter.
pub(super) fn counted(bytes: ByteStream, len: u64) -> (SdkBody, Taken) {
    let taken = Taken {
        bytes: Arc::default(),
        of: len,
    };
    let body = Counted {
        bytes: Mutex::new(bytes),
        piece: Bytes::new(),
        taken: taken.clone(),
    };
    (SdkBody::from_body_1_x(body), taken)
}

/// Waits for the answer to a request with a body, as long as the wire keeps taking bytes of it.
///
/// # Errors
/// `Timeout` if for a stall time nothing was taken, or no answer comes after the last byte.
pub(super) async fn upload<T>(
    op: &'static str,
    stall: Duration,
    taken: Taken,
    sent: impl Future<Output = T>,
) -> Result<T> {
    tokio::pin!(sent);
    let mut seen = 0;
    let mut whole = false;
    loop {
        let limit = if whole {
            stall * Answer::Later as u32
        } else {
            stall
        };
        if let Ok(answer) = tokio::time::timeout(limit, &mut sent).await {
            return Ok(answer);
        }
        let now = taken.bytes.load(Ordering::Relaxed);
        if whole {
            return Err(no_answer(op, limit));
        }
        whole = now >= taken.of;
        if now == seen && !whole {
            return Err(Error::new(
                ErrorKind::Timeout,
                op,
                format!(
                    "nothing was taken for {:.1}s after {now} of {} bytes",
                    limit.as_secs_f64(),
                    taken.of
                ),
            ));
        }
        seen = now;
    }
}

/// A stream as a request's body, handed out in small pieces that are counted.
struct Counted {
    // Never locked: the SDK wants its bodies `Sync`, which streams are not.
    bytes: Mutex<ByteStream>,
    piece: Bytes,
    taken: Taken,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.piece.is_empty() {
            let bytes = this.bytes.get_mut();
            match std::task::ready!(bytes.poll_next_unpin(cx)) {
                Some(Ok(piece)) => this.piece = piece,
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.piece.split_to(PIECE_BYTES.min(this.piece.len()));
        this.taken
            .bytes
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(
            self.taken.of - self.taken.bytes.load(Ordering::Relaxed).min(self.taken.of),
        )
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn upload_goes_on_while_bytes_are_taken_and_stops_when_not() {
        let taken = Taken {
            bytes: Arc::default(),
            of: 100,
        };
        let counter = taken.bytes.clone();
        let sent = async move {
            for _ in 0..100 {
                tokio::time::sleep(STALL / 2).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(STALL * 2).await;
        };
        upload("put", STALL, taken.clone(), sent).await.unwrap();

        taken.bytes.store(50, Ordering::Relaxed);
        let start = Instant::now();
        let e = upload("put", STALL, taken, std::future::pending::<()>())
            .await
            .unwrap_err();
        assert!(e.message.contains("50 of 100"), "{e}");
        assert_eq!(start.elapsed().as_secs(), 20);
    }
}

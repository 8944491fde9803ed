//! Timeouts of remotes: for an answer, for accepting the next bytes of an upload, for the next bytes of a download.
//!
//! The limits of the HTTP clients are not sufficient: one on a whole request ends every upload on a slow line, and the AWS
//! SDK's protection against stalled streams accepts one byte per second.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::Common;
use crate::{
    progress::span,
    store::{
        body::ByteStream,
        error::{Error, Result},
    },
};

/// A download slower than this over a stall time counts as stalled; otherwise an occasional byte would keep it waiting forever.
const MIN_BYTES_PER_SECOND: f64 = 1024.0;
/// Maximum number of upload bytes that the connection gets at once: even a slow line sends them within the stall time.
const PIECE_BYTES: usize = 64 << 10;

/// Longer durations count as no limit; they must not overflow.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// The timeouts.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Patience {
    /// For a connection.
    pub(in crate::store) connect: Duration,
    /// For the next byte.
    pub(in crate::store) stall: Duration,
    /// For the answer once the request is sent.
    pub(in crate::store) answer: Duration,
}

impl Patience {
    /// According to the settings, with `stalls` stall times for the answer.
    pub(in crate::store) fn of(common: &Common, stalls: u32) -> Self {
        let (connect, stall) = (
            common.connect_timeout.min(LONGEST),
            common.stall.min(LONGEST),
        );
        Self {
            // The HTTP client has the same limit, and its error is more specific: it must come first.
            connect: connect + Duration::from_secs(1),
            stall,
            answer: stall * stalls,
        }
    }
}

/// Waits for an answer.
///
/// # Errors
/// `Timeout` if it takes longer than `limit`.
pub(in crate::store) async fn within<T>(
    op: &'static str,
    limit: Duration,
    answer: impl Future<Output = T>,
) -> Result<T> {
    let answered = timeout(limit, answer).await;
    answered.map_err(|_| no_answer(op, limit))
}

fn no_answer(op: &'static str, limit: Duration) -> Error {
    let message = format!("no answer within {}", span(limit));
    Error::timeout(op, message).unheard()
}

/// How much of a request's body was sent, and when.
#[derive(Debug)]
pub(in crate::store) struct Sent {
    began: Instant,
    /// Milliseconds from the beginning to the last byte.
    moved_ms: AtomicU64,
    bytes: AtomicU64,
    of: u64,
}

impl Sent {
    /// A body of `of` bytes, of which none were sent.
    pub(in crate::store) fn nothing_of(of: u64) -> Self {
        Self {
            began: Instant::now(),
            moved_ms: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            of,
        }
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let ms = self.began.elapsed().as_millis() as u64;
        self.moved_ms.store(ms, Ordering::Relaxed);
    }

    fn left(&self) -> u64 {
        self.of.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// When it last made progress, and how long it may pause from then on.
    fn limit(&self, patience: Patience) -> (Instant, Duration) {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        let limit = match self.left() {
            0 => patience.answer,
            _ => patience.stall,
        };
        let limit = if self.bytes.load(Ordering::Relaxed) == 0 {
            limit.max(patience.connect)
        } else {
            limit
        };
        (self.began + moved, limit)
    }

    fn stalled(&self, op: &'static str, limit: Duration) -> Error {
        if self.left() == 0 {
            return no_answer(op, limit);
        }
        let (bytes, limit) = (self.bytes.load(Ordering::Relaxed), span(limit));
        let message = format!(
            "the peer accepted no data for {limit} after {bytes} of {} bytes",
            self.of
        );
        Error::timeout(op, message).unheard()
    }
}

/// Waits for the answer to a request as long as the connection continues to accept bytes of its body.
///
/// # Errors
/// `Timeout` if it accepts none for too long, or no answer arrives after the last one.
pub(in crate::store) async fn sending<T>(
    op: &'static str,
    patience: Patience,
    sent: &Sent,
    answer: impl Future<Output = T>,
) -> Result<T> {
    tokio::pin!(answer);
    loop {
        let (moved, limit) = sent.limit(patience);
        if let Ok(answer) = timeout_at(moved + limit, &mut answer).await {
            return Ok(answer);
        }
        if sent.limit(patience) == (moved, limit) {
            return Err(sent.stalled(op, limit));
        }
    }
}

/// A stream as the body of a request, sent in small pieces that are counted.
pub(in crate::store) struct Upload {
    // Never locked: HTTP clients require bodies that are `Sync`, which streams are not.
    bytes: Mutex<ByteStream>,
    piece: Bytes,
    sent: Arc<Sent>,
}

impl Upload {
    /// The body of `bytes`, of exactly `len` bytes, and its progress.
    pub(in crate::store) fn new(bytes: ByteStream, len: u64) -> (Self, Arc<Sent>) {
        let sent = Arc::new(Sent::nothing_of(len));
        let upload = Self {
            bytes: Mutex::new(bytes),
            piece: Bytes::new(),
            sent: sent.clone(),
        };
        (upload, sent)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.piece.is_empty() {
            match ready!(this.bytes.get_mut().poll_next_unpin(cx)) {
                Some(Ok(piece)) => this.piece = piece,
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.piece.split_to(PIECE_BYTES.min(this.piece.len()));
        this.sent.add(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.sent.left())
    }
}

/// Watches a body that is being read: only time spent waiting for the server counts, not that of a slow reader.
#[derive(Debug)]
pub(in crate::store) struct Watch {
    op: &'static str,
    stall: Duration,
    waited: Duration,
    bytes: u64,
}

impl Watch {
    pub(in crate::store) fn new(op: &'static str, stall: Duration) -> Self {
        Self {
            op,
            stall,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Waits for the next piece; `None` at the end. The inner errors are its own.
    ///
    /// # Errors
    /// `Timeout` if no piece arrives for a stall time, or too few bytes in one.
    pub(in crate::store) async fn next<E>(
        &mut self,
        piece: impl Future<Output = Option<std::result::Result<Bytes, E>>>,
    ) -> Result<Option<std::result::Result<Bytes, E>>> {
        let stalled = |message| Error::timeout(self.op, message);
        let asked = Instant::now();
        let came = timeout(self.stall, piece).await;
        let came = came.map_err(|_| stalled(format!("no data for {}", span(self.stall))))?;
        self.waited += asked.elapsed();
        // The end or an error is not a stall, however little arrived before.
        let Some(Ok(piece)) = &came else {
            return Ok(came);
        };
        self.bytes += piece.len() as u64;
        if self.waited >= self.stall {
            let rate = self.bytes as f64 / self.waited.as_secs_f64();
            if rate < MIN_BYTES_PER_SECOND {
                return Err(stalled(format!("received only {rate:.0} bytes per second")));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::time::sleep;

    use super::*;
    use crate::store::ErrorKind;

    const STALL: Duration = Duration::from_secs(10);

    const PATIENCE: Patience = Patience {
        connect: Duration::from_secs(15),
        stall: STALL,
        answer: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn upload_goes_on_while_bytes_are_taken_and_stops_when_not() {
        let sent = Sent::nothing_of(100);
        let slow = async {
            for _ in 0..100 {
                sleep(STALL / 2).await;
                sent.add(1);
            }
            sleep(STALL * 2).await;
        };
        sending("put", PATIENCE, &sent, slow).await.unwrap();

        for (taken, want, seconds) in [
            (0, "for 15s after 0 of 100", 15),
            (50, "for 10s after 50 of 100", 10),
            (100, "no answer within 30s", 30),
        ] {
            let (began, sent) = (Instant::now(), Sent::nothing_of(100));
            sent.add(taken);
            let silent = std::future::pending::<()>();
            let e = sending("put", PATIENCE, &sent, silent).await.unwrap_err();
            assert!(e.message.contains(want) && e.unheard, "{e}");
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_is_handed_out_in_small_pieces_and_counted() {
        let bytes = Bytes::from(vec![1; PIECE_BYTES + 1]);
        let len = bytes.len() as u64;
        let stream = futures_util::stream::iter([Ok(bytes)]).boxed();
        let (mut upload, sent) = Upload::new(stream, len);
        for (piece, left) in [(PIECE_BYTES, 1), (1, 0)] {
            let frame = http_body_util::BodyExt::frame(&mut upload).await;
            let frame = frame.unwrap().unwrap().into_data().unwrap();
            assert_eq!((frame.len(), sent.left()), (piece, left));
        }
        assert!(http_body_util::BodyExt::frame(&mut upload).await.is_none());
    }

    async fn wait(watch: &mut Watch, time: Duration, bytes: usize) -> Result<()> {
        let piece = async {
            sleep(time).await;
            Some(Ok::<_, Infallible>(vec![0; bytes].into()))
        };
        watch.next(piece).await.map(drop)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_found_after_one_stall_time() {
        let start = Instant::now();
        let mut watch = Watch::new("get", STALL);
        let e = wait(&mut watch, Duration::MAX, 1).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Timeout);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn one_byte_a_second_is_a_stall_and_a_slow_line_is_none() {
        let run = |bytes| async move {
            let mut watch = Watch::new("get", STALL);
            for _ in 0..60 {
                wait(&mut watch, Duration::from_secs(1), bytes).await?;
            }
            Result::Ok(())
        };
        assert_eq!(run(1).await.unwrap_err().kind, ErrorKind::Timeout);
        run(4 << 10).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn slow_reader_is_no_stall() {
        let mut watch = Watch::new("get", STALL);
        for _ in 0..5 {
            wait(&mut watch, Duration::ZERO, 1).await.unwrap();
            sleep(STALL * 10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn end_of_a_body_is_no_stall() {
        let mut watch = Watch::new("get", STALL);
        wait(&mut watch, STALL * 9 / 10, 1).await.unwrap();
        let end = async {
            sleep(STALL / 2).await;
            None::<std::result::Result<Bytes, Infallible>>
        };
        assert!(watch.next(end).await.unwrap().is_none());
    }
}

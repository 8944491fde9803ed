//! A connection that tracks whether its client reads what is written to it, and whether the client's frames transfer anything.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use crate::serve::admission::{Permit, Writer};

/// A stream that tells its [`Writer`] when the client stops or resumes reading. It ends if the client sends too many
/// [`Frames`].
pub(super) struct Watched<S> {
    stream: S,
    writer: Writer,
    frames: Frames,
    /// As long as it may be HTTP/2.
    large_window: Option<Permit>,
    is_blocked: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, writer: Writer, large_window: Option<Permit>) -> Self {
        Self {
            stream,
            writer,
            frames: Frames::default(),
            large_window,
            is_blocked: false,
        }
    }

    fn note_sent(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.frames.sent(bytes);
        }
        let is_blocked = polled.is_pending();
        if is_blocked != self.is_blocked {
            self.is_blocked = is_blocked;
            self.writer.blocked(is_blocked);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.frames.ends_turn() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_pending() {
            self.frames.rests();
        }
        ready!(polled)?;
        let received = self.frames.received(&buf.filled()[before..]);
        if self.frames.is_other() {
            self.large_window = None;
        }
        Poll::Ready(received)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_sent(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_sent(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

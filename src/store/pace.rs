//! A number of bytes per second that all transfers of one direction share.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::body::ByteStream;

/// At most this much unused bandwidth is saved up.
const BURST: Duration = Duration::from_millis(100);
/// A stream passes on at most the bytes of this time at once, so that several streams advance evenly.
const PIECE: Duration = Duration::from_millis(20);
/// Limits for such a piece: smaller ones cost too much, larger ones are not read.
const PIECE_BYTES: std::ops::RangeInclusive<u64> = (4 << 10)..=(256 << 10);

/// Bytes per second, shared by all users.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_sec: u64,
    /// When everything taken so far has been paid for.
    paid_at: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_sec: u64) -> Self {
        Self {
            bytes_per_sec: bytes_per_sec.max(1),
            paid_at: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn bytes_per_sec(&self) -> u64 {
        self.bytes_per_sec
    }

    /// Waits until what others took before has been paid for, and takes `bytes`. Fair: first come, first served.
    pub(super) async fn take(&self, bytes: u64) {
        let turn = {
            let mut paid_at = self.paid_at.lock();
            let now = Instant::now();
            let turn = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
            let cost = bytes as f64 / self.bytes_per_sec as f64;
            // Capped at about a year, so that tiny rates cannot overflow.
            *paid_at = turn + Duration::from_secs_f64(cost.min(3e7));
            turn
        };
        sleep_until(turn).await;
    }

    fn piece_bytes(&self) -> usize {
        let bytes = (self.bytes_per_sec as f64 * PIECE.as_secs_f64()) as u64;
        bytes.clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end()) as usize
    }
}

/// The same bytes at this pace, together with all others.
pub(super) fn paced(bytes: ByteStream, pace: std::sync::Arc<Pace>) -> ByteStream {
    let state = (bytes, Bytes::new(), pace);
    stream::try_unfold(state, async |(mut bytes, mut rest, pace)| {
        if rest.is_empty() {
            let Some(piece) = bytes.next().await else {
                return Ok(None);
            };
            rest = piece?;
        }
        let piece = rest.split_to(pace.piece_bytes().min(rest.len()));
        pace.take(piece.len() as u64).await;
        Ok(Some((piece, (bytes, rest, pace))))
    })
    .boxed()
}

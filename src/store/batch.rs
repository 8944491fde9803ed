//! Pieces of a body on their way to a file, which take about as much memory as their length.
//!
//! A piece keeps the whole buffer alive in which it was received, however short it is: limiting the length of pieces limits
//! nothing if a sender sends one byte at a time.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Shorter pieces are copied: the buffers that servers and clients read into have 8 KiB or more.
const SMALL: usize = 4 << 10;

/// Collects pieces in order.
#[derive(Default)]
pub(super) struct Batch {
    whole: VecDeque<Bytes>,
    /// Copies of small pieces that arrived after all of `whole`.
    small: BytesMut,
    len: usize,
}

impl Batch {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
        } else {
            self.end_small();
            self.whole.push_back(piece);
        }
    }

    /// The number of bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same bytes in few pieces.
    pub(super) fn into_pieces(mut self) -> VecDeque<Bytes> {
        self.end_small();
        self.whole
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.whole.push_back(self.small.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_their_order_whatever_is_copied() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        let lengths = [1, SMALL, SMALL - 1, 2, 3 * SMALL, 0, 5];
        let mut want = Vec::new();
        for (n, length) in (0..).zip(lengths) {
            batch.push(vec![n; length].into());
            want.extend(vec![n; length]);
        }
        assert_eq!(batch.len(), want.len());
        let pieces = batch.into_pieces();
        assert_eq!(pieces.len(), 5);
        assert_eq!(Vec::from(pieces).concat(), want);
    }
}

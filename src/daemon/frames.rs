//! HTTP/2 frames of a client, counted before they are parsed.
//!
//! Some frames cost their sender only a few bytes and transfer nothing: priorities, pings, settings, resets, windows, unknown
//! ones. Parsing a megabyte of them keeps a thread busy for some 40 ms, and those that arrive between pieces of a body stay in
//! memory as long as these. So a connection has an allowance for them, which grows with the data it transfers and with time;
//! honest clients send two or three per request. And after some frames of any kind, other connections get their turn.

use std::{io, time::Duration};

use tokio::time::Instant;

/// Initial and maximum allowance of a connection: some 1000 empty frames.
const ALLOWANCE: i64 = 64 << 10;
/// Cost of a frame in addition to its payload.
const FRAME: i64 = 64;
/// Amount regained per second.
const EACH_SECOND: i64 = 4 << 10;
/// Bytes sent to the client that regain one byte: a client that reads opens two windows for 4 KiB, or more.
const SENT: i64 = 4;
/// Frames after which others get their turn: none takes more than a few microseconds.
const TURN: u32 = 64;
/// A request counts as this many frames, since it is also processed.
const REQUEST: u32 = 8;

/// What every HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head: length, type, flags, stream (RFC 9113, 4.1).
const HEAD: usize = 9;
/// Types of frames, and a flag (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;
/// Maximum size of padding and its length field.
const PADDING: i64 = 256;

/// The frames received on a connection.
pub(super) struct Frames {
    at: At,
    allowance: i64,
    /// When the allowance last grew with time.
    grew: Instant,
    /// Frames since others last had their turn.
    in_turn: u32,
}

/// The current position in the bytes of the connection.
enum At {
    /// This many bytes of [`PREFACE`] have been received.
    Preface(usize),
    /// This many bytes of a frame's head have been received.
    Head([u8; HEAD], usize),
    /// This many bytes of a frame's payload are still missing.
    Payload(usize),
    /// This is not HTTP/2.
    Other,
}

/// A connection sent too many frames that transfer nothing.
#[derive(Debug, thiserror::Error)]
#[error("the client sends too many HTTP/2 frames without data")]
struct TooMany;

impl Default for Frames {
    fn default() -> Self {
        Self {
            at: At::Preface(0),
            allowance: ALLOWANCE,
            grew: Instant::now(),
            in_turn: 0,
        }
    }
}

impl Frames {
    /// Counts received bytes.
    ///
    /// # Errors
    /// The connection has used up its allowance, and must be closed.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let next = match &mut self.at {
                At::Preface(came) => {
                    let length = bytes.len().min(PREFACE.len() - *came);
                    let (begin, rest) = bytes.split_at(length);
                    bytes = rest;
                    if *begin == PREFACE[*came..*came + length] {
                        *came += length;
                        (*came == PREFACE.len()).then_some(At::Head([0; HEAD], 0))
                    } else {
                        Some(At::Other)
                    }
                }
                At::Head(head, came) => {
                    let length = bytes.len().min(HEAD - *came);
                    let (begin, rest) = bytes.split_at(length);
                    bytes = rest;
                    head[*came..*came + length].copy_from_slice(begin);
                    *came += length;
                    let whole = (*came == HEAD).then_some(*head);
                    whole.map(|head| At::Payload(self.begins(head)))
                }
                At::Payload(left) => {
                    let length = bytes.len().min(*left);
                    bytes = &bytes[length..];
                    *left -= length;
                    (*left == 0).then_some(At::Head([0; HEAD], 0))
                }
                At::Other => return Ok(()),
            };
            if let Some(next) = next {
                self.at = next;
            }
            if let At::Payload(0) = self.at {
                self.at = At::Head([0; HEAD], 0);
            }
        }
        self.check()
    }

    /// Returns true if the client does not speak HTTP/2.
    pub(super) fn is_other(&self) -> bool {
        matches!(self.at, At::Other)
    }

    /// Counts a frame that begins; returns the length of its payload.
    fn begins(&mut self, [a, b, c, kind, flags, ..]: [u8; HEAD]) -> usize {
        self.in_turn += if kind == HEADERS { REQUEST } else { 1 };
        let length = u32::from_be_bytes([0, a, b, c]);
        let payload = i64::from(length);
        let moved = match kind {
            DATA if flags & PADDED != 0 => payload - PADDING - FRAME,
            DATA => payload - FRAME,
            // A request: the number of concurrent ones is limited, and each is answered.
            HEADERS | CONTINUATION => 0,
            _ => -FRAME - payload,
        };
        self.add(moved);
        length as usize
    }

    /// Counts sent bytes: a client that reads has to open windows.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.add(i64::try_from(bytes).unwrap_or(i64::MAX) / SENT);
    }

    fn add(&mut self, bytes: i64) {
        self.allowance = self.allowance.saturating_add(bytes).min(ALLOWANCE);
    }

    fn check(&mut self) -> io::Result<()> {
        if self.allowance >= 0 {
            return Ok(());
        }
        let grown = self.grew.elapsed().min(Duration::from_mins(1));
        self.grew = Instant::now();
        let millis = i64::try_from(grown.as_millis()).unwrap_or(0);
        self.add(millis * EACH_SECOND / 1000);
        if self.allowance < 0 {
            return Err(io::Error::other(TooMany));
        }
        Ok(())
    }

    /// Returns true if it is the turn of others now; then a new turn begins.
    pub(super) fn ends_turn(&mut self) -> bool {
        let is_over = self.in_turn >= TURN;
        if is_over {
            self.rests();
        }
        is_over
    }

    /// Begins a new turn, since nothing more has arrived.
    pub(super) fn rests(&mut self) {
        self.in_turn = 0;
    }
}

#[cfg(test)]
mod tests;

//! Content-defined segments: FastCDC (2020) of 16, 64 and 256 KiB at least, on average, at most.
//!
//! The crate is pinned: other cut points would do no damage, but nodes of different versions would stop sharing segments.

use std::io::{self, Read};

use crate::digest::ContentId;

const MIN: usize = 16 << 10;
const AVERAGE: usize = 64 << 10;
const MAX: usize = 256 << 10;

/// Cuts `data`; returns the lengths in order, which add up to the length of `data`.
pub fn cut(data: &[u8]) -> Vec<u32> {
    if (data.len() as u64) < super::SEGMENTED_BYTES {
        return if data.is_empty() {
            Vec::new()
        } else {
            vec![data.len() as u32]
        };
    }
    fastcdc::v2020::FastCDC::new(data, MIN, AVERAGE, MAX)
        .map(|c| c.length as u32)
        .collect()
}

/// Cuts a stream of more than [`super::SEGMENTED_BYTES`] as [`cut`] would cut the whole; passes each segment to `each`.
pub fn cut_stream(
    reader: impl Read,
    mut each: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    for chunk in fastcdc::v2020::StreamCDC::new(reader, MIN, AVERAGE, MAX) {
        each(chunk.map_err(io::Error::from)?.data)?;
    }
    Ok(())
}

/// The object of each segment of `data`: identity and length.
pub fn objects(data: &[u8]) -> Vec<(ContentId, u32)> {
    let mut at = 0;
    let hashed = cut(data).into_iter().map(|len| {
        let piece = &data[at..at + len as usize];
        at += len as usize;
        (ContentId::of(piece), len)
    });
    hashed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Xorshift: the same bytes on every machine.
    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn cut_points_are_those_of_the_format() {
        let golden = [
            44750, 219_962, 100_125, 28400, 91429, 28467, 19017, 114_735, 53115,
        ];
        assert_eq!(cut(&noise(700_000)), golden);
    }

    #[test]
    fn a_stream_is_cut_as_the_whole() {
        let data = noise(3_000_000);
        let mut lens = Vec::new();
        cut_stream(data.as_slice(), |piece| {
            lens.push(piece.len() as u32);
            Ok(())
        })
        .unwrap();
        assert_eq!(lens, cut(&data));
    }

    #[test]
    fn short_content_is_one_object_and_none_is_none() {
        assert_eq!(cut(&noise(1000)), [1000]);
        assert!(cut(b"").is_empty());
    }
}

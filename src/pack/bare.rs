//! Reading a pack as a bare file, without its manifest: the footer says where the table of contents is.
//!
//! The chain of trust is manifest → annotation → table of contents → frames; the footer is for files that have no manifest.

use super::TocAt;
use crate::{
    artifact::{
        toc::{MAX_STORED_TOC_BYTES, NotRead, Reading, Toc},
        wire::{Malformed, Result, bad},
    },
    digest::{Digest, Sha256},
};

/// Magic and length before the bytes of a skippable frame.
pub const SKIPPABLE_HEADER_BYTES: u64 = 8;
/// The last bytes of every footer.
const MAGIC: [u8; 8] = *b"cachectl";
/// Bytes of a footer with the header of its skippable frame: how much to read from the end of a pack.
pub const FOOTER_BYTES: u64 = SKIPPABLE_HEADER_BYTES + 8 + 8 + 32 + 8;

/// The content of the footer: offset and size of the table of contents, little-endian, its SHA-256, the magic.
pub(super) fn footer(toc: &TocAt) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FOOTER_BYTES as usize);
    bytes.extend_from_slice(&toc.offset.to_le_bytes());
    bytes.extend_from_slice(&toc.size.to_le_bytes());
    match toc.digest {
        Digest::Sha256(d) => bytes.extend_from_slice(&d.0),
        Digest::Sha512(_) => unreachable!("a table of contents is hashed only with SHA-256"),
    }
    bytes.extend_from_slice(&MAGIC);
    bytes
}

/// Reads the last [`FOOTER_BYTES`] of a pack of `pack_size` bytes.
///
/// # Errors
/// When it is not a cachectl footer, or points outside the pack.
pub fn read_footer(last: &[u8], pack_size: u64) -> Result<TocAt> {
    let Some(content) = last
        .len()
        .checked_sub(56)
        .map(|at| &last[at..])
        .filter(|c| c.ends_with(&MAGIC))
    else {
        return bad("it does not end in the footer of a pack");
    };
    let number =
        |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().expect("eight bytes"));
    let digest = Sha256(content[16..48].try_into().expect("32 bytes"));
    let at = TocAt {
        digest: digest.into(),
        offset: number(0),
        size: number(8),
    };
    match at.offset.checked_add(at.size) {
        Some(end) if end <= pack_size && at.size <= MAX_STORED_TOC_BYTES => Ok(at),
        _ => bad("its footer points outside of it"),
    }
}

/// Content length of a cachectl skippable frame, from its first [`SKIPPABLE_HEADER_BYTES`]; `None` if it is not such a frame.
pub fn skippable_len(frame: &[u8]) -> Option<u64> {
    let (magic, rest) = frame.split_first_chunk::<4>()?;
    let (len, _) = rest.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*magic) == super::SKIPPABLE).then(|| u32::from_le_bytes(*len).into())
}

/// Reads a table of contents whose place and digest are known.
///
/// # Errors
/// When the bytes do not match the digest, or [`Toc::decode`] refuses them.
pub fn read_toc(
    stored: &[u8],
    digest: &Digest,
    reading: &Reading<'_>,
) -> std::result::Result<Toc, NotRead> {
    if digest.matches(stored) {
        Toc::decode(stored, reading)
    } else {
        let why = "its table of contents does not match its digest";
        Err(Malformed(why.to_owned()).into())
    }
}

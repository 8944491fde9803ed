//! Packs: entries and their contents as one blob, and back.
//!
//! - Holds: planning of frames, the tar and zstd form, the table of contents in it, unpacking of frames into files.
//! - Enters: entries in the order of packing, readers of their contents; when unpacking, stored frames and the places of their bytes.
//! - Leaves: a pack on any `io::Write` with its table of contents; when unpacking, files of which every byte was checked.
//! - Deliberately absent: the kind of cache, the place where packs are stored, async.

use std::io::Write;

use zstd::zstd_safe::{CParameter, Strategy};

use crate::{artifact::toc::MAX_FRAME_BYTES, digest::Digest};

mod assemble;
pub mod bare;
pub mod buffers;
pub mod chunk;
pub mod frame;
pub mod item;
pub mod level;
pub mod plan;
mod pool;
mod size;
pub mod tar;
pub mod unpack;
pub mod write;

/// Frames are closed once they decode to this many bytes: with one more object, the longest is [`MAX_FRAME_BYTES`]. Frames of half the
/// size compress 2 % worse.
pub const FRAME_TARGET_BYTES: usize = MAX_FRAME_BYTES as usize - SEGMENTED_BYTES as usize;
/// Content of at least this many bytes starts its own frame.
pub const OWN_FRAME_BYTES: u64 = 1 << 20;
/// Content of at least this many bytes is cut into segments.
pub const SEGMENTED_BYTES: u64 = 256 << 10;
/// The default level, at which [`TUNED`] applies.
pub const ZSTD_LEVEL: i32 = 3;
/// What the default level changes in zstd's own level 3: the fast match finder, with a window as long as a frame and a table larger
/// than at levels 1 and 2. Measured on Go build caches: a fifth faster and 0.6 % bigger than zstd's level 3, 2 % smaller than
/// `tar | zstd -3`; level 2 is as fast and 5 % bigger.
const TUNED: [CParameter; 4] = [
    CParameter::Strategy(Strategy::ZSTD_fast),
    CParameter::WindowLog(22),
    CParameter::HashLog(17),
    CParameter::MinMatch(6),
];
/// Magic number of the skippable zstd frames that cachectl writes (RFC 8878 §3.1.2 has sixteen).
const SKIPPABLE: u32 = 0x184D_2A5C;

/// Why packing or unpacking failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pack could not be written.
    #[error("cannot write a pack: {0}")]
    Write(#[source] std::io::Error),
    /// A restored file could not be written.
    #[error(transparent)]
    Fs(#[from] crate::fs::Error),
    /// A limit of the restore is exceeded.
    #[error("{0}")]
    Limit(String),
    /// Nobody waits for the result any more.
    #[error("stopped")]
    Stopped,
}

/// Result of packing or unpacking.
pub type Result<T> = std::result::Result<T, Error>;

/// Where the table of contents of a finished pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TocAt {
    /// SHA-256 of its stored form.
    pub digest: Digest,
    /// Where its stored form starts.
    pub offset: u64,
    /// Length of its stored form.
    pub size: u64,
}

/// Writes a skippable frame: magic, length, bytes (RFC 8878 §3.1.2).
fn write_skippable(out: &mut dyn Write, bytes: &[u8]) -> std::io::Result<()> {
    let len = u32::try_from(bytes.len())
        .map_err(|_| std::io::Error::other("a skippable frame over 4 GiB"))?;
    out.write_all(&SKIPPABLE.to_le_bytes())?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(bytes)
}

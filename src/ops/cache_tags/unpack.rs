//! Reads a layer: its compression, and the digest of the plain tar.
//!
//! Pushers choose the bytes, so each layer has a budget of work that depends only on its size: if a layer cannot be decided within it, no
//! daemon can decide it. CPU time is a second bound, which no honest layer within the first one approaches.

use std::{
    io::{self, Write},
    time::Duration,
};

use flate2::write::GzDecoder;
use futures_util::TryStreamExt as _;
use rustix::time::{ClockId, clock_gettime};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use crate::{
    artifact::{Descriptor, buildkit::Claim, media},
    digest::{Digest, Sha256Hasher},
    store::{Repository, Result},
    task,
};

/// Work for a layer: this many times its size plus [`SMALL`], at most [`MAX_WORK`]. A byte of the plain tar counts as one.
const MAX_RATIO: u64 = 12;
const SMALL: u64 = 1 << 20;
const MAX_WORK: u64 = 1 << 30;
/// Work that the start of a gzip member or zstd frame counts as: it takes a new decoder.
const PART_WORK: u64 = 4 << 10;
/// CPU time for one layer.
pub(super) const MAX_TIME: Duration = Duration::from_secs(10);
/// Largest zstd window: 2 to this power. BuildKit's writer takes 32 MiB at its best level.
const MAX_WINDOW_LOG: u32 = 25;
/// Bytes from which a layer's compression is detected.
const MAGIC_LEN: usize = 4;
/// Bytes unpacked at a time.
const OUT_BYTES: usize = 128 << 10;

/// Work that a layer of `size` stored bytes may cost.
pub(super) fn work(size: u64) -> u64 {
    let work = size.saturating_mul(MAX_RATIO).saturating_add(SMALL);
    work.min(MAX_WORK)
}

/// The result of reading a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The layer's description.
    Is(Claim),
    /// Its compression is unknown here, or it exceeds its budget.
    Untold,
    /// It is missing, or incomplete.
    Missing,
}

/// Reads a layer, for at most `time` of CPU time.
///
/// # Errors
/// Those of the store, including `Corrupt`.
pub(super) async fn look(
    repo: &Repository,
    digest: Digest,
    size: u64,
    time: Duration,
) -> Result<Found> {
    let desc = Descriptor::new(media::LAYER_TAR, digest, size);
    let Some(mut stream) = repo.get_blob(&desc, 0..size).await? else {
        return Ok(Found::Missing);
    };
    let mut gathered = Vec::new();
    let mut unpacking = None;
    let mut left = time;
    while let Some(piece) = stream.try_next().await? {
        gathered.extend_from_slice(&piece);
        if gathered.len() < MAGIC_LEN && unpacking.is_none() {
            continue;
        }
        let bytes = std::mem::take(&mut gathered);
        let fed = task::blocking(move || {
            let begun = thread_time();
            let mut unpacking = match unpacking {
                Some(unpacking) => unpacking,
                None => Unpacking::new(&bytes, size)?,
            };
            unpacking.feed(&bytes)?;
            Ok::<_, io::Error>((unpacking, thread_time().saturating_sub(begun)))
        });
        let Ok((fed, took)) = fed.await else {
            return Ok(Found::Untold);
        };
        let Some(rest) = left.checked_sub(took) else {
            return Ok(Found::Untold);
        };
        left = rest;
        unpacking = Some(fed);
    }
    let Some(unpacking) = unpacking else {
        return Ok(Found::Untold);
    };
    let claim = task::blocking(move || unpacking.end()).await;
    Ok(claim.map_or(Found::Untold, Found::Is))
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.try_into().unwrap_or_default()
}

/// A layer that is unpacked while it arrives, only to compute its digest.
enum Unpacking {
    Tar(Hashing),
    Gzip(Option<Box<GzDecoder<Hashing>>>),
    Zstd(Box<Zstd>),
}

struct Zstd {
    decoder: Decoder<'static>,
    out: Vec<u8>,
    into: Hashing,
    /// The received bytes are complete.
    is_whole: bool,
}

impl Unpacking {
    fn new(start: &[u8], size: u64) -> io::Result<Self> {
        let mut into = Hashing {
            hasher: Sha256Hasher::default(),
            work: work(size),
        };
        Ok(match start {
            [0x1f, 0x8b, ..] => {
                into.take(PART_WORK)?;
                Self::Gzip(Some(Box::new(GzDecoder::new(into))))
            }
            // A frame, or a skippable one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
                Self::Zstd(Box::new(Zstd {
                    decoder,
                    out: vec![0; OUT_BYTES],
                    into,
                    is_whole: true,
                }))
            }
            _ => Self::Tar(into),
        })
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tar(into) => into.write_all(bytes),
            Self::Gzip(decoder) => feed_gzip(decoder, bytes),
            Self::Zstd(zstd) => zstd.feed(bytes),
        }
    }

    fn end(self) -> io::Result<Claim> {
        let (media_type, hashed) = match self {
            Self::Tar(into) => (media::LAYER_TAR, into),
            Self::Gzip(decoder) => {
                let decoder = decoder.ok_or(io::ErrorKind::InvalidData)?;
                (media::LAYER_GZIP, decoder.finish()?)
            }
            Self::Zstd(zstd) if zstd.is_whole => (media::FULL_PACK, zstd.into),
            Self::Zstd(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Ok(Claim {
            media_type: media_type.to_owned(),
            diff_id: Some(Digest::Sha256(hashed.hasher.finish())),
        })
    }
}

/// Unpacks one member after the other; `to` is the decoder of the one that has begun.
fn feed_gzip(to: &mut Option<Box<GzDecoder<Hashing>>>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let decoder = to.as_mut().ok_or(io::ErrorKind::InvalidData)?;
        let mut taken = decoder.write(bytes)?;
        if taken == 0 {
            // The decoder has all of its member.
            let ended = to.take().ok_or(io::ErrorKind::InvalidData)?;
            let mut into = ended.finish()?;
            into.take(PART_WORK)?;
            let next = to.insert(Box::new(GzDecoder::new(into)));
            taken = next.write(bytes)?;
            if taken == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        bytes = &bytes[taken..];
    }
    Ok(())
}

impl Zstd {
    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(bytes);
        loop {
            if self.is_whole {
                if input.pos() == bytes.len() {
                    return Ok(());
                }
                self.into.take(PART_WORK)?;
            }
            let mut out = OutBuffer::around(&mut self.out[..]);
            let missing = self.decoder.run(&mut input, &mut out)?;
            let is_full = out.pos() == OUT_BYTES;
            self.into.write_all(out.as_slice())?;
            self.is_whole = missing == 0;
            if !self.is_whole && !is_full && input.pos() == bytes.len() {
                return Ok(());
            }
        }
    }
}

struct Hashing {
    hasher: Sha256Hasher,
    /// The work that is left.
    work: u64,
}

impl Hashing {
    fn take(&mut self, work: u64) -> io::Result<()> {
        let left = self.work.checked_sub(work);
        self.work = left.ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(())
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes.len() as u64)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Which of two parts is right about a layer: its bytes say so.
//!
//! Only layers that parts contradict each other about are read. So nobody who may push takes the results of others out of a tag by a
//! false word about their layers; the layer that it lied about is left out of its own part.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    sync::Mutex,
};

use futures_util::TryStreamExt as _;

use super::{CacheTags, Sized, layers, locked};
use crate::{
    artifact::{
        Descriptor,
        buildkit::{Claim, Claims, Part},
        media,
    },
    digest::{Digest, Sha256Hasher},
    store::{ErrorKind, Repository, Result},
    task,
};

/// Stored bytes of disputed layers that are read for one merge, in the order of their digests. Of one that is beyond, the part
/// pushed last is believed.
const MAX_BYTES: u64 = 256 << 20;
/// A layer that unpacks to more than so many times its size, and [`SMALL`], is not read to its end.
const MAX_RATIO: u64 = 12;
const SMALL: u64 = 1 << 20;
/// Memory of a zstd window at most: 2 to this power. BuildKit's writer takes 32 MiB at its best level.
const MAX_WINDOW_LOG: u32 = 25;
/// Layers that are remembered at most.
const MAX_PROVED: usize = 10_000;

/// What the bytes of layers were found to be; `None` for what cannot be told.
#[derive(Default)]
pub(super) struct Proved(Mutex<HashMap<Digest, Option<Claim>>>);

impl CacheTags {
    /// What holds of each layer about which `parts` contradict each other.
    pub(super) async fn settle(
        &self,
        repo: &Repository,
        parts: &[Part],
        lost: &HashSet<Sized>,
    ) -> Result<Claims> {
        let mut claims = Claims::of_last_pushed(parts);
        let disputed: Vec<Digest> = claims.layers().collect();
        if disputed.is_empty() {
            return Ok(claims);
        }
        let there = parts.iter().flat_map(|p| layers(&p.manifest));
        let sizes: HashMap<Digest, u64> = there.filter(|layer| !lost.contains(layer)).collect();
        let mut left = MAX_BYTES;
        for digest in disputed {
            let Some(size) = sizes.get(&digest).copied() else {
                continue;
            };
            // The same ones in each daemon, whatever it read before.
            let Some(rest) = left.checked_sub(size) else {
                continue;
            };
            left = rest;
            match self.proved(repo, digest, size).await? {
                Some(claim) => {
                    tracing::warn!(repo = %repo.name(), %digest, "Parts of a merged cache contradict each other about a layer; its bytes decide");
                    claims.prove(&digest, claim);
                }
                None => {
                    tracing::warn!(repo = %repo.name(), %digest, "Parts of a merged cache contradict each other about a layer; the part pushed last is believed");
                }
            }
        }
        Ok(claims)
    }

    async fn proved(&self, repo: &Repository, digest: Digest, size: u64) -> Result<Option<Claim>> {
        if let Some(known) = locked(&self.proved.0).get(&digest) {
            return Ok(known.clone());
        }
        let found = match look(repo, digest, size).await {
            // Whether it comes back whole nobody knows.
            Err(e) if e.kind == ErrorKind::Corrupt => return Ok(None),
            other => other?,
        };
        let mut proved = locked(&self.proved.0);
        if proved.len() >= MAX_PROVED {
            proved.clear();
        }
        proved.insert(digest, found.clone());
        Ok(found)
    }
}

/// What the bytes of a layer are; `None` if they are packed in no way that is known here, or to far less than they unpack to.
async fn look(repo: &Repository, digest: Digest, size: u64) -> Result<Option<Claim>> {
    let desc = Descriptor::new(media::LAYER_TAR, digest, size);
    let Some(mut stream) = repo.get_blob(&desc, 0..size).await? else {
        return Ok(None);
    };
    let mut start = Vec::new();
    let mut unpacking: Option<Unpacking> = None;
    while let Some(piece) = stream.try_next().await? {
        start.extend_from_slice(&piece);
        if start.len() < MAGIC_LEN && unpacking.is_none() {
            continue;
        }
        let bytes = std::mem::take(&mut start);
        let begun = match unpacking.take() {
            Some(begun) => begun,
            None => match Unpacking::new(&bytes, size) {
                Ok(begun) => begun,
                Err(_) => return Ok(None),
            },
        };
        let fed = task::blocking(move || begun.feed(&bytes)).await;
        let Ok(fed) = fed else {
            return Ok(None);
        };
        unpacking = Some(fed);
    }
    let Some(unpacking) = unpacking else {
        return Ok(None);
    };
    Ok(task::blocking(move || unpacking.end()).await.ok())
}

/// Bytes that say how a layer is packed.
const MAGIC_LEN: usize = 4;

/// A layer that is unpacked as it comes, to nothing but a digest.
enum Unpacking {
    Tar(Hashing),
    Gzip(Box<flate2::write::MultiGzDecoder<Hashing>>),
    Zstd(zstd::stream::write::Decoder<'static, Hashing>),
}

impl Unpacking {
    fn new(start: &[u8], size: u64) -> io::Result<Self> {
        let into = Hashing {
            hasher: Sha256Hasher::default(),
            left: size.saturating_mul(MAX_RATIO).saturating_add(SMALL),
        };
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(flate2::write::MultiGzDecoder::new(into))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = zstd::stream::write::Decoder::new(into)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Self::Zstd(decoder)
            }
            _ => Self::Tar(into),
        })
    }

    fn feed(mut self, bytes: &[u8]) -> io::Result<Self> {
        match &mut self {
            Self::Tar(into) => into.write_all(bytes)?,
            Self::Gzip(into) => into.write_all(bytes)?,
            Self::Zstd(into) => into.write_all(bytes)?,
        }
        Ok(self)
    }

    fn end(self) -> io::Result<Claim> {
        let (media_type, hashed) = match self {
            Self::Tar(into) => (media::LAYER_TAR, into),
            Self::Gzip(into) => (media::LAYER_GZIP, into.finish()?),
            Self::Zstd(mut into) => {
                into.flush()?;
                (media::FULL_PACK, into.into_inner())
            }
        };
        Ok(Claim {
            media_type: media_type.to_owned(),
            diff_id: Some(Digest::Sha256(hashed.hasher.finish())),
        })
    }
}

struct Hashing {
    hasher: Sha256Hasher,
    left: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or(io::ErrorKind::FileTooLarge)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

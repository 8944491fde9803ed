//! The data of a pack, as a stream: hashed whole, or decoded down to every object, on all cores.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

use super::{Context, Faults, Result, contents::Contents};
use crate::{
    artifact::{
        Descriptor,
        snapshot::Pack,
        toc::{Frame, Object, Toc},
    },
    digest::Hasher,
    pack::{bare, frame},
    progress::Phase,
    store::{self, ByteStream, Error, ErrorKind},
    task,
};

/// Most faults of one pack that are reported individually.
const FAULTS_AT_MOST: usize = 20;

/// The result of reading a pack.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Bytes received.
    pub(super) bytes: u64,
    pub(super) faults: Faults,
}

impl Read {
    fn fault(&mut self, why: impl Into<String>) {
        if self.faults.len() < FAULTS_AT_MOST {
            self.faults.push(why.into());
        }
    }

    /// Damage is a finding; failing to ask the store is an error.
    fn or_error(mut self, e: Error) -> Result<Self> {
        if e.kind == ErrorKind::Corrupt {
            self.fault(e.message);
            Ok(self)
        } else {
            Err(e.into())
        }
    }
}

/// Hashes a blob whole.
pub(super) async fn hash(ctx: &Context, desc: &Descriptor) -> Result<Read> {
    let mut read = Read::default();
    let mut pieces = match open(ctx, desc).await {
        Ok(pieces) => pieces,
        Err(e) => return read.or_error(e),
    };
    let mut hasher = desc.digest.hasher();
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(e) => return read.or_error(e),
        };
        read.bytes += piece.len() as u64;
        ctx.progress.advance(Phase::Restore, piece.len() as u64);
        hasher = hashed(hasher, piece).await;
    }
    if read.bytes != desc.size || hasher.finish() != desc.digest {
        read.fault("its bytes do not match its digest");
    }
    Ok(read)
}

async fn hashed(mut hasher: Hasher, piece: Bytes) -> Hasher {
    task::blocking(move || {
        hasher.update(&piece);
        hasher
    })
    .await
}

async fn open(ctx: &Context, desc: &Descriptor) -> store::Result<ByteStream> {
    let missing = || Error::corrupt("read", "is missing");
    ctx.store.get(desc, 0..desc.size).await?.ok_or_else(missing)
}

/// A part of a pack.
enum Part {
    /// A frame, by its index.
    Frame(usize, Bytes),
    /// Everything after the frames.
    Tail(Bytes),
}

/// A checked frame.
struct Checked {
    stored: Bytes,
    /// The decoded bytes and the objects in them, if the frame is intact.
    decoded: std::result::Result<(Vec<u8>, Vec<Object>), String>,
}

/// Checks a pack completely: hashes and decodes every frame, hashes every object, compares the bytes between and after them; whole contents
/// that arrive in order are hashed in passing.
pub(super) async fn decode(ctx: &Context, pack: &Pack, contents: &mut Contents) -> Result<Read> {
    let desc = &pack.layer.descriptor;
    let mut read = Read::default();
    let pieces = match open(ctx, desc).await {
        Ok(pieces) => pieces,
        Err(e) => return read.or_error(e),
    };
    let toc = pack.toc.clone();
    let checks =
        parts(pieces, toc.frames.clone(), desc.size).map(|part| check_part(toc.clone(), part));
    let mut checks = std::pin::pin!(checks.buffered(ctx.threads.max(1)));
    let mut whole = desc.digest.hasher();
    while let Some(checked) = checks.next().await {
        let (frame, checked): (Option<usize>, Checked) = match checked {
            Ok(checked) => checked,
            Err(e) => return read.or_error(e),
        };
        read.bytes += checked.stored.len() as u64;
        ctx.progress
            .advance(Phase::Restore, checked.stored.len() as u64);
        if frame.is_none() {
            for why in tail(pack, &checked.stored) {
                read.fault(why);
            }
        }
        whole = hashed(whole, checked.stored).await;
        match (frame, checked.decoded) {
            (Some(_), Ok((bytes, objects))) => contents.pass(bytes, objects).await,
            (Some(i), Err(why)) => read.fault(format!("frame {i} {why}")),
            (None, _) => {}
        }
    }
    if whole.finish() != desc.digest {
        read.fault("its bytes do not match its digest");
    }
    Ok(read)
}

/// Cuts a pack's stream into its frames and the tail; ends with `Corrupt` if the stream is too short.
fn parts(
    pieces: ByteStream,
    frames: Vec<Frame>,
    size: u64,
) -> impl Stream<Item = store::Result<Part>> {
    let state = (pieces, BytesMut::new(), 0_usize, frames);
    stream::try_unfold(
        state,
        move |(mut pieces, mut buffer, at, frames)| async move {
            let end_of_frames = frames.last().map_or(0, |f| f.offset + u64::from(f.len));
            let (len, is_tail) = match frames.get(at) {
                Some(frame) => (u64::from(frame.len), false),
                None if at == frames.len() => (size - end_of_frames, true),
                None => return Ok(None),
            };
            while (buffer.len() as u64) < len {
                let Some(piece) = pieces.next().await else {
                    return Err(Error::corrupt("read", "ends too early"));
                };
                buffer.extend_from_slice(&piece?);
            }
            let bytes = buffer.split_to(len as usize).freeze();
            if is_tail && !buffer.is_empty() {
                return Err(Error::corrupt("read", "is longer than its size"));
            }
            let part = if is_tail {
                Part::Tail(bytes)
            } else {
                Part::Frame(at, bytes)
            };
            Ok(Some((part, (pieces, buffer, at + 1, frames))))
        },
    )
}

async fn check_part(
    toc: Arc<Toc>,
    part: store::Result<Part>,
) -> store::Result<(Option<usize>, Checked)> {
    Ok(match part? {
        Part::Frame(i, stored) => {
            let checked = task::blocking(move || check(&toc, i, stored)).await;
            (Some(i), checked)
        }
        Part::Tail(stored) => {
            let decoded = Err(String::new());
            (None, Checked { stored, decoded })
        }
    })
}

fn check(toc: &Toc, index: usize, stored: Bytes) -> Checked {
    let decoded = frame::decode(&toc.frames[index], &stored).and_then(|bytes| {
        let objects = objects_of(toc, index);
        match objects.iter().find(|o| !frame::holds(&bytes, o)) {
            Some(o) => Err(format!("does not hold the object {}", o.content)),
            None => Ok((bytes, objects)),
        }
    });
    Checked { stored, decoded }
}

/// The objects of a frame; they are listed in the order of frames.
fn objects_of(toc: &Toc, frame: usize) -> Vec<Object> {
    let from = toc.objects.partition_point(|o| (o.frame as usize) < frame);
    toc.objects[from..]
        .iter()
        .take_while(|o| o.frame as usize == frame)
        .copied()
        .collect()
}

/// The expected bytes after the frames: the skippable frame of the table of contents, then that of the footer.
fn tail(pack: &Pack, tail: &[u8]) -> Vec<&'static str> {
    let toc = &pack.layer.toc;
    let end_of_frames = pack
        .toc
        .frames
        .last()
        .map_or(0, |f| f.offset + u64::from(f.len));
    let mut wrong = Vec::new();
    let header = bare::SKIPPABLE_HEADER_BYTES;
    if toc.offset != end_of_frames + header {
        return vec!["there are unexpected bytes between its frames and its table of contents"];
    }
    let (head, rest) = tail.split_at(header as usize);
    let Some((stored, footer)) = rest.split_at_checked(toc.size as usize) else {
        return vec!["its table of contents is cut off"];
    };
    if bare::skippable_len(head) != Some(toc.size)
        || bare::skippable_len(footer) != Some(bare::FOOTER_BYTES - header)
    {
        wrong.push("the frames around its table of contents and footer are not skippable frames of the right length");
    }
    if !toc.digest.matches(stored) {
        wrong.push("its table of contents does not match its digest");
    }
    wrong
}

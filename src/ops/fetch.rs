//! Fetching frames: merged ranges of packs, several at once, handed to the unpacker as they come.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use crate::{
    artifact::{Descriptor, snapshot::Snapshot, toc::Frame},
    digest::Digest,
    pack::{
        plan::Plan,
        unpack::{Arrival, FileOutcome, Target, Verified, unpack},
    },
    store::{self, ErrorKind, Store},
    task,
};

use super::{Context, Result};

/// Frames further apart than this are fetched by requests of their own.
const GAP_BYTES: u64 = 128 << 10;
/// A request asks for so many bytes at most, so that several share a pack.
const RANGE_BYTES: u64 = 8 << 20;
/// Frames that wait for the unpacker at most; a frame has 4 MiB at the very most, commonly half.
const FRAMES_WAITING: usize = 16;

/// Packs that did not have what their tables of contents promise, with why.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Missing or damaged packs.
    pub damaged: Vec<(Digest, String)>,
    /// The first error that kept us from asking.
    pub failed: Option<store::Error>,
    /// Bytes that came.
    pub bytes: u64,
    /// Packs of which bytes came.
    pub packs: u64,
}

/// One request: consecutive frames of one pack.
#[derive(Debug)]
struct Request {
    /// Index in the plan's packs.
    pack: usize,
    desc: Descriptor,
    /// Index of the first frame in the pack's plan.
    first: usize,
    frames: Vec<Frame>,
}

impl Request {
    fn range(&self) -> Range<u64> {
        let (first, last) = (self.frames[0], self.frames[self.frames.len() - 1]);
        first.offset..last.offset + u64::from(last.len)
    }
}

fn requests(snapshot: &Snapshot, plan: &Plan) -> Vec<Request> {
    let mut all: Vec<Request> = Vec::new();
    for (pack, part) in plan.packs.iter().enumerate() {
        let desc = &snapshot.packs[part.pack].layer.descriptor;
        let mut open: Option<Request> = None;
        for (i, frame) in part.frames.iter().map(|f| f.frame).enumerate() {
            let end = frame.offset + u64::from(frame.len);
            let joins = open.as_ref().is_some_and(|r| {
                let range = r.range();
                frame.offset - range.end <= GAP_BYTES && end - range.start <= RANGE_BYTES
            });
            match &mut open {
                Some(r) if joins => r.frames.push(frame),
                _ => {
                    all.extend(open.take());
                    open = Some(Request {
                        pack,
                        desc: desc.clone(),
                        first: i,
                        frames: vec![frame],
                    });
                }
            }
        }
        all.extend(open);
    }
    all
}

struct Fetcher {
    store: Arc<dyn Store>,
    out: mpsc::Sender<Arrival>,
    found: Mutex<Fetched>,
    bytes: AtomicU64,
}

/// Fetches what the plan needs and unpacks it into `target` at once: frames are written while later ones are on their way.
///
/// # Errors
/// When a file cannot be written. What could not be fetched is in the answer: broken files, damaged packs, the store's error.
pub async fn fetch_and_unpack(
    ctx: &Context,
    snapshot: &Snapshot,
    plan: Arc<Plan>,
    target: impl Target + Send + 'static,
) -> Result<(Vec<FileOutcome>, Fetched)> {
    let (out, arrived) = mpsc::channel(FRAMES_WAITING);
    let unpacking = {
        let (plan, watch, threads) = (plan.clone(), ctx.progress.clone(), ctx.threads);
        task::blocking(move || {
            let arrived = Mutex::new(arrived);
            let next = || {
                arrived
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .blocking_recv()
            };
            unpack(&plan, &target, threads, &*watch, &next)
        })
    };
    let fetching = fetch(
        ctx.opened.store.clone(),
        snapshot,
        &plan,
        ctx.concurrency,
        out,
    );
    let (outcomes, fetched) = tokio::join!(unpacking, fetching);
    Ok((outcomes?, fetched))
}

/// Fetches every frame of the plan, or says in the arrivals why not. Ends early when nobody takes arrivals any more.
async fn fetch(
    store: Arc<dyn Store>,
    snapshot: &Snapshot,
    plan: &Plan,
    concurrency: usize,
    out: mpsc::Sender<Arrival>,
) -> Fetched {
    let packs = plan.packs.len() as u64;
    let fetcher = Fetcher {
        store,
        out,
        found: Mutex::default(),
        bytes: AtomicU64::new(0),
    };
    stream::iter(requests(snapshot, plan))
        .for_each_concurrent(concurrency.max(1), |request| fetcher.request(request))
        .await;
    let mut found = fetcher
        .found
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    found.bytes = fetcher.bytes.into_inner();
    found.packs = packs - found.damaged.len().min(packs as usize) as u64;
    found
}

impl Fetcher {
    async fn request(&self, request: Request) {
        if self.out.is_closed() {
            return;
        }
        let mut done = 0;
        let Err(e) = self.stream(&request, &mut done).await else {
            return;
        };
        let why = e.message.clone();
        self.note(&request.desc, e);
        for i in done..request.frames.len() {
            let arrival = (
                request.pack,
                request.first + i,
                Err(format!("its pack {why}")),
            );
            if self.out.send(arrival).await.is_err() {
                return;
            }
        }
    }

    fn note(&self, desc: &Descriptor, e: store::Error) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if e.kind == ErrorKind::Corrupt {
            if !found.damaged.iter().any(|(d, _)| *d == desc.digest) {
                found.damaged.push((desc.digest, e.message));
            }
        } else {
            found.failed.get_or_insert(e);
        }
    }

    async fn stream(&self, request: &Request, done: &mut usize) -> store::Result<()> {
        let corrupt = |why: &str| {
            store::Error::new(ErrorKind::Corrupt, "get", why).at("", request.desc.digest)
        };
        let range = request.range();
        let mut at = range.start;
        let Some(mut body) = self.store.get(&request.desc, range).await? else {
            return Err(corrupt("is missing"));
        };
        let mut buffer = BytesMut::new();
        for frame in &request.frames {
            let skip = (frame.offset - at) as usize;
            let len = frame.len as usize;
            while buffer.len() < skip + len {
                let Some(piece) = body.next().await else {
                    return Err(corrupt("ends too early"));
                };
                let piece = piece?;
                self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                buffer.extend_from_slice(&piece);
            }
            buffer.advance(skip);
            let stored = buffer.split_to(len).freeze();
            at = frame.offset + u64::from(frame.len);
            let verified = match Verified::check(frame, stored) {
                Some(verified) => verified,
                None => self
                    .again(request, frame)
                    .await?
                    .ok_or_else(|| corrupt("is damaged"))?,
            };
            if self
                .out
                .send((request.pack, request.first + *done, Ok(verified)))
                .await
                .is_err()
            {
                return Ok(());
            }
            *done += 1;
        }
        Ok(())
    }

    /// Asks for one frame once more: what was damaged on the way may come whole the second time.
    async fn again(&self, request: &Request, frame: &Frame) -> store::Result<Option<Verified>> {
        let range = frame.offset..frame.offset + u64::from(frame.len);
        let Some(body) = self.store.get(&request.desc, range).await? else {
            return Ok(None);
        };
        let bytes: Bytes = super::load::collect(body, frame.len.into()).await?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Verified::check(frame, bytes))
    }
}

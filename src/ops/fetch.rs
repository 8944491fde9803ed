//! Fetching frames: merged ranges of packs, several at once, handed to the unpacker as they arrive.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    artifact::{
        Descriptor,
        snapshot::Snapshot,
        toc::{Frame, MAX_FRAME_BYTES},
    },
    digest::Digest,
    pack::{
        buffers::Buffers,
        plan::Plan,
        unpack::{Arrival, FileOutcome, Target, Verified, unpack},
    },
    store::{self, ByteStream, ErrorKind, RepoStore},
    task,
};

use super::{Context, Result};

/// Frames further apart than this are fetched by requests of their own.
const GAP_BYTES: u64 = 128 << 10;
/// A request asks for at most this many bytes: over a distant link one connection carries some 20 MB/s, so as many requests as
/// are allowed must fit into [`BYTES_UNDER_WAY`].
const RANGE_BYTES: u64 = 4 << 20;
/// Most frames that wait for the unpacker.
const FRAMES_WAITING: usize = 16;
/// Most bytes of all frames between store and file: being read, waiting, or being decoded. Counting frames or requests would not do: a disk
/// is read faster than files are written, and frames differ a thousandfold in size.
const BYTES_UNDER_WAY: usize = 64 << 20;
// A request for more than the total would wait forever. A frame's stored bytes are at most twice its decoded ones.
const _: () = assert!(RANGE_BYTES as usize <= BYTES_UNDER_WAY);
const _: () = assert!(2 * MAX_FRAME_BYTES as usize <= BYTES_UNDER_WAY);

/// Packs without what their tables of contents list, with reasons.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Missing or damaged packs.
    pub damaged: Vec<(Digest, String)>,
    /// The first error in asking the store.
    pub failed: Option<store::Error>,
    /// Bytes received.
    pub bytes: u64,
    /// Packs from which bytes were received.
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
    store: Arc<dyn RepoStore>,
    out: mpsc::Sender<Arrival>,
    /// One permit per byte.
    room: Arc<Semaphore>,
    found: Mutex<Fetched>,
    bytes: AtomicU64,
    buffers: Arc<Buffers>,
}

/// Fetches what the plan needs and unpacks it into `target` concurrently: frames are written while later ones are fetched.
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
            let next = || arrived.lock().blocking_recv();
            unpack(&plan, &target, threads, &*watch, &next)
        })
    };
    let fetching = fetch(
        ctx.store.contents().clone(),
        requests(snapshot, &plan),
        ctx.concurrency,
        out,
    );
    let (outcomes, mut fetched) = tokio::join!(unpacking, fetching);
    let packs = plan.packs.len();
    fetched.packs = (packs - fetched.damaged.len().min(packs)) as u64;
    Ok((outcomes?, fetched))
}

/// Fetches every frame of the requests, or reports in the arrivals why not. Ends early when nobody takes arrivals any more.
///
/// The caller fills in the number of packs.
async fn fetch(
    store: Arc<dyn RepoStore>,
    requests: Vec<Request>,
    concurrency: usize,
    out: mpsc::Sender<Arrival>,
) -> Fetched {
    let fetcher = Fetcher {
        store,
        out,
        room: Arc::new(Semaphore::new(BYTES_UNDER_WAY)),
        found: Mutex::default(),
        bytes: AtomicU64::new(0),
        buffers: Arc::new(Buffers::new(FRAMES_WAITING)),
    };
    stream::iter(requests)
        .for_each_concurrent(concurrency.max(1), |request| fetcher.request(request))
        .await;
    let mut found = fetcher.found.into_inner();
    found.bytes = fetcher.bytes.into_inner();
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
        let mut found = self.found.lock();
        if e.kind == ErrorKind::Corrupt {
            if !found.damaged.iter().any(|(d, _)| *d == desc.digest) {
                found.damaged.push((desc.digest, e.message));
            }
        } else {
            found.failed.get_or_insert(e);
        }
    }

    async fn stream(&self, request: &Request, done: &mut usize) -> store::Result<()> {
        let corrupt = |why: &str| store::Error::corrupt("get", why).at("", request.desc.digest);
        // Reserve all of a request's bytes at once: requests that each hold a part and wait for more would deadlock.
        let mut room = self.room(request).await;
        let range = request.range();
        let mut at = range.start;
        let Some(body) = self.store.get(&request.desc, range).await? else {
            return Err(corrupt("is missing"));
        };
        let mut body = Pieces {
            body,
            rest: Bytes::new(),
            came: &self.bytes,
            buffers: &self.buffers,
        };
        for frame in &request.frames {
            body.skip(frame.offset - at).await?;
            let stored = body.take(frame.len as usize).await?;
            at = frame.offset + u64::from(frame.len);
            let own = Arc::new(
                room.split(permits(frame))
                    .expect("it was made for them all"),
            );
            let verified = match Verified::check(frame, self.bytes_of(stored, &own)) {
                Some(verified) => verified,
                None => self
                    .again(request, frame, &own)
                    .await?
                    .ok_or_else(|| corrupt("is damaged"))?,
            };
            drop(own);
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

    async fn room(&self, request: &Request) -> OwnedSemaphorePermit {
        let permits = request.frames.iter().map(permits).sum::<usize>();
        let room = self.room.clone().acquire_many_owned(permits as u32).await;
        room.expect("the semaphore is never closed")
    }

    /// Requests one frame again: a frame damaged in transit may arrive intact the second time.
    async fn again(
        &self,
        request: &Request,
        frame: &Frame,
        room: &Arc<OwnedSemaphorePermit>,
    ) -> store::Result<Option<Verified>> {
        let range = frame.offset..frame.offset + u64::from(frame.len);
        let Some(body) = self.store.get(&request.desc, range).await? else {
            return Ok(None);
        };
        let mut body = Pieces {
            body,
            rest: Bytes::new(),
            came: &self.bytes,
            buffers: &self.buffers,
        };
        let bytes = body.take(frame.len as usize).await?;
        Ok(Verified::check(frame, self.bytes_of(bytes, room)))
    }

    fn bytes_of(&self, bytes: Vec<u8>, room: &Arc<OwnedSemaphorePermit>) -> Bytes {
        Bytes::from_owner(FrameBytes {
            bytes,
            buffers: self.buffers.clone(),
            _room: room.clone(),
        })
    }
}

/// The permits that a frame takes.
fn permits(frame: &Frame) -> usize {
    frame.len as usize
}

/// Bytes of a frame with their permits; when the last handle is dropped, these are released and the buffer is used again.
struct FrameBytes {
    bytes: Vec<u8>,
    buffers: Arc<Buffers>,
    _room: Arc<OwnedSemaphorePermit>,
}

impl Drop for FrameBytes {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.bytes));
    }
}

impl AsRef<[u8]> for FrameBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is read frame by frame.
struct Pieces<'a> {
    body: ByteStream,
    rest: Bytes,
    came: &'a AtomicU64,
    buffers: &'a Buffers,
}

impl Pieces<'_> {
    async fn fill(&mut self) -> store::Result<()> {
        while self.rest.is_empty() {
            let Some(piece) = self.body.next().await else {
                let why = "ends too early";
                return Err(store::Error::corrupt("get", why));
            };
            self.rest = piece?;
            self.came
                .fetch_add(self.rest.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn skip(&mut self, mut bytes: u64) -> store::Result<()> {
        while bytes > 0 {
            self.fill().await?;
            let n = bytes.min(self.rest.len() as u64);
            self.rest.advance(n as usize);
            bytes -= n;
        }
        Ok(())
    }

    async fn take(&mut self, len: usize) -> store::Result<Vec<u8>> {
        let mut all = self.buffers.take(len);
        while all.len() < len {
            self.fill().await?;
            let n = (len - all.len()).min(self.rest.len());
            all.extend_from_slice(&self.rest[..n]);
            self.rest.advance(n);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;

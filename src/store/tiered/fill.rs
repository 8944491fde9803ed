//! The download of a cold blob into the front: downloaded once, for all concurrent readers.
//!
//! The download goes into a spool, which readers follow. It stops when nobody reads any more. The bytes have been verified by the
//! remote store's wrapper when the last piece arrives ([`Verified`](crate::store::wrap::Verified)): nothing is hashed here.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::Write as _,
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::{Core, counts::add, front::passed_by};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    fs,
    store::{
        Body, ByteStream, Spool, SpoolWriter,
        batch::Batch,
        body::file_stream,
        error::{Error, Result},
    },
    task::{self, Task},
};

/// Blobs of up to this many bytes are downloaded completely before the first byte is returned.
const SMALL_BYTES: u64 = 1 << 20;
/// How many bytes are collected before they are written, and read at once.
const BATCH_BYTES: usize = 256 << 10;

/// Progress of a download.
#[derive(Clone)]
enum Phase {
    /// The remote has not answered yet, or it is not our turn.
    Opening,
    /// The remote has no such blob.
    Missing,
    /// Bytes are arriving.
    Coming,
    Whole,
    /// The front cannot take it; the remote may be fine.
    NoRoom,
    Failed(Arc<Error>),
}

struct Progress {
    phase: Phase,
    written: u64,
    /// The spool, from which the written bytes can be read.
    file: Option<(Arc<File>, PathBuf)>,
}

pub(super) struct Fill {
    desc: Descriptor,
    progress: watch::Receiver<Progress>,
    fills: Arc<Fills>,
    /// Stopped with the last reader.
    task: OnceLock<Task<()>>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.fills.forget(&self.desc.digest);
    }
}

/// All downloads in progress.
pub(super) struct Fills {
    running: Mutex<HashMap<Digest, Weak<Fill>>>,
    places: Semaphore,
}

/// The result for a reader of a cold blob.
pub(super) enum Found {
    /// The remote has no such blob.
    Missing,
    /// The front cannot take it.
    NoRoom,
    Stream(ByteStream),
}

impl Fills {
    /// Allows `at_once` downloads at the same time; others wait.
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            running: Mutex::default(),
            places: Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    /// Forgets a download whose readers are gone.
    fn forget(&self, digest: &Digest) {
        let mut running = self.running.lock();
        if running.get(digest).is_some_and(|f| f.strong_count() == 0) {
            running.remove(digest);
        }
    }

    /// Forgets a finished download; later readers start a new download, or find the blob in front.
    fn over(&self, digest: &Digest) {
        self.running.lock().remove(digest);
    }

    /// The current download of a blob.
    pub(super) fn get(&self, desc: &Descriptor) -> Option<Arc<Fill>> {
        let fill = self.running.lock().get(&desc.digest)?.upgrade()?;
        (fill.desc.size == desc.size).then_some(fill)
    }

    /// Joins the download of a blob, or begins one; `None` while one of another size is in progress, since only the remote can
    /// tell which size is right.
    pub(super) fn join(self: &Arc<Self>, core: &Arc<Core>, desc: &Descriptor) -> Option<Arc<Fill>> {
        let (sender, progress) = watch::channel(Progress {
            phase: Phase::Opening,
            written: 0,
            file: None,
        });
        let new = Arc::new(Fill {
            desc: desc.clone(),
            progress,
            fills: self.clone(),
            task: OnceLock::new(),
        });
        {
            let mut running = self.running.lock();
            if let Some(fill) = running.get(&desc.digest).and_then(Weak::upgrade) {
                drop(running);
                add(&core.counts.joined, 1);
                return (fill.desc.size == desc.size).then_some(fill);
            }
            running.insert(desc.digest, Arc::downgrade(&new));
        }
        add(&core.counts.fills, 1);
        let work = run(core.clone(), self.clone(), desc.clone(), sender);
        // Nobody else has it yet, so nobody has set it.
        let _ = new.task.set(task::spawn("fill", work));
        Some(new)
    }
}

impl Fill {
    /// Reads all of it from the beginning, as it arrives.
    pub(super) async fn read(self: Arc<Self>) -> Result<Found> {
        let mut progress = self.progress.clone();
        loop {
            match progress.borrow_and_update().phase.clone() {
                Phase::Opening => {}
                Phase::Missing => return Ok(Found::Missing),
                Phase::NoRoom => return Ok(Found::NoRoom),
                Phase::Failed(e) => return Err(e.told()),
                Phase::Coming | Phase::Whole => break,
            }
            if progress.changed().await.is_err() {
                return Err(given_up(&self.desc));
            }
        }
        let reader = Reader {
            fill: self,
            progress,
            at: 0,
        };
        let pieces = stream::try_unfold(reader, |mut r| async move {
            Ok(r.next().await?.map(|piece| (piece, r)))
        });
        Ok(Found::Stream(pieces.boxed()))
    }

    /// Reads a range that has already arrived completely; ranges are not verified anyway.
    pub(super) fn range(&self, range: &Range<u64>) -> Option<ByteStream> {
        let progress = self.progress.borrow();
        let is_there = matches!(progress.phase, Phase::Coming | Phase::Whole);
        let (file, path) = progress.file.as_ref()?;
        let ready = is_there && range.end <= progress.written;
        ready.then(|| file_stream(file.clone(), path.clone(), range.clone()))
    }
}

fn given_up(desc: &Descriptor) -> Error {
    Error::unavailable("get", "its download was aborted").at("", desc.digest)
}

struct Reader {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    at: u64,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let size = self.fill.desc.size;
        loop {
            let (ready, file) = {
                let progress = self.progress.borrow_and_update();
                let ready = match &progress.phase {
                    Phase::Whole => size,
                    Phase::Coming if size > SMALL_BYTES => progress.written,
                    Phase::Failed(e) => return Err(e.told()),
                    _ => 0,
                };
                if matches!(progress.phase, Phase::Whole) && self.at == size {
                    return Ok(None);
                }
                (ready, progress.file.clone())
            };
            if let Some((file, path)) = file.filter(|_| ready > self.at) {
                let end = ready.min(self.at + BATCH_BYTES as u64);
                let mut piece = file_stream(file, path, self.at..end);
                if let Some(piece) = piece.try_next().await? {
                    self.at += piece.len() as u64;
                    return Ok(Some(piece));
                }
            }
            if self.progress.changed().await.is_err() {
                return Err(given_up(&self.fill.desc));
            }
        }
    }
}

/// Why a download ended early.
enum Broken {
    /// Because of the remote, or the network.
    Remote(Error),
    /// By the disk in front.
    Front(Error),
}

async fn run(
    core: Arc<Core>,
    fills: Arc<Fills>,
    desc: Descriptor,
    progress: watch::Sender<Progress>,
) {
    let places = fills.clone();
    // Never closed.
    let _place = places.places.acquire().await;
    let phase = match download(&core, &desc, &progress).await {
        Ok(Some(spool)) => {
            keep(core, fills, desc, spool);
            Phase::Whole
        }
        Ok(None) => {
            fills.over(&desc.digest);
            Phase::Missing
        }
        Err(broken) => {
            add(&core.counts.fills_failed, 1);
            fills.over(&desc.digest);
            match broken {
                Broken::Remote(e) => Phase::Failed(Arc::new(e)),
                Broken::Front(e) => {
                    let begun = progress.borrow().file.is_some();
                    passed_by::<()>(Err(e.told()));
                    // A reader that has read a part of it must retry; one that has not may bypass the front.
                    if begun && desc.size > SMALL_BYTES {
                        Phase::Failed(Arc::new(e))
                    } else {
                        Phase::NoRoom
                    }
                }
            }
        }
    };
    progress.send_modify(|p| p.phase = phase);
}

/// Stores a complete download in the front, while its readers read the spool.
fn keep(core: Arc<Core>, fills: Arc<Fills>, desc: Descriptor, spool: Spool) {
    // Until it is stored, new readers must find the download.
    let hold = fills.get(&desc);
    let work = async move {
        let body = Body::Spool(Arc::new(spool));
        passed_by(core.front.put(&desc, &body).await);
        fills.over(&desc.digest);
        drop(hold);
    };
    task::spawn("keep", work).detach();
}

async fn download(
    core: &Arc<Core>,
    desc: &Descriptor,
    progress: &watch::Sender<Progress>,
) -> std::result::Result<Option<Spool>, Broken> {
    let asked = core.remote.store.get(desc, 0..desc.size);
    let Some(stream) = core
        .health
        .ask("get", asked)
        .await
        .map_err(Broken::Remote)?
    else {
        return Ok(None);
    };
    let mut stream = core.health.watched(stream).fuse().boxed();
    core.front
        .make_room(desc.size)
        .await
        .map_err(Broken::Front)?;
    let (mut spool, file) = create(core.front.spool_dir.clone(), desc.clone())
        .await
        .map_err(Broken::Front)?;
    progress.send_modify(|p| {
        p.phase = Phase::Coming;
        p.written = 0;
        p.file = Some(file);
    });
    while let Some(batch) = gather(&mut stream).await.map_err(Broken::Remote)? {
        spool = write(spool, batch).await.map_err(Broken::Front)?;
        let written = spool.written();
        progress.send_modify(|p| p.written = written);
    }
    if spool.written() != desc.size {
        let why = "its size differs from its descriptor";
        let e = Error::corrupt("get", why).at("", desc.digest);
        return Err(Broken::Remote(e));
    }
    Ok(Some(spool.finish()))
}

type Readable = (Arc<File>, PathBuf);

async fn create(dir: PathBuf, desc: Descriptor) -> Result<(SpoolWriter, Readable)> {
    task::blocking(move || {
        let spool = SpoolWriter::create_verified(&dir, desc.digest)?;
        // A reader that got a part of it could not be redirected to the remote if the disk were full.
        spool.reserve(desc.size)?;
        let path = spool.path().to_owned();
        let file =
            File::open(&path).map_err(|e| Error::io("spool", fs::Error::new("open", &path, e)))?;
        Ok((spool, (Arc::new(file), path)))
    })
    .await
}

/// The bytes that have arrived, at least one piece; `None` at the end.
async fn gather(stream: &mut ByteStream) -> Result<Option<VecDeque<Bytes>>> {
    let Some(first) = stream.try_next().await? else {
        return Ok(None);
    };
    let mut batch = Batch::default();
    batch.push(first);
    while batch.len() < BATCH_BYTES {
        match stream.next().now_or_never() {
            Some(Some(piece)) => batch.push(piece?),
            // Nothing yet, or the end, which the next call finds again.
            Some(None) | None => break,
        }
    }
    Ok(Some(batch.into_pieces()))
}

async fn write(mut spool: SpoolWriter, batch: VecDeque<Bytes>) -> Result<SpoolWriter> {
    task::blocking(move || {
        for piece in &batch {
            let written = spool.write_all(piece);
            written.map_err(|e| Error::io("spool", fs::Error::new("write", spool.path(), e)))?;
        }
        Ok(spool)
    })
    .await
}

//! Packing and uploading concurrently: while one pack is written, those before it are sent, several at once. One after the
//! other would leave a distant link idle between them, and use a single connection of it where a blob is one request.

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Context, Moved, Result,
    diff::{From, New},
};
use crate::{
    artifact::{
        snapshot::{Layer, Pack, TocPlace},
        toc::ObjectId,
    },
    digest::Digest,
    entry::Content,
    pack::{
        self,
        item::{Contents, PackItem},
        level::{Auto, Level},
        write::{Options, Outcome, Sink, Written},
    },
    progress::{Phase, Progress},
    source::Source,
    store::{self, Body, Meter, Put, RepoStore, Spool, SpoolWriter},
    task,
};

/// Another pack is sent beside those that are being sent only while these have fewer bytes than this together. With the pack
/// that waits then, and the one being written, this limits the disk space of spools.
const SENDING_BYTES: u64 = 512 << 20;
/// Most packs that are sent at once: at first, and after every one that was sent quickly one more. Many connections over a slow
/// link take so long for each of them that stores and timeouts take them for stalled.
const PACKS_AT_FIRST: usize = 2;
const PACKS_SENDING: usize = 8;
const QUICKLY: Duration = Duration::from_secs(10);
/// Finished packs that wait.
const PACKS_WAITING: usize = 1;

/// From this many bytes of new content on, the export first asks whether they may be stored: fewer are packed faster than the answer
/// arrives.
const ASK_FROM: u64 = 8 << 20;

/// Finds out before packing whether `new` may not be stored.
///
/// # Errors
/// The store's refusal.
pub async fn must_be_allowed(ctx: &Context, new: &[New]) -> Result<()> {
    let bytes: u64 = new.iter().map(|n| n.pack.entry.kind.content_len()).sum();
    if let Some(check) = ctx
        .store
        .facts()
        .push_check
        .as_ref()
        .filter(|_| bytes >= ASK_FROM)
    {
        check.check_push().await?;
    }
    Ok(())
}

/// What to pack.
#[derive(Clone)]
pub struct Work {
    /// The cache.
    pub source: Arc<dyn Source>,
    /// The items to pack.
    pub new: Vec<New>,
    /// Objects that kept packs have.
    pub kept: Arc<std::collections::HashSet<ObjectId>>,
    /// Options of the packer.
    pub options: Options,
}

/// The result.
pub struct Uploaded {
    /// The packs, stored, all entries live.
    pub packs: Vec<Pack>,
    /// One outcome for each of [`Work::new`].
    pub outcomes: Vec<Outcome>,
    /// What was sent.
    pub moved: Moved,
    /// Time spent packing, and sending.
    pub times: (Duration, Duration),
}

/// Packs without storing anything: returns what the packs would be, under placeholder digests.
///
/// # Errors
/// When packing fails for a reason other than an unreadable item.
pub async fn rehearse(ctx: &Context, work: Work, day: u32) -> Result<(Vec<Pack>, Vec<Outcome>)> {
    let watch = ctx.progress.clone();
    task::blocking(move || {
        let mut sink = Weighed(Vec::new());
        let outcomes = pack_all(&work, &mut sink, &watch)?;
        let pack = |(i, written): (usize, Written)| {
            let at = written.toc_at;
            let place = TocPlace {
                digest: at.digest,
                offset: at.offset,
                size: at.size,
            };
            let digest = Digest::sha256_of(format!("{i} {}", at.digest).as_bytes());
            let layer = Layer::new(digest, written.size, place);
            Pack::all_live(layer, Arc::new(written.toc), day)
        };
        let packs = sink.0.into_iter().enumerate().map(pack).collect();
        Ok((packs, outcomes))
    })
    .await
}

/// Discards packs, and records their metadata.
struct Weighed(Vec<Written>);

impl Sink for Weighed {
    type Out = std::io::Sink;

    fn begin(&mut self) -> std::io::Result<std::io::Sink> {
        Ok(std::io::sink())
    }

    fn end(&mut self, _: std::io::Sink, written: Written) -> std::io::Result<()> {
        self.0.push(written);
        Ok(())
    }
}

struct Contained<'a> {
    source: &'a dyn Source,
    new: &'a [New],
}

impl Contents for Contained<'_> {
    fn open(&self, item: usize) -> std::result::Result<Box<dyn Content>, String> {
        match &self.new[item].from {
            From::Item(item) => self.source.open(item),
            From::File(path) => match File::open(path) {
                Ok(file) => Ok(Box::new(Fetched(file))),
                Err(e) => Err(format!("cannot be read back: {e}")),
            },
        }
    }
}

/// A fetched and verified file; the packer compares it with its digest again.
struct Fetched(File);

impl Read for Fetched {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Content for Fetched {
    fn settle(self: Box<Self>) -> std::result::Result<(), String> {
        Ok(())
    }
}

struct SpoolSink {
    dir: PathBuf,
    out: mpsc::Sender<(Spool, Written)>,
}

impl Sink for SpoolSink {
    type Out = SpoolWriter;

    fn begin(&mut self) -> std::io::Result<SpoolWriter> {
        SpoolWriter::create(&self.dir).map_err(std::io::Error::other)
    }

    fn end(&mut self, out: SpoolWriter, written: Written) -> std::io::Result<()> {
        let sent = self.out.blocking_send((out.finish(), written));
        sent.map_err(|_| std::io::Error::other("uploading packs has ended"))
    }
}

/// Packs and stores; every pack is durable in the store when this returns.
///
/// # Errors
/// When a pack cannot be written or stored; packs stored before stay, unreachable until a later export uses them.
pub async fn upload(ctx: &Context, work: Work, day: u32) -> Result<Uploaded> {
    let dir = ctx.spool_dir();
    let (out, arrived) = mpsc::channel(PACKS_WAITING);
    let watch = ctx.progress.clone();
    let auto = match &work.options.level {
        Level::Auto(auto) => Some(auto.clone()),
        Level::Fixed(_) => None,
    };
    let started = Instant::now();
    let packing = task::blocking(move || {
        let outcomes = pack_all(&work, &mut SpoolSink { dir, out }, &watch);
        (outcomes, started.elapsed())
    });
    let sender = Sender {
        store: &*ctx.store,
        progress: &ctx.progress,
        day,
        auto,
    };
    let ((outcomes, packed_in), sent) = tokio::join!(packing, sender.send_all(arrived));
    // If sending failed, packing failed because nobody took its packs: report the cause.
    let (packs, moved, sent_in) = sent?;
    Ok(Uploaded {
        packs,
        outcomes: outcomes?,
        moved,
        times: (packed_in, sent_in),
    })
}

fn pack_all<S: Sink>(work: &Work, sink: &mut S, watch: &Progress) -> Result<Vec<Outcome>> {
    let items: Vec<PackItem> = work.new.iter().map(|n| n.pack.clone()).collect();
    let contents = Contained {
        source: &*work.source,
        new: &work.new,
    };
    let kept = |id: &ObjectId| work.kept.contains(id);
    let total = items.iter().map(|i| i.entry.kind.content_len()).sum();
    watch.begin(Phase::Pack, Some(total));
    let outcomes = pack::write::write(&items, &contents, &kept, &work.options, sink, &**watch);
    watch.end(Phase::Pack);
    Ok(outcomes?)
}

/// Stores packs as they are finished.
struct Sender<'a> {
    store: &'a dyn RepoStore,
    progress: &'a Progress,
    day: u32,
    /// Wants to know what the link takes.
    auto: Option<Arc<Auto>>,
}

impl Sender<'_> {
    async fn send_all(
        &self,
        mut arrived: mpsc::Receiver<(Spool, Written)>,
    ) -> store::Result<(Vec<Pack>, Moved, Duration)> {
        let (mut packs, mut moved) = (Vec::new(), Moved::default());
        let (mut sending, mut bytes, mut more) = (FuturesUnordered::new(), 0, true);
        let (mut began, mut at_once) = (None, PACKS_AT_FIRST);
        loop {
            let room = sending.is_empty() || (sending.len() < at_once && bytes < SENDING_BYTES);
            tokio::select! {
                next = arrived.recv(), if more && room => {
                    let Some((spool, written)) = next else {
                        more = false;
                        continue;
                    };
                    began.get_or_insert_with(Instant::now);
                    if sending.is_empty() {
                        self.progress.begin(Phase::Upload, None);
                    }
                    bytes += spool.size();
                    sending.push(self.send(packs.len() + sending.len(), spool, written));
                }
                Some(sent) = sending.next() => {
                    let (number, pack, put, took) = sent?;
                    at_once = if took < QUICKLY {
                        PACKS_SENDING.min(at_once + 1)
                    } else {
                        PACKS_AT_FIRST.max(at_once - 1)
                    };
                    let size = pack.layer.descriptor.size;
                    bytes -= size;
                    match put {
                        Put::Stored => {
                            moved.blobs_moved += 1;
                            moved.bytes_moved += size;
                        }
                        Put::Existed => moved.bytes_saved += size,
                    }
                    packs.push((number, pack));
                    self.progress.advance(Phase::Upload, size);
                    if sending.is_empty() {
                        self.progress.end(Phase::Upload);
                    }
                }
                else => break,
            }
        }
        packs.sort_unstable_by_key(|(number, _)| *number);
        let packs = packs.into_iter().map(|(_, pack)| pack).collect();
        let busy = began.map_or(Duration::ZERO, |began| began.elapsed());
        Ok((packs, moved, busy))
    }

    /// Stores the pack that was finished as number `number`.
    async fn send(
        &self,
        number: usize,
        spool: Spool,
        written: Written,
    ) -> store::Result<(usize, Pack, Put, Duration)> {
        let began = Instant::now();
        let at = written.toc_at;
        let place = TocPlace {
            digest: at.digest,
            offset: at.offset,
            size: at.size,
        };
        let layer = Layer::new(spool.digest(), spool.size(), place);
        let unsent = self.auto.clone().map(|auto| Unsent::of(spool.size(), auto));
        let mut body = Body::Spool(Arc::new(spool));
        if let Some(unsent) = &unsent {
            body = body.metered(unsent.clone());
        }
        let put = self.store.put(&layer.descriptor, &body).await?;
        if let Some(unsent) = unsent {
            unsent.none_is_left();
        }
        let pack = Pack::all_live(layer, Arc::new(written.toc), self.day);
        Ok((number, pack, put, began.elapsed()))
    }
}

/// The bytes of a pack that are still to be sent.
#[derive(Debug)]
struct Unsent {
    bytes: AtomicU64,
    auto: Arc<Auto>,
}

impl Unsent {
    fn of(bytes: u64, auto: Arc<Auto>) -> Arc<Self> {
        auto.finished(bytes);
        Arc::new(Self {
            bytes: AtomicU64::new(bytes),
            auto,
        })
    }

    /// The store may have had the pack, or a part of it.
    fn none_is_left(&self) {
        self.read(u64::MAX);
    }
}

impl Meter for Unsent {
    fn read(&self, bytes: u64) {
        // A part that is sent again counts once.
        let less = |left: u64| Some(left.saturating_sub(bytes));
        let left = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let left = left.expect("there is always a new value");
        self.auto.sent(left.min(bytes), std::time::Instant::now());
    }
}

#[cfg(test)]
mod tests;

//! Packing and uploading concurrently: while one pack is written, the previous one is sent.

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

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
        write::{Options, Outcome, Sink, Written},
    },
    progress::{Phase, Progress},
    source::{Item, Source},
    store::{self, Body, Put, Spool, SpoolWriter},
    task,
};

/// Finished packs that wait for the one being sent. With that one and the one being written, at most two are spooled whole.
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
    /// What was scanned of it.
    pub scanned: Arc<Vec<Item>>,
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
        let outcomes = pack_all(work, &mut sink, &watch)?;
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
    scanned: &'a [Item],
    /// Of each item to pack: its index in the scan, if it has one, and where its content is.
    new: &'a [(Option<usize>, From)],
}

impl Contents for Contained<'_> {
    fn open(&self, item: usize) -> std::result::Result<Box<dyn Content>, String> {
        match &self.new[item] {
            (Some(scanned), From::Scanned) => self.source.open(&self.scanned[*scanned]),
            (None, From::Scanned) => Err("it was not scanned".to_owned()),
            (_, From::Item(item)) => self.source.open(item),
            (_, From::File(path)) => match File::open(path) {
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
    let started = Instant::now();
    let packing = task::blocking(move || {
        let outcomes = pack_all(work, &mut SpoolSink { dir, out }, &watch);
        (outcomes, started.elapsed())
    });
    let ((outcomes, packed_in), sent) = tokio::join!(packing, send_all(ctx, arrived, day));
    // If sending failed, packing failed because nobody took its packs: report the cause.
    let (packs, moved, sent_in) = sent?;
    Ok(Uploaded {
        packs,
        outcomes: outcomes?,
        moved,
        times: (packed_in, sent_in),
    })
}

fn pack_all<S: Sink>(mut work: Work, sink: &mut S, watch: &Progress) -> Result<Vec<Outcome>> {
    let new = std::mem::take(&mut work.new).into_iter();
    let (items, new): (Vec<PackItem>, Vec<_>) = new.map(|n| (n.pack, (n.item, n.from))).unzip();
    let contents = Contained {
        source: &*work.source,
        scanned: &work.scanned,
        new: &new,
    };
    let kept = |id: &ObjectId| work.kept.contains(id);
    let total = items.iter().map(|i| i.entry.kind.content_len()).sum();
    watch.begin(Phase::Pack, Some(total));
    let outcomes = pack::write::write(&items, &contents, &kept, &work.options, sink, &**watch);
    watch.end(Phase::Pack);
    Ok(outcomes?)
}

async fn send_all(
    ctx: &Context,
    mut arrived: mpsc::Receiver<(Spool, Written)>,
    day: u32,
) -> store::Result<(Vec<Pack>, Moved, Duration)> {
    let (mut packs, mut moved, mut busy) = (Vec::new(), Moved::default(), Duration::ZERO);
    while let Some((spool, written)) = arrived.recv().await {
        let started = Instant::now();
        let at = written.toc_at;
        let place = TocPlace {
            digest: at.digest,
            offset: at.offset,
            size: at.size,
        };
        let layer = Layer::new(spool.digest(), spool.size(), place);
        let size = spool.size();
        ctx.progress.begin(Phase::Upload, Some(size));
        match ctx
            .store
            .put(&layer.descriptor, &Body::Spool(Arc::new(spool)))
            .await?
        {
            Put::Stored => {
                moved.blobs_moved += 1;
                moved.bytes_moved += size;
            }
            Put::Existed => moved.bytes_saved += size,
        }
        ctx.progress.advance(Phase::Upload, size);
        ctx.progress.end(Phase::Upload);
        packs.push(Pack::all_live(layer, Arc::new(written.toc), day));
        busy += started.elapsed();
    }
    Ok((packs, moved, busy))
}

//! Packing and uploading concurrently: while one pack is written, those before it are sent.

use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::{
    Context, Result,
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
    store::{Spool, SpoolWriter},
    task::{self, Stop},
};

mod sending;

pub use sending::Sending;

/// Finished packs that wait to be sent.
const PACKS_WAITING: usize = 1;

/// From this many bytes of new content on, the export asks whether they may be stored: fewer are packed faster than the answer arrives.
const ASK_FROM: u64 = 8 << 20;

/// Asks whether `new` may be stored. Runs while it is packed, since it is hardly ever refused; a refusal ends the packing.
async fn must_be_allowed(ctx: &Context, new: u64) -> Result<()> {
    if let Some(check) = ctx
        .store
        .facts()
        .push_check
        .as_ref()
        .filter(|_| new >= ASK_FROM)
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
    /// The packs, all entries live. The last ones may still be on their way: see [`Sending`].
    pub packs: Vec<Pack>,
    /// One outcome for each of [`Work::new`].
    pub outcomes: Vec<Outcome>,
    /// Time spent packing.
    pub packed_in: Duration,
    /// What was sent so far, and the packs being sent.
    pub sending: Sending,
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
            let place = place_of(&written);
            let digest = Digest::sha256_of(format!("{i} {}", place.digest).as_bytes());
            let layer = Layer::new(digest, written.size, place);
            Pack::all_live(layer, Arc::new(written.toc), day)
        };
        let packs = sink.0.into_iter().enumerate().map(pack).collect();
        Ok((packs, outcomes))
    })
    .await
}

/// Where a pack has its table of contents.
fn place_of(written: &Written) -> TocPlace {
    let at = written.toc_at;
    TocPlace {
        digest: at.digest,
        offset: at.offset,
        size: at.size,
    }
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
    stop: Stop,
}

/// A pack being written.
struct Spooling {
    file: SpoolWriter,
    stop: Stop,
}

impl Write for Spooling {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.stop.is_set() {
            return Err(std::io::Error::other("the export has ended"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Sink for SpoolSink {
    type Out = Spooling;

    fn begin(&mut self) -> std::io::Result<Spooling> {
        let file = SpoolWriter::create(&self.dir).map_err(std::io::Error::other)?;
        let stop = self.stop.clone();
        Ok(Spooling { file, stop })
    }

    fn end(&mut self, out: Spooling, written: Written) -> std::io::Result<()> {
        let sent = self.out.blocking_send((out.file.finish(), written));
        sent.map_err(|_| std::io::Error::other("uploading packs has ended"))
    }
}

/// Packs and stores. When this returns, the last packs may still be on their way: [`Sending::settle`] waits until they are durable.
///
/// # Errors
/// When a pack cannot be written or stored; packs stored before stay, unreachable until a later export uses them.
pub async fn upload(ctx: &Context, work: Work, day: u32) -> Result<Uploaded> {
    let new = work.new.iter();
    let new = new.map(|n| n.pack.entry.kind.content_len()).sum();
    let (uploaded, ()) =
        tokio::try_join!(pack_and_send(ctx, work, day), must_be_allowed(ctx, new))?;
    Ok(uploaded)
}

async fn pack_and_send(ctx: &Context, work: Work, day: u32) -> Result<Uploaded> {
    let dir = ctx.spool_dir();
    let (out, mut arrived) = mpsc::channel(PACKS_WAITING);
    let watch = ctx.progress.clone();
    let mut sending = Sending::new(&work.options.level);
    let started = Instant::now();
    let packing = task::stoppable(move |stop| {
        let stop = stop.clone();
        let outcomes = pack_all(work, &mut SpoolSink { dir, out, stop }, &watch);
        (outcomes, started.elapsed())
    });
    let mut packing = pin!(packing.fuse());
    let (mut packs, mut packed) = (Vec::new(), None);
    // If sending failed, packing fails because nobody takes its packs: report the cause.
    loop {
        // Once everything is packed, the last packs are sent while the documents that name them are made and sent.
        if packed.is_some() && arrived.is_empty() {
            break;
        }
        tokio::select! {
            done = &mut packing, if packed.is_none() => packed = Some(done),
            sent = sending.settle_one(&ctx.progress), if sending.is_busy() => sent?,
            Some(pack) = arrived.recv(), if sending.has_room() => {
                packs.push(sending.begin(ctx.store.contents(), &ctx.progress, pack, day));
            }
        }
    }
    let (outcomes, packed_in) = packed.expect("the loop ends once everything is packed");
    Ok(Uploaded {
        packs,
        outcomes: outcomes?,
        packed_in,
        sending,
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

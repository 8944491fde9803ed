//! Packing: entries to packs, in order and on all cores; deterministic: the same entries give the same packs.

use std::{collections::VecDeque, io::Write};

use super::{
    Error, Result, TocAt,
    assemble::Assembler,
    bare,
    item::{ContentPlan, Contents, PackItem},
    level::Level,
    pool::{Piece, Pool, ReadOut, Squeezed},
    size::PackSize,
    tar, write_skippable,
};
use crate::{
    artifact::toc::{Frame, ObjectId, Toc},
    digest::{ContentId, Digest},
    progress::{Phase, Watch},
};

/// How a pack looks to other tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A whole tree: every file as a member of its own, links and folders too.
    Full,
    /// New files as members, new segments of changed big files under `.cachectl/obj/`; the rest only in the table of contents.
    Increment,
}

/// How to pack.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the packs look to other tools.
    pub shape: Shape,
    /// Written into the tables of contents; gives the same content another digest.
    pub generation: u32,
    /// Threads that read, hash and compress.
    pub threads: usize,
    /// The zstd level; packs depend on content alone only if it is fixed.
    pub level: Level,
}

/// The outcome for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is listed; the identity of its content.
    Packed(ContentId),
    /// It is left out, with the reason.
    LeftOut(String),
}

/// A completely written pack.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its table of contents.
    pub toc: Toc,
    /// Its place in the pack.
    pub toc_at: TocAt,
    /// Bytes of the pack.
    pub size: u64,
}

/// Receives packs as they are written.
pub trait Sink {
    /// What a pack is written to.
    type Out: Write;

    /// Starts a pack.
    ///
    /// # Errors
    /// An error ends the run.
    fn begin(&mut self) -> std::io::Result<Self::Out>;

    /// Receives a finished pack; may wait while earlier ones are sent.
    ///
    /// # Errors
    /// An error ends the run.
    fn end(&mut self, out: Self::Out, written: Written) -> std::io::Result<()>;
}

/// Packs `items` in their order; blocks. `kept` returns true for objects in kept packs (never called for a full shape).
///
/// The packs depend only on the items, their contents, the options except `threads`, and `kept`. Returns one outcome per item.
///
/// # Errors
/// When the sink fails; packs that it already received are complete anyway.
pub fn write<S: Sink>(
    items: &[PackItem],
    contents: &dyn Contents,
    kept: &(dyn Fn(&ObjectId) -> bool + Sync),
    options: &Options,
    sink: &mut S,
    watch: &dyn Watch,
) -> Result<Vec<Outcome>> {
    let nothing_kept = |_: &ObjectId| false;
    let kept: &(dyn Fn(&ObjectId) -> bool + Sync) = match options.shape {
        Shape::Full => &nothing_kept,
        Shape::Increment => kept,
    };
    let reads: Vec<usize> = items
        .iter()
        .enumerate()
        .filter(|(_, i)| i.content == ContentPlan::Read)
        .map(|(i, _)| i)
        .collect();
    let total: u64 = reads
        .iter()
        .map(|i| items[*i].entry.kind.content_len())
        .sum();
    let threads = options.threads.max(1);
    let pool = Pool::new(items, reads, contents, kept, &options.level, threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| pool.run());
        }
        let mut run = Run {
            pool: &pool,
            kept,
            options,
            sink,
            watch,
            size: PackSize::of(total),
            pack: Assembler::default(),
            out: Output::new(),
            reads: VecDeque::new(),
            cut: VecDeque::new(),
            next_cut: 0,
            next_written: 0,
        };
        let result = run.all(items);
        pool.finish();
        result
    })
}

/// The pack that is being written: frames in order, as they come back from the threads.
struct Output<W> {
    out: Option<W>,
    frames: Vec<Frame>,
    offset: u64,
    failed: Option<std::io::Error>,
}

impl<W: Write> Output<W> {
    fn new() -> Self {
        Self {
            out: None,
            frames: Vec::new(),
            offset: 0,
            failed: None,
        }
    }

    fn take(&mut self, squeezed: &Squeezed) {
        let Some(out) = self.out.as_mut().filter(|_| self.failed.is_none()) else {
            return;
        };
        if let Err(e) = out.write_all(&squeezed.bytes) {
            self.failed = Some(e);
            return;
        }
        let len = squeezed.bytes.len() as u32;
        self.frames.push(Frame {
            offset: self.offset,
            len,
            raw_len: squeezed.raw_len,
            hash: squeezed.hash,
        });
        self.offset += u64::from(len);
    }
}

struct Run<'a, 'b, S: Sink> {
    pool: &'a Pool<'b>,
    kept: &'a (dyn Fn(&ObjectId) -> bool + Sync),
    options: &'a Options,
    sink: &'a mut S,
    watch: &'a dyn Watch,
    size: PackSize,
    pack: Assembler,
    out: Output<S::Out>,
    /// Files that are read but not yet packed.
    reads: VecDeque<ReadOut>,
    /// Frames that are cut but not yet handed to the threads.
    cut: VecDeque<(u64, Vec<u8>)>,
    /// Number of the next frame to cut, and of the next one to write, over all packs.
    next_cut: u64,
    next_written: u64,
}

impl<S: Sink> Run<'_, '_, S> {
    fn all(&mut self, items: &[PackItem]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            outcomes.push(self.item(item)?);
            self.hand_over()?;
            self.close_full_pack()?;
        }
        if !self.pack.is_empty() {
            self.close_pack()?;
        }
        Ok(outcomes)
    }

    fn item(&mut self, item: &PackItem) -> Result<Outcome> {
        match &item.content {
            ContentPlan::None => {
                if self.options.shape == Shape::Full {
                    self.begin(&tar::header(&item.entry), 0);
                }
                let nothing = ContentId::OF_NOTHING;
                self.pack.list(item.entry.clone(), nothing, Vec::new());
                Ok(Outcome::Packed(nothing))
            }
            ContentPlan::Kept { content, objects } => {
                self.pack
                    .list(item.entry.clone(), *content, objects.clone());
                Ok(Outcome::Packed(*content))
            }
            ContentPlan::Read => match self.next_read()? {
                ReadOut::Failed(why) => Ok(Outcome::LeftOut(why)),
                ReadOut::Whole {
                    data,
                    content,
                    objects,
                } => {
                    self.whole(item, &data, &objects);
                    self.pool.give_back_content(data);
                    self.pack.list(item.entry.clone(), content, objects);
                    Ok(Outcome::Packed(content))
                }
                ReadOut::Streamed => self.streamed(item),
            },
        }
    }

    fn next_read(&mut self) -> Result<ReadOut> {
        let (pool, out) = (self.pool, &mut self.out);
        if self.reads.is_empty() {
            self.reads = pool
                .next_reads(&mut self.next_written, &mut |s| out.take(s))
                .ok_or(Error::Stopped)?;
        }
        self.reads.pop_front().ok_or(Error::Stopped)
    }

    fn whole(&mut self, item: &PackItem, data: &[u8], objects: &[ObjectId]) {
        self.watch.advance(Phase::Pack, data.len() as u64);
        let any_kept =
            self.options.shape == Shape::Increment && objects.iter().any(|id| (self.kept)(id));
        let mut at = 0;
        let pieces = objects.iter().map(|id| {
            at += id.1 as usize;
            (*id, &data[at - id.1 as usize..at])
        });
        if any_kept {
            for (id, bytes) in pieces {
                if !(self.kept)(&id) {
                    self.loose_object(id, bytes);
                }
            }
        } else {
            self.begin(&tar::header(&item.entry), data.len() as u64);
            for (id, bytes) in pieces {
                self.object(id, bytes);
            }
            self.end(data.len() as u64);
        }
    }

    /// A file too big for memory. In an increment only its new segments are written, even if all are new.
    fn streamed(&mut self, item: &PackItem) -> Result<Outcome> {
        let full = self.options.shape == Shape::Full;
        let len = item.entry.kind.content_len();
        let mut objects = Vec::new();
        let mut missing = len;
        if full {
            self.begin(&tar::header(&item.entry), len);
        }
        loop {
            let (pool, out) = (self.pool, &mut self.out);
            let piece = pool
                .next_piece(&mut self.next_written, &mut |s| out.take(s))
                .ok_or(Error::Stopped)?;
            match piece {
                Piece::Segment(id, bytes) => {
                    self.watch.advance(Phase::Pack, id.1.into());
                    missing -= u64::from(id.1);
                    match bytes {
                        Some(bytes) if full => self.object(id, &bytes),
                        Some(bytes) => self.loose_object(id, &bytes),
                        None => {}
                    }
                    objects.push(id);
                }
                Piece::End(result) => {
                    if full {
                        let Self {
                            pool,
                            pack,
                            cut,
                            next_cut,
                            ..
                        } = self;
                        pack.fill(missing, &mut |frame| push(pool, cut, next_cut, frame));
                        self.end(len);
                    }
                    // Bytes written for a file that is then left out are not listed: dead weight that no reader reads.
                    return Ok(match result {
                        Ok(content) => {
                            self.pack.list(item.entry.clone(), content, objects);
                            Outcome::Packed(content)
                        }
                        Err(why) => Outcome::LeftOut(why),
                    });
                }
            }
            self.hand_over()?;
        }
    }

    fn loose_object(&mut self, id: ObjectId, bytes: &[u8]) {
        let name = [b".cachectl/obj/", id.0.to_hex().as_bytes()].concat();
        let len = bytes.len() as u64;
        // Segments share frames: they are small, and were cut from files that previously had their own frames.
        let Self {
            pool,
            pack,
            cut,
            next_cut,
            ..
        } = self;
        let emit = &mut |frame| push(pool, cut, next_cut, frame);
        pack.begin(
            &tar::object_header(&name, len),
            len.min(super::OWN_FRAME_BYTES - 1),
            emit,
        );
        pack.object(id, bytes, emit);
        pack.end(len, emit);
    }

    fn begin(&mut self, header: &[u8], content_len: u64) {
        let Self {
            pool,
            pack,
            cut,
            next_cut,
            ..
        } = self;
        pack.begin(header, content_len, &mut |frame| {
            push(pool, cut, next_cut, frame)
        });
    }

    fn object(&mut self, id: ObjectId, bytes: &[u8]) {
        let Self {
            pool,
            pack,
            cut,
            next_cut,
            ..
        } = self;
        pack.object(id, bytes, &mut |frame| push(pool, cut, next_cut, frame));
    }

    fn end(&mut self, content_len: u64) {
        let Self {
            pool,
            pack,
            cut,
            next_cut,
            ..
        } = self;
        pack.end(content_len, &mut |frame| push(pool, cut, next_cut, frame));
    }

    /// Hands the cut frames to the threads.
    fn hand_over(&mut self) -> Result<()> {
        if self.cut.is_empty() {
            return Ok(());
        }
        if self.out.out.is_none() {
            self.out.out = Some(self.sink.begin().map_err(Error::Write)?);
        }
        let (pool, out) = (self.pool, &mut self.out);
        let done = pool.squeeze_all(&mut self.cut, &mut self.next_written, &mut |s| out.take(s));
        done.ok_or(Error::Stopped)?;
        self.out
            .failed
            .take()
            .map_or(Ok(()), |e| Err(Error::Write(e)))
    }

    /// Waits for all frames that the threads have.
    fn drain(&mut self) -> Result<()> {
        let (pool, out) = (self.pool, &mut self.out);
        pool.drain(&mut self.next_written, &mut |s| out.take(s))
            .ok_or(Error::Stopped)?;
        self.out
            .failed
            .take()
            .map_or(Ok(()), |e| Err(Error::Write(e)))
    }

    /// Closes the pack if it is big enough. This must depend on its content alone, so compression must finish before the check.
    fn close_full_pack(&mut self) -> Result<()> {
        if !self.size.is_due(self.pack.raw_bytes()) {
            return Ok(());
        }
        self.drain()?;
        if self.size.closes(self.pack.raw_bytes(), self.out.offset) {
            return self.close_pack();
        }
        Ok(())
    }

    fn close_pack(&mut self) -> Result<()> {
        let Self {
            pool,
            pack,
            cut,
            next_cut,
            ..
        } = self;
        pack.finish(&mut |frame| push(pool, cut, next_cut, frame));
        self.hand_over()?;
        self.drain()?;
        self.size.closed();
        let output = std::mem::replace(&mut self.out, Output::new());
        let mut out = output
            .out
            .expect("the end of a tar is never empty, so a frame was handed over");
        let toc = std::mem::take(&mut self.pack).into_toc(self.options.generation, output.frames);
        let stored = toc.encode();
        let toc_at = TocAt {
            digest: Digest::sha256_of(&stored),
            offset: output.offset + bare::SKIPPABLE_HEADER_BYTES,
            size: stored.len() as u64,
        };
        let footer = bare::footer(&toc_at);
        write_skippable(&mut out, &stored)
            .and_then(|()| write_skippable(&mut out, &footer))
            .and_then(|()| out.flush())
            .map_err(Error::Write)?;
        let size = toc_at.offset + toc_at.size + bare::SKIPPABLE_HEADER_BYTES + footer.len() as u64;
        self.sink
            .end(out, Written { toc, toc_at, size })
            .map_err(Error::Write)
    }
}

/// Queues a cut frame, and returns a buffer for the next one.
fn push(
    pool: &Pool<'_>,
    cut: &mut VecDeque<(u64, Vec<u8>)>,
    next: &mut u64,
    frame: Vec<u8>,
) -> Vec<u8> {
    cut.push_back((*next, frame));
    *next += 1;
    pool.frame_buffer()
}

#[cfg(test)]
pub(crate) mod tests;

//! The threads of a packing run: they read and hash files ahead of the assembler, and compress the frames that it cuts.
//!
//! All queues are bounded: results by [`READ_AHEAD_BYTES`] and [`READ_AHEAD_ITEMS`], a streamed file by [`STREAM_AHEAD_BYTES`], frames by
//! twice the threads. A thread that cannot continue with a file compresses instead.

use std::{
    collections::{HashMap, VecDeque},
    io::Read,
    ops::Range,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use zstd::zstd_safe::CParameter;

use super::{
    buffers::Buffers,
    chunk,
    item::{Contents, PackItem},
    level::Level,
};
use crate::{
    artifact::toc::{MAX_FRAME_BYTES, ObjectId},
    digest::{ContentHasher, ContentId},
};

/// Files over this many bytes are streamed instead of read whole.
pub(super) const STREAMED_BYTES: u64 = 16 << 20;
const READ_AHEAD_BYTES: u64 = 48 << 20;
const READ_AHEAD_ITEMS: usize = 4096;
const STREAM_AHEAD_BYTES: u64 = 8 << 20;
/// Files are handed over several at once, up to this many files or bytes: waking another thread costs more than reading a small file.
const BATCH_ITEMS: usize = 64;
const BATCH_BYTES: u64 = 1 << 20;
/// Contents of this many bytes are read into buffers that are used again: a new one consists of pages that were never touched.
const REUSED_BYTES: usize = 128 << 10;
/// Most attempts to read a file that changes while it is read.
const READ_TRIES: u32 = 3;

/// The result of reading a file.
pub(super) enum ReadOut {
    /// The whole content.
    Whole {
        /// The content.
        data: Vec<u8>,
        /// Identity of the content.
        content: ContentId,
        /// Its objects in order.
        objects: Vec<ObjectId>,
    },
    /// It is streamed in pieces: [`Pool::next_piece`].
    Streamed,
    /// It is left out, with the reason.
    Failed(String),
}

/// The next part of a streamed file.
pub(super) enum Piece {
    /// A segment; without its bytes if a kept pack has it.
    Segment(ObjectId, Option<Vec<u8>>),
    /// The end: identity of the whole file, or why it must be left out.
    End(Result<ContentId, String>),
}

/// A compressed frame.
pub(super) struct Squeezed {
    /// Stored bytes.
    pub(super) bytes: Vec<u8>,
    /// Decoded length.
    pub(super) raw_len: u32,
    /// BLAKE3 of the stored bytes.
    pub(super) hash: ContentId,
}

#[derive(Default)]
struct Stream {
    pieces: VecDeque<Piece>,
    bytes: u64,
}

#[derive(Default)]
struct State {
    next_read: usize,
    consumed: usize,
    ahead_bytes: u64,
    results: HashMap<usize, ReadOut>,
    streams: HashMap<usize, Stream>,
    raw: VecDeque<(u64, Vec<u8>)>,
    squeezed: HashMap<u64, Squeezed>,
    frames_under_way: usize,
    /// There is no more work, or nobody waits for it.
    over: bool,
}

/// State shared by the threads.
pub(super) struct Pool<'a> {
    state: Mutex<State>,
    /// Signals the threads that there is work.
    work: Condvar,
    /// Signals the assembler that there is a result.
    ready: Condvar,
    /// Indices of the items to read, in order.
    reads: Vec<usize>,
    items: &'a [PackItem],
    contents: &'a dyn Contents,
    kept: &'a (dyn Fn(&ObjectId) -> bool + Sync),
    level: &'a Level,
    max_frames: usize,
    /// Buffers of contents, of frames, and of compressed frames.
    content_buffers: Buffers,
    frame_buffers: Buffers,
    squeezed_buffers: Buffers,
}

impl<'a> Pool<'a> {
    pub(super) fn new(
        items: &'a [PackItem],
        reads: Vec<usize>,
        contents: &'a dyn Contents,
        kept: &'a (dyn Fn(&ObjectId) -> bool + Sync),
        level: &'a Level,
        threads: usize,
    ) -> Self {
        let max_frames = 2 * threads + 2;
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            ready: Condvar::new(),
            reads,
            items,
            contents,
            kept,
            level,
            max_frames,
            content_buffers: Buffers::new(2 * threads),
            frame_buffers: Buffers::new(max_frames + 1),
            squeezed_buffers: Buffers::new(max_frames),
        }
    }

    /// Tells all threads to end.
    pub(super) fn finish(&self) {
        self.state.lock().over = true;
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// The main loop of a thread.
    pub(super) fn run(&self) {
        let _guard = FinishOnPanic(self);
        let mut compressor = Squeezer::new(self.level.clone());
        let mut state = self.state.lock();
        while !state.over {
            if let Some((seq, raw)) = state.raw.pop_front() {
                drop(state);
                self.squeeze(&mut compressor, seq, raw);
                state = self.state.lock();
            } else if let Some(slots) = self.claim(&mut state) {
                drop(state);
                let mut read = Vec::with_capacity(slots.len());
                for slot in slots {
                    read.extend(self.read(slot, &mut compressor).map(|out| (slot, out)));
                }
                state = self.state.lock();
                state.results.extend(read);
                self.ready.notify_one();
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// The next files to read: one that is streamed, or several that are not.
    fn claim(&self, state: &mut State) -> Option<Range<usize>> {
        let first = state.next_read;
        let end = self.reads.len().min(first + BATCH_ITEMS);
        let mut bytes = 0;
        for slot in first..end {
            let len = self.len(slot);
            // A streamed file takes longer than the assembler can wait for those before it.
            let fits = slot == first || bytes + len <= BATCH_BYTES;
            let room = state.ahead_bytes == 0 || state.ahead_bytes + len <= READ_AHEAD_BYTES;
            if !fits || !room || slot >= state.consumed + READ_AHEAD_ITEMS {
                break;
            }
            state.next_read += 1;
            state.ahead_bytes += len.min(STREAMED_BYTES);
            bytes += len;
        }
        let claimed = first..state.next_read;
        (!claimed.is_empty()).then_some(claimed)
    }

    /// Bytes of a file.
    fn len(&self, slot: usize) -> u64 {
        self.items[self.reads[slot]].entry.kind.content_len()
    }

    /// An empty buffer for a frame.
    pub(super) fn frame_buffer(&self) -> Vec<u8> {
        self.frame_buffers.take(MAX_FRAME_BYTES as usize)
    }

    /// Takes back the buffer of [`ReadOut::Whole`].
    pub(super) fn give_back_content(&self, data: Vec<u8>) {
        if data.capacity() >= REUSED_BYTES {
            self.content_buffers.give_back(data);
        }
    }

    fn squeeze(&self, compressor: &mut Squeezer, seq: u64, raw: Vec<u8>) {
        let bound = zstd::zstd_safe::compress_bound(raw.len());
        let squeezed = compressor.squeeze(&raw, self.squeezed_buffers.take(bound));
        self.frame_buffers.give_back(raw);
        self.state.lock().squeezed.insert(seq, squeezed);
        self.ready.notify_one();
    }

    /// Reads one item; `None` if it was streamed: its pieces are already queued.
    fn read(&self, slot: usize, compressor: &mut Squeezer) -> Option<ReadOut> {
        let index = self.reads[slot];
        let item = &self.items[index];
        let len = item.entry.kind.content_len();
        if len > STREAMED_BYTES {
            self.state.lock().results.insert(slot, ReadOut::Streamed);
            self.ready.notify_one();
            self.stream(slot, index, compressor);
            return None;
        }
        let mut why = String::new();
        for _ in 0..READ_TRIES {
            match self.read_whole(index, len) {
                Ok(read) => return Some(read),
                Err(e) => why = e,
            }
        }
        Some(ReadOut::Failed(why))
    }

    fn read_whole(&self, index: usize, len: u64) -> Result<ReadOut, String> {
        let mut content = self.contents.open(index)?;
        let capacity = len as usize + 1;
        let mut data = if capacity < REUSED_BYTES {
            Vec::with_capacity(capacity)
        } else {
            self.content_buffers.take(capacity)
        };
        content
            .by_ref()
            .take(len + 1)
            .read_to_end(&mut data)
            .map_err(|e| format!("cannot be read: {e}"))?;
        content.settle()?;
        if data.len() as u64 != len {
            return Err(format!(
                "changed while it was read: {len} bytes expected, {} found",
                data.len()
            ));
        }
        let mut hasher = self.hasher(index);
        hasher.update(&data);
        let content = hasher.finish();
        self.check_claim(index, content)?;
        let objects = if len < super::SEGMENTED_BYTES {
            vec![(content, len as u32); usize::from(len > 0)]
        } else {
            chunk::objects(&data)
        };
        Ok(ReadOut::Whole {
            data,
            content,
            objects,
        })
    }

    /// A hasher for the identity of an item's content: of the kind that its name contains, if it does.
    fn hasher(&self, index: usize) -> ContentHasher {
        let claim = self.items[index].claim;
        claim.map_or_else(ContentHasher::blake3, |claim| claim.hasher())
    }

    fn check_claim(&self, index: usize, content: ContentId) -> Result<(), String> {
        match self.items[index].claim {
            Some(claim) if claim != content => {
                Err(format!("damaged: its content hashes to {content}"))
            }
            _ => Ok(()),
        }
    }

    fn stream(&self, slot: usize, index: usize, compressor: &mut Squeezer) {
        let end = self.stream_segments(slot, index, compressor);
        let end = end.and_then(|content| self.check_claim(index, content).map(|()| content));
        self.state
            .lock()
            .streams
            .entry(slot)
            .or_default()
            .pieces
            .push_back(Piece::End(end));
        self.ready.notify_one();
    }

    fn stream_segments(
        &self,
        slot: usize,
        index: usize,
        compressor: &mut Squeezer,
    ) -> Result<ContentId, String> {
        let mut content = self.contents.open(index)?;
        let len = self.items[index].entry.kind.content_len();
        let mut hasher = self.hasher(index);
        let mut seen = 0;
        let cut = chunk::cut_stream(content.by_ref().take(len), |bytes| {
            hasher.update(&bytes);
            seen += bytes.len() as u64;
            let id = (ContentId::of(&bytes), bytes.len() as u32);
            let bytes = if (self.kept)(&id) { None } else { Some(bytes) };
            self.push_piece(slot, Piece::Segment(id, bytes), compressor)
        });
        cut.map_err(|e| format!("cannot be read: {e}"))?;
        let mut more = [0];
        let grew = content
            .read(&mut more)
            .map_err(|e| format!("cannot be read: {e}"))?
            > 0;
        content.settle()?;
        if seen != len || grew {
            return Err(format!("changed while it was read: {len} bytes expected"));
        }
        Ok(hasher.finish())
    }

    fn push_piece(
        &self,
        slot: usize,
        piece: Piece,
        compressor: &mut Squeezer,
    ) -> std::io::Result<()> {
        let size = match &piece {
            Piece::Segment(_, Some(bytes)) => bytes.len() as u64,
            _ => 0,
        };
        let mut state = self.state.lock();
        loop {
            if state.over {
                return Err(std::io::Error::other("stopped"));
            }
            let stream = state.streams.entry(slot).or_default();
            if stream.bytes + size <= STREAM_AHEAD_BYTES {
                stream.bytes += size;
                stream.pieces.push_back(piece);
                self.ready.notify_one();
                return Ok(());
            }
            if let Some((seq, raw)) = state.raw.pop_front() {
                drop(state);
                self.squeeze(compressor, seq, raw);
                state = self.state.lock();
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// For the assembler: waits until `take` returns something; meanwhile passes finished frames to `written`, from `*next` on.
    ///
    /// `None` when the run was ended by another thread's panic.
    fn wait<T>(
        &self,
        next: &mut u64,
        written: &mut dyn FnMut(&Squeezed),
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(squeezed) = state.squeezed.remove(next) {
                *next += 1;
                state.frames_under_way -= 1;
                drop(state);
                written(&squeezed);
                self.squeezed_buffers.give_back(squeezed.bytes);
                state = self.state.lock();
            } else if let Some(found) = take(&mut state) {
                self.work.notify_all();
                return Some(found);
            } else if state.over {
                return None;
            } else {
                self.ready.wait(&mut state);
            }
        }
    }

    /// The results of the reads that are next in order: as many as there are, or as make a batch; a streamed file only alone.
    pub(super) fn next_reads(
        &self,
        next: &mut u64,
        written: &mut dyn FnMut(&Squeezed),
    ) -> Option<VecDeque<ReadOut>> {
        self.wait(next, written, |state| {
            let mut reads = VecDeque::new();
            let mut bytes = 0;
            while reads.len() < BATCH_ITEMS && bytes < BATCH_BYTES {
                let slot = state.consumed;
                match state.results.get(&slot) {
                    Some(ReadOut::Streamed) if reads.is_empty() => {
                        // It is consumed with its last piece.
                        reads.extend(state.results.remove(&slot));
                        break;
                    }
                    Some(ReadOut::Whole { .. } | ReadOut::Failed(_)) => {
                        reads.extend(state.results.remove(&slot));
                        bytes += self.len(slot);
                        self.consumed(state, slot);
                    }
                    Some(ReadOut::Streamed) | None => break,
                }
            }
            (!reads.is_empty()).then_some(reads)
        })
    }

    /// The next piece of the file that [`Pool::next_reads`] reported as streamed.
    pub(super) fn next_piece(
        &self,
        next: &mut u64,
        written: &mut dyn FnMut(&Squeezed),
    ) -> Option<Piece> {
        self.wait(next, written, |state| {
            let slot = state.consumed;
            let stream = state.streams.get_mut(&slot)?;
            let piece = stream.pieces.pop_front()?;
            match &piece {
                Piece::Segment(_, Some(bytes)) => stream.bytes -= bytes.len() as u64,
                Piece::Segment(_, None) => {}
                Piece::End(_) => {
                    state.streams.remove(&slot);
                    self.consumed(state, slot);
                }
            }
            Some(piece)
        })
    }

    fn consumed(&self, state: &mut State, slot: usize) {
        state.ahead_bytes -= self.len(slot).min(STREAMED_BYTES);
        state.consumed += 1;
    }

    /// Hands frames to the threads, as many at a time as the limit allows; they come back through `written`.
    pub(super) fn squeeze_all(
        &self,
        frames: &mut VecDeque<(u64, Vec<u8>)>,
        next: &mut u64,
        written: &mut dyn FnMut(&Squeezed),
    ) -> Option<()> {
        while !frames.is_empty() {
            self.wait(next, written, |state| {
                if state.frames_under_way >= self.max_frames {
                    return None;
                }
                state.frames_under_way += 1;
                state.raw.push_back(frames.pop_front()?);
                Some(())
            })?;
        }
        Some(())
    }

    /// Waits until every frame that was handed over has come back.
    pub(super) fn drain(&self, next: &mut u64, written: &mut dyn FnMut(&Squeezed)) -> Option<()> {
        self.wait(next, written, |state| {
            (state.frames_under_way == 0).then_some(())
        })
    }
}

/// Without it, a panic in one thread would leave the others, and the assembler, waiting forever.
struct FinishOnPanic<'a, 'b>(&'a Pool<'b>);

impl Drop for FinishOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.finish();
        }
    }
}

struct Squeezer {
    level: Level,
    /// The level that the compressor is set to.
    now: i32,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Squeezer {
    fn new(level: Level) -> Self {
        let now = level.next();
        Self {
            level,
            now,
            compressor: compressor(now),
        }
    }

    /// Compresses a frame into an empty buffer with enough capacity.
    fn squeeze(&mut self, raw: &[u8], mut bytes: Vec<u8>) -> Squeezed {
        let level = self.level.next();
        if level != self.now {
            self.compressor = compressor(level);
            self.now = level;
        }
        let began = Instant::now();
        self.compressor
            .compress_to_buffer(raw, &mut bytes)
            .expect("the bound of the output is reserved and the input fits memory");
        self.level.squeezed(level, bytes.len(), began.elapsed());
        Squeezed {
            hash: ContentId::of(&bytes),
            raw_len: raw.len() as u32,
            bytes,
        }
    }
}

/// A compressor for frames.
fn compressor(level: i32) -> zstd::bulk::Compressor<'static> {
    let mut compressor =
        zstd::bulk::Compressor::new(level).expect("a valid level and enough memory");
    let tuned: &[CParameter] = if level == super::ZSTD_LEVEL {
        &super::TUNED
    } else {
        &[]
    };
    // The checksum finds what memory may do to the decoded bytes; the stored ones are hashed.
    for parameter in [CParameter::ChecksumFlag(true)].iter().chain(tuned) {
        compressor
            .set_parameter(*parameter)
            .expect("zstd has these parameters, within these limits");
    }
    compressor
}

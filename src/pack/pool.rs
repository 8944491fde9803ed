//! The threads of a packing run: they read and hash files ahead of the assembler, and compress the frames that it cuts.
//!
//! All queues are bounded: results by [`READ_AHEAD_BYTES`] and [`READ_AHEAD_ITEMS`], a streamed file by [`STREAM_AHEAD_BYTES`], frames by
//! twice the threads. A thread that cannot continue with a file compresses instead.

use std::{
    collections::{HashMap, VecDeque},
    io::Read,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use super::{
    chunk,
    item::{Contents, PackItem},
    level::Level,
};
use crate::{
    artifact::toc::ObjectId,
    digest::{Sha256, Sha256Hasher},
};

/// Files over this many bytes are streamed instead of read whole.
pub(super) const STREAMED_BYTES: u64 = 16 << 20;
const READ_AHEAD_BYTES: u64 = 48 << 20;
const READ_AHEAD_ITEMS: usize = 4096;
const STREAM_AHEAD_BYTES: u64 = 8 << 20;
/// Most attempts to read a file that changes while it is read.
const READ_TRIES: u32 = 3;

/// The result of reading a file.
pub(super) enum ReadOut {
    /// The whole content.
    Whole {
        /// The content.
        data: Vec<u8>,
        /// SHA-256 of the content.
        digest: Sha256,
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
    /// The end: SHA-256 of the whole file, or why it must be left out.
    End(Result<Sha256, String>),
}

/// A compressed frame.
pub(super) struct Squeezed {
    /// Stored bytes.
    pub(super) bytes: Vec<u8>,
    /// Decoded length.
    pub(super) raw_len: u32,
    /// SHA-256 of the stored bytes.
    pub(super) digest: Sha256,
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
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            ready: Condvar::new(),
            reads,
            items,
            contents,
            kept,
            level,
            max_frames: 2 * threads + 2,
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
                self.squeeze(&mut compressor, seq, &raw);
                state = self.state.lock();
            } else if let Some(slot) = self.claim(&mut state) {
                drop(state);
                let read = self.read(slot, &mut compressor);
                state = self.state.lock();
                if let Some(read) = read {
                    state.results.insert(slot, read);
                }
                self.ready.notify_one();
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    fn claim(&self, state: &mut State) -> Option<usize> {
        let slot = state.next_read;
        let item = *self.reads.get(slot)?;
        let len = self.items[item]
            .entry
            .kind
            .content_len()
            .min(STREAMED_BYTES);
        let room = state.ahead_bytes == 0 || state.ahead_bytes + len <= READ_AHEAD_BYTES;
        if !room || slot >= state.consumed + READ_AHEAD_ITEMS {
            return None;
        }
        state.next_read += 1;
        state.ahead_bytes += len;
        Some(slot)
    }

    fn squeeze(&self, compressor: &mut Squeezer, seq: u64, raw: &[u8]) {
        let squeezed = compressor.squeeze(raw);
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
        let mut data = Vec::with_capacity(len as usize + 1);
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
        let digest = Sha256::of(&data);
        self.check_claim(index, digest)?;
        let objects = if len < super::SEGMENTED_BYTES {
            vec![(digest, len as u32); usize::from(len > 0)]
        } else {
            chunk::objects(&data)
        };
        Ok(ReadOut::Whole {
            data,
            digest,
            objects,
        })
    }

    fn check_claim(&self, index: usize, digest: Sha256) -> Result<(), String> {
        match self.items[index].claim {
            Some(claim) if claim != digest => {
                Err(format!("damaged: its content hashes to {digest}"))
            }
            _ => Ok(()),
        }
    }

    fn stream(&self, slot: usize, index: usize, compressor: &mut Squeezer) {
        let end = self.stream_segments(slot, index, compressor);
        let end = end.and_then(|digest| self.check_claim(index, digest).map(|()| digest));
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
    ) -> Result<Sha256, String> {
        let mut content = self.contents.open(index)?;
        let len = self.items[index].entry.kind.content_len();
        let mut hasher = Sha256Hasher::default();
        let mut seen = 0;
        let cut = chunk::cut_stream(content.by_ref().take(len), |bytes| {
            hasher.update(&bytes);
            seen += bytes.len() as u64;
            let id = (Sha256::of(&bytes), bytes.len() as u32);
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
                self.squeeze(compressor, seq, &raw);
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
        written: &mut dyn FnMut(Squeezed),
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(squeezed) = state.squeezed.remove(next) {
                *next += 1;
                state.frames_under_way -= 1;
                drop(state);
                written(squeezed);
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

    /// The result of the read that is next in order.
    pub(super) fn next_read(
        &self,
        next: &mut u64,
        written: &mut dyn FnMut(Squeezed),
    ) -> Option<ReadOut> {
        self.wait(next, written, |state| {
            let slot = state.consumed;
            let read = state.results.remove(&slot)?;
            if !matches!(read, ReadOut::Streamed) {
                self.consumed(state, slot);
            }
            Some(read)
        })
    }

    /// The next piece of the file that [`Pool::next_read`] reported as streamed.
    pub(super) fn next_piece(
        &self,
        next: &mut u64,
        written: &mut dyn FnMut(Squeezed),
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
        let len = self.items[self.reads[slot]].entry.kind.content_len();
        state.ahead_bytes -= len.min(STREAMED_BYTES);
        state.consumed += 1;
    }

    /// Hands frames to the threads, as many at a time as the limit allows; they come back through `written`.
    pub(super) fn squeeze_all(
        &self,
        frames: &mut VecDeque<(u64, Vec<u8>)>,
        next: &mut u64,
        written: &mut dyn FnMut(Squeezed),
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
    pub(super) fn drain(&self, next: &mut u64, written: &mut dyn FnMut(Squeezed)) -> Option<()> {
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
        let compressor = zstd::bulk::Compressor::new(now);
        Self {
            level,
            now,
            compressor: compressor.expect("a valid level and enough memory"),
        }
    }

    fn squeeze(&mut self, raw: &[u8]) -> Squeezed {
        let level = self.level.next();
        if level != self.now {
            let set = self.compressor.set_compression_level(level);
            set.expect("a valid level");
            self.now = level;
        }
        let began = Instant::now();
        let bytes = self
            .compressor
            .compress(raw)
            .expect("the bound of the output is reserved and the input fits memory");
        self.level.squeezed(level, bytes.len(), began.elapsed());
        Squeezed {
            digest: Sha256::of(&bytes),
            raw_len: raw.len() as u32,
            bytes,
        }
    }
}

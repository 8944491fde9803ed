//! Unpacking: stored frames to files, on all cores, in any order of arrival.
//!
//! Each frame is already hashed ([`Verified`]) and is decoded whole into a per-thread buffer; then its bytes are written where the plan
//! says. Nothing is written outside the plan's files; the target turns paths into files.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Error, Result,
    plan::{FilePlan, FramePlan, Piece, Plan},
};
use crate::{
    artifact::toc::{Frame, MAX_FRAME_BYTES},
    digest::{ContentHasher, ContentId},
    fs,
    progress::{Phase, Watch},
};

/// Where memory is full of page cache, one `pwrite` of 1 MiB takes several times the system time of four of 256 KiB.
const WRITE_BYTES: usize = 256 << 10;

/// Creates files; called from many threads.
pub trait Target: Sync {
    /// Creates the file with that index in the plan, and its folders; it must not exist.
    fn create(&self, file: usize) -> fs::Result<File>;

    /// Sets the metadata of a completely written file.
    fn finish(&self, file: usize, out: &File) -> fs::Result<()>;
}

/// Stored bytes of a frame that match its hash.
#[derive(Debug, Clone)]
pub struct Verified(Bytes);

impl Verified {
    /// Hashes the bytes; `None` if they are not those of the frame.
    pub fn check(frame: &Frame, stored: Bytes) -> Option<Self> {
        let ok = stored.len() == frame.len as usize && frame.hash.matches(&stored);
        ok.then_some(Self(stored))
    }
}

/// An arrived frame: index of the pack's plan, index of the frame's plan in it, its bytes or why there are none.
pub type Arrival = (usize, usize, std::result::Result<Verified, String>);

/// The outcome for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOutcome {
    /// It is whole and verified.
    Whole,
    /// It is not, with the reason; the bytes written so far must not be used.
    Broken(String),
}

#[derive(Default)]
struct Progress {
    file: Option<Arc<File>>,
    written: u64,
    /// A hash of everything up to `hashed`, as long as the pieces arrive in order.
    hasher: Option<Box<ContentHasher>>,
    hashed: u64,
    broken: Option<String>,
    done: bool,
}

struct Unpacker<'a> {
    plan: &'a Plan,
    target: &'a dyn Target,
    watch: &'a dyn Watch,
    files: Vec<Mutex<Progress>>,
    stop: AtomicBool,
    failed: Mutex<Option<Error>>,
}

/// Unpacks the frames that `next` returns until it returns `None`; blocks. Returns one outcome per file of the plan, in its order.
///
/// A frame that does not match its hash, or does not arrive, breaks only the files that need it.
///
/// # Errors
/// When a file cannot be created or written: the target is then incomplete.
pub fn unpack(
    plan: &Plan,
    target: &dyn Target,
    threads: usize,
    watch: &dyn Watch,
    next: &(dyn Fn() -> Option<Arrival> + Sync),
) -> Result<Vec<FileOutcome>> {
    let job = Unpacker {
        plan,
        target,
        watch,
        files: plan.files.iter().map(|_| Mutex::default()).collect(),
        stop: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| job.run(next));
        }
    });
    if let Some(e) = job.failed.into_inner() {
        return Err(e);
    }
    for (i, file) in plan
        .files
        .iter()
        .enumerate()
        .filter(|(_, f)| f.content_len == 0)
    {
        let made = target.create(i)?;
        if file.sparse {
            made.set_len(file.size)
                .map_err(|e| fs::Error::new("write", file.path.as_path(), e))?;
        }
        target.finish(i, &made)?;
        lock(&job.files[i]).done = true;
    }
    let outcome = |p: Mutex<Progress>| match p.into_inner() {
        Progress {
            broken: Some(why), ..
        } => FileOutcome::Broken(why),
        Progress { done: true, .. } => FileOutcome::Whole,
        _ => FileOutcome::Broken("it was not received completely".into()),
    };
    Ok(job.files.into_iter().map(outcome).collect())
}

fn lock(m: &Mutex<Progress>) -> parking_lot::MutexGuard<'_, Progress> {
    // A thread that panics while holding it ends the whole scope; nobody reads the state it left.
    m.lock()
}

impl Unpacker<'_> {
    fn run(&self, next: &(dyn Fn() -> Option<Arrival> + Sync)) {
        let mut decoder = zstd::bulk::Decompressor::new().expect("enough memory for a decoder");
        let mut buffer = Vec::with_capacity(MAX_FRAME_BYTES as usize);
        while !self.stop.load(Ordering::Relaxed) {
            let Some((pack, frame, bytes)) = next() else {
                return;
            };
            let frame = &self.plan.packs[pack].frames[frame];
            let decoded = bytes.and_then(|b| decode(&mut decoder, &mut buffer, frame, &b));
            let result = match decoded {
                Ok(()) => self.spread(frame, &buffer),
                Err(why) => {
                    self.break_files(frame, &why);
                    Ok(())
                }
            };
            self.watch.advance(Phase::Restore, frame.frame.len.into());
            if let Err(e) = result {
                self.failed.lock().get_or_insert(e.into());
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        // Drain the remaining arrivals, so that the sender does not block.
        while next().is_some() {}
    }

    fn break_files(&self, frame: &FramePlan, why: &str) {
        for piece in &frame.pieces {
            lock(&self.files[piece.file as usize])
                .broken
                .get_or_insert_with(|| why.to_owned());
        }
    }

    fn spread(&self, frame: &FramePlan, decoded: &[u8]) -> fs::Result<()> {
        for piece in &frame.pieces {
            let file = &self.plan.files[piece.file as usize];
            let bytes = &decoded[piece.offset as usize..][..piece.len as usize];
            let written = if u64::from(piece.len) == file.content_len && !file.sparse {
                self.write_at_once(piece, file, bytes)
            } else {
                self.write_piece(piece, file, bytes)
            };
            written?;
        }
        Ok(())
    }

    /// The common case: the whole file lies in this frame, so no other thread works on it.
    fn write_at_once(&self, piece: &Piece, file: &FilePlan, bytes: &[u8]) -> fs::Result<()> {
        let progress = &self.files[piece.file as usize];
        if file.check.is_some_and(|want| !want.matches(bytes)) {
            lock(progress).broken = Some("its content does not match its digest".into());
            return Ok(());
        }
        let out = self.target.create(piece.file as usize)?;
        write_all(&out, bytes, 0).map_err(|e| fs::Error::new("write", file.path.as_path(), e))?;
        self.target.finish(piece.file as usize, &out)?;
        lock(progress).done = true;
        Ok(())
    }

    fn write_piece(&self, piece: &Piece, file: &FilePlan, bytes: &[u8]) -> fs::Result<()> {
        let error = |e| fs::Error::new("write", file.path.as_path(), e);
        let out = {
            let mut progress = lock(&self.files[piece.file as usize]);
            if progress.broken.is_some() {
                return Ok(());
            }
            if progress.file.is_none() {
                let made = self.target.create(piece.file as usize)?;
                if file.sparse {
                    made.set_len(file.size).map_err(error)?;
                }
                progress.file = Some(Arc::new(made));
            }
            progress.file.clone().expect("it was just set")
        };
        write_all(&out, bytes, piece.at).map_err(error)?;
        let mut progress = lock(&self.files[piece.file as usize]);
        // In a sparse file the number of content bytes before a piece is not its offset, so it is never hashed in passing.
        if let Some(want) = file.check
            && !file.sparse
            && progress.hashed == piece.at
        {
            let hasher = progress
                .hasher
                .get_or_insert_with(|| Box::new(want.hasher()));
            hasher.update(bytes);
            progress.hashed += u64::from(piece.len);
        }
        progress.written += u64::from(piece.len);
        if progress.written < file.content_len {
            return Ok(());
        }
        progress.file = None;
        let in_passing = progress.hashed == file.content_len;
        let hasher = progress.hasher.take().filter(|_| in_passing);
        drop(progress);
        let content = match (hasher, file.check) {
            (Some(hasher), _) => Some(hasher.finish()),
            (None, Some(want)) if !file.sparse => {
                Some(read_back(&out, file.content_len, want.hasher()).map_err(error)?)
            }
            _ => None,
        };
        self.target.finish(piece.file as usize, &out)?;
        let mut progress = lock(&self.files[piece.file as usize]);
        if content == file.check || file.sparse {
            progress.done = true;
        } else {
            progress.broken = Some("its content does not match its digest".into());
        }
        Ok(())
    }
}

fn decode(
    decoder: &mut zstd::bulk::Decompressor<'_>,
    buffer: &mut Vec<u8>,
    plan: &FramePlan,
    stored: &Verified,
) -> std::result::Result<(), String> {
    // The capacity is the limit: zstd refuses to decode to more.
    buffer.clear();
    match decoder.decompress_to_buffer(&stored.0, buffer) {
        Ok(n) if n == plan.frame.raw_len as usize => Ok(()),
        Ok(n) => Err(format!(
            "a frame of its pack decodes to {n} bytes instead of {}",
            plan.frame.raw_len
        )),
        Err(e) => Err(format!("a frame of its pack cannot be decoded: {e}")),
    }
}

fn write_all(file: &File, bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    for piece in bytes.chunks(WRITE_BYTES) {
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn read_back(file: &File, len: u64, mut hasher: ContentHasher) -> std::io::Result<ContentId> {
    let mut buffer = vec![0; WRITE_BYTES];
    let mut at = 0;
    while at < len {
        let n = buffer.len().min((len - at) as usize);
        file.read_exact_at(&mut buffer[..n], at)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests;

//! Files as streams, at low cost: data in memory is read without another thread, into buffers that are reused.
//!
//! A thread for each piece, and a new zeroed buffer for it, would take a third of the cost of serving a blob.

use std::{
    fs::File,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;

use super::{ByteStream, read_into};
use crate::{fs::read_cached, task};

/// How much is read at once. Smaller reads need more calls, larger ones more memory.
const READ_BYTES: usize = 256 << 10;
/// The same when [`MOST_LARGE`] is used up, for instance by clients that do not read.
const SMALL_READ_BYTES: usize = 16 << 10;
/// Maximum total size of buffers larger than [`SMALL_READ_BYTES`], for all streams together.
const MOST_LARGE: usize = 64 << 20;

static LARGE: Budget = Budget(AtomicUsize::new(0));

/// Streams `range` of an open file; `path` is for messages.
pub fn file_stream(file: Arc<File>, path: PathBuf, range: Range<u64>) -> ByteStream {
    stream_within(&LARGE, file, path, range)
}

fn stream_within(
    budget: &'static Budget,
    file: Arc<File>,
    path: PathBuf,
    range: Range<u64>,
) -> ByteStream {
    let buffers = Arc::new(Buffers {
        budget,
        free: Mutex::default(),
    });
    stream::try_unfold(range, move |left| {
        let (file, path, buffers) = (file.clone(), path.clone(), buffers.clone());
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let most = usize::try_from(left.end - left.start).unwrap_or(READ_BYTES);
            let mut buf = buffers.take(most);
            let mut count = read_cached(&file, buf.bytes(), left.start);
            if count == 0 {
                count = buf.bytes().len();
                let read = move || {
                    read_into(buf.bytes(), &file, &path, left.start)?;
                    Ok(buf)
                };
                buf = task::blocking(read).await?;
            }
            let bytes = Bytes::from_owner(buf).slice(..count);
            Ok(Some((bytes, left.start + count as u64..left.end)))
        }
    })
    .boxed()
}

/// Budget for the bytes of large buffers.
#[derive(Debug)]
struct Budget(AtomicUsize);

impl Budget {
    /// Takes `bytes`, if that many are left.
    fn take(&self, bytes: usize) -> bool {
        let fits = self.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_LARGE;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A buffer, counted if it is large.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    budget: &'static Budget,
}

impl Buffer {
    /// A buffer of at most `most` bytes, as large as the budget currently allows.
    fn new(budget: &'static Budget, most: usize) -> Self {
        let size = most.min(READ_BYTES);
        let size = if size <= SMALL_READ_BYTES || budget.take(size) {
            size
        } else {
            SMALL_READ_BYTES
        };
        let bytes = vec![0; size].into_boxed_slice();
        Self { bytes, budget }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() > SMALL_READ_BYTES {
            self.budget.give_back(self.bytes.len());
        }
    }
}

/// The free buffers of one stream.
#[derive(Debug)]
struct Buffers {
    budget: &'static Budget,
    free: Mutex<Vec<Buffer>>,
}

impl Buffers {
    /// A buffer for at most `most` bytes.
    fn take(self: &Arc<Self>, most: usize) -> Lent {
        let free = self.free.lock().pop();
        let buffer = free.unwrap_or_else(|| Buffer::new(self.budget, most));
        Lent {
            used: most.min(buffer.bytes.len()),
            buffer: Some(buffer),
            home: self.clone(),
        }
    }
}

/// A buffer that is returned once its contents are no longer needed.
struct Lent {
    /// `None` once it was returned.
    buffer: Option<Buffer>,
    used: usize,
    home: Arc<Buffers>,
}

impl Lent {
    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(buffer) => &mut buffer.bytes[..self.used],
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer.bytes[..self.used],
            None => &[],
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = self.buffer.take();
        self.home.free.lock().extend(buffer);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

    use std::io::Write as _;

    use futures_util::TryStreamExt as _;

    use super::*;

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn every_byte_of_a_range_comes_whether_pieces_are_kept_or_not() {
        let content: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        let file = file_of(&content);
        let stream = file_stream(file.clone(), PathBuf::new(), 5..1_000_001);
        let kept: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(kept.concat() == content[5..1_000_001]);
        let stream = file_stream(file, PathBuf::new(), 0..1_000_003);
        let let_go = stream.try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        assert!(let_go.await.unwrap() == content);
    }

    #[tokio::test]
    async fn pieces_are_large_while_there_is_memory_for_them_and_small_afterwards() {
        static BUDGET: Budget = Budget(AtomicUsize::new(0));
        let file = file_of(&vec![1; 1_000_000]);
        let stream = || stream_within(&BUDGET, file.clone(), PathBuf::new(), 0..1_000_000);
        let mut held = Vec::new();
        let mut unread = Vec::new();
        for _ in 0..MOST_LARGE / READ_BYTES {
            let mut stream = stream();
            let piece = stream.try_next().await.unwrap().unwrap();
            assert_eq!(piece.len(), READ_BYTES);
            held.push(piece);
            unread.push(stream);
        }
        let pieces: Vec<Bytes> = stream().try_collect().await.unwrap();
        assert!(pieces.iter().all(|p| p.len() <= SMALL_READ_BYTES));
        assert_eq!(pieces.concat().len(), 1_000_000);
        drop((held, unread, pieces));
        assert_eq!(BUDGET.0.load(Ordering::Relaxed), 0);
        let piece = stream().try_next().await.unwrap().unwrap();
        assert_eq!(piece.len(), READ_BYTES);
    }

    #[tokio::test]
    async fn file_that_is_too_short_is_an_error() {
        let mut stream = file_stream(file_of(b"short"), PathBuf::from("x"), 0..9);
        assert_eq!(
            stream.try_next().await.unwrap().as_deref(),
            Some(&b"short"[..])
        );
        let error = stream.try_next().await.unwrap_err();
        assert!(error.to_string().contains('x'), "{error}");
    }
}

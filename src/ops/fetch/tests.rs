//! How much is in flight at once.

use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::{
    digest::ContentId,
    ops::tests::without_tags,
    store::{BlobStore, Body, Put, Result},
};

const FRAME_BYTES: u32 = MAX_FRAME_BYTES;
const FRAMES: u32 = 100;

/// One blob of zeros, or of ones where it is damaged, that counts the bytes read.
struct Zeros {
    read: Arc<AtomicU64>,
    damaged: bool,
}

#[async_trait]
impl BlobStore for Zeros {
    async fn stat(&self, _: &Digest) -> Result<Option<u64>> {
        unreachable!()
    }

    async fn get(&self, _: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let (read, piece) = (self.read.clone(), vec![u8::from(self.damaged); 64 << 10]);
        let piece = Bytes::from(piece);
        let pieces = (range.end - range.start) / piece.len() as u64;
        let pieces = stream::iter(0..pieces).map(move |_| {
            read.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(piece.clone())
        });
        Ok(Some(pieces.boxed()))
    }

    async fn put(&self, _: &Descriptor, _: &Body) -> Result<Put> {
        unreachable!()
    }
}

without_tags!(Zeros);

/// Requests of two frames each for a blob of many frames, all of the greatest length that cachectl writes.
fn many() -> Vec<Request> {
    let zeros = vec![0; FRAME_BYTES as usize];
    let hash = ContentId::of(&zeros);
    let frame = |n: u32| Frame {
        offset: u64::from(n * FRAME_BYTES),
        len: FRAME_BYTES,
        raw_len: FRAME_BYTES,
        hash,
    };
    let size = u64::from(FRAMES * FRAME_BYTES);
    let desc = Descriptor::new("x", Digest::sha256_of(b"blob"), size);
    (0..FRAMES / 2)
        .map(|n| Request {
            pack: 0,
            desc: desc.clone(),
            first: 2 * n as usize,
            frames: vec![frame(2 * n), frame(2 * n + 1)],
        })
        .collect()
}

/// Starts to fetch them all at once.
fn fetching(damaged: bool) -> (Arc<AtomicU64>, mpsc::Receiver<Arrival>, task::Task<Fetched>) {
    let read = Arc::new(AtomicU64::new(0));
    let store = Arc::new(Zeros {
        read: read.clone(),
        damaged,
    });
    let (out, arrived) = mpsc::channel(FRAMES_WAITING);
    let task = task::spawn("fetch", fetch(store, many(), 64, out));
    (read, arrived, task)
}

/// Waits until nothing more is read: the paused clock advances only when every task waits.
async fn rests(read: &AtomicU64) -> u64 {
    let mut before = u64::MAX;
    loop {
        let now = read.load(Ordering::Relaxed);
        if now == before {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_between_store_and_files_are_bounded_whatever_is_asked_for_at_once() {
    let (read, mut arrived, task) = fetching(false);
    // Nothing is consumed: everything read now stays in memory.
    let held = rests(&read).await;
    assert!(held > 0 && held <= BYTES_UNDER_WAY as u64, "{held} bytes");
    // Frames that were taken but are still being decoded count too.
    let mut decoding = Vec::new();
    for _ in 0..8 {
        decoding.push(arrived.recv().await.unwrap());
    }
    let held = rests(&read).await;
    assert!(held <= BYTES_UNDER_WAY as u64, "{held} bytes");
    drop(decoding);
    let mut came = 8;
    while let Some((_, _, frame)) = arrived.recv().await {
        frame.unwrap();
        came += 1;
    }
    assert_eq!(came, FRAMES);
    let fetched = task.join().await;
    assert_eq!(fetched.bytes, u64::from(FRAMES * FRAME_BYTES));
}

#[tokio::test(start_paused = true)]
async fn damaged_frames_that_are_asked_for_again_do_not_wait_for_one_another() {
    let (_, mut arrived, task) = fetching(true);
    let all = async {
        let mut failed = 0;
        while let Some((_, _, frame)) = arrived.recv().await {
            failed += u32::from(frame.is_err());
        }
        failed
    };
    let failed = tokio::time::timeout(Duration::from_mins(1), all).await;
    assert_eq!(failed, Ok(FRAMES));
    assert_eq!(task.join().await.damaged.len(), 1);
}

//! Files as streams, for as little as it takes: what is in memory is read on the spot, into buffers that are used again.
//!
//! A thread for each piece, and a buffer that is made and cleared for it, take a third of what it takes to serve a blob.

use std::{
    fs::File,
    io::IoSliceMut,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use rustix::io::{ReadWriteFlags, preadv2};

use super::{ByteStream, read_into};
use crate::task;

/// How much is read at once. Smaller costs more calls, larger more memory, which comes twice to three times for each stream.
const READ_BYTES: u64 = 128 << 10;
/// How much is read first, and then as much again as was taken: whoever takes nothing costs little.
const FIRST_BYTES: u64 = 16 << 10;

/// Streams `range` of an open file; `path` serves messages.
pub fn file_stream(file: Arc<File>, path: PathBuf, range: Range<u64>) -> ByteStream {
    let (buffers, begin) = (Arc::new(Buffers::default()), range.start);
    stream::try_unfold(range, move |left| {
        let (file, path, buffers) = (file.clone(), path.clone(), buffers.clone());
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let most = (left.start - begin).clamp(FIRST_BYTES, READ_BYTES);
            let mut buf = buffers.take(most.min(left.end - left.start) as usize);
            let mut count = read_now(&file, &mut buf.bytes, left.start);
            if count == 0 {
                count = buf.bytes.len();
                let read = move || {
                    read_into(&mut buf.bytes, &file, &path, left.start)?;
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

/// Reads what is in memory already, which blocks nobody; 0 if nothing is, or the file system cannot say.
fn read_now(file: &File, into: &mut [u8], at: u64) -> usize {
    preadv2(
        file,
        &mut [IoSliceMut::new(into)],
        at,
        ReadWriteFlags::NOWAIT,
    )
    .unwrap_or(0)
}

/// The buffers of one stream that are free.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(self: &Arc<Self>, size: usize) -> Lent {
        let mut bytes = self.free().pop().unwrap_or_default();
        bytes.resize(size, 0);
        Lent {
            bytes,
            home: self.clone(),
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that goes back once nobody needs what is in it.
struct Lent {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.free().push(bytes);
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
    async fn first_pieces_are_small_and_the_others_are_not() {
        let file = file_of(&vec![1; 2_000_000]);
        let stream = file_stream(file, PathBuf::new(), 7..2_000_000);
        let pieces: Vec<usize> = stream.map_ok(|p| p.len()).try_collect().await.unwrap();
        let first: Vec<usize> = pieces[..6].iter().map(|p| p >> 10).collect();
        assert_eq!(first, [16, 16, 32, 64, 128, 128]);
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

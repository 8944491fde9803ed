//! Collecting pieces of a body before they are written.

use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::BATCH_BYTES;
use crate::store::{
    ByteStream,
    batch::Batch,
    error::{Error, Result},
};

/// If a client sends nothing for this long, the received bytes are written, so that they hold no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A batch: pieces of a body that are written together.
pub(super) struct Gathered {
    pub(super) batch: Batch,
    /// How the body ended, if it did.
    pub(super) end: Option<Result<()>>,
}

impl Gathered {
    pub(super) fn ended(end: Result<()>) -> Self {
        Self {
            batch: Batch::default(),
            end: Some(end),
        }
    }

    /// Waits for the next batch: a full one, or the bytes received before the client paused. More bytes than `left` are an error.
    pub(super) async fn next(body: &mut ByteStream, left: &mut Option<u64>) -> Self {
        let mut batch = Batch::default();
        while batch.len() < BATCH_BYTES {
            let next = if batch.is_empty() {
                body.try_next().await
            } else {
                match tokio::time::timeout(PAUSE, body.try_next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                }
            };
            let end = match next {
                Ok(Some(piece)) => {
                    let length = piece.len() as u64;
                    if left.is_none_or(|left| length <= left) {
                        *left = left.map(|left| left - length);
                        batch.push(piece);
                        continue;
                    }
                    Err(Error::invalid(
                        "upload",
                        "received more bytes than its range states",
                    ))
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let end = Some(end);
            return Self { batch, end };
        }
        Self { batch, end: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};

    use super::*;

    /// A buffer that a server reads into, of which one byte came.
    struct Buffer {
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    #[tokio::test]
    async fn waiting_bytes_do_not_keep_the_buffers_that_they_came_in() {
        let buffer = Arc::new(());
        let pieces = (0..1000).map(|_| {
            Ok(Bytes::from_owner(Buffer {
                _alive: buffer.clone(),
            }))
        });
        let mut body: ByteStream = stream::iter(pieces.collect::<Vec<_>>()).boxed();
        let gathered = Gathered::next(&mut body, &mut None).await;
        assert_eq!(gathered.batch.len(), 1000);
        drop(body);
        assert_eq!(Arc::strong_count(&buffer), 1);
    }
}

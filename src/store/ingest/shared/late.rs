//! Chunks that an upload received while the store was unreachable, and local copies that are no longer needed.

use std::time::Duration;

use super::{
    PIECE_BYTES, UploadId, Uploads,
    pieces::{Pieces, end},
};
use crate::store::error::{Error, ErrorKind, Result};

/// To what had no byte for so long, no request is sending.
const AT_REST: Duration = Duration::from_mins(10);

impl Uploads {
    /// Sends chunks that were received while the store was unreachable, of uploads without active requests; returns the number of
    /// uploads.
    ///
    /// # Errors
    /// When the folder cannot be read; or, after all were tried, the last refusal of a store that is not unreachable.
    pub async fn send_late(&self) -> Result<u64> {
        let Some(pieces) = &self.pieces else {
            return Ok(0);
        };
        let (mut count, mut failed) = (0, None);
        for id in self.local.ahead().await? {
            match self.catch_up_alone(pieces, &id).await {
                Ok(sent) => count += u64::from(sent),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// As [`Self::catch_up`] for all that is here, without waiting for a request that sends to the upload, or for an
    /// unreachable store: then `false`.
    async fn catch_up_alone(&self, pieces: &Pieces, id: &UploadId) -> Result<bool> {
        let Some(_turn) = pieces.free_turn(id) else {
            return Ok(false);
        };
        let stored = match pieces.list(id).await {
            Ok(listed) => listed.map(|listed| end(&listed)),
            Err(e) if pieces.outlives(&e) => return Ok(false),
            Err(e) => return Err(e),
        };
        // What the store had is gone: another daemon has ended the upload.
        if stored.is_none() || pieces.sent(id) > stored {
            self.drop_ended(pieces, id).await?;
        } else if let Some(size) = self.local.length(id).await? {
            self.catch_up(pieces, id, size).await?;
        }
        Ok(true)
    }

    /// Removes local copies of uploads without active requests that another daemon has ended or continued.
    pub(super) async fn settle_resting(&self, pieces: &Pieces) -> Result<()> {
        for id in self.local.copies(AT_REST).await? {
            let Some(_turn) = pieces.free_turn(&id) else {
                continue;
            };
            let size = self.local.length(&id).await?;
            match pieces.list(&id).await?.map(|listed| end(&listed)) {
                None | Some(0) => self.drop_ended(pieces, &id).await?,
                stored if stored == size => {}
                _ => {
                    self.local.drop_copy(&id).await?;
                }
            }
        }
        Ok(())
    }

    /// Forgets what is kept here of an upload that another daemon has ended.
    async fn drop_ended(&self, pieces: &Pieces, id: &UploadId) -> Result<()> {
        if self.local.cancel_resting(id).await? {
            self.local.owners.forget(id);
            pieces.forget_sent(id);
        }
        Ok(())
    }

    /// Sends those of the first `size` bytes, all of which are here, that were received while the store was unreachable. If it
    /// still is, continues without sending.
    pub(super) async fn catch_up(&self, pieces: &Pieces, id: &UploadId, size: u64) -> Result<()> {
        if size == 0 || pieces.sent(id) == Some(size) {
            return Ok(());
        }
        let mut before = None;
        loop {
            // Every time: another daemon may have continued it, and its pieces stay.
            let stored = match pieces.list(id).await {
                Ok(Some(listed)) => end(&listed),
                Ok(None) => return Ok(()),
                Err(e) if pieces.outlives(&e) => return Ok(()),
                Err(e) => return Err(e),
            };
            if before.replace(stored) == Some(stored) {
                let why = "the store does not list a chunk that it accepted";
                return Err(Error::new(ErrorKind::Unavailable, "upload", why).at("", id));
            }
            pieces.note_sent(id, stored);
            if stored >= size {
                return self.local.set_ahead(id, |size| size > stored).await;
            }
            let end = size.min(stored + PIECE_BYTES as u64);
            let _place = pieces.place().await;
            let Some(piece) = self.local.read(id, stored..end).await? else {
                return Ok(());
            };
            match pieces.write(id, stored, piece).await {
                Ok(()) => {}
                Err(e) if pieces.outlives(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

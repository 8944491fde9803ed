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
        // All that the store had is gone: another daemon has ended the upload. If only a part is, the store has lost it.
        let had = pieces.sent(id).unwrap_or(0);
        let Some(stored) = stored.filter(|stored| *stored > 0 || had == 0) else {
            self.drop_ended(pieces, id).await?;
            return Ok(true);
        };
        pieces.note_sent(id, stored);
        if let Some(size) = self.local.length(id).await? {
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
        let failed = |kind, why: &str| Err(Error::new(kind, "upload", why).at("", id));
        let mut before = None;
        loop {
            // Before the listing: what another daemon writes while this one waits stays.
            let _place = pieces.place().await;
            let stored = match pieces.list(id).await {
                Ok(Some(listed)) => end(&listed),
                Ok(None) => return Ok(()),
                Err(e) if pieces.outlives(&e) => return Ok(()),
                Err(e) => return Err(e),
            };
            if before.is_some_and(|before| stored < before) {
                return failed(ErrorKind::Conflict, "another daemon has ended it");
            }
            pieces.note_sent(id, stored);
            if before.replace(stored) == Some(stored) {
                let why = "the store does not list a chunk that it accepted";
                return failed(ErrorKind::Unavailable, why);
            }
            if stored >= size {
                return self.local.set_ahead(id, |size| size > stored).await;
            }
            let end = size.min(stored + PIECE_BYTES as u64);
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

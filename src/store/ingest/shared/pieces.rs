//! Pieces of uploads in a store that several daemons have.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::timeout,
};

use super::super::{BUSY, UploadId, busy};
use crate::{
    entry::Time,
    fair::{Key, Permit, Pool, Queue, caller},
    store::{
        error::{Error, Result},
        keys,
        records::{Listed, Records},
    },
};

/// Pieces in memory at once.
const PIECES: usize = 16;
/// Requests that wait are bounded where they are admitted.
const NO_QUEUE: Queue = Queue { total: 0, each: 0 };
/// What stands instead of an offset once an upload was given up.
pub(super) const GONE: &str = "gone";

/// Most uploads that are remembered as over while the store was away.
const MAX_OVER: usize = 10_000;

pub(super) struct Pieces {
    pub(super) records: Arc<dyn Records>,
    /// Shared by callers in turn.
    places: Pool,
    /// Whether an upload goes on by what is kept here while the store is away.
    pub(super) outlive_outages: bool,
    /// Uploads that were over while the store was away: their pieces are still to be removed.
    over: Mutex<HashSet<UploadId>>,
    /// How many bytes of an upload the store has from its beginning on, as far as this process knows.
    sent: Mutex<HashMap<UploadId, u64>>,
    /// Uploads that requests send to here: one at a time each, or both would write to the same place.
    sending: Mutex<HashMap<UploadId, Arc<AsyncMutex<()>>>>,
}

/// Where pieces that follow one another end.
pub(super) fn end(pieces: &[Range<u64>]) -> u64 {
    pieces.last().map_or(0, |p| p.end)
}

impl Pieces {
    pub(super) fn new(records: Arc<dyn Records>, outlive_outages: bool) -> Self {
        Self {
            records,
            places: Pool::new("pieces", PIECES, NO_QUEUE),
            outlive_outages,
            over: Mutex::default(),
            sent: Mutex::default(),
            sending: Mutex::default(),
        }
    }

    /// The turn of a request that sends to an upload, or ends it; others of that upload wait for it.
    ///
    /// # Errors
    /// `Conflict` where one of them takes too long.
    pub(super) async fn turn(&self, id: &UploadId) -> Result<OwnedMutexGuard<()>> {
        let turn = {
            let mut sending = self.sending.lock();
            sending.retain(|_, turn| Arc::strong_count(turn) > 1);
            sending.entry(id.clone()).or_default().clone()
        };
        let turn = timeout(BUSY, turn.lock_owned()).await;
        turn.map_err(|_| busy(id))
    }

    /// Waits for a place for a piece in memory.
    pub(super) async fn place(&self) -> Permit {
        let caller = caller::current().unwrap_or(Key::Unknown);
        self.places.enter_again(caller).await
    }

    /// Returns true if an upload goes on in spite of this error, by what is kept here.
    pub(super) fn outlives(&self, error: &Error) -> bool {
        self.outlive_outages && error.is_temporary()
    }

    /// How many bytes of an upload the store has from its beginning on; `None` where this process does not know.
    pub(super) fn sent(&self, id: &UploadId) -> Option<u64> {
        self.sent.lock().get(id).copied()
    }

    /// Notes that the store has so many bytes of an upload.
    pub(super) fn note_sent(&self, id: &UploadId, bytes: u64) {
        self.sent.lock().insert(id.clone(), bytes);
    }

    pub(super) fn forget_sent(&self, id: &UploadId) {
        self.sent.lock().remove(id);
    }

    /// Forgets what is known of other uploads.
    pub(super) fn keep_sent(&self, is_there: impl Fn(&UploadId) -> bool) {
        self.sent.lock().retain(|id, _| is_there(id));
    }

    /// Uploads of which it is known how much the store has.
    #[cfg(test)]
    pub(super) fn count_sent(&self) -> usize {
        self.sent.lock().len()
    }

    /// Notes that the pieces of an upload that is over could not be removed.
    pub(super) fn note_over(&self, id: &UploadId) {
        let mut over = self.over.lock();
        if over.len() < MAX_OVER {
            over.insert(id.clone());
        }
    }

    pub(super) fn is_over(&self, id: &UploadId) -> bool {
        self.over.lock().contains(id)
    }

    /// Removes the pieces of uploads that were over while the store was away.
    pub(super) async fn clear_over(&self) -> Result<()> {
        let over: Vec<UploadId> = self.over.lock().iter().cloned().collect();
        for id in over {
            // A client may have gone on with it at another daemon.
            self.give_up(&id).await?;
            self.clear(&id).await?;
            self.over.lock().remove(&id);
        }
        Ok(())
    }

    fn prefix(id: &UploadId) -> String {
        keys::upload(&format!("{id}."))
    }

    pub(super) async fn write(&self, id: &UploadId, offset: u64, piece: Bytes) -> Result<()> {
        let key = keys::upload(&format!("{id}.{offset:020}"));
        let end = offset + piece.len() as u64;
        self.records.write_record(&key, piece).await?;
        if self.sent(id).unwrap_or(0) == offset {
            self.note_sent(id, end);
        }
        Ok(())
    }

    pub(super) async fn give_up(&self, id: &UploadId) -> Result<()> {
        let key = keys::upload(&format!("{id}.{GONE}"));
        self.records.write_record(&key, Bytes::new()).await
    }

    /// The ranges of the pieces that follow one another from 0 on; `None` for an upload that was given up.
    pub(super) async fn list(&self, id: &UploadId) -> Result<Option<Vec<Range<u64>>>> {
        let prefix = Self::prefix(id);
        let mut ranges = Vec::new();
        for listed in self.records.list_records(&prefix).await? {
            let rest = listed.key.strip_prefix(&prefix).unwrap_or_default();
            if rest == GONE {
                return Ok(None);
            }
            let Ok(start) = rest.parse::<u64>() else {
                continue;
            };
            // Of two tries of one request the longer one counts; what does not follow was never acknowledged.
            if start == end(&ranges)
                && let Some(size) = listed.size
            {
                ranges.push(start..start + size);
            }
        }
        Ok(Some(ranges))
    }

    pub(super) async fn clear(&self, id: &UploadId) -> Result<()> {
        let prefix = Self::prefix(id);
        for listed in self.records.list_records(&prefix).await? {
            if !listed.key.ends_with(GONE) {
                self.records.remove_record(&listed.key).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn expire(
        &self,
        listed: Vec<Listed>,
        age: Duration,
        now: Time,
    ) -> Result<u64> {
        let mut count = 0;
        for listed in listed {
            let idle = listed.modified.map(|m| now.secs - m.secs);
            if idle.is_some_and(|idle| idle > age.as_secs() as i64) {
                self.records.remove_record(&listed.key).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

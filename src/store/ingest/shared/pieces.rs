//! Pieces of uploads in a store that several daemons share.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
        error::{Error, ErrorKind, Result},
        keys,
        records::{Listed, Records},
    },
};

/// Pieces in memory at once.
const PIECES: usize = 16;
/// Waiting requests are limited by the admission.
const NO_QUEUE: Queue = Queue { total: 0, each: 0 };
/// Marker instead of an offset once an upload was removed.
pub(super) const GONE: &str = "gone";

/// Maximum uploads that are remembered as finished during an outage of the store.
const MAX_OVER: usize = 10_000;

pub(super) struct Pieces {
    pub(super) records: Arc<dyn Records>,
    /// Shared by callers in turn.
    places: Pool,
    /// Whether uploads continue with local bytes while the store is unreachable.
    pub(super) outlive_outages: bool,
    /// Whether a request for pieces found it so, and none was written since.
    is_away: Arc<AtomicBool>,
    /// Uploads that finished while the store was unreachable: their pieces must still be removed.
    over: Mutex<HashSet<UploadId>>,
    /// How many contiguous bytes of an upload, from its start, the store has, as far as this process knows.
    sent: Mutex<HashMap<UploadId, u64>>,
    /// Uploads with active requests here: one request at a time each, or two would write to the same offset.
    sending: Mutex<HashMap<UploadId, Arc<AsyncMutex<()>>>>,
}

/// Where contiguous pieces end.
pub(super) fn end(pieces: &[Range<u64>]) -> u64 {
    pieces.last().map_or(0, |p| p.end)
}

impl Pieces {
    pub(super) fn new(
        records: Arc<dyn Records>,
        outlive_outages: bool,
        is_away: Arc<AtomicBool>,
    ) -> Self {
        Self {
            records,
            places: Pool::new("pieces", PIECES, NO_QUEUE),
            outlive_outages,
            is_away,
            over: Mutex::default(),
            sent: Mutex::default(),
            sending: Mutex::default(),
        }
    }

    /// Waits for the turn of a request that sends to an upload, or ends it; other requests of that upload wait for it.
    ///
    /// # Errors
    /// `Conflict` if one of them takes too long.
    pub(super) async fn turn(&self, id: &UploadId) -> Result<OwnedMutexGuard<()>> {
        let turn = timeout(BUSY, self.turns_of(id).lock_owned()).await;
        turn.map_err(|_| busy(id))
    }

    /// The same, if no request sends to the upload.
    pub(super) fn free_turn(&self, id: &UploadId) -> Option<OwnedMutexGuard<()>> {
        self.turns_of(id).try_lock_owned().ok()
    }

    fn turns_of(&self, id: &UploadId) -> Arc<AsyncMutex<()>> {
        let mut sending = self.sending.lock();
        sending.retain(|_, turn| Arc::strong_count(turn) > 1);
        sending.entry(id.clone()).or_default().clone()
    }

    /// Waits for a slot for a piece in memory.
    pub(super) async fn place(&self) -> Permit {
        let caller = caller::current().unwrap_or(Key::Unknown);
        self.places.enter_again(caller).await
    }

    /// Returns true if an upload continues with local bytes in spite of this error.
    pub(super) fn outlives(&self, error: &Error) -> bool {
        self.outlive_outages && error.is_temporary()
    }

    /// Remembers that the store could not be reached, until something is written to it.
    fn noted<T>(&self, done: Result<T>) -> Result<T> {
        if matches!(&done, Err(e) if e.is_temporary()) {
            self.is_away.store(true, Ordering::Relaxed);
        }
        done
    }

    /// How many contiguous bytes of an upload, from its start, the store has; `None` if this process does not know.
    pub(super) fn sent(&self, id: &UploadId) -> Option<u64> {
        self.sent.lock().get(id).copied()
    }

    /// Records how many bytes of an upload the store has.
    pub(super) fn note_sent(&self, id: &UploadId, bytes: u64) {
        self.sent.lock().insert(id.clone(), bytes);
    }

    pub(super) fn forget_sent(&self, id: &UploadId) {
        self.sent.lock().remove(id);
    }

    /// Forgets the sizes of other uploads.
    pub(super) fn keep_sent(&self, is_there: impl Fn(&UploadId) -> bool) {
        self.sent.lock().retain(|id, _| is_there(id));
    }

    /// Uploads whose size in the store is known.
    #[cfg(test)]
    pub(super) fn count_sent(&self) -> usize {
        self.sent.lock().len()
    }

    /// Records that the pieces of a finished upload could not be removed.
    pub(super) fn note_over(&self, id: &UploadId) {
        let mut over = self.over.lock();
        if over.len() < MAX_OVER {
            over.insert(id.clone());
        }
    }

    pub(super) fn is_over(&self, id: &UploadId) -> bool {
        self.over.lock().contains(id)
    }

    /// Removes the pieces of uploads that finished while the store was unreachable.
    ///
    /// # Errors
    /// The last one, after all were tried.
    pub(super) async fn clear_over(&self) -> Result<()> {
        let over: Vec<UploadId> = self.over.lock().iter().cloned().collect();
        let mut done = Ok(());
        for id in over {
            // A client may have continued it at another daemon. A full store has room for the marker after the pieces.
            let cleared = match self.give_up(&id).await {
                Err(e) if e.kind == ErrorKind::Full => {
                    self.clear(&id).await.and(self.give_up(&id).await)
                }
                Err(e) => Err(e),
                Ok(()) => self.clear(&id).await,
            };
            match cleared {
                Ok(()) => {
                    self.over.lock().remove(&id);
                }
                Err(error) => done = Err(error),
            }
        }
        done
    }

    fn prefix(id: &UploadId) -> String {
        keys::upload(&format!("{id}."))
    }

    pub(super) async fn write(&self, id: &UploadId, offset: u64, piece: Bytes) -> Result<()> {
        let key = keys::upload(&format!("{id}.{offset:020}"));
        let end = offset + piece.len() as u64;
        self.noted(self.records.write_record(&key, piece).await)?;
        self.is_away.store(false, Ordering::Relaxed);
        if self.sent(id).unwrap_or(0) == offset {
            self.note_sent(id, end);
        }
        Ok(())
    }

    pub(super) async fn give_up(&self, id: &UploadId) -> Result<()> {
        let key = keys::upload(&format!("{id}.{GONE}"));
        self.records.write_record(&key, Bytes::new()).await
    }

    /// The ranges of the contiguous pieces from 0; `None` for an upload that was removed.
    pub(super) async fn list(&self, id: &UploadId) -> Result<Option<Vec<Range<u64>>>> {
        let prefix = Self::prefix(id);
        let mut ranges = Vec::new();
        for listed in self.noted(self.records.list_records(&prefix).await)? {
            let rest = listed.key.strip_prefix(&prefix).unwrap_or_default();
            if rest == GONE {
                return Ok(None);
            }
            let Ok(start) = rest.parse::<u64>() else {
                continue;
            };
            // Of two attempts of one request the longer one is used; pieces after a gap were never acknowledged.
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

    /// Removes all records of uploads that received nothing for `age`; returns how many.
    pub(super) async fn expire(
        &self,
        listed: Vec<Listed>,
        age: Duration,
        now: Time,
    ) -> Result<u64> {
        let upload = |key: &str| key.rsplit_once('.').map_or(key, |(id, _)| id).to_owned();
        let mut newest: HashMap<String, i64> = HashMap::new();
        for listed in &listed {
            // If the store keeps no times, nothing is ever old.
            let written = listed.modified.map_or(now.secs, |m| m.secs);
            let newest = newest.entry(upload(&listed.key)).or_insert(written);
            *newest = written.max(*newest);
        }
        let mut count = 0;
        for listed in listed {
            let idle = now.secs - newest[&upload(&listed.key)];
            if idle > age.as_secs() as i64 {
                self.records.remove_record(&listed.key).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

//! Room for uploads on a full disk: what is removed, and whose.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use super::{Ingests, UploadId, io_at, owners::Fillers, remove, session};
use crate::store::error::{Error, Result};

/// An upload without a byte for this long probably has no active request.
const IDLE: Duration = Duration::from_secs(90);
/// An upload of another caller without a byte for this long makes room even for the caller that fills the disk.
const ABANDONED: Duration = Duration::from_mins(10);

impl Ingests {
    /// Evicts blobs that can be fetched again, if there are any; returns true if space may become free.
    pub(super) fn evict(&self, id: &UploadId) -> bool {
        let evict = self.evict.get();
        evict.is_some_and(|evict| evict(self.owners.bytes_beside(id)))
    }

    /// Removes uploads because the disk is full: first those of the owner with the most bytes, then abandoned ones, and `at_last`,
    /// when others that were told to end had time for it, any copy. Returns true if a retry makes sense, which is not the case
    /// for the owner that fills the disk.
    pub(super) async fn make_room(&self, id: &UploadId, at_last: bool) -> bool {
        // While the store is away, an upload continues only with its copy.
        let is_away = self.store_is_away.load(Ordering::Relaxed);
        let age = if is_away { ABANDONED } else { Duration::ZERO };
        match self.free_copies(age).await {
            Ok(0) => {}
            Ok(others) => {
                tracing::info!(
                    others,
                    "Disk full: removed local copies of uploads that the store has"
                );
                return true;
            }
            Err(error) => {
                tracing::warn!(%error, "Disk full, and could not remove files of uploads");
            }
        }
        let Fillers { resting, is_own } = self.owners.fillers(id);
        let freed = async {
            let mut count = 0;
            // First what the store has as well, where there is one.
            if self.lives_elsewhere {
                for id in &resting {
                    count += u64::from(self.unless_busy(id, self.drop_copy(id)).await?);
                }
            }
            if count > 0 {
                return Ok((count, true));
            }
            for id in resting {
                count += u64::from(self.free(&id).await?);
            }
            // Bytes that the store lacks are removed only of the owner with the most.
            if count == 0 && self.lives_elsewhere && !is_own && at_last {
                count += self.free_copies(Duration::ZERO).await?;
            } else if count == 0 && !self.lives_elsewhere {
                let broken = if is_own {
                    HashSet::new()
                } else {
                    std::mem::take(&mut *self.broken.lock())
                };
                let age = if is_own { ABANDONED } else { IDLE };
                for id in self.idle(age).await?.into_iter().chain(broken) {
                    count += u64::from(self.free(&id).await?);
                }
            }
            Ok::<_, Error>((count, !is_own))
        };
        match freed.await {
            Ok((others, may_retry)) => {
                tracing::warn!(others, is_own, "Disk full: dropping unfinished uploads");
                may_retry
            }
            Err(error) => {
                tracing::warn!(%error, "Disk full, and could not drop unfinished uploads");
                !is_own
            }
        }
    }

    /// Frees the disk space of an upload without an active request: if a store has it too, it continues from there, and still
    /// counts towards its owner's limit.
    async fn free(&self, id: &UploadId) -> Result<bool> {
        if self.lives_elsewhere {
            self.unless_busy(id, self.drop_file(id)).await
        } else {
            self.cancel_resting(id).await
        }
    }

    /// Frees what is kept here of uploads that the store has as well, whoever's, and that received nothing for `age`; returns
    /// how many.
    async fn free_copies(&self, age: Duration) -> Result<u64> {
        if !self.lives_elsewhere {
            return Ok(0);
        }
        let mut count = 0;
        for id in self.copies(age).await? {
            // A request may be putting it together from what the store has.
            if self.owners.is_active(&id) {
                continue;
            }
            count += u64::from(self.unless_busy(&id, self.drop_copy(&id)).await?);
        }
        Ok(count)
    }

    /// As [`Self::drop_file`], unless the file has acknowledged bytes that the store lacks.
    pub(super) async fn drop_copy(&self, id: &UploadId) -> Result<bool> {
        let Some(session) = self.lock(id).await? else {
            return Ok(false);
        };
        let found = session.file.metadata();
        if session::is_ahead(&found.map_err(io_at(&session.path, "look at"))?) {
            return Ok(false);
        }
        self.owners.left_disk(id);
        Ok(remove(self.end(id, Some(session))?).await)
    }
}

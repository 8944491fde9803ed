//! Whose unfinished uploads there are: their number and bytes are limited for each owner, and a full disk is cleared of those of
//! whoever fills it.
//!
//! Kept in memory: what an earlier process left has no owner until somebody goes on with it, and expires otherwise.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::UploadId;
use crate::store::error::{Error, ErrorKind, Result};

/// What an error says was tried that is over a quota.
pub const OVER_QUOTA: &str = "upload within the quota";

/// What one owner may have of unfinished uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub uploads: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Quota {
    /// Unless set otherwise: what hundreds of nodes that share one name have under way.
    pub const DEFAULT: Self = Self {
        uploads: 2000,
        bytes: 64 << 30,
    };
}

/// All uploads with their owners.
pub(super) struct Owners(Mutex<State>);

struct State {
    quota: Quota,
    uploads: HashMap<UploadId, Owned>,
    totals: HashMap<Arc<str>, Total>,
}

struct Owned {
    owner: Arc<str>,
    bytes: u64,
    /// Requests that send to it now.
    active: usize,
    touched: Instant,
    give_up: Arc<Notify>,
}

#[derive(Default)]
struct Total {
    uploads: usize,
    bytes: u64,
}

fn over(what: String) -> Error {
    Error::new(ErrorKind::Denied, OVER_QUOTA, what)
}

impl State {
    fn add(&mut self, id: &UploadId, owner: &str, bytes: u64) {
        if self.uploads.contains_key(id) {
            return;
        }
        let owner: Arc<str> = owner.into();
        let total = self.totals.entry(owner.clone()).or_default();
        total.uploads += 1;
        total.bytes += bytes;
        let owned = Owned {
            owner,
            bytes,
            active: 0,
            touched: Instant::now(),
            give_up: Arc::default(),
        };
        self.uploads.insert(id.clone(), owned);
    }

    fn remove(&mut self, id: &UploadId) {
        let Some(owned) = self.uploads.remove(id) else {
            return;
        };
        if let Some(total) = self.totals.get_mut(&owned.owner) {
            total.uploads -= 1;
            total.bytes -= owned.bytes;
            if total.uploads == 0 {
                self.totals.remove(&owned.owner);
            }
        }
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self(Mutex::new(State {
            quota: Quota::DEFAULT,
            uploads: HashMap::new(),
            totals: HashMap::new(),
        }))
    }
}

impl Owners {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, quota: Quota) {
        self.state().quota = quota;
    }

    /// Notes a new upload.
    ///
    /// # Errors
    /// `Denied` if its owner has too many.
    pub(super) fn begin(&self, id: &UploadId, owner: &str) -> Result<()> {
        let mut state = self.state();
        let most = state.quota.uploads;
        if state.totals.get(owner).is_some_and(|t| t.uploads >= most) {
            return Err(over(format!(
                "there are {most} unfinished uploads of this caller already (max_uploads); finish or cancel some first"
            )));
        }
        state.add(id, owner, 0);
        Ok(())
    }

    /// Notes that a request sends to an upload, which was begun before this process if it is not known: then it has `bytes`.
    /// It does until what is returned is dropped.
    pub(super) fn active(&self, id: &UploadId, owner: &str, bytes: u64) -> Active<'_> {
        let mut state = self.state();
        state.add(id, owner, bytes);
        let owned = state.uploads.get_mut(id);
        let give_up = owned.map(|owned| {
            owned.active += 1;
            owned.touched = Instant::now();
            owned.give_up.clone()
        });
        Active {
            owners: self,
            id: id.clone(),
            give_up: give_up.unwrap_or_default(),
        }
    }

    /// Notes that so many bytes came.
    ///
    /// # Errors
    /// `Denied` if its owner would have too many.
    pub(super) fn grow(&self, id: &UploadId, bytes: u64) -> Result<()> {
        let mut state = self.state();
        let State {
            quota,
            uploads,
            totals,
        } = &mut *state;
        let Some(owned) = uploads.get_mut(id) else {
            return Ok(());
        };
        let total = totals.entry(owned.owner.clone()).or_default();
        if total.bytes + bytes > quota.bytes {
            return Err(over(format!(
                "the unfinished uploads of this caller would have more than {} bytes (max_upload_bytes)",
                quota.bytes
            )));
        }
        total.bytes += bytes;
        owned.bytes += bytes;
        Ok(())
    }

    pub(super) fn forget(&self, id: &UploadId) {
        self.state().remove(id);
    }

    /// Forgets uploads that went on elsewhere: to which nobody sent for `age`.
    pub(super) fn forget_idle(&self, age: Duration) {
        let mut state = self.state();
        let idle = |o: &Owned| o.active == 0 && o.touched.elapsed() > age;
        let gone: Vec<UploadId> = state
            .uploads
            .iter()
            .filter(|(_, owned)| idle(owned))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            state.remove(id);
        }
    }

    /// Chooses what goes when the disk is full while `id` is sent to: the other uploads of whoever has most bytes. Those that
    /// somebody sends to are told to end, unless they are of `id`'s owner too.
    pub(super) fn fillers(&self, id: &UploadId) -> Fillers {
        let state = self.state();
        let owner = state.uploads.get(id).map(|o| o.owner.clone());
        let most = state.totals.iter().max_by_key(|(_, t)| t.bytes);
        let filler = most.map(|(owner, _)| owner.clone());
        let is_own = filler == owner;
        let mut resting = Vec::new();
        let others = state.uploads.iter().filter(|(other, _)| *other != id);
        for (other, owned) in others.filter(|(_, o)| Some(&o.owner) == filler.as_ref()) {
            if owned.active == 0 {
                resting.push(other.clone());
            } else if !is_own {
                owned.give_up.notify_one();
            }
        }
        Fillers { resting, is_own }
    }
}

/// What goes when the disk is full.
pub(super) struct Fillers {
    /// Uploads that nobody sends to now.
    pub(super) resting: Vec<UploadId>,
    /// Whether they are of the owner of the upload that there is no room for.
    pub(super) is_own: bool,
}

/// A request that sends to an upload.
pub(super) struct Active<'o> {
    owners: &'o Owners,
    id: UploadId,
    give_up: Arc<Notify>,
}

impl Active<'_> {
    /// Told when the upload is to be given up for others.
    pub(super) fn give_up(&self) -> Arc<Notify> {
        self.give_up.clone()
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if let Some(owned) = self.owners.state().uploads.get_mut(&self.id) {
            owned.active = owned.active.saturating_sub(1);
            owned.touched = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::Repo;

    fn id() -> UploadId {
        UploadId::new(&Repo::cli())
    }

    #[test]
    fn uploads_and_bytes_of_one_owner_are_limited_and_those_of_another_are_not() {
        let owners = Owners::default();
        owners.set(Quota {
            uploads: 2,
            bytes: 10,
        });
        let (first, second) = (id(), id());
        owners.begin(&first, "a").unwrap();
        owners.begin(&second, "a").unwrap();
        let refused = owners.begin(&id(), "a").unwrap_err();
        assert_eq!((refused.kind, refused.op), (ErrorKind::Denied, OVER_QUOTA));
        owners.begin(&id(), "b").unwrap();
        owners.grow(&first, 6).unwrap();
        owners.grow(&second, 5).unwrap_err();
        owners.grow(&second, 4).unwrap();
        owners.forget(&first);
        owners.grow(&second, 6).unwrap();
        owners.begin(&id(), "a").unwrap();
    }

    #[tokio::test]
    async fn full_disk_takes_the_uploads_of_whoever_fills_it() {
        let owners = Owners::default();
        let (big, sending, small) = (id(), id(), id());
        for (id, owner, bytes) in [
            (&big, "filler", 50),
            (&sending, "filler", 50),
            (&small, "b", 9),
        ] {
            owners.begin(id, owner).unwrap();
            owners.grow(id, bytes).unwrap();
        }
        let active = owners.active(&sending, "filler", 0);
        let given_up = active.give_up();
        let fillers = owners.fillers(&small);
        assert!(!fillers.is_own);
        assert_eq!(fillers.resting, std::slice::from_ref(&big));
        given_up.notified().await;
        // Its own uploads that are being sent go on: one of them less may be enough.
        let fillers = owners.fillers(&big);
        assert!(fillers.is_own && fillers.resting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn upload_of_an_earlier_process_counts_once_somebody_goes_on_with_it() {
        let owners = Owners::default();
        owners.set(Quota {
            uploads: 1,
            bytes: 10,
        });
        let old = id();
        let active = owners.active(&old, "a", 8);
        owners.begin(&id(), "a").unwrap_err();
        owners.grow(&old, 3).unwrap_err();
        drop(active);
        tokio::time::advance(Duration::from_secs(9)).await;
        owners.forget_idle(Duration::from_secs(9));
        owners.begin(&id(), "a").unwrap_err();
        tokio::time::advance(Duration::from_secs(1)).await;
        owners.forget_idle(Duration::from_secs(9));
        owners.begin(&id(), "a").unwrap();
    }
}

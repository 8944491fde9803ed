//! Owners of unfinished uploads: their number and bytes are limited per owner, and if the disk is full, uploads of the owner that
//! fills it are removed.
//!
//! Kept in memory, and in a file that is read again after a restart. An upload that is not in the file has no owner until
//! somebody continues it.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

mod journal;

use super::UploadId;
use crate::store::{
    error::{Error, Result},
    keys::Repo,
};
use journal::Journal;

/// The operation in errors about an exceeded quota.
pub const OVER_QUOTA: &str = "upload within the quota";

/// An upload that was idle for this long is removed when its owner needs space; an empty one at once.
const RESTED: Duration = Duration::from_secs(90);
/// For an upload that was idle for this long, a listing is complete.
const LISTED: Duration = Duration::from_mins(10);
/// Disk usage of the smallest file, and of the last block of others.
const FILE_BYTES: u64 = 4096;
/// Maximum bytes that an upload may claim, so that the sum of all cannot overflow.
const MAX_BYTES: u64 = 1 << 50;

/// Limits on the unfinished uploads of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Their number.
    pub uploads: usize,
    /// Their total bytes.
    pub bytes: u64,
}

impl Quota {
    /// The defaults: enough for the concurrent uploads of hundreds of nodes that share one name.
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
    journal: Option<Journal>,
}

struct Owned {
    owner: Arc<str>,
    bytes: u64,
    /// Whether it has a file on this machine.
    is_here: bool,
    /// Whether it has ended, and its bytes wait for an unreachable store.
    has_ended: bool,
    /// Active requests that send to it.
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
    Error::denied(OVER_QUOTA, what)
}

impl State {
    fn add(&mut self, id: &UploadId, owner: &str, bytes: u64) {
        if self.uploads.contains_key(id) {
            return;
        }
        if let Some(journal) = &mut self.journal {
            journal.note(id, Some(owner));
        }
        self.insert(id, owner, bytes, false);
    }

    fn insert(&mut self, id: &UploadId, owner: &str, bytes: u64, has_ended: bool) {
        let bytes = bytes.min(MAX_BYTES);
        let owner: Arc<str> = owner.into();
        let total = self.totals.entry(owner.clone()).or_default();
        total.uploads += usize::from(!has_ended);
        total.bytes += bytes;
        let owned = Owned {
            owner,
            bytes,
            is_here: has_ended,
            has_ended,
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
        if let Some(journal) = self.journal.as_mut().filter(|_| !owned.has_ended) {
            journal.note(id, None);
        }
        if let Some(total) = self.totals.get_mut(&owned.owner) {
            total.uploads -= usize::from(!owned.has_ended);
            total.bytes -= owned.bytes;
            if total.uploads == 0 && total.bytes == 0 {
                self.totals.remove(&owned.owner);
            }
        }
    }

    /// Sets the bytes of an upload without active requests here.
    fn set_bytes(&mut self, id: &UploadId, to: impl FnOnce(u64) -> u64) {
        let Some(owned) = self.uploads.get_mut(id).filter(|o| o.active == 0) else {
            return;
        };
        let bytes = to(owned.bytes).min(MAX_BYTES);
        if let Some(total) = self.totals.get_mut(&owned.owner) {
            total.bytes = total.bytes - owned.bytes + bytes;
        }
        owned.bytes = bytes;
    }

    /// Removes the least valuable upload of `owner`: of its idle uploads the one that was idle longest, empty ones first, others
    /// only after a while.
    fn give_up_own(&mut self, owner: &str, wants_bytes: bool) -> Option<UploadId> {
        let resting = self.uploads.iter().filter(|(_, o)| {
            let is_own = o.active == 0 && *o.owner == *owner;
            let is_empty = o.bytes == 0;
            is_own && (is_empty || o.touched.elapsed() > RESTED) && !(is_empty && wants_bytes)
        });
        let (id, _) = resting.min_by_key(|(_, o)| (o.bytes > 0, o.touched))?;
        let id = id.clone();
        self.remove(&id);
        Some(id)
    }
}

impl State {
    fn new_journal(&self, path: &Path) -> std::io::Result<Journal> {
        let all = self.uploads.iter().filter(|(_, owned)| !owned.has_ended);
        Journal::create(path, all.map(|(id, owned)| (id, &*owned.owner)))
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self(Mutex::new(State {
            quota: Quota::DEFAULT,
            uploads: HashMap::new(),
            totals: HashMap::new(),
            journal: None,
        }))
    }
}

impl Owners {
    pub(super) fn set(&self, quota: Quota) {
        self.0.lock().quota = quota;
    }

    /// Reads the owners of an earlier process's uploads from the file at `path`, and updates the file from now on; `left` returns
    /// the bytes of an upload, and how long it has been idle. Blocks.
    pub(super) fn remember(
        &self,
        path: &Path,
        left: impl Fn(&UploadId) -> Option<(u64, Duration)>,
    ) -> Result<()> {
        let known = journal::read(path)?;
        let mut state = self.0.lock();
        for (id, owner) in known {
            let Some((bytes, rested)) = left(&id) else {
                continue;
            };
            state.add(&id, &owner, bytes);
            if let Some(owned) = state.uploads.get_mut(&id) {
                owned.is_here = bytes > 0;
                owned.touched = owned.touched.checked_sub(rested).unwrap_or(owned.touched);
            }
        }
        let journal = state.new_journal(path);
        state.journal = Some(journal.map_err(super::io_at(path, "write"))?);
        Ok(())
    }

    /// Writes changes to the file. Blocks.
    pub(super) fn save(&self) {
        let mut state = self.0.lock();
        let uploads = state.uploads.len();
        let Some(journal) = &mut state.journal else {
            return;
        };
        let saved = if journal.is_long(uploads) {
            let path = journal.path().to_owned();
            let journal = state.new_journal(&path);
            journal.map(|journal| state.journal = Some(journal))
        } else {
            journal.write()
        };
        if let Err(error) = saved {
            tracing::warn!(%error, "Could not save the owners of uploads: after a restart these uploads count towards no caller");
        }
    }

    /// Records a new upload; one with `is_whole` is ended by the same request, and does not count. Returns the upload of its
    /// owner that must be removed for it.
    ///
    /// # Errors
    /// `Denied` if its owner has too many.
    pub(super) fn begin(
        &self,
        id: &UploadId,
        owner: &str,
        is_whole: bool,
    ) -> Result<Option<UploadId>> {
        let mut state = self.0.lock();
        let most = state.quota.uploads;
        let total = state.totals.get(owner).map_or(0, |t| t.uploads);
        let mut given_up = None;
        if total >= most && !is_whole {
            given_up = state.give_up_own(owner, false);
            if given_up.is_none() {
                return Err(over(format!(
                    "this caller already has {most} unfinished uploads (max_uploads); finish or cancel some first"
                )));
            }
        }
        state.add(id, owner, 0);
        Ok(given_up)
    }

    /// Records that a request sends to an upload of `bytes`, until the result is dropped. The upload may be older than this
    /// process, or have grown elsewhere.
    pub(super) fn active(&self, id: &UploadId, owner: &str, bytes: u64) -> Active<'_> {
        let mut state = self.0.lock();
        state.add(id, owner, bytes);
        state.set_bytes(id, |known| known.max(bytes));
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

    /// Records received bytes. Returns an upload of the same owner that must be removed for them; then the call must be repeated.
    ///
    /// # Errors
    /// `Denied` if its owner would have too many; `Conflict` if the upload was cancelled meanwhile: further bytes would have no
    /// owner.
    pub(super) fn grow(&self, id: &UploadId, bytes: u64) -> Result<Option<UploadId>> {
        let mut state = self.0.lock();
        let State {
            quota,
            uploads,
            totals,
            ..
        } = &mut *state;
        let Some(owned) = uploads.get_mut(id) else {
            let why = "it was cancelled during the request";
            return Err(Error::conflict("upload", why).at("", id));
        };
        let total = totals.entry(owned.owner.clone()).or_default();
        if total.bytes + bytes > quota.bytes {
            let (owner, most) = (owned.owner.clone(), quota.bytes);
            let given_up = state.give_up_own(&owner, true);
            return given_up.map(Some).ok_or_else(|| {
                over(format!(
                    "the unfinished uploads of this caller would exceed {most} bytes (max_upload_bytes)"
                ))
            });
        }
        total.bytes += bytes;
        owned.bytes += bytes;
        Ok(None)
    }

    /// Bytes of all uploads of `id`'s owner.
    pub(super) fn bytes_beside(&self, id: &UploadId) -> u64 {
        let state = self.0.lock();
        let owned = state.uploads.get(id);
        let total = owned.and_then(|owned| state.totals.get(&owned.owner));
        total.map_or(0, |total| total.bytes)
    }

    /// Records that an upload continues without its file on this machine.
    pub(super) fn left_disk(&self, id: &UploadId) {
        if let Some(owned) = self.0.lock().uploads.get_mut(id) {
            owned.is_here = false;
        }
    }

    /// Returns true if a request sends to the upload.
    pub(super) fn is_active(&self, id: &UploadId) -> bool {
        self.0.lock().uploads.get(id).is_some_and(|o| o.active > 0)
    }

    /// Records that an upload has a file on this machine.
    pub(super) fn on_disk(&self, id: &UploadId) {
        if let Some(owned) = self.0.lock().uploads.get_mut(id) {
            owned.is_here = true;
        }
    }

    /// Returns true if the owner of this upload is known.
    pub(super) fn contains(&self, id: &UploadId) -> bool {
        self.0.lock().uploads.contains_key(id)
    }

    /// Returns true if an upload was begun here, and has received nothing yet.
    pub(super) fn is_new(&self, id: &UploadId) -> bool {
        self.0.lock().uploads.get(id).is_some_and(|o| o.bytes == 0)
    }

    /// Counts the bytes of an upload that has ended and waits for an unreachable store, until [`Self::forget`], under a separate
    /// id. `give_up` is notified when they must be removed for others.
    pub(super) fn hold(&self, owner: &str, bytes: u64, give_up: Arc<Notify>) -> UploadId {
        let id = UploadId::new(&Repo::cli());
        let mut state = self.0.lock();
        state.insert(&id, owner, bytes, true);
        if let Some(owned) = state.uploads.get_mut(&id) {
            owned.active = 1;
            owned.give_up = give_up;
        }
        id
    }

    pub(super) fn forget(&self, id: &UploadId) {
        self.0.lock().remove(id);
    }

    /// Forgets uploads that continued elsewhere: those idle for `age`.
    pub(super) fn forget_idle(&self, age: Duration) {
        let mut state = self.0.lock();
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

    /// Records the listed bytes of uploads that any of several daemons may continue: an earlier process or another daemon may
    /// have received them, or have ended an upload.
    pub(super) fn found(&self, there: &HashMap<UploadId, u64>) {
        let mut state = self.0.lock();
        let resting = state.uploads.iter().filter(|(_, o)| o.active == 0);
        let resting: Vec<(UploadId, bool, bool)> = resting
            .map(|(id, o)| (id.clone(), o.touched.elapsed() > LISTED, o.bytes == 0))
            .collect();
        for (id, is_older, is_empty) in resting {
            match there.get(&id) {
                Some(bytes) if is_older => state.set_bytes(&id, |_| *bytes),
                // Bytes received since the listing are already counted.
                Some(bytes) => state.set_bytes(&id, |known| known.max(*bytes)),
                None if is_older && !is_empty => state.remove(&id),
                None => {}
            }
        }
    }

    /// Chooses the uploads to remove when the disk is full during a request for `id`: the other uploads of the owner with the
    /// most bytes. Uploads with active requests are told to end, unless they belong to `id`'s owner too.
    pub(super) fn fillers(&self, id: &UploadId) -> Fillers {
        let state = self.0.lock();
        let owner = state.uploads.get(id).map(|o| o.owner.clone());
        let mut on_disk: HashMap<&Arc<str>, u64> = HashMap::new();
        for owned in state.uploads.values().filter(|owned| owned.is_here) {
            let bytes = on_disk.entry(&owned.owner).or_default();
            *bytes += owned.bytes + FILE_BYTES;
        }
        let most = on_disk.into_iter().max_by_key(|(_, bytes)| *bytes);
        let filler = most.map(|(owner, _)| owner.clone());
        let is_own = filler == owner;
        let mut resting = Vec::new();
        let others = state.uploads.iter().filter(|(other, _)| *other != id);
        let on_disk = others.filter(|(_, o)| o.is_here && Some(&o.owner) == filler.as_ref());
        for (other, owned) in on_disk {
            if owned.active == 0 {
                resting.push(other.clone());
            } else if !is_own {
                owned.give_up.notify_one();
            }
        }
        Fillers { resting, is_own }
    }
}

/// Uploads to remove when the disk is full.
pub(super) struct Fillers {
    /// Uploads without active requests.
    pub(super) resting: Vec<UploadId>,
    /// Whether they belong to the owner of the upload that does not fit.
    pub(super) is_own: bool,
}

/// An active request that sends to an upload.
pub(super) struct Active<'o> {
    owners: &'o Owners,
    id: UploadId,
    give_up: Arc<Notify>,
}

impl Active<'_> {
    /// Notified when the upload must be removed for others.
    pub(super) fn give_up(&self) -> Arc<Notify> {
        self.give_up.clone()
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if let Some(owned) = self.owners.0.lock().uploads.get_mut(&self.id) {
            owned.active = owned.active.saturating_sub(1);
            owned.touched = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

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
        owners.begin(&first, "a", false).unwrap();
        owners.begin(&second, "a", false).unwrap();
        owners.grow(&first, 6).unwrap();
        owners.grow(&second, 5).unwrap_err();
        owners.grow(&second, 4).unwrap();
        let refused = owners.begin(&id(), "a", false).unwrap_err();
        assert_eq!((refused.kind, refused.op), (ErrorKind::Denied, OVER_QUOTA));
        owners.begin(&id(), "b", false).unwrap();
        // What ends with its own request is not kept out.
        let whole = id();
        owners.begin(&whole, "a", true).unwrap();
        owners.forget(&whole);
        owners.forget(&first);
        owners.grow(&second, 6).unwrap();
        owners.begin(&id(), "a", false).unwrap();
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
            owners.begin(id, owner, false).unwrap();
            owners.on_disk(id);
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

    #[test]
    fn what_still_comes_of_an_upload_that_was_cancelled_is_refused() {
        let (owners, id) = (Owners::default(), id());
        owners.begin(&id, "a", false).unwrap();
        let _active = owners.active(&id, "a", 0);
        owners.grow(&id, 1).unwrap();
        owners.forget(&id);
        let refused = owners.grow(&id, 1).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn bytes_of_an_upload_that_waits_for_the_store_count_until_they_are_stored() {
        let owners = Owners::default();
        owners.set(Quota {
            uploads: 9,
            bytes: 10,
        });
        let (own, other) = (id(), id());
        owners.begin(&own, "a", false).unwrap();
        owners.begin(&other, "b", false).unwrap();
        owners.on_disk(&other);
        let given_up = Arc::<Notify>::default();
        let held = owners.hold("a", 8, given_up.clone());
        owners.grow(&own, 3).unwrap_err();
        owners.grow(&other, 3).unwrap();
        assert!(!owners.fillers(&other).is_own);
        given_up.notified().await;
        assert!(owners.fillers(&own).is_own);
        owners.forget(&held);
        owners.grow(&own, 3).unwrap();
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
        owners.begin(&id(), "a", false).unwrap_err();
        owners.grow(&old, 3).unwrap_err();
        drop(active);
        tokio::time::advance(Duration::from_secs(9)).await;
        owners.forget_idle(Duration::from_secs(9));
        owners.begin(&id(), "a", false).unwrap_err();
        tokio::time::advance(Duration::from_secs(1)).await;
        owners.forget_idle(Duration::from_secs(9));
        owners.begin(&id(), "a", false).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_an_owner_gives_up_its_own_upload_that_rested_longest_an_empty_one_first()
    {
        let owners = Owners::default();
        owners.set(Quota {
            uploads: 3,
            bytes: 10,
        });
        let second = Duration::from_secs(1);
        let all = [id(), id(), id()];
        for id in &all {
            assert_eq!(owners.begin(id, "a", false).unwrap(), None);
            tokio::time::advance(second).await;
        }
        let [big, first, sent] = &all;
        owners.grow(big, 9).unwrap();
        let active = owners.active(sent, "a", 0);
        assert_eq!(
            owners.begin(&id(), "a", false).unwrap().as_ref(),
            Some(first)
        );
        drop(active);
        tokio::time::advance(RESTED).await;
        owners.begin(&id(), "b", false).unwrap();
        // The empty ones first, however long the other one has rested; then that one.
        let given_up: Vec<_> = (0..2)
            .map(|_| {
                let new = id();
                let given_up = owners.begin(&new, "a", false).unwrap().unwrap();
                owners.grow(&new, 0).unwrap();
                let _busy = std::mem::ManuallyDrop::new(owners.active(&new, "a", 0));
                given_up
            })
            .collect();
        assert!(!given_up.contains(big));
        assert_eq!(owners.begin(&id(), "a", false).unwrap().as_ref(), Some(big));
        owners.begin(&id(), "a", false).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_rest_make_room_for_those_that_come() {
        let owners = Owners::default();
        owners.set(Quota {
            uploads: 9,
            bytes: 10,
        });
        let (rests, new) = (id(), id());
        owners.begin(&rests, "a", false).unwrap();
        owners.grow(&rests, 8).unwrap();
        owners.begin(&new, "a", false).unwrap();
        let _active = owners.active(&new, "a", 0);
        owners.grow(&new, 3).unwrap_err();
        tokio::time::advance(RESTED + Duration::from_secs(1)).await;
        assert_eq!(owners.grow(&new, 3).unwrap(), Some(rests));
        assert_eq!(owners.grow(&new, 3).unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_found_count_and_what_ended_elsewhere_does_not() {
        let owners = Owners::default();
        owners.set(Quota {
            uploads: 9,
            bytes: 10,
        });
        let (left, empty, new, sent) = (id(), id(), id(), id());
        for id in [&left, &empty, &new, &sent] {
            owners.begin(id, "a", false).unwrap();
        }
        let _active = owners.active(&sent, "a", 0);
        owners.found(&[(left.clone(), 6), (sent.clone(), 3)].into());
        owners.grow(&new, 5).unwrap_err();
        owners.grow(&new, 4).unwrap();
        // It came since.
        owners.found(&[(left.clone(), 6), (new.clone(), 1)].into());
        owners.grow(&sent, 1).unwrap_err();
        tokio::time::advance(LISTED + Duration::from_secs(1)).await;
        owners.found(&[(left.clone(), 3), (new.clone(), 4)].into());
        owners.grow(&sent, 3).unwrap();
        owners.found(&[(new.clone(), 4)].into());
        let uploads = |owners: &Owners| owners.0.lock().uploads.len();
        assert_eq!(uploads(&owners), 3);
        assert!(!owners.0.lock().uploads.contains_key(&left));
        // Another daemon received some.
        drop(owners.active(&new, "a", 6));
        owners.grow(&sent, 2).unwrap_err();
        owners.grow(&sent, 1).unwrap();
    }

    #[test]
    fn restart_remembers_whose_uploads_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owners");
        let quota = Quota {
            uploads: 2,
            bytes: 10,
        };
        let there = |bytes| move |_: &UploadId| Some((bytes, Duration::ZERO));
        let before = Owners::default();
        before.remember(&path, there(0)).unwrap();
        let (kept, ended, gone) = (id(), id(), id());
        for id in [&kept, &ended, &gone] {
            before.begin(id, "principal \"a\n", false).unwrap();
        }
        before.forget(&ended);
        before.save();
        let after = Owners::default();
        after.set(quota);
        let left = |id: &UploadId| (*id != gone).then_some((8, Duration::ZERO));
        after.remember(&path, left).unwrap();
        after.begin(&id(), "principal \"a\n", false).unwrap();
        after.grow(&kept, 3).unwrap_err();
        after.grow(&kept, 2).unwrap();
        // A line that is not whole, and a file that is not there, are no errors.
        std::fs::write(&path, "[\"half").unwrap();
        Owners::default().remember(&path, there(1)).unwrap();
    }
}

//! The permits that an admitted request holds.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::Extensions;
use parking_lot::Mutex;
use tokio::time::Instant;

mod moving;
mod state;

use super::{Admission, Connection, Fault, Full, Key, Permit, Pool, Transfer};
use state::{Moves, Waits};

/// A request's permits, given back while the request only waits, and its client's fault, if any. Clones share them.
#[derive(Clone)]
pub struct Ticket(Arc<Inner>);

struct Inner {
    admission: Arc<Admission>,
    key: Key,
    connection: Connection,
    /// The work permit.
    place: Mutex<Option<Permit>>,
    /// The transfer slot of its body or response.
    transfer: Mutex<Moves>,
    /// The slot of a large manifest or list in memory.
    large: Mutex<Moves>,
    /// Whether that is its body.
    keeps_body: AtomicBool,
    waits: Mutex<Waits>,
    fault: OnceLock<Fault>,
}

/// A request that waits for others; it resumes when this is dropped.
struct WaitingRequest<'t>(&'t Ticket);

impl<'t> WaitingRequest<'t> {
    fn begin(ticket: &'t Ticket) -> Self {
        ticket.0.waits.lock().since = Some(Instant::now());
        Self(ticket)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.0.waits.lock();
        let waited = waits.since.take().map(|since| since.elapsed());
        waits.before += waited.unwrap_or_default();
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({:?})", self.0.key)
    }
}

impl Ticket {
    /// Waits for a permit of the caller `key`, for a request with these extensions. Cancel-safe.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn take(
        admission: &Arc<Admission>,
        key: Key,
        extensions: &Extensions,
    ) -> Result<Self, Full> {
        let place = admission.requests.enter(key.clone()).await?;
        Ok(Self::new(admission, key, extensions, Some(place)))
    }

    /// The same for a request without a permit.
    pub fn without_place(admission: &Arc<Admission>, key: Key, extensions: &Extensions) -> Self {
        Self::new(admission, key, extensions, None)
    }

    fn new(
        admission: &Arc<Admission>,
        key: Key,
        extensions: &Extensions,
        place: Option<Permit>,
    ) -> Self {
        Self(Arc::new(Inner {
            admission: admission.clone(),
            key,
            connection: Connection::of(extensions),
            place: Mutex::new(place),
            transfer: Mutex::default(),
            large: Mutex::default(),
            keeps_body: AtomicBool::default(),
            waits: Mutex::default(),
            fault: OnceLock::new(),
        }))
    }

    /// The caller.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The limits that its caller shares with others.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.0.admission
    }

    /// The request's connection.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// How long the request has waited for others so far, excluding waits for a store.
    pub fn waited(&self) -> Duration {
        let waits = self.0.waits.lock();
        waits.before + waits.since.map(|s| s.elapsed()).unwrap_or_default()
    }

    /// Gives the work permit, if the request has one, to others while `wait` lasts.
    pub async fn aside<T>(&self, wait: impl Future<Output = T>) -> T {
        let waiting = WaitingRequest::begin(self);
        let place = self.0.place.lock().take();
        let had_place = place.is_some();
        drop(place);
        let waited = wait.await;
        if had_place {
            self.take_back().await;
        }
        drop(waiting);
        waited
    }

    /// Gives all permits to others while `rest` lasts. A large body that is kept in memory meanwhile counts as a slow one;
    /// `false` if it gave way to other slow ones, so that the request is over. Cancel-safe.
    pub async fn rest(&self, rest: impl Future<Output = ()>) -> bool {
        let manifests = &self.0.admission.manifests;
        let keeps_body = self.0.keeps_body.load(Ordering::Relaxed);
        let parked = keeps_body.then(|| manifests.park(self.0.key.clone()));
        let cut = async {
            match &parked {
                Some(parked) => parked.cut().await,
                None => std::future::pending().await,
            }
        };
        self.give_back();
        if !keeps_body {
            // There is nothing to transfer until it is found.
            self.end_transfers();
        }
        tokio::select! {
            biased;
            () = rest => {}
            () = cut => return false,
        }
        self.move_on().await;
        self.take_back().await;
        true
    }

    /// Gives the permits to others.
    pub(super) fn give_back(&self) {
        let place = self.0.place.lock().take();
        let transfers = [&self.0.transfer, &self.0.large].map(|moves| moves.lock().rest());
        // Not under the lock: the next one gets them immediately.
        drop((place, transfers));
    }

    /// Gives the work permit to others.
    pub(super) fn end_work(&self) {
        let place = self.0.place.lock().take();
        drop(place);
    }

    /// Takes a work permit again; returns at once if it has one.
    pub(super) async fn take_back(&self) {
        if self.0.place.lock().is_none() {
            let admission = &self.0.admission;
            let place = admission.requests.enter_again(self.0.key.clone()).await;
            *self.0.place.lock() = Some(place);
        }
    }

    /// Takes a permit of a special pool, without holding a request permit while waiting.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn place_in(&self, pool: fn(&Admission) -> &Pool) -> Result<Permit, Full> {
        let pool = pool(&self.0.admission);
        match pool.enter_now(self.0.key.clone()) {
            Some(place) => Ok(place),
            None => self.aside(pool.enter(self.0.key.clone())).await,
        }
    }

    /// The client's fault while its body was received; the first one is kept.
    pub fn fault(&self) -> Option<&Fault> {
        self.0.fault.get()
    }

    pub(super) fn blame(&self, fault: &Fault) {
        // The first one caused the others.
        let _ = self.0.fault.set(fault.clone());
    }
}

#[cfg(test)]
mod tests;

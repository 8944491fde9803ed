//! What an admitted request holds.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::http::Extensions;

use super::{Admission, Connection, Fault, Full, Key, Permit, Pool};

/// A request's place, given back while the request only waits, and what its client did wrong. Cloning gives another handle.
#[derive(Clone)]
pub struct Ticket(Arc<Inner>);

struct Inner {
    admission: Arc<Admission>,
    key: Key,
    connection: Connection,
    place: Mutex<Option<Permit>>,
    body: Mutex<LargeBody>,
    /// Of a response that is a large manifest.
    large: OnceLock<Mutex<Option<Permit>>>,
    fault: OnceLock<Fault>,
}

/// A request's body that is a large manifest.
#[derive(Default)]
enum LargeBody {
    /// It is not, or it is in memory no more.
    #[default]
    None,
    /// In memory while the client sends slowly or the request rests: its place is for others.
    Rests,
    /// In memory while the daemon works on it.
    Works(Permit),
}

impl LargeBody {
    /// Its place, for others.
    fn rest(&mut self) -> Option<Permit> {
        match std::mem::take(self) {
            Self::None => None,
            Self::Rests => {
                *self = Self::Rests;
                None
            }
            Self::Works(place) => {
                *self = Self::Rests;
                Some(place)
            }
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({:?})", self.0.key)
    }
}

impl Ticket {
    /// Waits for a place of the caller `key`, whose request has these extensions. Cancel-safe.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn take(
        admission: &Arc<Admission>,
        key: Key,
        extensions: &Extensions,
    ) -> Result<Self, Full> {
        let place = admission.requests.enter(key.clone()).await?;
        Ok(Self(Arc::new(Inner {
            admission: admission.clone(),
            key,
            connection: Connection::of(extensions),
            place: Mutex::new(Some(place)),
            body: Mutex::default(),
            large: OnceLock::new(),
            fault: OnceLock::new(),
        })))
    }

    /// The caller.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    pub(super) fn admission(&self) -> &Arc<Admission> {
        &self.0.admission
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Lets others have the place while `wait` lasts.
    pub async fn aside<T>(&self, wait: impl Future<Output = T>) -> T {
        // The body is in memory still.
        drop(self.place().take());
        let waited = wait.await;
        self.take_back().await;
        waited
    }

    /// Lets others have all places while `rest` lasts. A large manifest that is kept in memory meanwhile is one of those that come slowly;
    /// `false` if it gave way to others of them, so that the request is over. Cancel-safe.
    pub async fn rest(&self, rest: impl Future<Output = ()>) -> bool {
        let manifests = &self.0.admission.manifests;
        let is_large = !matches!(*self.body(), LargeBody::None);
        let parked = is_large.then(|| manifests.park(self.0.key.clone()));
        let cut = async {
            match &parked {
                Some(parked) => parked.cut().await,
                None => std::future::pending().await,
            }
        };
        self.give_back();
        tokio::select! {
            biased;
            () = rest => {}
            () = cut => return false,
        }
        self.take_all_back().await;
        true
    }

    /// Gives the places to others.
    pub(super) fn give_back(&self) {
        let place = self.place().take();
        let body = self.body().rest();
        let large = self.0.large.get().and_then(|large| {
            let mut large = large.lock().unwrap_or_else(PoisonError::into_inner);
            large.take()
        });
        // Not under the lock: they go to somebody else on the spot.
        drop((place, body, large));
    }

    /// Takes all places again that the request needs to go on.
    pub(super) async fn take_all_back(&self) {
        let rests = matches!(*self.body(), LargeBody::Rests);
        if rests {
            let admission = &self.0.admission;
            let place = admission
                .large_manifests
                .enter_again(self.0.key.clone())
                .await;
            *self.body() = LargeBody::Works(place);
        }
        self.take_back().await;
    }

    /// Takes a place again; at once if it has one.
    pub(super) async fn take_back(&self) {
        if self.place().is_none() {
            let admission = &self.0.admission;
            let place = admission.requests.enter_again(self.0.key.clone()).await;
            *self.place() = Some(place);
        }
    }

    /// Takes a place among large manifests, without holding one of requests while it waits.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn large_manifest(&self) -> Result<Permit, Full> {
        self.place_among(&self.0.admission.large_manifests).await
    }

    /// Takes a place among large manifests for the request's body, until [`Self::drop_body`] and but for the time in which the client sends
    /// slowly or the request rests; without holding one of requests while it waits.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn large_body(&self) -> Result<(), Full> {
        let place = self.large_manifest().await?;
        *self.body() = LargeBody::Works(place);
        Ok(())
    }

    /// Says that the request's body is in memory no more.
    pub fn drop_body(&self) {
        let body = std::mem::take(&mut *self.body());
        // Not under the lock: its place goes to somebody else on the spot.
        drop(body);
    }

    /// Takes a place among manifests that are looked up, without holding one of requests while it waits.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn read(&self) -> Result<Permit, Full> {
        self.place_among(&self.0.admission.reads).await
    }

    async fn place_among(&self, pool: &Pool) -> Result<Permit, Full> {
        match pool.enter_now(self.0.key.clone()) {
            Some(place) => Ok(place),
            None => self.aside(pool.enter(self.0.key.clone())).await,
        }
    }

    /// Takes a place among lists that are made, without holding one of requests while it waits.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn list(&self) -> Result<Permit, Full> {
        self.place_among(&self.0.admission.lists).await
    }

    /// A place among large manifests, if one is free now.
    pub fn large_manifest_now(&self) -> Option<Permit> {
        let places = &self.0.admission.large_manifests;
        places.enter_now(self.0.key.clone())
    }

    /// Holds `place` as long as the response is being sent and read.
    pub fn sends_large(&self, place: Permit) {
        // A request has one response.
        let _ = self.0.large.set(Mutex::new(Some(place)));
    }

    pub(super) fn is_large(&self) -> bool {
        self.0.large.get().is_some()
    }

    /// Takes a place among merges, without holding one of requests while it waits.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn merge(&self) -> Result<Permit, Full> {
        self.place_among(&self.0.admission.merges).await
    }

    /// What the client did wrong while its body was received; the first fault counts.
    pub fn fault(&self) -> Option<&Fault> {
        self.0.fault.get()
    }

    pub(super) fn blame(&self, fault: &Fault) {
        // The first one made the others.
        let _ = self.0.fault.set(fault.clone());
    }

    fn body(&self) -> std::sync::MutexGuard<'_, LargeBody> {
        // Nothing can panic while it is held.
        self.0.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<Permit>> {
        // Nothing can panic while it is held.
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::SLOW_MANIFESTS, *};
    use crate::metrics;

    #[tokio::test]
    async fn whoever_waits_lets_others_go_first() {
        let stall = Duration::from_mins(1);
        let admission = Admission::new(1, stall, &metrics::Admission::default());
        let admission = Arc::new(admission);
        let take = |name: &str| {
            let (admission, key) = (admission.clone(), Key::Principal(name.into()));
            async move { Ticket::take(&admission, key, &Extensions::new()).await }
        };
        let first = take("a").await.unwrap();
        let other = async {
            let second = take("b").await.unwrap();
            assert_eq!(admission.requests.taken(), 1);
            drop(second);
        };
        first.aside(other).await;
        assert_eq!(admission.requests.taken(), 1);
        drop(first);
        assert_eq!(admission.requests.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn large_manifests_that_rest_hold_no_places_and_few_are_kept() {
        let admission = Arc::new(Admission::default());
        let places = &admission.large_manifests;
        let mut tickets = Vec::new();
        for n in 0..SLOW_MANIFESTS + 4 {
            let key = Key::Principal(format!("p{n}").into());
            let ticket = Ticket::take(&admission, key, &Extensions::new()).await;
            tickets.push(ticket.unwrap());
        }
        let rests = tickets.iter().map(|ticket| {
            let places = places.clone();
            async move {
                ticket.large_body().await.unwrap();
                let rest = async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    assert_eq!(places.taken(), 0);
                };
                let stays = ticket.rest(rest).await;
                let has_place = places.taken() > 0;
                ticket.drop_body();
                (stays, has_place)
            }
        });
        let ends = futures_util::future::join_all(rests).await;
        let stayed = ends.iter().filter(|(stays, _)| *stays).count();
        assert_eq!(stayed, SLOW_MANIFESTS);
        // Who goes on has its place again.
        assert!(ends.iter().all(|(stays, has_place)| !stays || *has_place));
        assert_eq!(places.taken(), 0);
    }
}

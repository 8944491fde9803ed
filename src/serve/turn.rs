//! The place that a request holds among those that are answered at once; given back while it only waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A request's place. Dropped, it is free.
#[derive(Debug, Clone)]
pub struct Turn(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Waits for a place among `places`, which are never closed; first come, first served. Cancel-safe.
    pub async fn take(places: Arc<Semaphore>) -> Self {
        let held = Mutex::new(places.clone().acquire_owned().await.ok());
        Self(Arc::new(Inner { places, held }))
    }

    /// Lets others go first while `wait` lasts.
    pub async fn aside<T>(&self, wait: impl Future<Output = T>) -> T {
        self.put(None);
        let waited = wait.await;
        let place = self.0.places.clone().acquire_owned().await.ok();
        self.put(place);
        waited
    }

    fn put(&self, place: Option<OwnedSemaphorePermit>) {
        // Nothing can panic while it is held.
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_lets_others_go_first() {
        let places = Arc::new(Semaphore::new(1));
        let first = Turn::take(places.clone()).await;
        first
            .aside(async {
                let second = Turn::take(places.clone()).await;
                assert_eq!(places.available_permits(), 0);
                drop(second);
            })
            .await;
        assert_eq!(places.available_permits(), 0);
        drop(first);
        assert_eq!(places.available_permits(), 1);
    }
}

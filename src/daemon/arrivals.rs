//! Requests that have arrived, but are not processed yet.
//!
//! An HTTP/2 connection hands over all requests that arrived together before the first of them is looked at, and a thousand
//! connections may do so at once. So a request costs no more than its head until it is processed; heads are limited, and so is
//! their number: they wait for a processor only, before their senders are identified.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::http::{HeaderMap, StatusCode};

/// Maximum number of requests of all connections that wait for a processor: a few kilobytes each.
const MOST: usize = 4096;
/// Maximum number of fields of a head: as many as hyper accepts in HTTP/1. In HTTP/2 a field may cost its sender one byte, but
/// takes some hundred here.
const FIELDS: usize = 100;

/// The waiting requests of a daemon's doors.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrivals(Arc<AtomicUsize>);

/// One of them; processing starts when this is dropped.
#[derive(Debug)]
pub(super) struct Arrived(Arc<AtomicUsize>);

impl Arrivals {
    /// Accepts a request with that head, or refuses it with a status.
    pub(super) fn enter(&self, head: &HeaderMap) -> Result<Arrived, StatusCode> {
        if head.len() > FIELDS {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let arrived = Arrived(self.0.clone());
        if before >= MOST {
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        Ok(arrived)
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn requests_that_wait_for_a_processor_are_bounded_and_their_heads_too() {
        let arrivals = Arrivals::default();
        let mut head = HeaderMap::new();
        for i in 0..FIELDS {
            let name: HeaderName = format!("x-{i}").parse().expect("a name");
            head.insert(name, HeaderValue::from_static(""));
        }
        let mut waiting: Vec<_> = (0..MOST).map(|_| arrivals.enter(&head)).collect();
        assert!(waiting.iter().all(Result::is_ok));
        let refused = || arrivals.enter(&HeaderMap::new()).unwrap_err();
        assert_eq!(refused(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused(), StatusCode::TOO_MANY_REQUESTS);
        waiting.pop();
        waiting.push(arrivals.enter(&head));
        assert!(waiting[MOST - 1].is_ok());
        waiting.clear();
        head.insert("one-more", HeaderValue::from_static(""));
        let refused = arrivals.enter(&head).unwrap_err();
        assert_eq!(refused, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
}

//! The admin door: how the daemon is, for probes, for Prometheus and for people.
//!
//! - `/livez`: 200 as long as the process answers at all.
//! - `/readyz`: 200 while requests are taken, and says in its body when a store is unreachable or has no room; 503 while starting or draining.
//! - `/startupz`: 503 until it was ready once, then 200 for good.
//! - `/metrics`: the numbers of [`crate::metrics`].
//! - `/`: a page for people, without script.
//!
//! No answer asks a store: what is known of stores was found out before, in the background ([`Health`]), so that a store
//! that hangs hangs no probe. Repositories, tags and digests are named nowhere here.

use std::{fmt, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
};

mod caches;
mod health;
mod page;
mod refused;
mod stores;
mod watch;

#[cfg(test)]
mod tests;

pub use caches::Caches;
pub use health::{Health, Phase, StoreHealth};
pub use refused::Refused;
pub use stores::Stores;
pub use watch::{follow, watch, watch_folder};

use crate::metrics::{Metrics, http::Place};

/// The door's name.
pub const DOOR: &str = "admin";

const PROBES: [&str; 3] = ["/livez", "/readyz", "/startupz"];

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// What Prometheus' text format is called (exposition formats, "Basic info").
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Brings gauges up to date that nobody counts: done before each look at them, so it must be quick.
pub type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Answers for the daemon itself.
pub struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    refresh: Vec<Refresh>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.health.fmt(f)
    }
}

/// Says whether a path is one that an orchestrator asks, who cannot log in; the others tell more than that.
pub fn is_probe(path: &str) -> bool {
    PROBES.contains(&path)
}

/// Where a request for this door goes; `None` if it is for another one.
pub fn place(path: &str) -> Option<Place> {
    let mut routes = PROBES.into_iter().chain(["/metrics", "/"]);
    let route = routes.find(|route| *route == path)?;
    Some(Place {
        door: DOOR,
        route,
        looks_up: None,
    })
}

impl Admin {
    /// Shows `health`, and `metrics` after `refresh`.
    pub fn new(health: Arc<Health>, metrics: Arc<Metrics>, refresh: Vec<Refresh>) -> Self {
        Self {
            health,
            metrics,
            refresh,
        }
    }

    /// All numbers as they are now, in the text of `/metrics`.
    pub fn numbers(&self) -> String {
        self.refreshed().encode()
    }

    fn refreshed(&self) -> &Metrics {
        self.refresh
            .iter()
            .for_each(|refresh| refresh(&self.metrics));
        self.health.show();
        &self.metrics
    }

    /// Answers a request for a path that [`place`] knows.
    pub fn handle(&self, request: &Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "read only\n");
            let methods = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(header::ALLOW, methods);
            return refused;
        }
        let mut response = match request.uri().path() {
            "/livez" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            "/startupz" => self.started(),
            "/metrics" => answer(StatusCode::OK, METRICS, self.numbers()),
            "/" => answer(StatusCode::OK, HTML, self.page()),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not here\n"),
        };
        if request.method() == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    fn ready(&self) -> Response<Body> {
        let (status, said) = match self.health.phase() {
            Phase::Ready => (StatusCode::OK, self.health.said()),
            phase => (StatusCode::SERVICE_UNAVAILABLE, format!("{phase}\n")),
        };
        answer(status, TEXT, said)
    }

    fn started(&self) -> Response<Body> {
        if self.health.was_ready() {
            answer(StatusCode::OK, TEXT, "ok\n")
        } else {
            let said = format!("{}\n", Phase::Starting);
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, said)
        }
    }

    fn page(&self) -> String {
        page::render(&self.health, self.refreshed())
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    if kind == HTML {
        let nothing = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
        headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    }
    response
}

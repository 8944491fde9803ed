//! The admin door: the daemon's status for probes, Prometheus and people.
//!
//! - `/livez`: 200 as long as the process answers.
//! - `/readyz`: 200 while requests are accepted; its body says if a store is unreachable or full. 503 while starting or
//!   draining.
//! - `/startupz`: 503 until the daemon was ready once, then always 200.
//! - `/metrics`: the metrics of [`crate::metrics`].
//! - `/`: a status page for people, without scripts.
//!
//! Answers never depend on a request to a store: the state of stores is determined in the background ([`Health`]), so that a
//! hanging store does not make probes hang. Repositories, tags and digests are never shown here.

use std::{fmt, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Method, Response, StatusCode, header, request::Parts},
};

mod caches;
mod health;
mod page;
mod stores;
mod watch;

#[cfg(test)]
mod tests;

pub use caches::Caches;
pub use health::{Health, Phase, StoreHealth};
pub use stores::Stores;
pub use watch::{follow, watch, watch_folder};

use super::{
    door::{Access, Answer, Call, Door, Place, Route},
    refusal::Refusal,
};
use crate::metrics::Metrics;

/// Endpoints for orchestrators, which cannot authenticate.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/startupz"];

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Content type of Prometheus' text format (exposition formats, "Basic info").
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Updates gauges that are not counted continuously: called before each scrape, so it must be fast.
pub type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Answers for the daemon itself.
pub struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    refresh: Vec<Refresh>,
    is_alone: bool,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.health.fmt(f)
    }
}

impl Admin {
    /// Shows `health`, and `metrics` after `refresh`: at its own addresses to everybody; beside other doors only to callers who
    /// may read every repository, since metrics of the whole store reveal, for instance, whether pushed bytes were already
    /// known.
    pub fn new(
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        refresh: Vec<Refresh>,
        is_alone: bool,
    ) -> Self {
        Self {
            health,
            metrics,
            refresh,
            is_alone,
        }
    }

    /// All current metrics, in the text format of `/metrics`.
    pub fn numbers(&self) -> String {
        self.refreshed().encode()
    }

    /// Returns true if the caller needs no right.
    fn is_open(&self, path: &str) -> bool {
        self.is_alone || PROBES.contains(&path)
    }

    fn refreshed(&self) -> &Metrics {
        self.refresh
            .iter()
            .for_each(|refresh| refresh(&self.metrics));
        self.health.show();
        &self.metrics
    }

    /// Answers a request for one of its paths.
    fn show(&self, method: &Method, path: &str) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::method_not_allowed("GET, HEAD"));
        }
        Ok(match path {
            "/livez" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            "/startupz" => self.started(),
            "/metrics" => answer(StatusCode::OK, METRICS, self.numbers()),
            "/" => answer(StatusCode::OK, HTML, self.page()),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        })
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

impl Door for Admin {
    type Asked = &'static str;

    fn name(&self) -> &'static str {
        "admin"
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn route(&self, head: &Parts) -> Option<Route<&'static str>> {
        let mut paths = PROBES.into_iter().chain(["/metrics", "/"]);
        let path = paths.find(|path| *path == head.uri.path());
        let path = path.or(self.is_alone.then_some("other"))?;
        let access = if self.is_open(path) {
            Access::Probe
        } else {
            Access::Needs(Vec::new())
        };
        Some(Route {
            access,
            place: Place::None,
            ..Route::new(path, Ok(path))
        })
    }

    async fn answer(&self, path: &&'static str, call: &Call, _: Body) -> Answer {
        if !self.is_open(path) && !call.who.reads_everything() {
            return Err(Refusal::denied(format!(
                "`{}` may not read the metrics of the whole store: grant it pull from `**`, or use `admin_listen`",
                call.who.name()
            )));
        }
        self.show(&call.parts.method, path)
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if kind == HTML {
        let nothing = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
        headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    }
    response
}

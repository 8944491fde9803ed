//! Observability of every request, at any door: a request id, a span in its trace, a log line, metrics.
//!
//! - Holds: request ids in and out, the root span, counting of bodies in both directions until their last byte.
//! - Enters: a request, its [`RouteLabel`], and what answers it.
//! - Leaves: the response, with `X-Request-Id`; one line at `info` when its last byte was taken; updates of [`Http`].
//! - Deliberately absent: routes of any one door, repositories and digests as labels, the destinations of metrics and spans.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use axum::{
    body::Body,
    http::{HeaderName, Method, Request, Response},
};
use http_body::Body as _;
use tracing::{Instrument as _, Span, field};

mod body;
mod id;
mod watch;

#[cfg(test)]
mod tests;

use crate::{
    metrics::{
        Counting,
        http::{Http, RouteLabel},
    },
    serve::auth::Peer,
    store::wrap::counters,
    trace,
};
use body::{Outgoing, incoming};
use id::RequestId;
use watch::{State, Watch};

/// Maximum number of characters of a path in the log.
const MAX_PATH: usize = 256;

/// Identifies a request in the logs of client and server.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Extension of a response: the caller, for the log.
#[derive(Debug, Clone)]
pub struct AskedBy(pub String);

/// Extension of a response: the error, only for the log. It may name hosts and folders.
#[derive(Debug, Clone)]
pub struct Why(pub String);

/// Extension of a response that nobody will read: the client disconnected while it was sending.
#[derive(Debug, Clone, Copy)]
pub struct ClientGone;

/// Extension of a response to a request that could not be understood: it counts as the client's error, whatever its status.
#[derive(Debug, Clone, Copy)]
pub struct NotUnderstood;

/// Extension of a response: a blob that the client need not send.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Why: `mounted`, `existed`.
    pub how: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// Observes the requests of all doors.
#[derive(Debug, Clone)]
pub struct Observer {
    http: Http,
}

impl Observer {
    /// Counts in `http`.
    pub fn new(http: Http) -> Self {
        Self { http }
    }

    /// Answers a request by `answer` and follows it to the last byte of its body.
    ///
    /// Quiet ones get no span, and are logged at `debug` only. A request whose future or body is dropped early counts as
    /// `aborted`.
    pub async fn observe<F>(
        &self,
        label: RouteLabel,
        request: Request<Body>,
        answer: impl FnOnce(Request<Body>) -> F,
    ) -> Response<Body>
    where
        F: Future<Output = Response<Body>>,
    {
        let id = RequestId::of(request.headers());
        let method = method_name(request.method());
        let (span, exported) = root_span(label, method, &id, request.headers());
        let (mut request, received) = counted(request);
        // Doors that include the request id in a response's body use this one.
        request.headers_mut().insert(X_REQUEST_ID, id.header());
        let mut watch = Watch {
            http: self.http.clone(),
            in_flight: Counting::new(self.http.in_flight(label.door)),
            label,
            method,
            path: shown(request.uri().path()),
            caller: Peer::of(request.extensions()).key(),
            span: span.clone(),
            exported,
            started: Instant::now(),
            received,
            sent: 0,
            announced: None,
            code: 0,
            grpc: None,
            tier: None,
            asked_by: None,
            why: None,
            client_gone: false,
            not_understood: false,
            body: State::Waiting,
        };
        let answered = counters::watched(answer(request)).instrument(span);
        let (mut response, tier) = answered.await;
        watch.answered(&mut response, tier);
        response.headers_mut().insert(X_REQUEST_ID, id.header());
        response.map(move |body| {
            if body.is_end_stream() {
                watch.reach(State::Ended);
                return body;
            }
            Body::new(Outgoing::new(body, watch))
        })
    }
}

/// Wraps the body of a request, if it has one; most have none.
fn counted(request: Request<Body>) -> (Request<Body>, Option<Arc<AtomicU64>>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let received = Arc::new(AtomicU64::new(0));
    let counter = received.clone();
    let request = request.map(|body| incoming(body, counter));
    (request, Some(received))
}

/// The span for everything that is done for the request, and whether it is exported to a collector.
fn root_span(
    label: RouteLabel,
    method: &'static str,
    id: &RequestId,
    headers: &axum::http::HeaderMap,
) -> (Span, bool) {
    if label.is_quiet {
        return (Span::none(), false);
    }
    let span = tracing::info_span!(
        "request",
        trace_id = field::Empty,
        request_id = id.as_str(),
        method,
        route = label.route,
        otel.name = field::Empty,
        otel.kind = field::Empty,
        otel.status_code = field::Empty,
        http.response.status_code = field::Empty,
        http.request.body.size = field::Empty,
        http.response.body.size = field::Empty,
    );
    if span.is_disabled() {
        return (span, false);
    }
    let parent = headers.get(trace::TRACEPARENT);
    let parent = parent.and_then(|v| v.to_str().ok()?.parse().ok());
    let begun = trace::begin(&span, parent, || format!("{method} {}", label.route));
    span.record("trace_id", begun.context.trace_id());
    (span, begun.exported)
}

/// A path, safe to log: it was chosen by the caller, who may be anybody.
fn shown(path: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
    if path.len() <= MAX_PATH && path.bytes().all(is_plain) {
        return path.to_owned();
    }
    let cut = path.char_indices().nth(MAX_PATH).map(|(at, _)| at);
    let begin = path[..cut.unwrap_or(path.len())].escape_debug();
    format!("{begin}{}", if cut.is_some() { "…" } else { "" })
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

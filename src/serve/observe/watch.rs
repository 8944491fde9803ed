//! One request from its head to the last byte of its response.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use axum::{
    body::Body,
    http::{HeaderMap, Response, header::CONTENT_LENGTH},
};
use http_body::Body as _;
use tracing::Span;

use super::{AskedBy, ClientGone, NotUnderstood, Saved, Why};
use crate::{
    fair::{Key, lines},
    metrics::{
        Counting,
        http::{Done, Http, Outcome, RouteLabel},
    },
    store::wrap::counters::Tier,
};

/// The progress of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is none yet.
    Waiting,
    /// Its body is being sent.
    Sending,
    /// Its body was sent completely.
    Ended,
    /// Its body was interrupted.
    Failed,
}

/// What is known of a request; the request ends when this is dropped.
pub(super) struct Watch {
    pub(super) http: Http,
    #[expect(dead_code, reason = "counts the request as long as it lives")]
    pub(super) in_flight: Counting,
    pub(super) label: RouteLabel,
    pub(super) method: &'static str,
    pub(super) path: String,
    /// The request's sender.
    pub(super) caller: Key,
    pub(super) span: Span,
    /// Whether the span is exported to a collector.
    pub(super) exported: bool,
    pub(super) started: Instant,
    pub(super) received: Option<Arc<AtomicU64>>,
    pub(super) sent: u64,
    /// Length of the response's body, if known in advance.
    pub(super) announced: Option<u64>,
    pub(super) code: u16,
    /// Status of a gRPC call, whose HTTP status is always 200.
    pub(super) grpc: Option<u8>,
    pub(super) tier: Option<Tier>,
    pub(super) asked_by: Option<String>,
    /// The error.
    pub(super) why: Option<String>,
    /// Whether the client disconnected while it was sending.
    pub(super) client_gone: bool,
    /// Whether the request could not be understood.
    pub(super) not_understood: bool,
    pub(super) body: State,
}

impl Watch {
    /// Takes what the log and the metrics need from the response's head.
    pub(super) fn answered(&mut self, response: &mut Response<Body>, tier: Option<Tier>) {
        self.code = response.status().as_u16();
        self.tier = tier;
        self.called(response.headers());
        // For a stream only the header gives the length; a server asks for no more than that many bytes.
        let length = response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
        self.announced = response.body().size_hint().exact().or(length);
        let notes = response.extensions_mut();
        self.asked_by = notes.remove::<AskedBy>().map(|AskedBy(name)| name);
        self.why = notes.remove::<Why>().map(|Why(why)| why);
        self.client_gone = notes.remove::<ClientGone>().is_some();
        self.not_understood = notes.remove::<NotUnderstood>().is_some();
        if let Some(Saved { how, bytes }) = notes.remove::<Saved>() {
            self.http.saved(self.label.door, how, bytes);
        }
    }

    /// Takes the status of a gRPC call from a head, or from trailers.
    pub(super) fn called(&mut self, headers: &HeaderMap) {
        let status = headers.get("grpc-status");
        let status = status.and_then(|v| v.to_str().ok()?.parse().ok());
        self.grpc = status.or(self.grpc);
    }

    /// Records the progress of the response's body.
    pub(super) fn reach(&mut self, state: State) {
        self.body = state;
    }

    /// The outcome by gRPC status code (<https://grpc.io/docs/guides/status-codes/>).
    fn grpc_outcome(&self) -> Outcome {
        match self.grpc {
            // Cancelled.
            Some(1) => Outcome::Aborted,
            // Not found.
            Some(5) => Outcome::Miss,
            // Unknown, deadline, resource exhausted, internal, unavailable, data loss.
            _ if self.not_understood => Outcome::Refused,
            Some(2 | 4 | 8 | 13 | 14 | 15) => Outcome::Error,
            _ => Outcome::Refused,
        }
    }

    /// Which caller its log line is accounted to.
    fn key(&self) -> Key {
        let name = self.asked_by.as_deref();
        name.map_or_else(|| self.caller.clone(), |name| Key::Principal(name.into()))
    }

    fn outcome(&self) -> Outcome {
        let whole = self.announced == Some(self.sent);
        match (self.body, self.code) {
            _ if self.client_gone => Outcome::Aborted,
            (State::Failed, _) => Outcome::Broken,
            // A panic unwinds through it; the result is an internal error.
            (State::Waiting, _) if std::thread::panicking() => Outcome::Error,
            (State::Waiting, _) => Outcome::Aborted,
            (State::Sending, _) if !whole => Outcome::Aborted,
            _ if self.grpc.is_some_and(|status| status != 0) => self.grpc_outcome(),
            (_, 404) if matches!(self.method, "GET" | "HEAD") => Outcome::Miss,
            // 501: an unknown method or coding.
            (_, 400..=499 | 501) => Outcome::Refused,
            // A probe that gets "not ready" was answered.
            (_, 503) if self.label.is_quiet => Outcome::Refused,
            (_, 500..) => Outcome::Error,
            _ => Outcome::Ok,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let outcome = self.outcome();
        let done = Done {
            label: self.label,
            method: self.method,
            code: self.code,
            tier: self.tier.map_or("none", Tier::as_str),
            outcome,
            elapsed: self.started.elapsed(),
            bytes_in: self.received.as_ref().map_or(0, |r| r.load(Relaxed)),
            bytes_out: self.sent,
        };
        self.http.record(&done);
        tell(self, &done);
        if self.exported {
            record(&self.span, &done);
        }
    }
}

/// Logs the request, unless its caller has had too many that were refused, aborted, found nothing or failed.
fn tell(watch: &Watch, done: &Done) {
    lines::sum_up();
    let may_write = match done.outcome {
        Outcome::Error | Outcome::Broken => lines::may_write_failure(&watch.key()),
        // At `debug`.
        _ if done.label.is_quiet => true,
        Outcome::Refused | Outcome::Aborted => lines::may_write(&watch.key()),
        // For an authenticated caller it is a cache miss, which is worth a line.
        Outcome::Miss => watch.asked_by.is_some() || lines::may_write(&watch.key()),
        Outcome::Ok => true,
    };
    if !may_write {
        return;
    }
    let elapsed_ms = done.elapsed.as_secs_f64() * 1e3;
    let elapsed_ms = (elapsed_ms * 1e3).round() / 1e3;
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                parent: &watch.span,
                door = done.label.door,
                path = watch.path,
                status = done.code,
                outcome = done.outcome.as_str(),
                tier = done.tier,
                bytes_in = done.bytes_in,
                bytes_out = done.bytes_out,
                elapsed_ms,
                principal = watch.asked_by.as_deref(),
                error = watch.why.as_deref(),
                "Request"
            )
        };
    }
    match done.outcome {
        Outcome::Error | Outcome::Broken => line!(warn),
        _ if done.label.is_quiet => line!(debug),
        _ => line!(info),
    }
}

/// Records the outcome in the request's span.
fn record(span: &Span, done: &Done) {
    span.record("http.response.status_code", done.code);
    span.record("http.request.body.size", done.bytes_in);
    span.record("http.response.body.size", done.bytes_out);
    if matches!(done.outcome, Outcome::Error | Outcome::Broken) {
        span.record("otel.status_code", "ERROR");
    }
}

use std::{io, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, Response, StatusCode},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

use super::{AskedBy, NotUnderstood, Observer, Saved, X_REQUEST_ID};
use crate::{
    metrics::{Metrics, http::RouteLabel},
    trace,
};

const PATH: &str = "/v2/secret-project/blobs/sha256:12";

struct Observed {
    observer: Observer,
    metrics: Metrics,
}

fn observed() -> Observed {
    let metrics = Metrics::new();
    Observed {
        observer: Observer::new(metrics.http.clone()),
        metrics,
    }
}

const BLOB: RouteLabel = RouteLabel {
    door: "registry",
    route: "/v2/{name}/blobs/{digest}",
    looks_up: Some("blob"),
    is_quiet: false,
};

const PROBE: RouteLabel = RouteLabel {
    door: "admin",
    route: "/livez",
    looks_up: None,
    is_quiet: true,
};

fn get() -> Request<Body> {
    Request::get(PATH).body(Body::empty()).unwrap()
}

fn broken() -> Body {
    let pieces = [
        Ok(Bytes::from_static(b"some")),
        Err(io::Error::other("cut")),
    ];
    Body::from_stream(stream::iter(pieces))
}

impl Observed {
    async fn answer(&self, request: Request<Body>, body: impl Into<Body>) -> Response<Body> {
        let response = Response::new(body.into());
        let answer = |_| async { response };
        self.observer.observe(BLOB, request, answer).await
    }

    /// The value of the only series that contains all of `parts`.
    fn value(&self, parts: &[&str]) -> u64 {
        let text = self.metrics.encode();
        let fits = |line: &&str| !line.starts_with('#') && parts.iter().all(|p| line.contains(p));
        let lines: Vec<&str> = text.lines().filter(fits).collect();
        let [line] = lines[..] else {
            panic!("{parts:?}: {lines:?}")
        };
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn requests(&self, outcome: &str) -> u64 {
        self.value(&[
            "cachectld_requests_total",
            &format!("outcome=\"{outcome}\""),
        ])
    }
}

#[tokio::test]
async fn an_answer_counts_when_its_last_byte_was_taken() {
    let o = observed();
    let response = o.answer(get(), "hello").await;
    assert_eq!(o.value(&["requests_in_flight", "registry"]), 1);
    assert_eq!(to_bytes(response.into_body(), 99).await.unwrap(), "hello");
    assert_eq!(o.requests("ok"), 1);
    assert_eq!(o.value(&["cachectld_response_bytes_total"]), 5);
    assert_eq!(o.value(&["requests_in_flight", "registry"]), 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_counted_with_what_was_sent() {
    let o = observed();
    let response = o.answer(get(), broken()).await;
    assert!(to_bytes(response.into_body(), 99).await.is_err());
    assert_eq!(o.requests("broken"), 1);
    assert_eq!(o.value(&["cachectld_response_bytes_total"]), 4);
}

#[tokio::test]
async fn a_call_of_grpc_ends_as_its_status_says() {
    for (status, outcome) in [
        ("0", "ok"),
        ("5", "miss"),
        ("7", "refused"),
        ("14", "error"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", status.parse().unwrap());
        let end: Result<_, io::Error> = Ok(http_body::Frame::<Bytes>::trailers(headers.clone()));
        let streamed = Body::new(http_body_util::StreamBody::new(stream::iter([end])));
        let mut refused = Response::new(Body::empty());
        *refused.headers_mut() = headers;
        for response in [Response::new(streamed), refused] {
            let o = observed();
            let answer = |_| async { response };
            let response = o.observer.observe(BLOB, get(), answer).await;
            drop(response.into_body().collect().await);
            assert_eq!(o.requests(outcome), 1, "{status}");
        }
    }
}

#[tokio::test]
async fn what_the_client_sent_wrong_is_no_failure_of_ours() {
    let mut call = Response::new(Body::empty());
    let status = "13".parse().unwrap();
    call.headers_mut().insert("grpc-status", status);
    call.extensions_mut().insert(NotUnderstood);
    let mut coding = Response::new(Body::empty());
    *coding.status_mut() = StatusCode::NOT_IMPLEMENTED;
    for response in [call, coding] {
        let o = observed();
        let answer = |_| async { response };
        drop(o.observer.observe(BLOB, get(), answer).await);
        assert_eq!(o.requests("refused"), 1);
    }
}

#[tokio::test]
async fn failures_that_one_caller_causes_write_some_lines_only() {
    let lines = Lines::default();
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    let subscriber = tracing_subscriber::registry().with(layer.with_writer(lines.clone()));
    let _here = tracing::subscriber::set_default(subscriber);
    let o = observed();
    for _ in 0..5000 {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        let name = AskedBy("who fails much".to_owned());
        response.extensions_mut().insert(name);
        let answer = |_| async { response };
        drop(o.observer.observe(BLOB, get(), answer).await);
    }
    assert_eq!(o.requests("error"), 5000);
    let written = lines.text().matches("outcome=\"error\"").count();
    assert!((1000..5000).contains(&written), "{written}");
}

#[tokio::test]
async fn a_probe_that_is_told_not_now_is_no_failure_and_another_answer_of_503_is() {
    for (label, outcome) in [(PROBE, "refused"), (BLOB, "error")] {
        let o = observed();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = axum::http::StatusCode::SERVICE_UNAVAILABLE;
        let answer = |_| async { response };
        drop(o.observer.observe(label, get(), answer).await);
        assert_eq!(o.requests(outcome), 1);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_is_no_failure_of_ours() {
    let o = observed();
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(b"x")));
    let response = o.answer(get(), Body::from_stream(endless)).await;
    let mut body = response.into_body().into_data_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    assert_eq!(o.requests("aborted"), 1);
}

#[tokio::test]
async fn bodies_keep_their_length() {
    let request = Request::put(PATH).body(Body::from("12345")).unwrap();
    let answer = async |request: Request<Body>| {
        assert_eq!(request.body().size_hint().exact(), Some(5));
        Response::new(Body::from("123"))
    };
    let response = observed().observer.observe(BLOB, request, answer).await;
    assert_eq!(response.body().size_hint().exact(), Some(3));
}

#[tokio::test]
async fn a_request_that_is_dropped_before_its_answer_counts_as_aborted() {
    let o = observed();
    let never = |_| std::future::pending::<Response<Body>>();
    let waiting = o.observer.observe(BLOB, get(), never);
    assert!(futures_util::poll!(Box::pin(waiting)).is_pending());
    assert_eq!(
        o.value(&["cachectld_requests_total", "code=\"0\"", "aborted"]),
        1
    );
}

#[tokio::test]
async fn a_stream_of_announced_length_is_whole_without_being_asked_for_its_end() {
    let o = observed();
    let answer = |_| async {
        let pieces = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"four"))]);
        let whole = pieces.chain(stream::pending());
        let response = Response::builder().header("content-length", 4);
        response.body(Body::from_stream(whole)).unwrap()
    };
    let response = o.observer.observe(BLOB, get(), answer).await;
    let mut body = response.into_body().into_data_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    assert_eq!(o.requests("ok"), 1);
}

#[tokio::test]
async fn bytes_of_requests_are_counted_as_they_come() {
    let o = observed();
    let request = Request::put(PATH).body(Body::from("12345678")).unwrap();
    let answer = |request: Request<Body>| async {
        let read = to_bytes(request.into_body(), 99).await.unwrap();
        assert_eq!(read.len(), 8);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::CREATED;
        let saved = Saved {
            how: "existed",
            bytes: 8,
        };
        response.extensions_mut().insert(saved);
        response
    };
    let response = o.observer.observe(BLOB, request, answer).await;
    drop(response);
    assert_eq!(o.value(&["cachectld_request_bytes_total"]), 8);
    assert_eq!(o.value(&["cachectld_dedup_bytes_total", "existed"]), 8);
}

#[tokio::test]
async fn the_clients_request_id_comes_back() {
    let o = observed();
    let request = Request::get(PATH).header(X_REQUEST_ID, "abc-1");
    let response = o.answer(request.body(Body::empty()).unwrap(), "").await;
    assert_eq!(response.headers()[X_REQUEST_ID], "abc-1");
    let response = o.answer(get(), "").await;
    assert_eq!(response.headers()[X_REQUEST_ID].len(), 16);
}

#[tokio::test]
async fn a_made_up_method_is_no_label_of_its_own() {
    let o = observed();
    let mut request = get();
    *request.method_mut() = Method::from_bytes(b"BREW").unwrap();
    drop(o.answer(request, "").await);
    assert_eq!(
        o.value(&["cachectld_requests_total", "method=\"other\""]),
        1
    );
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

#[tokio::test]
async fn every_request_writes_one_line_in_its_trace() {
    let lines = Lines::default();
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    let subscriber = tracing_subscriber::registry().with(layer.with_writer(lines.clone()));
    let _here = tracing::subscriber::set_default(subscriber);
    let o = observed();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get(PATH).header("traceparent", parent);
    let answer = |_| async {
        let within = trace::current().unwrap();
        assert_eq!(within.to_string(), parent);
        let mut response = Response::new(Body::from("hello"));
        response.extensions_mut().insert(AskedBy("ci".to_owned()));
        response
    };
    let request = request.body(Body::empty()).unwrap();
    let response = o.observer.observe(BLOB, request, answer).await;
    assert_eq!(lines.text(), "");
    drop(to_bytes(response.into_body(), 99).await);
    let text = lines.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        "trace_id=\"0af7651916cd43dd8448eb211c80319c\"",
        "request_id=",
        "status=200",
        "outcome=\"ok\"",
        "bytes_out=5",
        "principal=\"ci\"",
        PATH,
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[tokio::test]
async fn probes_write_no_line() {
    let lines = Lines::default();
    let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    let level = tracing::level_filters::LevelFilter::INFO;
    let subscriber = tracing_subscriber::registry().with(level).with(layer);
    let _here = tracing::subscriber::set_default(subscriber);
    let o = observed();
    let request = Request::get("/livez").body(Body::empty()).unwrap();
    let answer = |_| async { Response::new(Body::from("ok")) };
    drop(o.observer.observe(PROBE, request, answer).await);
    assert_eq!(lines.text(), "");
    assert_eq!(o.value(&["cachectld_requests_total", "/livez"]), 1);
}

#[tokio::test]
async fn names_of_projects_are_no_labels() {
    let o = observed();
    drop(o.answer(get(), "hello").await);
    assert!(!o.metrics.encode().contains("secret-project"));
}

//! A small S3 server in this process, whose every answer a test may replace: for faults that no real server has on demand.
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "documents of a few lines"
)]
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use cachectl::digest::Digest;
use cachectl::store::{net, s3};
use cachectl::task::{self, Task};
use tokio::time::Duration;

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Key below the bucket.
    pub(crate) key: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// The operation, as S3's own documents call it.
    pub(crate) fn op(&self) -> &'static str {
        let has = |word: &str| {
            self.query
                .split('&')
                .any(|p| p.split('=').next() == Some(word))
        };
        match self.method.as_str() {
            "HEAD" if self.key.is_empty() => "HeadBucket",
            "HEAD" => "HeadObject",
            "GET" if has("uploads") => "ListMultipartUploads",
            "GET" if self.key.is_empty() => "ListObjectsV2",
            "GET" => "GetObject",
            "PUT" if has("uploadId") => "UploadPart",
            "PUT" => "PutObject",
            "POST" if has("uploads") => "CreateMultipartUpload",
            "POST" if has("uploadId") => "CompleteMultipartUpload",
            "POST" if has("delete") => "DeleteObjects",
            "DELETE" if has("uploadId") => "AbortMultipartUpload",
            "DELETE" => "DeleteObject",
            _ => "?",
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn parameter(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
            .map(decode)
    }
}

/// Says what to answer instead of the truth; gets the request, how many of the same operation came before, and the bucket.
type Hook = dyn Fn(&Seen, usize, &Bucket) -> Option<Response> + Send + Sync;

/// What the server holds.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) objects: Mutex<BTreeMap<String, Bytes>>,
    pub(crate) uploads: Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    pub(crate) seen: Mutex<Vec<Seen>>,
}

pub(crate) struct FakeS3 {
    pub(crate) bucket: Arc<Bucket>,
    port: u16,
    _serving: Task<()>,
}

impl FakeS3 {
    /// Starts one that tells the truth.
    pub(crate) async fn honest() -> Self {
        Self::start(|_, _, _| None).await
    }

    pub(crate) async fn start(
        hook: impl Fn(&Seen, usize, &Bucket) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let bucket = Arc::new(Bucket::default());
        let (shared, hook): (_, Arc<Hook>) = (bucket.clone(), Arc::new(hook));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (bucket, hook) = (shared.clone(), hook.clone());
            async move { answer(&bucket, hook.as_ref(), request).await }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = task::spawn("fake s3", async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            bucket,
            port,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self, more: &str) -> String {
        format!(
            "s3://bucket/p?region=r&anonymous=true&endpoint=http://127.0.0.1:{}{more}",
            self.port
        )
    }

    /// Opens the store, with a stall time of `stall`.
    pub(crate) async fn open(&self, stall: Duration, more: &str) -> s3::S3 {
        let common = net::Common {
            stall,
            proxy_from_env: false,
            ..net::Common::default()
        };
        let location = s3::Location::parse(&self.url(more)).unwrap();
        s3::S3::open(&location, &s3::Config::default(), &common)
            .await
            .unwrap()
    }

    /// The operations that came in, in their order.
    pub(crate) fn ops(&self) -> Vec<&'static str> {
        self.bucket
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(Seen::op)
            .collect()
    }

    pub(crate) fn count(&self, op: &str) -> usize {
        self.ops().iter().filter(|o| **o == op).count()
    }

    pub(crate) fn object(&self, key: &str) -> Option<Bytes> {
        self.bucket.objects.lock().unwrap().get(key).cloned()
    }

    pub(crate) fn set(&self, key: &str, bytes: impl Into<Bytes>) {
        let mut objects = self.bucket.objects.lock().unwrap();
        objects.insert(key.to_owned(), bytes.into());
    }
}

/// Resolves what the keys of these tests have encoded.
fn decode(text: &str) -> String {
    text.replace("%2F", "/").replace("%25", "%")
}

async fn answer(bucket: &Bucket, hook: &Hook, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = decode(head.uri.path().trim_start_matches('/'));
    let key = path.split_once('/').map_or("", |(_, key)| key).to_owned();
    let mut seen = Seen {
        method: head.method,
        key,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: Bytes::new(),
    };
    if seen.header("x-fake-unread").is_none() {
        match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => seen.body = bytes,
            // The client gave up in the middle.
            Err(_) => return status(StatusCode::BAD_REQUEST),
        }
    }
    let before = {
        let mut all = bucket.seen.lock().unwrap();
        let before = all.iter().filter(|s| s.op() == seen.op()).count();
        all.push(seen.clone());
        before
    };
    hook(&seen, before, bucket).unwrap_or_else(|| truth(bucket, &seen))
}

/// What an S3 server answers.
pub(crate) fn truth(bucket: &Bucket, seen: &Seen) -> Response {
    let mut objects = bucket.objects.lock().unwrap();
    let mut uploads = bucket.uploads.lock().unwrap();
    let id = seen.parameter("uploadId").unwrap_or_default();
    match seen.op() {
        "HeadBucket" => status(StatusCode::OK),
        "HeadObject" | "GetObject" => match objects.get(&seen.key) {
            Some(bytes) => object(bytes, seen.header("range")),
            None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        "PutObject" => {
            let now = objects.get(&seen.key).map(|b| etag(b));
            let refused = match (seen.header("if-match"), seen.header("if-none-match")) {
                (Some(want), _) => now.as_deref() != Some(want),
                (_, Some("*")) => now.is_some(),
                _ => false,
            };
            if refused {
                return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
            }
            objects.insert(seen.key.clone(), seen.body.clone());
            build(200, &[("etag", &etag(&seen.body))], Bytes::new())
        }
        "DeleteObject" => {
            objects.remove(&seen.key);
            status(StatusCode::NO_CONTENT)
        }
        "CreateMultipartUpload" => {
            let id = format!("up{}", bucket.seen.lock().unwrap().len());
            uploads.insert(id.clone(), BTreeMap::new());
            xml(&format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        "UploadPart" => {
            let number = seen.parameter("partNumber").unwrap().parse().unwrap();
            let Some(parts) = uploads.get_mut(&id) else {
                return error(StatusCode::NOT_FOUND, "NoSuchUpload");
            };
            parts.insert(number, seen.body.clone());
            build(200, &[("etag", &etag(&seen.body))], Bytes::new())
        }
        "CompleteMultipartUpload" => {
            if seen.header("if-none-match").is_some() && objects.contains_key(&seen.key) {
                return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
            }
            let Some(parts) = uploads.remove(&id) else {
                return error(StatusCode::NOT_FOUND, "NoSuchUpload");
            };
            let whole: Vec<u8> = parts.values().flat_map(|b| b.iter().copied()).collect();
            objects.insert(seen.key.clone(), whole.into());
            xml(
                "<CompleteMultipartUploadResult><ETag>\"x-1\"</ETag></CompleteMultipartUploadResult>",
            )
        }
        "AbortMultipartUpload" => {
            uploads.remove(&id);
            status(StatusCode::NO_CONTENT)
        }
        "ListObjectsV2" => list(&objects, seen),
        "ListMultipartUploads" => {
            let items: String = uploads
                .keys()
                .map(|id| format!(
                    "<Upload><Key>p/blobs/x</Key><UploadId>{id}</UploadId><Initiated>2020-01-01T00:00:00.000Z</Initiated></Upload>"
                ))
                .collect();
            xml(&format!(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{items}</ListMultipartUploadsResult>"
            ))
        }
        "DeleteObjects" => {
            let text = String::from_utf8_lossy(&seen.body).into_owned();
            for key in text
                .split("<Key>")
                .skip(1)
                .filter_map(|k| k.split("</Key>").next())
            {
                objects.remove(key);
            }
            xml("<DeleteResult></DeleteResult>")
        }
        op => panic!("unknown request: {op} {seen:?}"),
    }
}

/// Pages of two, so that every listing of a test has some.
fn list(objects: &BTreeMap<String, Bytes>, seen: &Seen) -> Response {
    let prefix = seen.parameter("prefix").unwrap_or_default();
    let after = seen.parameter("continuation-token").unwrap_or_default();
    let mut names: Vec<(String, Option<&Bytes>)> = Vec::new();
    for (key, bytes) in objects.iter().filter(|(k, _)| k.starts_with(&prefix)) {
        let rest = &key[prefix.len()..];
        match rest.find('/').filter(|_| seen.query.contains("delimiter")) {
            Some(at) => names.push((format!("{prefix}{}", &rest[..=at]), None)),
            None => names.push((key.clone(), Some(bytes))),
        }
    }
    names.dedup_by(|a, b| a.0 == b.0);
    names.retain(|(name, _)| *name > after);
    let more = names.len() > 2;
    names.truncate(2);
    let mut doc = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
    if let (true, Some((last, _))) = (more, names.last()) {
        doc += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    for (name, bytes) in &names {
        doc += &match bytes {
            Some(b) => format!(
                "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
                b.len()
            ),
            None => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
        };
    }
    xml(&(doc + "</ListBucketResult>"))
}

/// An object, or the range of it that a `Range` header names.
pub(crate) fn object(bytes: &Bytes, range: Option<&str>) -> Response {
    let tag = etag(bytes);
    let modified = "Thu, 01 Jan 2026 00:00:00 GMT";
    let Some(range) = range else {
        let headers = [("etag", tag.as_str()), ("last-modified", modified)];
        return build(200, &headers, bytes.clone());
    };
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    if first >= bytes.len() {
        return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
    }
    let last = last.min(bytes.len() - 1);
    let said = format!("bytes {first}-{last}/{}", bytes.len());
    let headers = [("etag", tag.as_str()), ("content-range", said.as_str())];
    build(206, &headers, bytes.slice(first..=last))
}

pub(crate) fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &Digest::sha256_of(bytes).hex()[..32])
}

pub(crate) fn build(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

pub(crate) fn status(status: StatusCode) -> Response {
    build(status.as_u16(), &[], Bytes::new())
}

pub(crate) fn error(status: StatusCode, code: &str) -> Response {
    let doc = format!("<Error><Code>{code}</Code><Message>as the test wants</Message></Error>");
    let headers = [
        ("content-type", "application/xml"),
        ("x-amz-request-id", "4"),
    ];
    // To a HEAD there is no more than these; elsewhere messages would name the request.
    let some = if status == StatusCode::NOT_FOUND {
        2
    } else {
        1
    };
    build(status.as_u16(), &headers[..some], doc)
}

pub(crate) fn xml(doc: &str) -> Response {
    build(200, &[("content-type", "application/xml")], doc.to_owned())
}

/// What a login page of a hotel answers to everything.
pub(crate) fn html() -> Response {
    build(
        200,
        &[("content-type", "text/html")],
        "<!DOCTYPE html><html><body>Please log in.</body></html>",
    )
}

/// Announces `announced` bytes, sends `bytes`, and then breaks the connection, or stays silent.
pub(crate) fn cut(
    headers: &[(&str, &str)],
    announced: usize,
    bytes: Bytes,
    silent: bool,
) -> Response {
    use futures_util::StreamExt as _;
    let first = futures_util::stream::iter([Ok(bytes)]);
    let end = futures_util::stream::once(async move {
        if silent {
            std::future::pending::<()>().await;
        }
        // The server sends what it has when the body is not ready.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut by the test"))
    });
    let announced = announced.to_string();
    let mut all = vec![("content-length", announced.as_str()), ("etag", "\"cut\"")];
    all.extend_from_slice(headers);
    let partial = headers.iter().any(|(name, _)| *name == "content-range");
    build(
        if partial { 206 } else { 200 },
        &all,
        Body::from_stream(first.chain(end)),
    )
}

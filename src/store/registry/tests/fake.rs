//! A registry in memory that follows the spec, unless a script overrides it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    body::{Body as HttpBody, to_bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, Method, Response},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Barrier;

use crate::{digest::Digest, task};

pub(super) type Reply = Response<HttpBody>;

/// One received request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// Number of earlier requests with the same method and kind of path.
    pub(super) nth: usize,
    /// Empty while the script sees it.
    pub(super) body: Bytes,
    /// The peer of its connection.
    pub(super) peer: SocketAddr,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// `blobs`, `uploads`, `manifests`, `tags`, or the path itself.
    pub(super) fn sort(&self) -> &str {
        let sorts = ["uploads", "blobs", "manifests", "tags"];
        let found = sorts
            .into_iter()
            .find(|s| self.path.contains(&format!("/{s}/")));
        found.unwrap_or(&self.path)
    }

    /// `PUT uploads`, for scripts and for expected sequences of requests.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.sort())
    }

    pub(super) fn query(&self, key: &str) -> Vec<String> {
        let url = reqwest::Url::parse(&format!("http://h/?{}", self.query)).unwrap();
        url.query_pairs()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.into_owned())
            .collect()
    }
}

/// What a script does instead of the usual.
pub(super) enum Act {
    /// This answer.
    Reply(Reply),
    /// The usual, with a modified answer.
    Change(Box<dyn FnOnce(Reply) -> Reply + Send>),
    /// Takes this many bytes of the request's body (in an upload session, if it is for one), then breaks the connection.
    Break(usize),
    /// The usual work, but the connection breaks before the answer.
    Mute,
    /// The usual, with only this many bytes of the request's body.
    Keep(usize),
    /// The usual, once all requests that meet here have come.
    Meet(Arc<Barrier>),
}

type Script = dyn Fn(&Call) -> Option<Act> + Send + Sync;

#[derive(Default)]
pub(super) struct Model {
    pub(super) blobs: BTreeMap<Digest, Bytes>,
    pub(super) uploads: BTreeMap<String, Vec<u8>>,
    pub(super) manifests: BTreeMap<Digest, (String, Bytes)>,
    pub(super) tags: BTreeMap<String, Digest>,
    pub(super) log: Vec<Call>,
    /// As distribution 2.8: drops an upload whose `_state` does not match its file.
    pub(super) forgets: bool,
    next: usize,
}

pub(super) struct Fake {
    pub(super) addr: SocketAddr,
    model: Arc<Mutex<Model>>,
    _server: task::Task<()>,
}

pub(super) fn reply(status: u16) -> Reply {
    with(status, &[], Bytes::new())
}

pub(super) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut r = Response::builder().status(status);
    for (k, v) in headers {
        r = r.header(*k, *v);
    }
    r.body(HttpBody::from(body.into())).unwrap()
}

/// An error in the registry's format.
pub(super) fn refuse(status: u16, code: &str) -> Reply {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said by the test"}}]}}"#);
    let headers = [
        ("content-type", "application/json"),
        ("docker-distribution-api-version", "registry/2.0"),
    ];
    with(status, &headers, body)
}

impl Fake {
    pub(super) async fn start(
        script: impl Fn(&Call) -> Option<Act> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let model: Arc<Mutex<Model>> = Arc::default();
        let (shared, script): (_, Arc<Script>) = (model.clone(), Arc::new(script));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (model, script) = (shared.clone(), script.clone());
            async move { answer(&model, &*script, request).await }
        });
        let server = task::spawn("fake registry", async move {
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            addr,
            model,
            _server: server,
        }
    }

    /// A registry without a script.
    pub(super) async fn plain() -> Self {
        Self::start(|_| None).await
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock()
    }

    pub(super) fn has(&self, bytes: &Bytes) {
        self.model()
            .blobs
            .insert(Digest::sha256_of(bytes), bytes.clone());
    }

    /// All requests so far, in order. A blob is looked for while its upload begins: of these two the HEAD comes first here, whichever
    /// arrived first.
    pub(super) fn log(&self) -> Vec<Call> {
        let mut log = self.model().log.clone();
        let is = |call: Option<&Call>, name: &str| call.is_some_and(|call| call.name() == name);
        for i in 1..log.len() {
            let has_its_own = i > 1 && is(log.get(i - 2), "HEAD blobs");
            if is(log.get(i), "HEAD blobs") && is(log.get(i - 1), "POST uploads") && !has_its_own {
                log.swap(i - 1, i);
            }
        }
        log
    }

    /// Names of all requests so far, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.log().iter().map(Call::name).collect()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// Ends the connection without an answer, and without the message of a panic.
fn hang_up() -> ! {
    std::panic::resume_unwind(Box::new("the script hung up"))
}

async fn answer(model: &Mutex<Model>, script: &Script, request: Request) -> Reply {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.expect("the server was made with it").0;
    let (parts, body) = request.into_parts();
    let mut call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        nth: 0,
        body: Bytes::new(),
        peer,
    };
    let place = {
        let mut m = model.lock();
        call.nth = m.log.iter().filter(|c| c.name() == call.name()).count();
        m.log.push(call.clone());
        m.log.len() - 1
    };
    if model.lock().has_dropped(&call) {
        return refuse(404, "BLOB_UPLOAD_INVALID");
    }
    match script(&call) {
        Some(Act::Break(after)) => {
            let mut pieces = body.into_data_stream();
            let mut left = after;
            while left > 0 {
                let Some(Ok(piece)) = pieces.next().await else {
                    break;
                };
                let some = &piece[..left.min(piece.len())];
                left -= some.len();
                if let Some(session) = model.lock().uploads.get_mut(&call.path) {
                    session.extend_from_slice(some);
                }
            }
            hang_up()
        }
        Some(Act::Reply(reply)) => {
            let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
            model.lock().log[place].body = body;
            reply
        }
        act => {
            let Ok(body) = to_bytes(body, usize::MAX).await else {
                hang_up()
            };
            call.body = match act {
                Some(Act::Keep(some)) => body.slice(..some),
                _ => body.clone(),
            };
            let usual = {
                let mut m = model.lock();
                m.log[place].body = body;
                m.usual(&call)
            };
            if let Some(Act::Meet(all)) = &act {
                all.wait().await;
            }
            match act {
                Some(Act::Change(change)) => change(usual),
                Some(Act::Mute) => hang_up(),
                _ => usual,
            }
        }
    }
}

impl Model {
    /// Returns true if `call` is for an upload that was, or is now, dropped, as in distribution 2.8.
    fn has_dropped(&mut self, call: &Call) -> bool {
        if !self.forgets || call.sort() != "uploads" || call.method == Method::POST {
            return false;
        }
        let state = call.query("_state").join("");
        let has = self
            .uploads
            .get(&call.path)
            .map(|got| format!("{}=", got.len()));
        let dropped = has.as_ref() != Some(&state);
        if dropped {
            self.uploads.remove(&call.path);
        }
        dropped
    }

    fn usual(&mut self, call: &Call) -> Reply {
        let last = call.path.rsplit('/').next().unwrap().to_owned();
        match (call.method.as_str(), call.sort()) {
            (_, "/v2/") => reply(200),
            ("GET" | "HEAD", "blobs") => self.blob(call, &last),
            ("POST", "uploads") => self.begin(call),
            ("GET", "uploads") => match self.uploads.get(&call.path) {
                Some(got) => session(204, &call.path, got.len()),
                None => refuse(404, "BLOB_UPLOAD_UNKNOWN"),
            },
            ("DELETE", "uploads") => reply(if self.uploads.remove(&call.path).is_some() {
                204
            } else {
                404
            }),
            ("PATCH", "uploads") => self.patch(call),
            ("PUT", "uploads") => self.close(call),
            ("GET" | "HEAD", "manifests") => {
                let digest = self.tags.get(&last).copied().or_else(|| last.parse().ok());
                match digest.and_then(|d| Some((d, self.manifests.get(&d)?))) {
                    Some((d, (kind, bytes))) => with(
                        200,
                        &[
                            ("content-type", kind),
                            ("docker-content-digest", &d.to_string()),
                        ],
                        bytes.clone(),
                    ),
                    None => refuse(404, "MANIFEST_UNKNOWN"),
                }
            }
            ("PUT", "manifests") => {
                let digest = Digest::sha256_of(&call.body);
                self.manifests.insert(
                    digest,
                    (call.header("content-type").to_owned(), call.body.clone()),
                );
                if last.parse::<Digest>().is_err() {
                    self.tags.insert(last, digest);
                }
                with(201, &[("docker-content-digest", &digest.to_string())], "")
            }
            ("DELETE", "manifests") => match self.tags.remove(&last) {
                Some(_) => reply(202),
                None => refuse(404, "MANIFEST_UNKNOWN"),
            },
            ("GET", "tags") => {
                let tags: Vec<&String> = self.tags.keys().collect();
                with(
                    200,
                    &[],
                    serde_json::json!({"name": "x", "tags": tags}).to_string(),
                )
            }
            _ => reply(404),
        }
    }

    fn blob(&self, call: &Call, digest: &str) -> Reply {
        let Some((digest, bytes)) = digest
            .parse::<Digest>()
            .ok()
            .and_then(|d| Some((d, self.blobs.get(&d)?)))
        else {
            return refuse(404, "BLOB_UNKNOWN");
        };
        let named = ("docker-content-digest", digest.to_string());
        let Some(range) = call.header("range").strip_prefix("bytes=") else {
            return with(200, &[(named.0, &named.1)], bytes.clone());
        };
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        if first >= bytes.len() {
            return with(
                416,
                &[("content-range", &format!("bytes */{}", bytes.len()))],
                "",
            );
        }
        let last = last.min(bytes.len() - 1);
        let range = format!("bytes {first}-{last}/{}", bytes.len());
        with(
            206,
            &[("content-range", &range), (named.0, &named.1)],
            bytes.slice(first..=last),
        )
    }

    fn begin(&mut self, call: &Call) -> Reply {
        if let Some(digest) = call.query("digest").first() {
            return self.commit(digest, call.body.to_vec());
        }
        self.next += 1;
        let at = format!("/v2/team/app/blobs/uploads/s{}", self.next);
        self.uploads.insert(at.clone(), Vec::new());
        session(202, &at, 0)
    }

    fn patch(&mut self, call: &Call) -> Reply {
        let Some(got) = self.uploads.get_mut(&call.path) else {
            return refuse(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if let Some((first, last)) = call.header("content-range").split_once('-') {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            if first != got.len() || call.body.len() > last + 1 - first {
                return refuse(416, "BLOB_UPLOAD_INVALID");
            }
        }
        got.extend_from_slice(&call.body);
        session(202, &call.path, got.len())
    }

    fn close(&mut self, call: &Call) -> Reply {
        let Some(mut got) = self.uploads.remove(&call.path) else {
            return refuse(404, "BLOB_UPLOAD_UNKNOWN");
        };
        got.extend_from_slice(&call.body);
        self.commit(&call.query("digest")[0], got)
    }

    fn commit(&mut self, digest: &str, bytes: Vec<u8>) -> Reply {
        let digest: Digest = digest.parse().unwrap();
        if !digest.matches(&bytes) {
            return refuse(400, "DIGEST_INVALID");
        }
        self.blobs.insert(digest, bytes.into());
        with(201, &[("docker-content-digest", &digest.to_string())], "")
    }
}

/// An answer for an upload session; its `Location` changes each time, as in stateless registries.
fn session(status: u16, at: &str, got: usize) -> Reply {
    let location = format!("{at}?_state={got}%3D");
    with(
        status,
        &[
            ("location", &location),
            ("range", &format!("0-{}", got.saturating_sub(1))),
        ],
        "",
    )
}

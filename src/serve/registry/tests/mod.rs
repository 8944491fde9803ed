//! The door as clients see it: requests in, responses out, over a real disk store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::Registry;
use crate::{
    artifact::media,
    digest::Digest,
    metrics::http::Http,
    serve::{
        admission::Admission,
        auth::{self, Authority, Peer},
        gateway::Gateway,
        observe::Observer,
    },
    store::{
        StoreUrl,
        ingest::Uploads,
        keys::Repo,
        open::{self, Options},
        wrap::counters::Counters,
    },
};

mod listing;
mod manifests;
mod places;
mod pulling;
mod pushing;
mod sharing;
mod tenancy;

/// A door over its own store.
struct Door {
    registry: Registry,
    gateway: Gateway,
    admission: Arc<Admission>,
    dir: Arc<tempfile::TempDir>,
    peer: Peer,
    /// Counts the requests to its store.
    asked: Arc<Counters>,
}

/// A response, read whole.
struct Reply {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Bytes,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of its error; empty if it is not an error.
    fn code(&self) -> String {
        let read: Result<Value, _> = serde_json::from_slice(&self.body);
        let code = read
            .ok()
            .and_then(|v| v["errors"][0]["code"].as_str().map(str::to_owned));
        code.unwrap_or_default()
    }
}

impl Door {
    async fn open() -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), false).await
    }

    /// Another daemon over the same store; `shared` as over a bucket, where another daemon may continue uploads.
    async fn over(dir: Arc<tempfile::TempDir>, shared: bool) -> Self {
        let url: StoreUrl = format!("disk:{}/store", dir.path().display())
            .parse()
            .unwrap();
        // As a daemon opens it: the store itself checks received content.
        let options = Options {
            verified: false,
            ..Options::default()
        };
        let opened = open::open(&url, &options).await.unwrap();
        let repositories = opened.facts().repositories.clone().unwrap();
        let records = shared.then(|| repositories.records());
        let own = dir.path().join(format!("uploads-{:x}", fastrand::u64(..)));
        let uploads = Uploads::open(&own, records, false).unwrap();
        let admission = Arc::default();
        Self {
            registry: Registry::new(repositories, Arc::new(uploads), Arc::default()),
            gateway: gateway(dir.path(), auth::Config::default(), &admission).await,
            admission,
            dir,
            peer: Peer::unix(),
            asked: opened.facts().metrics[0].clone(),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.extension(self.peer.clone());
        let request = request.body(body.into()).unwrap();
        read(self.answer(request).await).await
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let mut request = Some(request.into_parts());
        let answer = self.gateway.enter(&self.registry, &mut request);
        answer.unwrap().await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn head(&self, path: &str) -> Reply {
        self.send(Method::HEAD, path, &[], "").await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Begins an upload; returns its URL.
    async fn begin(&self, repo: &str) -> String {
        let path = format!("/v2/{repo}/blobs/uploads/");
        let begun = self.send(Method::POST, &path, &[], "").await;
        assert_eq!(begun.status, StatusCode::ACCEPTED);
        begun.header("location").to_owned()
    }

    /// Pushes a blob as BuildKit does: POST, then one PUT.
    async fn push(&self, repo: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let at = with(&self.begin(repo).await, "digest", &digest);
        let put = self.send(Method::PUT, &at, &[], bytes.to_vec()).await;
        assert_eq!(put.status, StatusCode::CREATED, "{:?}", put.body);
        assert_eq!(put.header("docker-content-digest"), digest.to_string());
        digest
    }

    async fn put_manifest(&self, repo: &str, reference: &str, document: &Value) -> Reply {
        let path = format!("/v2/{repo}/manifests/{reference}");
        let media_type = document["mediaType"]
            .as_str()
            .unwrap_or(media::IMAGE_MANIFEST);
        let headers = [("content-type", media_type)];
        self.send(Method::PUT, &path, &headers, document.to_string())
            .await
    }
}

async fn gateway(
    state: &std::path::Path,
    config: auth::Config,
    admission: &Arc<Admission>,
) -> Gateway {
    let authority = Authority::open(config, state, auth::Exposure::LocalOnly).await;
    let observer = Observer::new(Http::default());
    Gateway::new(Arc::new(authority.unwrap()), admission.clone(), observer)
}

async fn read(response: Response<Body>) -> Reply {
    let (parts, body) = response.into_parts();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// A URL with one more parameter.
fn with(location: &str, name: &str, value: &impl std::fmt::Display) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}{name}={value}")
}

/// A manifest of existing blobs.
async fn image(door: &Door, repo: &str, layers: &[&[u8]]) -> Value {
    let config = door.push(repo, b"{}").await;
    let mut all = Vec::new();
    for bytes in layers {
        let digest = door.push(repo, bytes).await;
        all.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": bytes.len()}));
    }
    json!({
        "schemaVersion": 2,
        "mediaType": media::IMAGE_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": all,
    })
}

fn digest_of(document: &Value) -> Digest {
    Digest::sha256_of(document.to_string().as_bytes())
}

#[tokio::test]
async fn base_answers_and_names_the_protocol() {
    let door = Door::open().await;
    for path in ["/v2", "/v2/"] {
        let reply = door.get(path).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(
            reply.header("docker-distribution-api-version"),
            "registry/2.0"
        );
    }
}

#[tokio::test]
async fn method_that_a_path_does_not_know_is_refused_with_those_that_it_does() {
    let door = Door::open().await;
    let reply = door.send(Method::POST, "/v2/a/tags/list", &[], "").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        (reply.code().as_str(), reply.header("allow")),
        ("UNSUPPORTED", "GET, HEAD")
    );
}

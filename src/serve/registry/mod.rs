//! The registry door: `/v2/`, the OCI distribution specification 1.1 and the additions on its main branch.
//!
//! - Holds: routes, status codes, headers, the order of steps that clients expect.
//! - Enters: HTTP requests of docker, BuildKit, skopeo, oras and cachectl.
//! - Leaves: responses; blobs are streamed in both directions.
//! - Deliberately absent: how bytes are stored, hashed or moved, and what a cache manifest means.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};

mod blobs;
mod catalog;
mod children;
mod error;
mod http;
mod lists;
mod lookup;
mod manifests;
mod media;
mod route;
mod sources;
mod uploads;

use crate::{
    artifact::Reference,
    digest::Digest,
    ops::{cache_tags::CacheTags, sight::Sights},
    serve::{
        auth::{Action, Need},
        door::{Access, Answer, Call, Door, Route},
        hold::Hold,
        pause::{Pass, Pause},
        refusal::Refusal,
    },
    store::{self, Repositories, Repository, ingest::Uploads, keys::Repo},
};
use error::{Code, refuse};
use http::{answer, finish};
use route::Path;

/// The old name of the protocol, which docker checks.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Which of the store's blobs a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// All of them: it may read every repository.
    All,
    /// Those of the repository.
    Own,
}

/// The door: the stores behind it, unfinished uploads, the handling of cache tags.
pub struct Registry {
    repositories: Arc<dyn Repositories>,
    uploads: Arc<Uploads>,
    caches: Arc<CacheTags>,
    sights: Arc<Sights>,
    pause: Arc<Pause>,
    readers: Option<Arc<dyn Repositories>>,
    refuses_incomplete_images: AtomicBool,
}

impl Registry {
    /// A registry of all repositories of a store.
    pub fn new(
        repositories: Arc<dyn Repositories>,
        uploads: Arc<Uploads>,
        caches: Arc<CacheTags>,
    ) -> Self {
        let sights = Arc::<Sights>::default();
        let remembered = sights.clone();
        // A prune may remove a link with its blob, and another caller may push the blob again.
        let pause = Pause::telling(move || remembered.forget_links());
        Self {
            repositories,
            uploads,
            caches,
            sights,
            readers: None,
            refuses_incomplete_images: AtomicBool::new(true),
            pause: Arc::new(pause),
        }
    }

    /// The same, but reads use `readers`: these may answer from local data while the store is slow.
    #[must_use]
    pub fn reading(self, readers: Option<Arc<dyn Repositories>>) -> Self {
        Self { readers, ..self }
    }

    /// Decides whether an image manifest with missing config or layers is refused, or accepted with a warning.
    pub fn refuse_incomplete_images(&self, refuse: bool) {
        self.refuses_incomplete_images
            .store(refuse, Ordering::Relaxed);
    }

    /// Makes its requests wait while a prune has exclusive use of the store.
    pub fn pause(&self) -> Arc<Pause> {
        self.pause.clone()
    }

    /// What callers see, which every other API of the daemon must answer in the same way.
    pub fn sights(&self) -> Arc<Sights> {
        self.sights.clone()
    }

    /// A repository for requests that change it: what they find determines what is written and removed.
    fn repository(&self, name: &Repo) -> Repository {
        self.repositories.repository(name)
    }

    /// A repository for requests that only read.
    fn read_only(&self, name: &Repo) -> Repository {
        let readers = self.readers.as_ref().unwrap_or(&self.repositories);
        readers.repository(name)
    }

    /// Returns true if a caller sees a blob in a repository.
    async fn sees(
        &self,
        repository: &Repository,
        digest: &Digest,
        sight: Sight,
    ) -> store::Result<bool> {
        Ok(sight == Sight::All || self.sights.sees(repository, digest).await?)
    }

    /// Waits until no prune has exclusive use of the store, for a request that is about to work on it.
    async fn pass(&self, call: &Call) -> Pass {
        let what = || {
            let path: String = call.parts.uri.path().chars().take(200).collect();
            format!("{} {path} ({})", call.parts.method, call.ticket.key())
        };
        self.pause.pass(Some(&call.ticket), what).await
    }

    /// Notes that the caller was told that a blob or manifest exists, if a push may name it later. Only while the request has a
    /// pass.
    fn promise(&self, call: &Call, digest: &Digest) {
        // With this or another token.
        if call.who.is_granted_somewhere(Action::Push) {
            self.pause.promise(call.ticket.key(), digest);
        }
    }

    /// Boxes each answer: inside the surrounding futures, which are moved, the largest of them would cost every request.
    fn dispatch<'r>(&'r self, path: &'r Path, call: &'r Call, body: Body) -> BoxFuture<'r, Answer> {
        let method = &call.parts.method;
        let sight = if call.who.reads_everything() {
            Sight::All
        } else {
            Sight::Own
        };
        match path {
            Path::Base if reads(method) => ready(base()).boxed(),
            Path::Catalog if reads(method) => self.list_repositories(call).boxed(),
            Path::Blob(repo, digest) if reads(method) => {
                self.get_blob(repo, digest, call, sight).boxed()
            }
            Path::Blob(repo, digest) if method == Method::DELETE => async move {
                let _pass = self.pass(call).await;
                self.delete_blob(repo, digest, sight).await
            }
            .boxed(),
            Path::Uploads(repo) if method == Method::POST => {
                self.begin_upload(repo, call, body, sight).boxed()
            }
            Path::Upload(repo, id) => match *method {
                Method::GET => self.upload_status(repo, id).boxed(),
                Method::PATCH => self.append(repo, id, call, body).boxed(),
                Method::PUT => self.finish_upload(repo, id, call, body, sight).boxed(),
                Method::DELETE => self.cancel_upload(repo, id).boxed(),
                _ => only("GET, PATCH, PUT, DELETE"),
            },
            Path::Manifest(repo, reference) => match *method {
                Method::GET | Method::HEAD => {
                    self.get_manifest(repo, reference, call, sight).boxed()
                }
                Method::PUT => self
                    .put_manifest(repo, reference, call, body, sight)
                    .boxed(),
                Method::DELETE => async move {
                    let _pass = self.pass(call).await;
                    self.delete_manifest(repo, reference, call).await
                }
                .boxed(),
                _ => only("GET, HEAD, PUT, DELETE"),
            },
            Path::Tags(repo) if reads(method) => self.list_tags(repo, call).boxed(),
            Path::Referrers(repo, subject) if reads(method) => {
                self.list_referrers(repo, subject, call).boxed()
            }
            Path::Base | Path::Catalog | Path::Tags(_) | Path::Referrers(..) => only("GET, HEAD"),
            Path::Blob(..) => only("GET, HEAD, DELETE"),
            Path::Uploads(_) => only("POST"),
        }
    }
}

impl Door for Registry {
    type Asked = Path;

    fn name(&self) -> &'static str {
        "registry"
    }

    fn route(&self, head: &Parts) -> Option<Route<Path>> {
        let path = head.uri.path();
        if path != "/v2" && !path.starts_with("/v2/") {
            return None;
        }
        let (label, asked) = match percent_encoding::percent_decode_str(path).decode_utf8() {
            Ok(path) => Path::read(&path),
            Err(_) => (
                "other",
                Err(refuse(Code::NAME_INVALID, "the path is not valid UTF-8")),
            ),
        };
        let Ok(path) = &asked else {
            return Some(Route::new(label, asked));
        };
        Some(Route {
            looks_up: match path {
                Path::Blob(..) => Some("blob"),
                Path::Manifest(..) => Some("manifest"),
                _ => None,
            },
            access: Access::Needs(needs(path, head)),
            hold: hold(path, &head.method),
            ..Route::new(label, asked)
        })
    }

    async fn answer(&self, path: &Path, call: &Call, body: Body) -> Answer {
        self.dispatch(path, call, body).await
    }

    fn sign(&self, headers: &mut HeaderMap) {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
}

/// The answer to any other method.
fn only(methods: &'static str) -> BoxFuture<'static, Answer> {
    ready(Err(Refusal::method_not_allowed(methods))).boxed()
}

/// The rights that a request needs. Cancelling the caller's own upload is part of pushing.
fn needs(path: &Path, head: &Parts) -> Vec<Need<'static>> {
    let Some(repo) = path.repo() else {
        let catalog = matches!(path, Path::Catalog).then(Need::catalog);
        return catalog.into_iter().collect();
    };
    let method = &head.method;
    let action = match path {
        _ if reads(method) && !matches!(path, Path::Upload(..)) => Action::Pull,
        Path::Blob(..) | Path::Manifest(..) if method == Method::DELETE => Action::Delete,
        _ => Action::Push,
    };
    let need = |repo: &Repo, action| Need::new(repo.to_string(), action);
    let mut needs = vec![need(repo, action)];
    if matches!(path, Path::Uploads(_)) && method == Method::POST {
        // The source of a mount.
        let source = uploads::source(head);
        needs.extend(source.map(|from| need(&from, Action::Pull).optional()));
    }
    needs
}

/// Requests for bytes wait until the store is back; requests for names wait briefly.
fn hold(path: &Path, method: &Method) -> Hold {
    match path {
        Path::Blob(_, digest) if method == Method::GET => Hold::UntilBack(*digest),
        Path::Manifest(_, Reference::Digest(digest)) if reads(method) => Hold::UntilBack(*digest),
        Path::Manifest(_, Reference::Tag(_)) if reads(method) => Hold::ForAWhile,
        _ => Hold::Never,
    }
}

fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn base() -> Answer {
    let builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, "application/json");
    finish(builder, "{}")
}

#[cfg(test)]
mod tests;

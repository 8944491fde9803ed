//! The registry door: `/v2/`, the OCI distribution specification 1.1 and what its main branch adds.
//!
//! - Holds: routes, status codes, headers, the order in which clients expect things to happen.
//! - Enters: HTTP requests of docker, BuildKit, skopeo, oras and ourselves.
//! - Leaves: responses; blobs stream in both directions.
//! - Deliberately absent: how bytes are kept, hashed or moved, and what a cache manifest means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
    },
    response::IntoResponse as _,
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, ready},
};

mod blobs;
mod catalog;
mod children;
mod error;
mod hold;
mod http;
mod lists;
mod lookup;
mod manifests;
mod media;
mod place;
mod route;
mod sources;
mod uploads;

use crate::{
    artifact::Reference,
    digest::Digest,
    fair::caller,
    ops::{cache_tags::CacheTags, sight::Sights},
    serve::{
        admission::{Admission, Fault, Ticket},
        auth::{Action, Authority, Need, Peer, Principal},
        observe::{AskedBy, ClientGone},
        pause::{Pass, Pause},
    },
    store::{self, Records, Repository, ingest::Uploads, keys::Repo, open::Repositories},
};
use error::{Code, Refusal};
use hold::Hold;
use http::{answer, finish};
pub use place::place;
use route::Route;

/// The old name of the protocol, which docker looks for.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Longest time that a request waits for a store that is away, unless set otherwise.
pub const HOLD: Duration = Duration::from_mins(2);

/// How much a caller sees of the blobs of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// All of them: it may read every repository.
    All,
    /// What belongs to the repository.
    Own,
}

/// Result of answering a request.
type Answer = Result<Response<Body>, Refusal>;

/// The door: stores behind it, uploads that are on their way, who may come in, how tags of caches are kept.
pub struct Registry {
    repositories: Arc<dyn Repositories>,
    uploads: Arc<Uploads>,
    authority: Arc<Authority>,
    caches: Arc<CacheTags>,
    sights: Arc<Sights>,
    hold: Hold,
    admission: Arc<Admission>,
    pause: Arc<Pause>,
    readers: Option<Arc<dyn Repositories>>,
    refuses_incomplete_images: AtomicBool,
}

/// Among a request's extensions: its caller may push to some repository, with this or another token.
#[derive(Debug, Clone, Copy)]
struct MayPublish;

impl Registry {
    /// A registry of all repositories of a store.
    pub fn new(
        repositories: Arc<dyn Repositories>,
        uploads: Arc<Uploads>,
        authority: Arc<Authority>,
        caches: Arc<CacheTags>,
    ) -> Self {
        let sights = Arc::<Sights>::default();
        let remembered = sights.clone();
        // A prune may remove a link with its blob, and somebody else may push that again.
        let pause = Pause::telling(move || remembered.forget_links());
        Self {
            repositories,
            uploads,
            authority,
            caches,
            sights,
            readers: None,
            hold: Hold::new(HOLD, None),
            admission: Arc::default(),
            refuses_incomplete_images: AtomicBool::new(true),
            pause: Arc::new(pause),
        }
    }

    /// The same, whose requests wait this long for an unreachable store. `remote` are the records of a store behind a network
    /// without a folder in front: it is asked what a tag stands for only for a while, and whether it answers anything else.
    #[must_use]
    pub fn holding(self, limit: Duration, remote: Option<Arc<dyn Records>>) -> Self {
        Self {
            hold: Hold::new(limit, remote),
            ..self
        }
    }

    /// The same, which only reads from `readers`: they may answer by what is at hand while the store takes its time.
    #[must_use]
    pub fn reading(self, readers: Option<Arc<dyn Repositories>>) -> Self {
        Self { readers, ..self }
    }

    /// The same, which shares `admission` with other protocols.
    #[must_use]
    pub fn admitting(self, admission: Arc<Admission>) -> Self {
        Self { admission, ..self }
    }

    /// Decides whether the manifest of an image whose config or layers are not here is refused, or accepted with a warning.
    pub fn refuse_incomplete_images(&self, refuse: bool) {
        self.refuses_incomplete_images
            .store(refuse, Ordering::Relaxed);
    }

    /// Lets go the requests that wait for a store that is away, since the daemon ends.
    pub fn drain(&self) {
        self.hold.end();
    }

    /// Holds its requests while a prune has the store to itself.
    pub fn pause(&self) -> Arc<Pause> {
        self.pause.clone()
    }

    /// Who sees what, as every other API of the daemon must answer it too.
    pub fn sights(&self) -> Arc<Sights> {
        self.sights.clone()
    }

    /// A repository for requests that change it: what they find decides what is written and removed.
    fn repository(&self, name: &Repo) -> Repository {
        self.repositories.repository(name)
    }

    /// A repository for requests that only read.
    fn read_only(&self, name: &Repo) -> Repository {
        let readers = self.readers.as_ref().unwrap_or(&self.repositories);
        readers.repository(name)
    }

    /// Says whether a caller sees a blob in a repository.
    async fn sees(
        &self,
        repository: &Repository,
        digest: &Digest,
        sight: Sight,
    ) -> store::Result<bool> {
        Ok(sight == Sight::All || self.sights.sees(repository, digest).await?)
    }

    /// Answers a request whose path begins with `/v2`; the connection's [`Peer`] is among its extensions.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let answered = match path(&parts).and_then(|p| Route::of(&p)) {
            Ok(route) => self.admit(&route, &mut parts, body).await,
            Err(refusal) => refusal.response(),
        };
        let mut response = answered;
        if parts.method == Method::HEAD {
            // What a GET would answer, without its body; the headers say how long that is.
            *response.body_mut() = Body::empty();
        }
        let version = HeaderValue::from_static("registry/2.0");
        response.headers_mut().insert(API_VERSION, version);
        response
    }

    /// Lets a request in that may do what it asks for.
    async fn admit(&self, route: &Route, parts: &mut Parts, body: Body) -> Response<Body> {
        let source = source(route, parts);
        let mut needs = needs(route, &parts.method);
        needs.extend(
            source
                .as_ref()
                .map(|from| Need::pull(from.as_str()).optional()),
        );
        let peer = Peer::of(&parts.extensions);
        let principal = match self.authority.authorize(parts, &peer, &needs).await {
            Ok(principal) => principal,
            Err(refusal) => return refusal.into_response(),
        };
        let source = source.filter(|from| principal.may(Need::pull(from.as_str())));
        let sight = if principal.reads_everything() {
            Sight::All
        } else {
            Sight::Own
        };
        let key = principal.key(self.authority.caller(&parts.headers, &peer));
        let caller = Some(key.clone());
        let ticket = match Ticket::take(&self.admission, key, &parts.extensions).await {
            Ok(ticket) => ticket,
            Err(full) => return Refusal::from(full).response(),
        };
        parts.extensions.insert(ticket.clone());
        if principal.is_granted_somewhere(Action::Push) {
            parts.extensions.insert(MayPublish);
        }
        let answered = self.dispatch(route, parts, body, source.as_ref(), (&principal, sight));
        // What was below it only met what the client had done wrong.
        let answered = caller::on_behalf_of(caller, answered)
            .await
            .map_err(|refusal| ticket.fault().map_or(refusal, Refusal::from));
        let mut response = answered.unwrap_or_else(Refusal::response);
        if matches!(ticket.fault(), Some(Fault::Gone(_))) {
            response.extensions_mut().insert(ClientGone);
        }
        parts.extensions.remove::<Ticket>();
        let mut response = ticket.respond(response);
        if !principal.is_anonymous() {
            let name = AskedBy(principal.name().to_owned());
            response.extensions_mut().insert(name);
        }
        response
    }

    /// Waits until no prune has the store to itself, for a request whose work on it begins now.
    async fn pass(&self, parts: &Parts) -> Pass {
        let ticket = parts.extensions.get::<Ticket>();
        let what = || {
            let key = ticket.map(|t| t.key().to_string()).unwrap_or_default();
            let path: String = parts.uri.path().chars().take(200).collect();
            format!("{} {path} ({key})", parts.method)
        };
        self.pause.pass(ticket, what).await
    }

    /// Notes that whoever asks was told that a blob or manifest is there, if that may be named in a push later. Only while it passes.
    fn promise(&self, parts: &Parts, digest: &Digest) {
        if parts.extensions.get::<MayPublish>().is_some() {
            self.pause.promise(uploads::ticket(parts).key(), digest);
        }
    }

    /// Each answer is on the heap: as part of the futures around it, which are moved, the largest of them would cost every request.
    fn dispatch<'r>(
        &'r self,
        route: &'r Route,
        parts: &'r Parts,
        body: Body,
        source: Option<&'r Repo>,
        (who, sight): (&'r Principal, Sight),
    ) -> BoxFuture<'r, Answer> {
        let method = &parts.method;
        let ticket = parts.extensions.get::<Ticket>();
        match route {
            Route::Base if reads(method) => ready(base()).boxed(),
            Route::Catalog if reads(method) => self.list_repositories(parts, who).boxed(),
            Route::Blob(repo, digest) if method == Method::HEAD => {
                self.get_blob(repo, digest, parts, sight).boxed()
            }
            Route::Blob(repo, digest) if method == Method::GET => {
                let ask = move || self.get_blob(repo, digest, parts, sight);
                self.hold.until_back(digest, ticket, ask).boxed()
            }
            Route::Blob(repo, digest) if method == Method::DELETE => async move {
                let _pass = self.pass(parts).await;
                self.delete_blob(repo, digest, sight).await
            }
            .boxed(),
            Route::Uploads(repo) if method == Method::POST => {
                self.begin_upload(repo, parts, body, source, sight).boxed()
            }
            Route::Upload(repo, id) => match *method {
                Method::GET => self.upload_status(repo, id).boxed(),
                Method::PATCH => self.append(repo, id, parts, body).boxed(),
                Method::PUT => self.finish_upload(repo, id, parts, body, sight).boxed(),
                Method::DELETE => self.cancel_upload(repo, id).boxed(),
                _ => refuse("GET, PATCH, PUT, DELETE"),
            },
            Route::Manifest(repo, reference) => match *method {
                Method::GET | Method::HEAD => match reference {
                    Reference::Tag(_) => {
                        let ask = self.get_manifest(repo, reference, parts, sight);
                        self.hold.for_a_while(ticket, ask).boxed()
                    }
                    Reference::Digest(digest) => {
                        let ask = move || self.get_manifest(repo, reference, parts, sight);
                        self.hold.until_back(digest, ticket, ask).boxed()
                    }
                },
                Method::PUT => self
                    .put_manifest(repo, reference, parts, body, sight)
                    .boxed(),
                Method::DELETE => async move {
                    let _pass = self.pass(parts).await;
                    self.delete_manifest(repo, reference, parts).await
                }
                .boxed(),
                _ => refuse("GET, HEAD, PUT, DELETE"),
            },
            Route::Tags(repo) if reads(method) => self.list_tags(repo, parts).boxed(),
            Route::Referrers(repo, subject) if reads(method) => {
                self.list_referrers(repo, subject, parts).boxed()
            }
            Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => {
                refuse("GET, HEAD")
            }
            Route::Blob(..) => refuse("GET, HEAD, DELETE"),
            Route::Uploads(_) => refuse("POST"),
        }
    }
}

/// The answer to another method than these.
fn refuse(methods: &'static str) -> BoxFuture<'static, Answer> {
    let why = format!("this path knows {methods} only");
    let refusal = Refusal::new(Code::Unsupported, why).header(header::ALLOW, methods);
    ready(Err(refusal)).boxed()
}

/// The rights that a request needs. To take back one's own upload is part of pushing.
fn needs<'r>(route: &'r Route, method: &Method) -> Vec<Need<'r>> {
    let Some(repo) = route.repo() else {
        let catalog = matches!(route, Route::Catalog).then(Need::catalog);
        return catalog.into_iter().collect();
    };
    let action = match route {
        _ if reads(method) && !matches!(route, Route::Upload(..)) => Action::Pull,
        Route::Blob(..) | Route::Manifest(..) if method == Method::DELETE => Action::Delete,
        _ => Action::Push,
    };
    vec![Need::new(repo.as_str(), action)]
}

/// The repository that a blob is to be mounted from.
fn source(route: &Route, parts: &Parts) -> Option<Repo> {
    let mounts = matches!(route, Route::Uploads(_)) && parts.method == Method::POST;
    let from = http::param(parts.uri.query().filter(|_| mounts), "from")?;
    from.parse().ok()
}

fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn base() -> Answer {
    let builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, "application/json");
    finish(builder, "{}")
}

fn path(parts: &Parts) -> Result<std::borrow::Cow<'_, str>, Refusal> {
    percent_encoding::percent_decode_str(parts.uri.path())
        .decode_utf8()
        .map_err(|_| Refusal::new(Code::NameInvalid, "the path is no text"))
}

#[cfg(test)]
mod tests;

//! The control door: gRPC (`proto/cachectl/v1/control.proto`) for operators and their tools; with health and reflection.
//!
//! - Holds: methods as thin wrappers of the verbs, authorization of calls, the check of versions, progress as a stream.
//! - Enters: HTTP/2 requests of content type `application/grpc`, on the same listeners as the other doors.
//! - Leaves: messages; errors by code, with the id of the request.
//! - Deliberately absent: how a verb works, sockets, and paths of this machine, unless `--allow-path` is on.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts},
};
use http_body::Frame;
use tokio::time::Instant;
use tonic::{Code, Status, codegen::Service as _};
use tonic_health::server::HealthReporter;

mod access;
mod copy;
mod error;
mod flush;
mod reflection;
mod relay;
mod service;
mod stream;
#[cfg(test)]
mod tests;
mod unread;

use crate::{
    memory::MemoryBudget,
    ops::{
        prune::doors::{Doors, NoDoors},
        sight::Sights,
    },
    proto::{self, v1::control_server::ControlServer},
    serve::{
        door::{Access, Answer, Call, Door, Place, Route},
        observe,
        refusal::Refusal,
    },
    store::{self, Store, open::Options, tiered::Backlog},
};
use access::{CallKind, Rights};
use error::Asked;
use service::Verbs;
use unread::Unread;

/// Memory for what is read for all calls together.
const MEMORY_BYTES: u64 = 256_000_000;
/// Largest request: names and numbers.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Maximum time for receiving a request.
const REQUEST: Duration = Duration::from_mins(1);
/// Maximum duration of a call that needs no right; clients then repeat a health check.
const WATCH: Duration = Duration::from_mins(10);
const REFLECTION: Duration = Duration::from_mins(1);

/// Settings of the door.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Opens local paths that a request names.
    pub allow_path: bool,
    /// How the other stores of a copy are opened.
    pub options: Options,
    /// Folder for spools of a copy between other stores.
    pub temp_dir: PathBuf,
    /// Threads that decode and hash.
    pub threads: usize,
    /// Requests to a store in flight at once, per call.
    pub concurrency: usize,
}

/// What all calls share.
struct Shared {
    store: Store,
    backlog: Option<Arc<dyn Backlog>>,
    settings: Settings,
    /// For data that is read for all calls, and for their reports.
    memory: MemoryBudget,
    unread: Arc<Unread>,
    /// Initially as in the settings; reloading may change it.
    allow_path: AtomicBool,
    began: Instant,
    listeners: OnceLock<Vec<String>>,
    sights: OnceLock<Arc<Sights>>,
    doors: OnceLock<Arc<dyn Doors>>,
}

impl Shared {
    /// Decides what a caller sees.
    fn sights(&self) -> Arc<Sights> {
        self.sights.get_or_init(Arc::default).clone()
    }

    /// The other doors that use the store.
    fn doors(&self) -> Arc<dyn Doors> {
        self.doors.get_or_init(|| Arc::new(NoDoors)).clone()
    }
}

/// Set when a call's request was read, so that later errors are not the client's.
#[derive(Debug, Clone, Default)]
struct Understood(Arc<AtomicBool>);

/// The door.
pub struct Control {
    shared: Arc<Shared>,
    routes: axum::Router,
    health: HealthReporter,
}

impl Control {
    /// A door to `store`; `backlog` is the queue in front of its remote part, if there is one.
    ///
    /// # Errors
    /// `Invalid` if the descriptors that are compiled into this program are invalid.
    pub async fn new(
        store: Store,
        backlog: Option<Arc<dyn Backlog>>,
        settings: Settings,
    ) -> store::Result<Self> {
        let memory = MemoryBudget::shared(MEMORY_BYTES);
        let shared = Arc::new(Shared {
            store,
            backlog,
            allow_path: AtomicBool::new(settings.allow_path),
            settings,
            unread: Unread::within(memory.clone()),
            memory,
            began: Instant::now(),
            listeners: OnceLock::new(),
            sights: OnceLock::new(),
            doors: OnceLock::new(),
        });
        let control = ControlServer::new(Verbs::new(shared.clone()))
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ControlServer<Verbs>>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let refused =
            |e: tonic_reflection::server::Error| store::Error::invalid("open", e.to_string());
        // The old version too: many tools know only that.
        let routes = tonic::service::Routes::new(control)
            .add_service(health_service)
            .add_service(reflection().build_v1().map_err(refused)?)
            .add_service(reflection().build_v1alpha().map_err(refused)?)
            .prepare();
        Ok(Self {
            shared,
            routes: routes.into_axum_router(),
            health,
        })
    }

    /// The same, with the registry API's memory of what callers see.
    #[must_use]
    pub fn seeing(self, sights: Arc<Sights>) -> Self {
        // Nothing has used it yet.
        let _ = self.shared.sights.set(sights);
        self
    }

    /// The same, beside another API on the same store, which a prune has to pause.
    #[must_use]
    pub fn beside(self, doors: Arc<dyn Doors>) -> Self {
        // Nothing has used it yet.
        let _ = self.shared.doors.set(doors);
        self
    }

    /// Sets the addresses that `Status` reports; only the first call has an effect.
    pub fn announce(&self, listeners: Vec<String>) {
        // Listeners are opened once.
        let _ = self.shared.listeners.set(listeners);
    }

    /// Sets whether local paths may be opened.
    pub fn allow_path(&self, allow: bool) {
        self.shared.allow_path.store(allow, Ordering::Relaxed);
    }

    /// Tells health checks that no more calls are accepted, while active ones finish.
    pub async fn drain(&self) {
        self.health.set_not_serving::<ControlServer<Verbs>>().await;
    }
}

impl Door for Control {
    type Asked = CallKind;

    fn name(&self) -> &'static str {
        "control"
    }

    fn route(&self, head: &Parts) -> Option<Route<CallKind>> {
        // Including suffixes: `+proto` and other codings, which the protocol answers in its own terms.
        let kind = head.headers.get(header::CONTENT_TYPE)?;
        if !kind.as_bytes().starts_with(b"application/grpc") {
            return None;
        }
        let path = head.uri.path();
        let method = CallKind::at(path);
        let form = Place::Form {
            most: MAX_REQUEST_BYTES + 5,
            within: REQUEST,
        };
        let (access, place, asked) = match method {
            CallKind::Verb(right) => {
                let asked = speaks_our_version(head).map(|()| method);
                (Access::Needs(vec![right.need()]), form, asked)
            }
            CallKind::Reflection => (Access::Open, Place::None, Ok(method)),
            CallKind::Health => (Access::Open, form, Ok(method)),
        };
        Some(Route {
            access,
            place,
            ..Route::new(access::label(path), asked)
        })
    }

    /// Hands the call to the gRPC services. Its response has an entry in a lane, whether it works or waits.
    async fn answer(&self, method: &CallKind, call: &Call, body: Body) -> Answer {
        if let CallKind::Verb(right) = method {
            right.check(&call.who)?;
        }
        let (key, connection) = (call.ticket.key(), call.ticket.connection());
        let admission = call.ticket.admission();
        let (mut body, mut answering) = (body, None);
        if *method == CallKind::Reflection {
            let (questions, until) = reflection::asked(body);
            (body, answering) = (questions, Some(until));
        }
        let limit = match method {
            CallKind::Verb(_) => None,
            CallKind::Reflection => Some(REFLECTION),
            CallKind::Health => Some(WATCH),
        };
        let parked = match limit {
            None => admission.calls.park(key.clone()),
            // It waits for changes.
            Some(_) => admission
                .health
                .park_on(key.clone(), connection, Instant::now()),
        };
        let understood = Understood::default();
        let mut request = Request::from_parts(call.parts.clone(), body);
        let extensions = request.extensions_mut();
        extensions.insert(call.ticket.clone());
        extensions.insert(Rights(call.who.clone()));
        extensions.insert(Asked(call.id().to_owned()));
        extensions.insert(understood.clone());
        let Ok(mut response) = self.routes.clone().call(request).await;
        // Health and reflection answer from memory: an error there is due to the question.
        if limit.is_some() || !understood.0.load(Ordering::Relaxed) {
            response.extensions_mut().insert(observe::NotUnderstood);
        }
        if let Some(answering) = answering {
            response = reflection::answered(response, answering);
        }
        let client = (key.clone(), connection.clone());
        Ok(admission.stream(response, client, parked, limit, cut_off))
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        access::status(refusal).into_http()
    }

    fn sign(&self, headers: &mut HeaderMap) {
        headers.insert(proto::PROTOCOL_KEY, HeaderValue::from(proto::PROTOCOL));
    }
}

/// The end of a stream that reached its time limit, or whose memory others need.
fn cut_off() -> Frame<Bytes> {
    let status = Status::new(
        Code::Aborted,
        "the stream was open for too long: call again",
    );
    let mut trailers = HeaderMap::new();
    // Fails only for metadata, of which there is none.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}

/// A client of another major version may use the same words with another meaning.
fn speaks_our_version(head: &Parts) -> Result<(), Refusal> {
    let Some(theirs) = head.headers.get(proto::PROTOCOL_KEY) else {
        return Ok(());
    };
    let ours = proto::PROTOCOL;
    if theirs.as_bytes() == ours.to_string().as_bytes() {
        return Ok(());
    }
    let theirs: String = String::from_utf8_lossy(theirs.as_bytes())
        .chars()
        .take(16)
        .collect();
    let why = format!(
        "the client speaks version {} of the control API, this daemon (cachectld {}) version {ours}: use the same release of both",
        theirs.escape_debug(),
        env!("CARGO_PKG_VERSION"),
    );
    Err(Refusal::new(StatusCode::PRECONDITION_FAILED, why))
}

//! From settings to what answers requests. Binds nothing, asks no remote.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
    response::IntoResponse as _,
};
use futures_util::FutureExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::{
    coding,
    drain::Queue,
    error::{Error, Result},
    listen::Handler,
    scrub,
    shown::Shown,
    tiers::{self, Tiers, Waiting},
    tls,
};
use crate::{
    config::daemon::{Config, Tls},
    metrics::http::Place,
    ops::cache_tags::CacheTags,
    serve::{
        admin::{self, Admin, Health, Refresh, Refused},
        admission::{Admission, Connection},
        auth::{self, Authority, Exposure, Peer, Refusal},
        browsers,
        control::{self, Control},
        observe::Observer,
        registry::{self, Registry},
    },
    store::{
        self,
        ingest::{Quota, Uploads},
        open::{Opened, Options, StoreUrl},
        tiered::Backlog,
        wrap::counters::Tier,
    },
    task,
};

/// Longest time for the form of a request for a token to come.
const FORM: Duration = Duration::from_secs(10);

/// What is built.
pub struct Built {
    /// Answers requests at the doors.
    pub doors: Handler,
    /// Answers probes and shows metrics alone.
    pub admin: Handler,
    /// Gives the numbers for whoever sends them away.
    pub numbers: Arc<Admin>,
    /// Who may do what.
    pub authority: Arc<Authority>,
    /// Does TLS handshakes.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// How BuildKit's tags are kept.
    pub caches: Arc<CacheTags>,
    /// What callers share.
    pub admission: Arc<Admission>,
    /// Unfinished uploads.
    pub uploads: Arc<Uploads>,
    /// The store behind the doors.
    pub opened: Arc<Opened>,
    /// The registry door, to be told when the daemon drains.
    pub registry: Arc<Registry>,
    /// The control door, to be told where the daemon listens and when it drains.
    pub control: Arc<Control>,
    /// What a folder in front has for the remote store behind it; `None` where there is one store alone.
    pub backlog: Option<Arc<dyn Backlog>>,
    /// What must reach another place before the end.
    pub queues: Vec<Arc<dyn Queue>>,
}

/// Builds everything that `config` asks for; keeps what must survive in `state`.
#[allow(
    clippy::too_many_lines,
    reason = "one list of what a daemon opens, in order: parts of it would hand a dozen values on"
)]
pub async fn build(config: &Config, state: &Path, shown: &Shown) -> Result<Built> {
    let authority = Authority::open(config.auth.clone(), state, exposure(config)).await?;
    let counts = &shown.metrics.admission;
    let authority = Arc::new(authority.counted(counts.passwords.clone()));
    let admission = Admission::new(config.max_requests, config.client_stall, counts);
    let admission = Arc::new(admission);
    let tls = match &config.tls {
        Some(tls) => {
            let opened = self::tls(tls).await?;
            opened.announce();
            Some(Arc::new(opened))
        }
        None => None,
    };
    let caches = Arc::new(CacheTags::new(config.buildkit.clone()));
    let Tiers {
        opened,
        options,
        backlog,
        readers,
        evict,
    } = tiers::open(config, state, caches.clone()).await?;
    let writable = opened.repositories.clone();
    let repositories = writable.filter(|_| opened.untag.is_some()).ok_or_else(|| {
        Error::usage(format!(
            "{} cannot stand behind a daemon: it may not be written to",
            opened.url
        ))
        .hint("expected a folder that this user may write to (disk:PATH, oci-layout:PATH), a bucket (s3://…) or a registry (oci://…)")
    })?;
    let uploads_dir = opened
        .spool_dir
        .clone()
        .unwrap_or_else(|| state.join("uploads"));
    // What lies on this machine's disk no other daemon sees, and megabytes are no records to a registry.
    let keeps_pieces = matches!(opened.url, StoreUrl::S3(_));
    let shared = keeps_pieces.then(|| repositories.records());
    let uploads = Arc::new(Uploads::open(&uploads_dir, shared, backlog.is_some())?);
    uploads.set_quota(quota(config));
    if let Some(evict) = evict {
        uploads.evict_first(evict);
    }
    remember_owners(&uploads, state).await?;
    count_bytes(&uploads);
    let is_alone = backlog.is_none() && opened.url.tier() == Tier::Remote;
    let remote = is_alone.then(|| repositories.records());
    let registry = Registry::new(
        repositories,
        uploads.clone(),
        authority.clone(),
        caches.clone(),
    );
    let registry = registry.holding(config.hold, remote).reading(readers);
    let registry = Arc::new(registry.admitting(admission.clone()));
    registry.refuse_incomplete_images(config.refuse_incomplete_images);
    let waiting = backlog.clone().map(|b| Arc::new(Waiting(b)));
    let queue = waiting.clone().map(|w| w as Arc<dyn store::Queue>);
    let settings = control(config, options, state, admission.clone());
    let control = Control::new(opened.clone(), queue, settings).await?;
    let control = control
        .guarded_by(authority.clone())
        .seeing(registry.sights())
        .beside(registry.pause());
    let control = Arc::new(control);
    shown.stores(&opened);
    shown.caches(caches.clone());
    let mut more: Vec<Refresh> = backlog.clone().map(tiers::refresh).into_iter().collect();
    more.extend(opened.scrubber.clone().map(scrub::refresh));
    more.extend(tls.clone().map(|tls| -> Refresh {
        Box::new(move |metrics| {
            metrics.tls.not_after.set(tls.not_after());
        })
    }));
    if let Some(backlog) = backlog.clone() {
        let count = move || backlog.status().set_aside;
        shown.health.show_set_aside(count);
    }
    let admin = shown.admin(uploads.clone(), &uploads_dir, more);
    let apart = !config.admin_listen.is_empty();
    let doors = Doors {
        registry: registry.clone(),
        control: control.clone(),
        tokens: TowerToHyperService::new(auth::router(authority.clone())),
        authority: authority.clone(),
        admission: admission.clone(),
        admin: (!apart).then(|| admin.clone()),
        observer: shown.observer(),
        health: shown.health.clone(),
    };
    Ok(Built {
        doors: doors.handler(),
        admin: shown.handler(admin.clone()),
        numbers: admin,
        authority,
        tls,
        caches,
        admission,
        uploads,
        opened,
        registry,
        control,
        backlog,
        queues: waiting.map(|w| w as Arc<dyn Queue>).into_iter().collect(),
    })
}

/// How the control door works; `options` are those of the daemon's own store.
fn control(
    config: &Config,
    options: Options,
    state: &Path,
    admission: Arc<Admission>,
) -> control::Settings {
    control::Settings {
        allow_path: config.allow_path,
        options,
        temp_dir: state.join("tmp"),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        concurrency: Options::default().concurrency,
        admission,
    }
}

/// What answers at the doors.
struct Doors {
    registry: Arc<Registry>,
    control: Arc<Control>,
    tokens: TowerToHyperService<Router>,
    authority: Arc<Authority>,
    admission: Arc<Admission>,
    /// `None` where it has addresses of its own.
    admin: Option<Arc<Admin>>,
    observer: Observer,
    health: Arc<Health>,
}

impl Doors {
    /// Each door by its paths, that of gRPC by what its requests are. Who may come in each of them asks the authority itself.
    fn handler(self) -> Handler {
        let doors = Arc::new(self);
        Arc::new(move |request: Request<Body>| {
            let doors = doors.clone();
            async move {
                let place = doors.place(&request);
                let answer = |request| doors.guarded(place, request);
                doors.observer.observe(place, request, answer).await
            }
            .boxed()
        })
    }

    fn place(&self, request: &Request<Body>) -> Place {
        let path = request.uri().path();
        if Control::takes(request) {
            return control::place(path);
        }
        if is_registry(path) {
            return registry::place(path);
        }
        let admin = self.admin.as_ref().and_then(|_| admin::place(path));
        admin.unwrap_or(Place {
            door: "auth",
            route: if path == "/token" { "/token" } else { "other" },
            looks_up: None,
        })
    }

    /// In front of all doors: what a web page in a browser would ask is refused, and what a browser gets cannot run.
    async fn guarded(&self, place: Place, request: Request<Body>) -> Response<Body> {
        if request.headers().get_all(header::HOST).iter().count() > 1 {
            // RFC 9112, 3.2: whoever stands in front may have taken the other one.
            return (StatusCode::BAD_REQUEST, "more than one Host header\n").into_response();
        }
        if coding::is_unknown(request.headers()) {
            // Where the body ends is what whoever stands in front may see otherwise, so nothing more is read.
            let close = [(header::CONNECTION, "close")];
            let said = "unknown Transfer-Encoding: only `chunked` is understood\n";
            return (StatusCode::NOT_IMPLEMENTED, close, said).into_response();
        }
        // Orchestrators and load balancers ask probes under any name.
        let is_probe = place.door == admin::DOOR && admin::is_probe(request.uri().path());
        let mut response = match self.authority.check_host(&request) {
            Err(refusal) if !is_probe && place.door == control::DOOR => control::refuse(&refusal),
            Err(refusal) if !is_probe => refusal.into_response(),
            _ => self.answer(place, request).await,
        };
        browsers::harden(response.headers_mut());
        response
    }

    async fn answer(&self, place: Place, request: Request<Body>) -> Response<Body> {
        if let Some(admin) = self.admin.as_ref().filter(|_| place.door == admin::DOOR) {
            // Whoever asks whether we live neither waits for a place nor logs in.
            return Box::pin(self.show(admin, request)).await;
        }
        if place.door == control::DOOR {
            return Box::pin(self.control.handle(request)).await;
        }
        if is_registry(request.uri().path()) {
            let is_push = ![Method::GET, Method::HEAD].contains(request.method());
            let response = self.registry.handle(request).await;
            match response.extensions().get::<Refused>() {
                Some(refused) if is_push => self.health.pushed(Some(*refused)),
                _ if response.status() == StatusCode::CREATED => self.health.pushed(None),
                _ => {}
            }
            return response;
        }
        Box::pin(self.token(request)).await
    }

    /// Asks for a token: nobody knows yet who does, so the form is read first, and places are shared between addresses.
    async fn token(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let peer = Peer::of(&parts.extensions);
        let caller = self.authority.caller(&parts.headers, &peer);
        let connection = Connection::of(&parts.extensions);
        let form = self.admission.gather(
            (caller.clone(), &connection),
            body,
            auth::MAX_FORM_BYTES,
            FORM,
        );
        let form = match form.await {
            Ok(form) => form,
            Err(fault) => return (fault.status(), fault.to_string()).into_response(),
        };
        let _place = match self.admission.tokens.enter(caller).await {
            Ok(place) => place,
            Err(full) => return auth::Refusal::from(full).into_response(),
        };
        let request = Request::from_parts(parts, Body::from(form));
        match self.tokens.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// On the listeners for clients, numbers of the whole store are for callers who may read every repository: they tell, for
    /// instance, whether pushed bytes were known already.
    async fn show(&self, admin: &Admin, request: Request<Body>) -> Response<Body> {
        if admin::is_probe(request.uri().path()) {
            return admin.handle(&request);
        }
        let (parts, body) = request.into_parts();
        let peer = Peer::of(&parts.extensions);
        match self.authority.authorize(&parts, &peer, &[]).await {
            Ok(who) if who.reads_everything() => admin.handle(&Request::from_parts(parts, body)),
            Ok(who) => Refusal::Denied {
                message: format!(
                    "`{}` may not see the numbers of the whole store: that takes a grant to pull from `**`, or `admin_listen`",
                    who.name()
                ),
            }
            .into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }
}

fn is_registry(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// What one principal may have of unfinished uploads.
pub(super) fn quota(config: &Config) -> Quota {
    Quota {
        uploads: config.max_uploads,
        bytes: config.max_upload_bytes,
    }
}

/// Lets the uploads' owners survive in `state`.
async fn remember_owners(uploads: &Arc<Uploads>, state: &Path) -> Result<()> {
    let (uploads, path) = (uploads.clone(), state.join("upload-owners"));
    Ok(task::blocking(move || uploads.remember_owners(&path)).await?)
}

/// Counts what lies in a bucket of unfinished uploads; nobody waits for a bucket that does not answer.
fn count_bytes(uploads: &Arc<Uploads>) {
    let uploads = uploads.clone();
    let counting = async move {
        if let Err(error) = uploads.count_bytes().await {
            tracing::warn!(%error, "Bytes of unfinished uploads in the bucket are not counted until the next look for old ones");
        }
    };
    task::spawn("count bytes of uploads", counting).detach();
}

/// Who can reach the doors that `config` opens.
pub(super) fn exposure(config: &Config) -> Exposure {
    let mut network = config.listen.iter().filter(|a| !a.is_local()).peekable();
    let verifies = config.tls.as_ref().is_some_and(|t| t.client_ca.is_some());
    if network.peek().is_none() {
        Exposure::LocalOnly
    } else if verifies && network.all(|a| a.tls) {
        Exposure::NetworkWithClientCertificates
    } else {
        Exposure::Network
    }
}

/// Reads certificates and keys.
pub(super) async fn tls(set: &Tls) -> Result<tls::Acceptor> {
    let opened = tls::Acceptor::open(set.clone()).await;
    opened.map_err(|e| Error::usage(e.to_string()))
}

/// The URL of the store, where it is one that a daemon can have.
pub(super) fn store_url(config: &Config) -> Result<StoreUrl> {
    let url: StoreUrl = config.store.0.parse()?;
    match url {
        StoreUrl::Disk(_) | StoreUrl::Layout(_) | StoreUrl::S3(_) | StoreUrl::Registry(_) => {}
        StoreUrl::Daemon(_) => {
            return Err(Error::usage(format!(
                "{url} cannot stand behind a daemon: it is one itself, and keeps its records to itself ({})",
                config.store.1
            ))
            .hint("expected disk:PATH, oci-layout:PATH, s3://BUCKET/PREFIX or oci://HOST/REPOSITORY"));
        }
    }
    if config.front.is_some() && matches!(url, StoreUrl::Disk(_) | StoreUrl::Layout(_)) {
        return Err(
            Error::usage(format!("a folder in front of {url} gains nothing")).hint(
                "leave out `front`, or set `store` to s3://BUCKET/PREFIX or oci://HOST/REPOSITORY",
            ),
        );
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Layer, Origin, Raw, daemon};

    fn config(pairs: &[(&str, &str)]) -> Config {
        let mut layer = Layer::default();
        for (name, value) in pairs {
            let key = daemon::TABLE.find(name).unwrap();
            layer.set(
                key,
                Raw::Many(vec![(*value).to_owned()]),
                Origin::Flag("--x".to_owned()),
            );
            if key.shape != crate::config::table::Shape::List {
                let raw = Raw::One((*value).to_owned());
                layer.set(key, raw, Origin::Flag("--x".to_owned()));
            }
        }
        let env: Env = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/nonexistent")]
            .into_iter()
            .collect();
        daemon::load(&env, None, layer).unwrap().config
    }

    #[test]
    fn exposure_is_that_of_the_widest_door() {
        let certificate = [("tls.cert", "c"), ("tls.key", "k"), ("tls.client_ca", "a")];
        for (listen, verifies, want) in [
            ("127.0.0.1:1", false, Exposure::LocalOnly),
            ("[::1]:1", true, Exposure::LocalOnly),
            ("0.0.0.0:1", false, Exposure::Network),
            ("0.0.0.0:1", true, Exposure::NetworkWithClientCertificates),
            ("http://0.0.0.0:1", true, Exposure::Network),
        ] {
            let mut pairs = vec![("listen", listen)];
            pairs.extend(certificate.iter().filter(|_| verifies));
            assert_eq!(exposure(&config(&pairs)), want, "{listen}");
        }
    }

    #[test]
    fn every_store_but_a_daemon_can_stand_behind_the_doors_and_what_is_far_behind_a_folder() {
        for (store, alone, behind) in [
            ("disk:/a", true, false),
            ("oci-layout:/a", true, false),
            ("s3://bucket", true, true),
            ("oci://h/r", true, true),
            ("cachectld:/run/x.sock", false, false),
            ("nonsense", false, false),
        ] {
            let pairs = [("store", store), ("front", "/f")];
            assert_eq!(store_url(&config(&pairs[..1])).is_ok(), alone, "{store}");
            assert_eq!(store_url(&config(&pairs)).is_ok(), behind, "{store}");
        }
    }
}

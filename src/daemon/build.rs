//! From settings to what answers requests. Binds nothing, asks no remote.

use std::{path::Path, sync::Arc};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};
use futures_util::FutureExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;

use super::{
    drain::Queue,
    error::{Error, Result},
    held::Held,
    limit::Limit,
    listen::Handler,
    tls,
};
use crate::{
    config::{
        Env,
        daemon::{BuildKit, Config, ShrinkGuard, Tls},
    },
    ops::cache_tags::{self, CacheTags},
    serve::{
        auth::{self, Authority, Exposure},
        registry::Registry,
    },
    store::{
        self, Store,
        ingest::Uploads,
        open::{Opened, Options, StoreUrl},
    },
};

/// How far the daemon is, as probes ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not every door is open yet.
    Starting,
    /// Requests are answered.
    Serving,
    /// No more shall come.
    Draining,
}

/// What is built.
pub struct Built {
    /// Answers requests at the doors.
    pub doors: Handler,
    /// Answers probes alone.
    pub admin: Handler,
    /// Who may do what.
    pub authority: Arc<Authority>,
    /// Does TLS handshakes.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// How BuildKit's tags are kept.
    pub caches: Arc<CacheTags>,
    /// Requests under way.
    pub requests: Arc<Limit>,
    /// Unfinished uploads.
    pub uploads: Arc<Uploads>,
    /// The store behind the doors.
    pub store: Arc<dyn Store>,
    /// What must reach another place before the end.
    pub queues: Vec<Arc<dyn Queue>>,
}

/// Builds everything that `config` asks for; keeps what must survive in `state`.
pub async fn build(
    config: &Config,
    env: &Env,
    state: &Path,
    phase: watch::Receiver<Phase>,
) -> Result<Built> {
    let authority = Authority::open(config.auth.clone(), state, exposure(config)).await?;
    let authority = Arc::new(authority);
    let tls = match &config.tls {
        Some(tls) => Some(Arc::new(self::tls(tls).await?)),
        None => None,
    };
    let opened = open(config, env).await?;
    let repositories = opened.repositories.clone().ok_or_else(|| {
        Error::usage(format!(
            "{} cannot stand behind a daemon: it holds one repository only, or may not be written to",
            opened.url
        ))
        .hint("expected a folder that this user may write to (disk:PATH), or a bucket (s3://…)")
    })?;
    let uploads = opened
        .spool_dir
        .clone()
        .unwrap_or_else(|| state.join("uploads"));
    // What lies on this machine's disk no other daemon sees.
    let shared = opened.spool_dir.is_none().then(|| repositories.records());
    let uploads = Arc::new(Uploads::open(&uploads, shared)?);
    let caches = Arc::new(CacheTags::new(cache_tags(&config.buildkit)));
    let registry = Arc::new(Registry::new(
        repositories,
        uploads.clone(),
        authority.clone(),
        caches.clone(),
    ));
    let requests = Arc::new(Limit::new(config.max_requests));
    let admin: Handler = Arc::new(move |request| {
        let answer = probe(request.uri().path(), *phase.borrow());
        std::future::ready(answer.unwrap_or_else(not_found)).boxed()
    });
    let apart = !config.admin_listen.is_empty();
    Ok(Built {
        doors: doors(
            registry,
            authority.clone(),
            requests.clone(),
            (!apart).then(|| admin.clone()),
        ),
        admin,
        authority,
        tls,
        caches,
        requests,
        uploads,
        store: opened.store,
        queues: Vec::new(),
    })
}

/// Answers at the doors: each by its paths. Who may come in each of them asks the authority itself.
fn doors(
    registry: Arc<Registry>,
    authority: Arc<Authority>,
    requests: Arc<Limit>,
    admin: Option<Handler>,
) -> Handler {
    let tokens = TowerToHyperService::new(auth::router(authority));
    Arc::new(move |request: Request<Body>| {
        let path = request.uri().path();
        if let Some(admin) = &admin
            && is_probe(path)
        {
            // Whoever asks whether we live does not wait for a place.
            return admin(request);
        }
        let is_registry = path == "/v2" || path.starts_with("/v2/");
        let (registry, tokens, requests) = (registry.clone(), tokens.clone(), requests.clone());
        async move {
            let place = requests.take().await;
            let response = if is_registry {
                registry.handle(request).await
            } else {
                match tokens.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            };
            // Until its last byte is sent a response takes memory too.
            response.map(|body| Body::new(Held::new(body, place)))
        }
        .boxed()
    })
}

fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/startupz")
}

/// The answer to a probe (Kubernetes, "Configure Liveness, Readiness and Startup Probes").
fn probe(path: &str, phase: Phase) -> Option<Response<Body>> {
    let right = match path {
        "/livez" => true,
        "/startupz" => phase != Phase::Starting,
        "/readyz" => phase == Phase::Serving,
        _ => return None,
    };
    let mut response = Response::new(Body::from(if right { "ok\n" } else { "not now\n" }));
    if !right {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Some(response)
}

fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// How BuildKit's tags are kept.
pub(super) fn cache_tags(set: &BuildKit) -> cache_tags::Settings {
    cache_tags::Settings {
        merge: set.merge.globs().clone(),
        max_parts: set.merge_parts,
        max_age: set.merge_age,
        shrink: match set.shrink_guard {
            ShrinkGuard::Off => cache_tags::ShrinkGuard::Off,
            ShrinkGuard::Warn => cache_tags::ShrinkGuard::Warn,
            ShrinkGuard::Refuse => cache_tags::ShrinkGuard::Refuse,
        },
    }
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
    let config = tls::Config {
        certificate: set.cert.clone(),
        key: set.key.clone(),
        client_ca: set.client_ca.clone(),
        client_certificates: if set.client_must {
            tls::ClientCertificates::Required
        } else {
            tls::ClientCertificates::Optional
        },
        handshake_timeout: set.handshake_timeout,
    };
    let opened = tls::Acceptor::open(config).await;
    opened.map_err(|e| Error::usage(e.to_string()))
}

/// The URL of the store, where it is one that a daemon can have.
pub(super) fn store_url(config: &Config) -> Result<StoreUrl> {
    let url: StoreUrl = config.store.0.parse()?;
    match url {
        StoreUrl::Disk(_) | StoreUrl::S3(_) => {}
        StoreUrl::Layout(_) | StoreUrl::Registry(_) | StoreUrl::Daemon(_) => {
            return Err(Error::usage(format!(
                "{url} cannot stand behind a daemon: it holds one repository only ({})",
                config.store.1
            ))
            .hint("expected disk:PATH or s3://BUCKET/PREFIX"));
        }
    }
    // The one place where a store is put behind another.
    if config.front.is_some() {
        return Err(Error::usage(
            "`front` cannot be used: this build opens no store behind a folder yet",
        ));
    }
    Ok(url)
}

async fn open(config: &Config, env: &Env) -> Result<Opened> {
    let url = store_url(config)?;
    let link = &config.remote.link;
    let options = Options {
        concurrency: config.concurrency,
        bandwidth: link.bandwidth,
        retry_for: link.retry_for,
        stall: link.stall,
        connect_timeout: link.connect_timeout,
        ca_bundle: link.ca_bundle.clone(),
        s3: config.remote.s3.for_store(),
        registry: config.remote.registry.for_store(env),
        // Blobs on our own disk were hashed when they came in.
        verified: !matches!(url, StoreUrl::Disk(_)),
        ..Options::default()
    };
    // Boxed: AWS's configuration makes a future of many kilobytes.
    Ok(Box::pin(store::open::open(&url, &options)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Origin, Raw, daemon};

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
    fn stores_of_one_repository_are_refused() {
        for (store, right) in [
            ("disk:/a", true),
            ("s3://bucket", true),
            ("oci://h/r", false),
            ("oci-layout:/a", false),
            ("nonsense", false),
        ] {
            assert_eq!(
                store_url(&config(&[("store", store)])).is_ok(),
                right,
                "{store}"
            );
        }
    }

    #[test]
    fn probes_follow_the_phase() {
        let status = |path, phase| probe(path, phase).map(|r| r.status().as_u16());
        assert_eq!(status("/livez", Phase::Draining), Some(200));
        assert_eq!(status("/readyz", Phase::Starting), Some(503));
        assert_eq!(status("/readyz", Phase::Serving), Some(200));
        assert_eq!(status("/readyz", Phase::Draining), Some(503));
        assert_eq!(status("/startupz", Phase::Draining), Some(200));
        assert_eq!(status("/metrics", Phase::Serving), None);
    }
}

//! From settings to the services that answer requests. Binds nothing, sends no request to a remote.

use std::{path::Path, sync::Arc};

use super::{
    error::{Error, Result},
    observability::Observability,
    scrub,
    tiers::{self, Tiers},
    tls,
};
use crate::{
    config::daemon::{Config, Tls},
    ops::cache_tags::CacheTags,
    serve::{
        admin::{Admin, Refresh},
        admission::Admission,
        auth::{Authority, Exposure},
        control::{self, Control},
        gateway::Gateway,
        registry::Registry,
        tokens::Tokens,
    },
    store::{
        Store,
        ingest::{Quota, Uploads},
        open::Options,
        tiered::Backlog,
        wrap::counters::Tier,
    },
    task,
};

/// The services.
pub struct Built {
    /// Entry point of the doors.
    pub doors: Arc<Gateway>,
    /// Entry point of probes and metrics alone.
    pub admin: Arc<Gateway>,
    /// Provides the metrics for exporters.
    pub numbers: Arc<Admin>,
    /// Authenticates and authorizes callers.
    pub authority: Arc<Authority>,
    /// Performs TLS handshakes.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// Handles BuildKit's tags.
    pub caches: Arc<CacheTags>,
    /// Limits that callers share.
    pub admission: Arc<Admission>,
    /// Unfinished uploads.
    pub uploads: Arc<Uploads>,
    /// The store behind the doors.
    pub store: Store,
    /// The registry door, which is reconfigured on reload.
    pub registry: Arc<Registry>,
    /// The control door, which is told listen addresses and the start of draining.
    pub control: Arc<Control>,
    /// The upload queue of a local cache directory for its remote store; `None` for a single store.
    pub backlog: Option<Arc<dyn Backlog>>,
}

/// Builds everything that `config` asks for; persistent data is kept in `state`.
#[allow(
    clippy::too_many_lines,
    reason = "one list of what a daemon opens, in order; split functions would have to pass on a dozen values"
)]
pub async fn build(config: &Config, state: &Path, shown: &Observability) -> Result<Built> {
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
        store,
        options,
        backlog,
        readers,
        evict,
    } = tiers::open(config, state, caches.clone()).await?;
    let writable = store
        .facts()
        .repositories
        .as_ref()
        .filter(|_| store.untag().is_some());
    let repositories = writable.cloned().ok_or_else(|| {
        Error::usage(format!(
            "a daemon needs a writable store, and {} is not",
            store.url()
        ))
        .hint("expected a folder writable by this user (disk:PATH, oci-layout:PATH), a bucket (s3://…) or a registry (oci://…)")
    })?;
    let uploads_dir = store.facts().spool_dir.clone();
    let uploads_dir = uploads_dir.unwrap_or_else(|| state.join("uploads"));
    let shares_pieces = store.url().shares_pieces();
    let shared = shares_pieces.then(|| repositories.records());
    let uploads = Arc::new(Uploads::open(&uploads_dir, shared, backlog.is_some())?);
    uploads.set_quota(quota(config));
    if let Some(evict) = evict {
        uploads.evict_first(evict);
    }
    remember_owners(&uploads, state).await?;
    count_bytes(&uploads);
    let is_alone = backlog.is_none() && store.url().tier() == Tier::Remote;
    let remote = is_alone.then(|| repositories.records());
    let registry = Registry::new(repositories, uploads.clone(), caches.clone());
    let registry = Arc::new(registry.reading(readers));
    registry.refuse_incomplete_images(config.refuse_incomplete_images);
    let settings = control(config, options, state);
    let control = Control::new(store.clone(), backlog.clone(), settings).await?;
    let control = control.seeing(registry.sights()).beside(registry.pause());
    let control = Arc::new(control);
    shown.stores(&store);
    shown.caches(caches.clone());
    let mut more: Vec<Refresh> = backlog.clone().map(tiers::refresh).into_iter().collect();
    more.extend(store.facts().scrubber.clone().map(scrub::refresh));
    more.extend(tls.clone().map(|tls| -> Refresh {
        Box::new(move |metrics| {
            metrics.tls.not_after.set(tls.not_after());
        })
    }));
    if let Some(backlog) = backlog.clone() {
        let count = move || backlog.status().set_aside;
        shown.health.show_set_aside(count);
    }
    let is_apart = !config.admin_listen.is_empty();
    let admin = shown.admin(uploads.clone(), &uploads_dir, more, is_apart);
    let gateway = || Gateway::new(authority.clone(), admission.clone(), shown.observer());
    let mut doors = gateway()
        .holding(config.hold, remote)
        .telling(shown.health.clone())
        .door(control.clone())
        .door(registry.clone());
    if !is_apart {
        doors = doors.door(admin.clone());
    }
    // The last one, since it answers every path.
    let doors = doors.door(Arc::new(Tokens::new(authority.clone())));
    Ok(Built {
        doors: Arc::new(doors),
        admin: Arc::new(gateway().door(admin.clone())),
        numbers: admin,
        authority,
        tls,
        caches,
        admission,
        uploads,
        store,
        registry,
        control,
        backlog,
    })
}

/// Settings of the control door; `options` are those of the daemon's own store.
fn control(config: &Config, options: Options, state: &Path) -> control::Settings {
    control::Settings {
        allow_path: config.allow_path,
        options,
        temp_dir: state.join("tmp"),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        concurrency: Options::default().concurrency,
    }
}

/// Limits of one principal's unfinished uploads.
pub(super) fn quota(config: &Config) -> Quota {
    Quota {
        uploads: config.max_uploads,
        bytes: config.max_upload_bytes,
    }
}

/// Keeps the uploads' owners in `state` across restarts.
async fn remember_owners(uploads: &Arc<Uploads>, state: &Path) -> Result<()> {
    let (uploads, path) = (uploads.clone(), state.join("upload-owners"));
    Ok(task::blocking(move || uploads.remember_owners(&path)).await?)
}

/// Counts the bytes of unfinished uploads in a bucket; nothing waits for a bucket that does not answer.
fn count_bytes(uploads: &Arc<Uploads>) {
    let uploads = uploads.clone();
    let counting = async move {
        if let Err(error) = uploads.count_bytes().await {
            tracing::warn!(%error, "Could not count the bytes of unfinished uploads in the bucket; retrying at the next expiry check");
        }
    };
    task::spawn("count bytes of uploads", counting).detach();
}

/// Who can reach the doors, according to `config`.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Env, Layer, Origin, Raw, daemon};

    pub(in crate::daemon) fn config(pairs: &[(&str, &str)]) -> Config {
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
}

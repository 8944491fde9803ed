//! SIGHUP: reloads settings, users and certificates. Either all of it takes effect, or nothing.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use super::{
    build,
    error::{Error, Result},
    limit, tls,
};
use crate::{
    config::{
        self, Env, Layer, Loaded,
        daemon::{Change, Config},
    },
    metrics,
    ops::cache_tags::CacheTags,
    serve::{
        admission::{Admission, Pool},
        auth::Authority,
        control::Control,
        registry::Registry,
    },
    store::ingest::Uploads,
    task,
    telemetry::logs::{self, Logs},
};

/// Where settings come from: the same sources at every reload.
#[derive(Clone)]
pub(super) struct Origins {
    pub(super) env: Env,
    /// The file given on the command line.
    pub(super) file: Option<PathBuf>,
    /// The flags of the command line.
    pub(super) flags: Layer,
}

impl Origins {
    /// Reads and checks the settings. Blocks.
    pub(super) fn load(&self) -> Result<Loaded<Config>> {
        let loaded = config::daemon::load(&self.env, self.file.as_deref(), self.flags.clone())?;
        logs::check(&loaded.config.log).map_err(|why| {
            Error::usage(format!("invalid `log` filter: {why}"))
                .hint("expected a level such as info, or target=level,…")
        })?;
        Ok(loaded)
    }
}

/// Everything that is reconfigured on reload.
pub(super) struct Reloader {
    pub(super) origins: Origins,
    pub(super) running: Loaded<Config>,
    pub(super) live: watch::Sender<Arc<Config>>,
    pub(super) authority: Arc<Authority>,
    pub(super) tls: Option<Arc<tls::Acceptor>>,
    pub(super) caches: Arc<CacheTags>,
    pub(super) control: Arc<Control>,
    pub(super) registry: Arc<Registry>,
    pub(super) logs: Arc<Logs>,
    pub(super) connections: Pool,
    /// Shows the maximum number of connections.
    pub(super) connections_limit: metrics::Gauge,
    pub(super) admission: Arc<Admission>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) open_files: u64,
    pub(super) counts: metrics::Reloads,
}

impl Reloader {
    /// Reloads everything, and logs the result.
    pub(super) async fn reload(&mut self) {
        match self.renew().await {
            Ok(changes) => {
                self.counts.done.inc();
                for change in changes.iter().filter(|c| !c.live) {
                    let origin = change.origin.to_string();
                    tracing::warn!(
                        key = change.key,
                        origin,
                        "Changed setting takes effect after a restart"
                    );
                }
                let changed: Vec<_> = changes.iter().filter(|c| c.live).map(|c| c.key).collect();
                tracing::info!(changed = changed.join(" "), "Reloaded");
            }
            Err(e) => {
                self.counts.refused.inc();
                let hint = e.hint.unwrap_or_default();
                tracing::error!(
                    error = e.message,
                    hint,
                    "Reload failed; keeping the previous configuration"
                );
            }
        }
    }

    async fn renew(&mut self) -> Result<Vec<Change>> {
        let origins = self.origins.clone();
        let read = task::blocking(move || origins.load()).await?;
        let changes = self.running.changes(&read);
        let new = self.running.renewed(&read, &self.origins.env)?;
        // First the steps that can fail, last the one that cannot be undone.
        if let Some(tls) = &new.config.tls {
            build::tls(tls).await?;
        }
        self.authority.reload(new.config.auth.clone()).await?;
        if let Some(tls) = &self.tls
            && let Err(error) = tls.reload().await
        {
            // It was valid a moment ago: the files are just being written, and another reload will be requested.
            tracing::error!(%error, "Could not reload certificates");
        }
        // It was checked when it was read.
        if let Err(error) = self.logs.set(&new.config.log) {
            tracing::error!(error, "Could not change the log filter");
        }
        let connections = limit::connections(new.config.max_connections, self.open_files);
        self.connections.resize(connections);
        let most = i64::try_from(connections).unwrap_or(i64::MAX);
        self.connections_limit.set(most);
        self.admission.resize(new.config.max_requests);
        self.admission.set_stall(new.config.client_stall);
        self.uploads.set_quota(build::quota(&new.config));
        self.control.allow_path(new.config.allow_path);
        self.registry
            .refuse_incomplete_images(new.config.refuse_incomplete_images);
        self.caches.set(new.config.buildkit.clone());
        self.live.send_replace(Arc::new(new.config.clone()));
        self.running = new;
        Ok(changes)
    }
}

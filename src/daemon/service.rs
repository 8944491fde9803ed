//! The life cycle of the process: it claims its state folder, opens its doors, serves, handles signals, drains.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    arrivals::Arrivals,
    background,
    build::{self, Built},
    check,
    current_config::CurrentConfig,
    drain::{self, Asked, Left, Signals},
    error::{Error, Result},
    idle::Open,
    limit,
    listen::{self, Service},
    notify::Notify,
    observability::Observability,
    protocol, prune_marks,
    reload::{Origins, Reloader},
    scrub,
    socket::Listener,
    state::StateDir,
};
use crate::{
    config::{
        Loaded, Origin,
        daemon::{Config, address::Address},
    },
    serve::{admin::Phase, admission::Pool},
    store::StoreUrl,
    task::{self, Task},
    telemetry::{logs::Logs, otlp::Exporter},
};

/// Maximum time for exporting the last traces and metrics, after everything else has ended.
const LAST: Duration = Duration::from_secs(2);

/// Everything needed for a start.
pub(super) struct Start {
    pub(super) origins: Origins,
    pub(super) loaded: Loaded<Config>,
    pub(super) logs: Arc<Logs>,
    /// Log all settings, including defaults.
    pub(super) verbose: bool,
    /// Exports traces and metrics.
    pub(super) exporter: Option<Exporter>,
    /// When the process started.
    pub(super) began: Instant,
}

/// How the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Drained, except for this work.
    Drained(Left),
    /// A second signal, by its number.
    Cut(u8),
}

/// Everything that runs while the daemon serves.
struct Running {
    serving: Vec<Task<()>>,
    stop: watch::Sender<bool>,
    /// Probes and metrics at their own addresses: they end last, so that the shutdown can be observed.
    probes: Vec<Task<()>>,
    /// Never used: they end with their tasks.
    _stop_probes: watch::Sender<bool>,
    shown: Observability,
    exporter: Option<Exporter>,
    connections: Pool,
    built: Built,
    /// Background work, which ends when this is dropped.
    _background: Vec<Task<()>>,
    /// Dropped last, so that no other process claims it before the rest is gone.
    _state: StateDir,
}

/// Runs until a signal requests the end.
pub(super) async fn run(start: Start) -> Result<End> {
    let mut signals = Signals::listen()
        .map_err(|e| Error::failed(format!("cannot install signal handlers: {e}")))?;
    let notify = Notify::from_env(&start.origins.env);
    let (mut reloader, running) = tokio::select! {
        started = open(start, &notify) => started?,
        number = signals.end() => return Ok(End::Cut(number)),
    };
    let _watchdog = notify.live();
    loop {
        match signals.next().await {
            Asked::Reload => {
                notify.reloading();
                reloader.reload().await;
                notify.ready("Serving");
            }
            Asked::End(signal) => {
                tracing::info!(signal, "Draining");
                notify.stopping();
                let limit = reloader.running.config.drain_timeout;
                return Ok(tokio::select! {
                    biased;
                    number = signals.end() => End::Cut(number),
                    left = close(running, limit) => End::Drained(left),
                });
            }
        }
    }
}

/// Opens everything, reports readiness, and serves.
#[allow(
    clippy::too_many_lines,
    reason = "one list of what a daemon opens, in order; split functions would have to pass on a dozen values"
)]
async fn open(start: Start, notify: &Notify) -> Result<(Reloader, Running)> {
    let Start {
        origins,
        loaded,
        logs,
        verbose,
        mut exporter,
        began,
    } = start;
    announce(&loaded, verbose);
    let open_files = crate::fs::raise_open_files(u64::MAX);
    let state_dir = loaded.config.state_dir.clone();
    let state = task::blocking(move || StateDir::claim(&state_dir)).await?;
    let shown = Observability::new();
    let built = build::build(&loaded.config, state.path(), &shown).await?;
    if let Some(exporter) = &mut exporter {
        let numbers = built.numbers.clone();
        exporter.push(move || numbers.numbers());
    }
    let (doors, admin) = bind(&loaded.config).await?;
    built
        .control
        .announce(doors.iter().map(Listener::url).collect());
    let marks = prune_marks::keep_reading(built.store.clone()).await;
    let (sender, live) = CurrentConfig::new(loaded.config.clone());
    let (stop, stopped) = watch::channel(false);
    // Tasks that show the shutdown must not end before it.
    let (stop_probes, lasting) = watch::channel(false);
    let count = limit::connections(loaded.config.max_connections, open_files);
    let service = Service {
        gateway: built.doors.clone(),
        tls: built.tls.clone(),
        connections: listen::places(count).counted(shown.metrics.admission.connections.clone()),
        large_windows: protocol::large_windows(),
        arrivals: Arrivals::default(),
        open: Open::default(),
        admission: built.admission.clone(),
        counts: shown.metrics.connections.clone(),
        stop: stopped,
    };
    let most = i64::try_from(count).unwrap_or(i64::MAX);
    shown.metrics.connections.limit.set(most);
    let probes = Service {
        gateway: built.admin.clone(),
        tls: None,
        // Separate slots, so that probes and metrics are answered even if the doors are full.
        connections: listen::places(64),
        arrivals: Arrivals::default(),
        open: Open::default(),
        stop: lasting,
        ..service.clone()
    };
    let crowded = [&service, &probes].map(|service| {
        let (open, places) = (service.open.clone(), service.connections.clone());
        task::spawn("crowded", async move { open.make_room(&places).await })
    });
    let serve = |listeners: Vec<Listener>, service: &Service, serves| -> Vec<Task<()>> {
        let serve = |listener: Listener| {
            tracing::info!(url = listener.url(), serves, "Listening");
            task::spawn("listener", listen::serve(listener, service.clone()))
        };
        listeners.into_iter().map(serve).collect()
    };
    let serving = serve(doors, &service, "doors");
    let probes = serve(admin, &probes, "admin");
    shown.health.set(Phase::Ready);
    let ready_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        connections = count,
        open_files,
        ready_ms,
        "Ready"
    );
    notify.ready("Serving");
    let (uploads, store) = (built.uploads.clone(), built.store.contents().clone());
    let expired = shown.metrics.uploads.expired.clone();
    // Of several tiers, the remote one: the local cache directory cannot become unreachable.
    let tier = built.store.url().tier();
    let scrubber = built.store.facts().scrubber.clone();
    let scrub = scrubber.map(|scrubber| scrub::start(live.clone(), scrubber));
    let late_chunks = background::send_late_chunks(uploads.clone());
    let expiry = background::expire_uploads(live, uploads, store, expired);
    let admission = built.admission.clone();
    let slow = task::spawn("slow clients", async move { admission.watch().await });
    let folder = own_folder(&loaded.config, built.store.url());
    let backlog = built.backlog.clone();
    let watch = shown.watch(built.store.contents().clone(), tier, backlog, folder);
    let reloader = Reloader {
        origins,
        running: loaded,
        live: sender,
        authority: built.authority.clone(),
        tls: built.tls.clone(),
        caches: built.caches.clone(),
        control: built.control.clone(),
        registry: built.registry.clone(),
        logs,
        connections: service.connections.clone(),
        connections_limit: shown.metrics.connections.limit.clone(),
        admission: built.admission.clone(),
        uploads: built.uploads.clone(),
        open_files,
        counts: shown.metrics.reloads.clone(),
    };
    let running = Running {
        serving,
        stop,
        probes,
        _stop_probes: stop_probes,
        shown,
        exporter,
        connections: service.connections,
        built,
        _background: [expiry, late_chunks, watch, slow, marks]
            .into_iter()
            .chain(scrub)
            .chain(crowded)
            .collect(),
        _state: state,
    };
    Ok((reloader, running))
}

/// The folder on this machine that contains the blobs, if any.
fn own_folder(config: &Config, store: &StoreUrl) -> Option<PathBuf> {
    let front = config.front.clone();
    front.or_else(|| match store {
        StoreUrl::Disk(folder) | StoreUrl::Layout(folder) => Some(folder.clone()),
        _ => None,
    })
}

/// Logs configured and machine-dependent values in one line; with `all`, also each setting with its origin in its own line.
fn announce(loaded: &Loaded<Config>, all: bool) {
    let file = loaded.file.as_ref().map(|f| f.display().to_string());
    let file = file.unwrap_or_else(|| "none".to_owned());
    let found = loaded.config.found();
    let rows = check::rows(loaded);
    let said = rows.iter().filter(|row| {
        row.origin != Origin::Default || found.iter().any(|(key, _)| *key == row.key)
    });
    let said = said.map(|row| format!("{} = {} ({})", row.key, row.value, row.origin));
    let settings = said.collect::<Vec<_>>().join("; ");
    tracing::info!(file, settings, "Settings");
    check::warn_of_variables(loaded);
    for row in rows.iter().filter(|_| all) {
        let origin = row.origin.to_string();
        tracing::info!(key = row.key, value = row.value, origin, "Setting");
    }
}

/// Opens the sockets: those of the doors, and those of probes and metrics alone.
async fn bind(config: &Config) -> Result<(Vec<Listener>, Vec<Listener>)> {
    let mut doors = Vec::new();
    for address in &config.listen {
        doors.push(Listener::tcp(*address).await?);
    }
    if let Some(socket) = &config.socket {
        doors.push(Listener::unix(socket).await?);
    }
    let mut admin = Vec::new();
    for socket in &config.admin_listen {
        let address = Address {
            socket: *socket,
            tls: false,
        };
        admin.push(Listener::tcp(address).await?);
    }
    Ok((doors, admin))
}

/// Closes the doors and waits for active requests, at most for `limit`.
async fn close(running: Running, limit: Duration) -> Left {
    let began = tokio::time::Instant::now();
    // Very large values mean no limit.
    let far = began + Duration::from_hours(24 * 365);
    let until = began.checked_add(limit).unwrap_or(far);
    running.shown.health.set(Phase::Draining);
    running.built.doors.drain();
    running.built.control.drain().await;
    running.stop.send_replace(true);
    let backlog = running.built.backlog.as_deref();
    let left = drain::drain(running.serving, &running.connections, backlog, until).await;
    if let Some(scrubber) = &running.built.store.facts().scrubber
        && let Err(error) = scrubber.save().await
    {
        tracing::warn!(%error, "Could not save which blobs are hashed; they will be hashed again after the next start");
    }
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Some(exporter) = running.exporter {
        let last = running.built.numbers.numbers();
        exporter.close(Some(last), LAST).await;
    }
    drop(running.probes);
    if left == Left::default() {
        tracing::info!(elapsed_ms, "Ended");
    } else {
        let Left {
            connections,
            queued,
        } = left;
        let unreachable = running.built.backlog.as_ref().map(|b| b.remote());
        if let Some(remote) = unreachable.filter(|r| !r.up && connections == 0) {
            // More time would not have helped.
            tracing::warn!(
                queued,
                elapsed_ms,
                error = remote.why,
                "Stopped with queued writes, since the remote store is unreachable; they are safe on disk, and uploaded after the next start"
            );
            return left;
        }
        tracing::warn!(
            connections,
            queued,
            elapsed_ms,
            "Stopped before everything was finished: raise drain_timeout if this happens often"
        );
    }
    left
}

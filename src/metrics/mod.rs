//! The daemon's metrics, and their exposition (<https://prometheus.io/docs/instrumenting/exposition_formats/>, text 0.0.4).
//!
//! - Holds: one plain struct of handles, created once; its groups are passed to the modules that count. A handle is a shared
//!   number: cloning is cheap, counting is one atomic addition. No globals.
//! - Enters: additions; [`Collector`]s that are called at each scrape.
//! - Leaves: text, for `/metrics` and for `telemetry::otlp`.
//! - Deliberately absent: labels by repository, tag or digest; HTTP.
//!
//! Every name is documented in `docs/metrics.md`; a test compares them.

use parking_lot::Mutex;

pub use prometheus_client::{
    collector::Collector,
    metrics::{counter::Counter, gauge::Gauge},
};
use prometheus_client::{metrics::family::Family, registry::Registry};

mod admission;
mod groups;
pub mod http;
mod process;
mod text;

pub use admission::{Admission, Admitted, LaneMetrics};
pub use groups::{Connections, Counting, Disk, Moment, Phase, Queue, Reloads, Tls, Uploads};

/// Prefix of our metrics' names.
const PREFIX: &str = "cachectld";

/// All metrics. `Default` of a group gives handles that count but are not shown, for tests.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Requests of all APIs.
    pub http: http::Http,
    /// Open connections.
    pub connections: Connections,
    /// Slots that callers share, and clients that the daemon waits for.
    pub admission: Admission,
    /// Unfinished uploads.
    pub uploads: Uploads,
    /// The queue of a write-back store.
    pub queue: Queue,
    /// The local disk and what was evicted from it.
    pub disk: Disk,
    /// Reloads of configuration and certificates.
    pub reloads: Reloads,
    /// The certificate that clients see.
    pub tls: Tls,
    /// Whether it is starting, ready, draining, degraded.
    pub phase: Phase,
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        // Under the standard names, so without our prefix.
        registry.register_collector(Box::new(process::Process::starting()));
        let own = registry.sub_registry_with_prefix(PREFIX);
        build_info(own);
        let groups = Self {
            http: http::Http::register(own),
            connections: Connections::register(own),
            admission: Admission::register(own),
            uploads: Uploads::register(own),
            queue: Queue::register(own),
            disk: Disk::register(own),
            reloads: Reloads::register(own),
            tls: Tls::register(own),
            phase: Phase::register(own),
            registry: Mutex::default(),
        };
        Self {
            registry: Mutex::new(registry),
            ..groups
        }
    }

    /// Adds metrics that another module keeps, with our prefix.
    pub fn add(&self, collector: Box<dyn Collector>) {
        self.registry
            .lock()
            .sub_registry_with_prefix(PREFIX)
            .register_collector(collector);
    }

    /// Everything as text, version 0.0.4 of Prometheus' format.
    pub fn encode(&self) -> String {
        let mut open = String::with_capacity(32 << 10);
        // Fails only if a collector does, and then the output so far is still useful.
        if prometheus_client::encoding::text::encode_registry(&mut open, &self.registry.lock())
            .is_err()
        {
            tracing::warn!("Could not write a metric");
        }
        text::classic(&open)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn build_info(registry: &mut Registry) {
    let built = Family::<[(&str, &str); 2], Gauge>::default();
    let revision = option_env!("CACHECTL_REVISION").unwrap_or("unknown");
    built
        .get_or_create(&[
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", revision),
        ])
        .set(1);
    registry.register(
        "build_info",
        "Always 1; the labels describe the build",
        built,
    );
}

#[cfg(test)]
mod tests;

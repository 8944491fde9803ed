//! What the daemon counts, and how that is shown (<https://prometheus.io/docs/instrumenting/exposition_formats/>, text 0.0.4).
//!
//! - Holds: one plain struct of handles, made once; groups of it go to the rooms that count. A handle is a shared number:
//!   cloning is cheap, counting is one atomic addition. No globals.
//! - Enters: additions; [`Collector`]s that are asked at each look.
//! - Leaves: text, for `/metrics` and for `telemetry::push`.
//! - Deliberately absent: labels by repository, tag or digest; HTTP.
//!
//! Every name stands in `docs/metrics.md`; a test compares.

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

pub use admission::{Admission, Admitted, Waiting};
pub use groups::{Connections, Counting, Disk, Moment, Phase, Queue, Reloads, Tls, Uploads};

/// Before the name of each metric of ours.
const PREFIX: &str = "cachectld";

/// All of them. `Default` of a group gives handles that count but are not shown, for tests.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Requests of all doors.
    pub http: http::Http,
    /// Open connections.
    pub connections: Connections,
    /// Places that callers share, and clients that are waited for.
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
        // Under the names that all exporters use, so without ours in front.
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

    /// Adds numbers that somebody else keeps, under names of ours.
    pub fn add(&self, collector: Box<dyn Collector>) {
        self.registry
            .lock()
            .sub_registry_with_prefix(PREFIX)
            .register_collector(collector);
    }

    /// Everything as text, version 0.0.4 of Prometheus' format.
    pub fn encode(&self) -> String {
        let mut open = String::with_capacity(32 << 10);
        // Fails only where a collector does, and then what it said before is still of use.
        if prometheus_client::encoding::text::encode_registry(&mut open, &self.registry.lock())
            .is_err()
        {
            tracing::warn!("A metric could not be written");
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
    registry.register("build_info", "Always 1; says what was built", built);
}

#[cfg(test)]
mod tests;

//! The groups of handles, one for each module that counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// A label with its value.
type Label = [(&'static str, &'static str); 1];

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// One metric with the label `label` for each of `values`; all are shown from the start.
pub(super) fn counters<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    let family = Family::<Label, Counter>::default();
    registry.register(name, help, family.clone());
    values.map(|value| family.get_or_create_owned(&[(label, value)]))
}

pub(super) fn gauges<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [Gauge; N] {
    let family = Family::<Label, Gauge>::default();
    registry.register(name, help, family.clone());
    values.map(|value| family.get_or_create_owned(&[(label, value)]))
}

/// Connections of all listeners.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    /// Open now.
    pub open: Gauge,
    /// Accepted.
    pub accepted: Counter,
    /// Not accepted: the system had no descriptors left, or the TLS handshake failed.
    pub failed: Counter,
    /// Maximum open at once.
    pub limit: Gauge,
}

impl Connections {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            open: gauge(r, "connections", "Open connections"),
            accepted: counter(r, "connections_accepted", "Accepted connections"),
            failed: counter(
                r,
                "connections_failed",
                "Connections that could not be accepted, or failed the TLS handshake",
            ),
            limit: gauge(
                r,
                "connections_limit",
                "Maximum number of open connections; more wait in the kernel",
            ),
        }
    }
}

/// Unfinished uploads.
#[derive(Debug, Clone, Default)]
pub struct Uploads {
    /// Now.
    pub open: Gauge,
    /// Removed because nobody continued them.
    pub expired: Counter,
}

impl Uploads {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            open: gauge(r, "uploads_open", "Unfinished uploads"),
            expired: counter(r, "uploads_expired", "Abandoned uploads that were removed"),
        }
    }
}

/// Writes that a write-back store has acknowledged and the remote does not have yet.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// Queued blobs.
    pub blobs: Gauge,
    /// Queued tags.
    pub tags: Gauge,
    /// Queued bytes.
    pub bytes: Gauge,
    /// When the oldest entry was acknowledged.
    pub oldest: Moment,
    /// Acknowledged entries that can no longer be sent and were set aside.
    pub aside: Gauge,
    /// Entries that the remote has now.
    pub sent: Counter,
    /// Tags that had changed in the remote, so that caches were merged.
    pub merged: Counter,
    /// Tags that had changed in the remote and were left unchanged there.
    pub left: Counter,
    /// Failed attempts; the entry stays queued.
    pub failed: Counter,
}

impl Queue {
    pub(super) fn register(r: &mut Registry) -> Self {
        let [blobs, tags] = gauges(
            r,
            "queue_entries",
            "Acknowledged entries that the remote store does not have yet",
            "kind",
            ["blob", "tag"],
        );
        let [sent, merged, left, failed] = counters(
            r,
            "queue_processed",
            "Attempts to send a queued entry to the remote store, by outcome",
            "outcome",
            ["sent", "merged", "left", "failed"],
        );
        let oldest = Moment::default();
        r.register_collector(Box::new(Age {
            name: "queue_oldest_age_seconds",
            help: "Age of the oldest queued entry; 0 if the queue is empty",
            since: oldest.clone(),
        }));
        Self {
            blobs,
            tags,
            bytes: gauge(r, "queue_bytes", "Bytes of queued entries"),
            oldest,
            aside: gauge(
                r,
                "queue_set_aside",
                "Acknowledged entries that cannot be sent and were set aside",
            ),
            sent,
            merged,
            left,
            failed,
        }
    }
}

/// The disk that caches or holds blobs.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Bytes of blobs on it.
    pub used: Gauge,
    /// Maximum bytes that it may hold; 0 for no limit.
    pub limit: Gauge,
    /// Free bytes of the file system.
    pub free: Gauge,
    /// Blobs that were evicted.
    pub evicted: Counter,
    /// Their bytes.
    pub evicted_bytes: Counter,
    /// Bytes of local blobs that were hashed again.
    pub hashed_bytes: Counter,
    /// Blobs that were found damaged, and removed.
    pub damaged: Counter,
}

impl Disk {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            used: gauge(r, "disk_used_bytes", "Bytes of blobs on the local disk"),
            limit: gauge(
                r,
                "disk_limit_bytes",
                "Maximum bytes of blobs on the local disk; 0 for no limit",
            ),
            free: gauge(
                r,
                "disk_free_bytes",
                "Free bytes on the file system of the local disk",
            ),
            evicted: counter(r, "evicted_blobs", "Blobs evicted from the local disk"),
            evicted_bytes: counter(r, "evicted_bytes", "Bytes evicted from the local disk"),
            hashed_bytes: counter(
                r,
                "scrubbed_bytes",
                "Bytes of blobs on the local disk that were hashed again",
            ),
            damaged: counter(
                r,
                "damaged_blobs",
                "Damaged blobs found on the local disk and removed",
            ),
        }
    }
}

/// Reloads of the configuration and of certificates.
#[derive(Debug, Clone, Default)]
pub struct Reloads {
    /// Successful reloads.
    pub done: Counter,
    /// Refused reloads; the previous configuration stays.
    pub refused: Counter,
}

impl Reloads {
    pub(super) fn register(r: &mut Registry) -> Self {
        let [done, refused] = counters(
            r,
            "config_reloads",
            "Reloads of configuration or certificates, by outcome",
            "outcome",
            ["done", "refused"],
        );
        Self { done, refused }
    }
}

/// The certificate that clients see.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// When the first certificate of its chain expires, in seconds since 1970; 0 without TLS.
    pub not_after: Gauge,
}

impl Tls {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            not_after: gauge(
                r,
                "tls_not_after_seconds",
                "Expiry of the TLS certificate, in seconds since 1970; 0 without TLS",
            ),
        }
    }
}

/// State of the daemon.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    /// 1 while it accepts requests.
    pub ready: Gauge,
    /// 1 while it finishes its last requests and its queue before exit.
    pub draining: Gauge,
    /// 1 while a store cannot be reached.
    pub degraded: Gauge,
}

impl Phase {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            ready: gauge(r, "ready", "1 while requests are accepted"),
            draining: gauge(
                r,
                "draining",
                "1 while the daemon finishes requests and the queue before exit",
            ),
            degraded: gauge(
                r,
                "degraded",
                "1 while a store is unreachable or pushes are refused; requests are still answered",
            ),
        }
    }
}

/// Counts in a gauge as long as it lives.
#[derive(Debug)]
pub struct Counting(Gauge);

impl Counting {
    /// Adds one.
    pub fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A moment that may be unset, shared.
#[derive(Debug, Clone, Default)]
pub struct Moment(Arc<AtomicU64>);

impl Moment {
    /// Sets it; `None` clears it.
    pub fn set(&self, at: Option<SystemTime>) {
        let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let ms = since.map_or(0, |s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX));
        self.0.store(ms, Relaxed);
    }

    /// How long ago it was; zero if unset.
    pub fn age(&self) -> Duration {
        match self.0.load(Relaxed) {
            0 => Duration::ZERO,
            ms => (SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
                .elapsed()
                .unwrap_or_default(),
        }
    }
}

/// Shows a moment by its age at the time of the scrape.
#[derive(Debug)]
struct Age {
    name: &'static str,
    help: &'static str,
    since: Moment,
}

impl Collector for Age {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let age = ConstGauge::new(self.since.age().as_secs_f64());
        let metric = encoder.encode_descriptor(self.name, self.help, None, age.metric_type())?;
        age.encode(metric)
    }
}

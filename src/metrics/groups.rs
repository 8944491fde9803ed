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
        TypedMetric,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Metric, Registry},
};

/// A label with its value.
pub(super) type Label = [(&'static str, &'static str); 1];

/// A handle that can be shown under a name.
trait Handle: Default + Clone {
    fn show(&self, registry: &mut Registry, name: &'static str, help: &'static str);
}

impl<M: Metric + Default + Clone> Handle for M {
    fn show(&self, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register(name, help, self.clone());
    }
}

fn shown<H: Handle>(registry: &mut Registry, name: &'static str, help: &'static str) -> H {
    let handle = H::default();
    handle.show(registry, name, help);
    handle
}

pub(super) fn family<M: Metric + TypedMetric + Default + Clone>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
) -> Family<Label, M> {
    shown(registry, name, help)
}

/// Defines a group, and `register`, which shows it, from lines like these:
///
/// ```text
/// field: Type = "name", "help";
/// field("value"), other("another value"): Type = "name" by "label", "help";
/// ```
///
/// The help is the field's documentation too. All values of a label are shown from the start.
macro_rules! group {
    (
        $(#[$meta:meta])*
        pub struct $group:ident {
            $(
                $($(#[$doc:meta])* $field:ident $(($value:literal))?),+: $type:ty =
                    $name:literal $(by $label:literal)?, $help:literal;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
        pub struct $group {
            $($(
                $(#[$doc])*
                #[doc = $help]
                pub $field: $type,
            )+)*
        }

        impl $group {
            pub(super) fn register(registry: &mut Registry) -> Self {
                $(group!(@show registry, $($field $(($value))?),+: $name $(by $label)?, $help);)*
                Self { $($($field,)+)* }
            }
        }
    };
    (@show $registry:ident, $field:ident: $name:literal, $help:literal) => {
        let $field = shown($registry, $name, $help);
    };
    (@show $registry:ident, $($field:ident($value:literal)),+: $name:literal by $label:literal, $help:literal) => {
        let family = family($registry, $name, $help);
        $(let $field = family.get_or_create_owned(&[($label, $value)]);)+
    };
}

group! {
    /// Connections of all listeners.
    pub struct Connections {
        open: Gauge = "connections", "Open connections";
        accepted: Counter = "connections_accepted", "Accepted connections";
        failed: Counter = "connections_failed", "Connections that could not be accepted, or failed the TLS handshake";
        limit: Gauge = "connections_limit", "Maximum number of open connections; more wait in the kernel";
    }
}

group! {
    /// Unfinished uploads.
    pub struct Uploads {
        open: Gauge = "uploads_open", "Unfinished uploads";
        expired: Counter = "uploads_expired", "Abandoned uploads that were removed";
    }
}

group! {
    /// Writes that a write-back store has acknowledged and the remote does not have yet.
    pub struct Queue {
        blobs("blob"), tags("tag"): Gauge = "queue_entries" by "kind", "Acknowledged entries that the remote store does not have yet";
        /// Entries that the remote has now.
        sent("sent"),
        /// Tags that had changed in the remote, so that caches were merged.
        merged("merged"),
        /// Tags that had changed in the remote and were left unchanged there.
        left("left"),
        /// Failed attempts; the entry stays queued.
        failed("failed"): Counter = "queue_processed" by "outcome", "Attempts to send a queued entry to the remote store, by outcome";
        oldest: Moment = "queue_oldest_age_seconds", "Age of the oldest queued entry; 0 if the queue is empty";
        bytes: Gauge = "queue_bytes", "Bytes of queued entries";
        aside: Gauge = "queue_set_aside", "Acknowledged entries that cannot be sent and were set aside";
    }
}

group! {
    /// The disk that caches or holds blobs.
    pub struct Disk {
        used: Gauge = "disk_used_bytes", "Bytes of blobs on the local disk";
        limit: Gauge = "disk_limit_bytes", "Maximum bytes of blobs on the local disk; 0 for no limit";
        free: Gauge = "disk_free_bytes", "Free bytes on the file system of the local disk";
        evicted: Counter = "evicted_blobs", "Blobs evicted from the local disk";
        evicted_bytes: Counter = "evicted_bytes", "Bytes evicted from the local disk";
        hashed_bytes: Counter = "scrubbed_bytes", "Bytes of blobs on the local disk that were hashed again";
        damaged: Counter = "damaged_blobs", "Damaged blobs found on the local disk and removed";
    }
}

group! {
    /// Reloads of the configuration and of certificates. Where one is refused, the previous configuration stays.
    pub struct Reloads {
        done("done"), refused("refused"): Counter = "config_reloads" by "outcome", "Reloads of configuration or certificates, by outcome";
    }
}

group! {
    /// The certificate that clients see; the first of its chain to expire counts.
    pub struct Tls {
        not_after: Gauge = "tls_not_after_seconds", "Expiry of the TLS certificate, in seconds since 1970; 0 without TLS";
    }
}

group! {
    /// State of the daemon.
    pub struct Phase {
        ready: Gauge = "ready", "1 while requests are accepted";
        draining: Gauge = "draining", "1 while the daemon finishes requests and the queue before exit";
        degraded: Gauge = "degraded", "1 while a store is unreachable or pushes are refused; requests are still answered";
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

impl Handle for Moment {
    fn show(&self, registry: &mut Registry, name: &'static str, help: &'static str) {
        let since = self.clone();
        registry.register_collector(Box::new(Age { name, help, since }));
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

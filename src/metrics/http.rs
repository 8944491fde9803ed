//! Requests: how many, how long, how many bytes, by door, route, tier and outcome.
//!
//! A histogram has sixteen series for each combination of its labels, so only requests with two of the outcomes are timed.
//!
//! All numbers of one combination of labels are kept together, so that a request costs one lookup and some additions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Seconds: from what is in memory to what a remote takes for a gigabyte.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0,
];

/// Where a request went, without what it named: names, tags and digests are never labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteLabel {
    /// The protocol: `registry`, `admin` …
    pub door: &'static str,
    /// The path with its variable parts in braces, as the protocol's specification writes them.
    pub route: &'static str,
    /// What is looked up there (`blob`, `manifest`); `None` where finding nothing is no miss of a cache.
    pub looks_up: Option<&'static str>,
    /// Asked every few seconds by probes: not worth a line in the log.
    pub is_quiet: bool,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered in full.
    Ok,
    /// What was asked for is not here.
    Miss,
    /// The client's mistake, or not allowed.
    Refused,
    /// Ours, or the store's.
    Error,
    /// The body ended before it was whole, through our fault or the store's.
    Broken,
    /// The client went away.
    Aborted,
}

impl Outcome {
    /// Its name as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Miss => "miss",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::Broken => "broken",
            Self::Aborted => "aborted",
        }
    }
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Where it went.
    pub label: RouteLabel,
    /// Its method, or `other`.
    pub method: &'static str,
    /// Status of the answer; 0 where none was given.
    pub code: u16,
    /// Which store answered: `local`, `remote`, or `none`.
    pub tier: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// Until the last byte of the answer was taken.
    pub elapsed: Duration,
    /// Bytes of its body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// One combination of what requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    label: RouteLabel,
    method: &'static str,
    code: u16,
    tier: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    door: &'static str,
    route: &'static str,
    method: &'static str,
    code: u16,
    tier: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    door: &'static str,
    route: &'static str,
    method: &'static str,
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    door: &'static str,
    tier: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    door: &'static str,
    kind: &'static str,
    intent: &'static str,
    tier: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    door: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SavedLabels {
    door: &'static str,
    how: &'static str,
}

/// The numbers of one combination.
#[derive(Debug)]
struct Series {
    requests: Counter,
    /// Of requests that were answered as asked: what was refused, failed or broke off would be a histogram for each odd request.
    duration: Option<Histogram>,
    bytes_in: Counter,
    bytes_out: Counter,
    lookups: Option<Counter>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Handles of all doors.
#[derive(Debug, Clone)]
pub struct Http {
    series: Arc<RwLock<HashMap<Key, Arc<Series>>>>,
    requests: Family<RequestLabels, Counter>,
    duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    bytes_in: Family<ByteLabels, Counter>,
    bytes_out: Family<ByteLabels, Counter>,
    lookups: Family<LookupLabels, Counter>,
    in_flight: Family<DoorLabels, Gauge>,
    saved: Family<SavedLabels, Counter>,
    saved_bytes: Family<SavedLabels, Counter>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            series: Arc::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(histogram),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
            lookups: Family::default(),
            in_flight: Family::default(),
            saved: Family::default(),
            saved_bytes: Family::default(),
        }
    }
}

impl Http {
    pub(super) fn register(r: &mut Registry) -> Self {
        let http = Self::default();
        let help = "Completed requests";
        r.register("requests", help, http.requests.clone());
        r.register(
            "request_duration_seconds",
            "Time from the head of a request to the last byte of its response, for answered requests (ok, miss)",
            http.duration.clone(),
        );
        let help = "Bytes of request bodies";
        r.register("request_bytes", help, http.bytes_in.clone());
        let help = "Bytes of response bodies";
        r.register("response_bytes", help, http.bytes_out.clone());
        r.register(
            "lookups",
            "Lookups of blobs and manifests, by whether they exist",
            http.lookups.clone(),
        );
        let help = "Requests in progress";
        r.register("requests_in_flight", help, http.in_flight.clone());
        r.register(
            "dedup_blobs",
            "Blobs that were not sent or stored because they already existed",
            http.saved.clone(),
        );
        let help = "Bytes of those blobs";
        r.register("dedup_bytes", help, http.saved_bytes.clone());
        http
    }

    /// The gauge of requests that a door has not ended.
    pub fn in_flight(&self, door: &'static str) -> Gauge {
        self.in_flight.get_or_create_owned(&DoorLabels { door })
    }

    /// Counts a blob that was not sent, or not stored, once more. `how`: `mounted`, `existed`.
    pub fn saved(&self, door: &'static str, how: &'static str, bytes: u64) {
        let labels = SavedLabels { door, how };
        self.saved.get_or_create(&labels).inc();
        self.saved_bytes.get_or_create(&labels).inc_by(bytes);
    }

    /// Counts a request that has ended.
    pub fn record(&self, done: &Done) {
        let series = self.series(&Key {
            label: done.label,
            method: done.method,
            code: done.code,
            tier: done.tier,
            outcome: done.outcome,
        });
        series.requests.inc();
        if let Some(duration) = &series.duration {
            duration.observe(done.elapsed.as_secs_f64());
        }
        series.bytes_in.inc_by(done.bytes_in);
        series.bytes_out.inc_by(done.bytes_out);
        if let Some(lookups) = &series.lookups {
            lookups.inc();
        }
    }

    fn series(&self, key: &Key) -> Arc<Series> {
        let known = self.series.read();
        if let Some(series) = known.get(key) {
            return series.clone();
        }
        drop(known);
        let mut all = self.series.write();
        all.entry(*key)
            .or_insert_with(|| Arc::new(self.new_series(key)))
            .clone()
    }

    fn new_series(&self, key: &Key) -> Series {
        let Key {
            label: RouteLabel { door, route, .. },
            method,
            code,
            tier,
            ..
        } = *key;
        let outcome = key.outcome.as_str();
        let bytes = ByteLabels {
            door,
            tier,
            outcome,
        };
        Series {
            requests: self.requests.get_or_create_owned(&RequestLabels {
                door,
                route,
                method,
                code,
                tier,
                outcome,
            }),
            duration: matches!(key.outcome, Outcome::Ok | Outcome::Miss).then(|| {
                self.duration.get_or_create_owned(&DurationLabels {
                    door,
                    route,
                    method,
                    tier,
                })
            }),
            bytes_in: self.bytes_in.get_or_create_owned(&bytes),
            bytes_out: self.bytes_out.get_or_create_owned(&bytes),
            lookups: lookup(key).map(|l| self.lookups.get_or_create_owned(&l)),
        }
    }
}

/// Whether a request is a lookup, and how it ended: a HEAD only checks, which is what a push does before it sends.
fn lookup(key: &Key) -> Option<LookupLabels> {
    let kind = key.label.looks_up?;
    let intent = match key.method {
        "GET" => "read",
        "HEAD" => "check",
        _ => return None,
    };
    let result = match key.code {
        200..=299 | 304 => "hit",
        404 => "miss",
        _ => return None,
    };
    Some(LookupLabels {
        door: key.label.door,
        kind,
        intent,
        tier: key.tier,
        result,
    })
}

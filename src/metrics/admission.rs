//! Slots that callers share, and slow clients that hold none.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::groups::{counters, gauges};

/// Numbers of one pool.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    /// Slots in use.
    pub taken: Gauge,
    /// Requests waiting for a slot.
    pub waiting: Gauge,
    /// Requests that were refused because no slot was free.
    pub refused: Counter,
}

/// Numbers of one lane.
#[derive(Debug, Clone, Default)]
pub struct LaneMetrics {
    /// Clients in the lane.
    pub clients: Gauge,
    /// Clients that were cut off because there were too many.
    pub cut: Counter,
}

/// All pools and lanes.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Requests to the registry.
    pub requests: Admitted,
    /// Requests for tokens.
    pub tokens: Admitted,
    /// Password checks.
    pub passwords: Admitted,
    /// Large manifests that are read or parsed.
    pub large_manifests: Admitted,
    /// Bodies and blobs in transit.
    pub transfers: Admitted,
    /// Those that were cut off for callers with fewer.
    pub transfers_cut: Counter,
    /// Large manifests and lists in memory.
    pub large_transfers: Admitted,
    /// Those that were cut off for callers with fewer.
    pub large_transfers_cut: Counter,
    /// Manifest lookups.
    pub reads: Admitted,
    /// Lists of tags and referrers.
    pub lists: Admitted,
    /// Merges of caches.
    pub merges: Admitted,
    /// Running control calls.
    pub control: Admitted,
    /// Connections.
    pub connections: Admitted,
    /// Uploads whose client is slow.
    pub uploads: LaneMetrics,
    /// Manifests whose client is slow.
    pub manifests: LaneMetrics,
    /// Forms and calls that are being sent.
    pub forms: LaneMetrics,
    /// Short answers that are being sent.
    pub answers: LaneMetrics,
    /// Responses whose client does not read.
    pub responses: LaneMetrics,
    /// Open calls of the control API.
    pub calls: LaneMetrics,
    /// Open calls of health and reflection.
    pub health: LaneMetrics,
}

/// Labels of the pools, in the order of their fields.
const POOLS: [&str; 11] = [
    "requests",
    "tokens",
    "passwords",
    "large_manifests",
    "transfers",
    "large_transfers",
    "reads",
    "lists",
    "merges",
    "control",
    "connections",
];
/// Labels of the lanes, in the order of their fields.
const LANES: [&str; 7] = [
    "uploads",
    "manifests",
    "forms",
    "answers",
    "responses",
    "calls",
    "health",
];

impl Admission {
    pub(super) fn register(r: &mut Registry) -> Self {
        let taken = gauges(
            r,
            "places_taken",
            "Slots of a pool that are in use",
            "pool",
            POOLS,
        );
        let waiting = gauges(
            r,
            "places_waiting",
            "Requests that wait for a slot of a pool",
            "pool",
            POOLS,
        );
        let refused = counters(
            r,
            "places_refused",
            "Requests refused because no slot was free",
            "pool",
            POOLS,
        );
        let transfers_cut = counters(
            r,
            "transfers_cut",
            "Transfers aborted in favor of a caller with fewer",
            "pool",
            ["transfers", "large_transfers"],
        );
        let clients = gauges(
            r,
            "slow_clients",
            "Clients that send slowly, do not read, or hold a stream open",
            "lane",
            LANES,
        );
        let cut = counters(
            r,
            "slow_clients_cut",
            "Slow clients disconnected because there were too many",
            "lane",
            LANES,
        );
        let mut pools =
            taken
                .into_iter()
                .zip(waiting)
                .zip(refused)
                .map(|((taken, waiting), refused)| Admitted {
                    taken,
                    waiting,
                    refused,
                });
        let mut lanes = clients
            .into_iter()
            .zip(cut)
            .map(|(clients, cut)| LaneMetrics { clients, cut });
        // In the order of the labels.
        let mut pool = || pools.next().unwrap_or_default();
        let mut lane = || lanes.next().unwrap_or_default();
        let mut transfers_cut = transfers_cut.into_iter();
        let mut cut = || transfers_cut.next().unwrap_or_default();
        Self {
            requests: pool(),
            tokens: pool(),
            passwords: pool(),
            large_manifests: pool(),
            transfers: pool(),
            transfers_cut: cut(),
            large_transfers: pool(),
            large_transfers_cut: cut(),
            reads: pool(),
            lists: pool(),
            merges: pool(),
            control: pool(),
            connections: pool(),
            uploads: lane(),
            manifests: lane(),
            forms: lane(),
            answers: lane(),
            responses: lane(),
            calls: lane(),
            health: lane(),
        }
    }
}

//! Slots that callers share, and slow clients that hold none.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::groups::family;

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

/// Defines all pools and lanes. The name of a field is its label's value.
macro_rules! admission {
    (
        pools { $($pool:ident: $about_pool:literal,)* }
        lanes { $($lane:ident: $about_lane:literal,)* }
    ) => {
        /// All pools and lanes.
        #[derive(Debug, Clone, Default)]
        pub struct Admission {
            $(
                #[doc = $about_pool]
                pub $pool: Admitted,
            )*
            $(
                #[doc = $about_lane]
                pub $lane: LaneMetrics,
            )*
            /// Transfers that were cut off for callers with fewer.
            pub transfers_cut: Counter,
            /// The same, of large manifests and lists.
            pub large_transfers_cut: Counter,
        }

        impl Admission {
            fn of(
                pool: impl Fn(&'static str) -> Admitted,
                lane: impl Fn(&'static str) -> LaneMetrics,
            ) -> Self {
                Self {
                    $($pool: pool(stringify!($pool)),)*
                    $($lane: lane(stringify!($lane)),)*
                    ..Self::default()
                }
            }
        }
    };
}

admission! {
    pools {
        requests: "Requests to the registry.",
        tokens: "Requests for tokens.",
        passwords: "Password checks.",
        large_manifests: "Large manifests that are read or parsed.",
        transfers: "Bodies and blobs in transit.",
        large_transfers: "Large manifests and lists in memory.",
        reads: "Manifest lookups.",
        lists: "Lists of tags and referrers.",
        merges: "Merges of caches.",
        control: "Running control calls.",
        connections: "Connections.",
    }
    lanes {
        uploads: "Uploads whose client is slow.",
        manifests: "Manifests whose client is slow.",
        forms: "Forms and calls that are being sent.",
        answers: "Short answers that are being sent.",
        responses: "Responses whose client does not read.",
        calls: "Open calls of the control API.",
        health: "Open calls of health and reflection.",
    }
}

impl Admission {
    pub(super) fn register(r: &mut Registry) -> Self {
        let taken = family(r, "places_taken", "Slots of a pool that are in use");
        let waiting = family(
            r,
            "places_waiting",
            "Requests that wait for a slot of a pool",
        );
        let help = "Requests refused because no slot was free";
        let refused = family(r, "places_refused", help);
        let help = "Transfers aborted in favor of a caller with fewer";
        let transfers_cut = family(r, "transfers_cut", help);
        let help = "Clients that send slowly, do not read, or hold a stream open";
        let clients = family(r, "slow_clients", help);
        let help = "Slow clients disconnected because there were too many";
        let cut = family(r, "slow_clients_cut", help);
        let pool = |name| {
            let label = [("pool", name)];
            Admitted {
                taken: taken.get_or_create_owned(&label),
                waiting: waiting.get_or_create_owned(&label),
                refused: refused.get_or_create_owned(&label),
            }
        };
        let lane = |name| {
            let label = [("lane", name)];
            LaneMetrics {
                clients: clients.get_or_create_owned(&label),
                cut: cut.get_or_create_owned(&label),
            }
        };
        Self {
            transfers_cut: transfers_cut.get_or_create_owned(&[("pool", "transfers")]),
            large_transfers_cut: transfers_cut.get_or_create_owned(&[("pool", "large_transfers")]),
            ..Self::of(pool, lane)
        }
    }
}

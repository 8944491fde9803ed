//! Admission: how much of the daemon one caller may hold, decided in one module in front of all protocols.
//!
//! - Holds: [`Pool`]s of permits that callers share fairly, [`Lane`]s of slow clients that hold no permit, the time limits for
//!   bodies in both directions.
//! - Enters: a caller's [`Key`], bodies of requests and responses.
//! - Leaves: a [`Ticket`] or [`Permit`]; or [`Full`] or a [`Fault`], which a protocol answers in its own terms (429, 408,
//!   400, `RESOURCE_EXHAUSTED`).
//! - Deliberately absent: identifying callers (`serve::auth`), routes, error bodies, sockets.
//!
//! The rule: a work permit is held only while the daemon itself works for a request of an identified caller, never while a
//! client sends or reads, however fast it is. Bytes in transit hold a slot of [`Transfers`], which the caller with most slots
//! loses to callers with fewer. While a client sends slowly, or does not read, its request waits in a lane. The length of a
//! lane is limited by cutting off a client of the caller with most entries there, the one that has been waiting longest.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

mod connection;
mod fault;
mod lane;
mod receive;
mod respond;
mod ticket;
mod transfers;

pub use crate::fair::{Demand, Full, Key, Permit, Pool, Queue};
pub use connection::{Connection, InProgress, Rest};
pub use fault::Fault;
pub use lane::{Lane, Parked};
pub use respond::Writer;
pub use ticket::Ticket;
pub use transfers::{Transfer, Transfers};

use crate::metrics;
use respond::Responses;

/// Maximum silence of a client in the middle of an upload, or while it does not read its response, unless configured otherwise.
pub const CLIENT_STALL: Duration = Duration::from_mins(10);
/// Registry requests that are processed at once, and in addition blobs received or sent at once, unless configured otherwise.
pub const REQUESTS: usize = 512;

/// Concurrent token requests: each may wait for a password check, and takes a few kilobytes.
const TOKENS: usize = 16;
/// Manifests of more than 64 KiB that are read or parsed at once: each takes its size in memory once more.
const LARGE_MANIFESTS: usize = 8;
/// Manifests and lists of more than 64 KiB in memory, from their 64th KiB until they are stored or sent: up to 4 MiB each.
const LARGE_TRANSFERS: usize = 16;
/// After this long one of them gives way to a caller that has none.
const LONG: Duration = Duration::from_secs(10);
/// Short responses that are being sent: up to 64 KiB of memory each.
const ANSWERS: usize = 1024;
/// Concurrent manifest lookups: a small manifest is read during the lookup, and so is one of up to 4 MiB if the store does not
/// report its size first.
const READS: usize = 16;
/// Concurrently created lists: each reads up to 4 MiB at a time, and parses or lists as much again.
const LISTS: usize = 8;
/// Concurrent merges of caches; `ops::cache_tags` limits how many of them compute.
const MERGES: usize = 16;
/// Control calls that work at once, and how many more are reserved for callers without one.
const CONTROL: usize = 4;
const CONTROL_SPARE: usize = 1;
/// Requests that wait for a permit, in total and per caller: a few kilobytes each.
const QUEUE: Queue = Queue {
    total: 4096,
    each: 2048,
};
/// The same for permits that are held for longer.
const SMALL_QUEUE: Queue = Queue {
    total: 1024,
    each: 256,
};
/// Slow uploads: each holds a file and up to 16 KiB.
const SLOW_UPLOADS: usize = 1024;
/// Manifests that arrive slowly, and large ones that are read slowly: up to 4 MiB of memory each.
const SLOW_MANIFESTS: usize = 16;
/// Forms and calls that are being received: up to 64 KiB of memory each.
const FORMS: usize = 256;
/// Responses, and connections, whose clients do not read: together up to 512 KiB of memory each.
const UNREAD: usize = 128;
/// Open calls of the control API, and of health and reflection: a few kilobytes each.
const CALLS: usize = 256;
const HEALTH: usize = 256;

/// What is shared by all callers.
pub struct Admission {
    /// Permits of registry requests.
    pub requests: Pool,
    /// Permits of token requests.
    pub tokens: Pool,
    /// Permits of large manifests that are read or parsed.
    pub large_manifests: Pool,
    /// Bodies and blobs in transit.
    pub transfers: Transfers,
    /// Large manifests and lists in memory.
    pub large_transfers: Transfers,
    /// Permits of manifest lookups, until the size of the manifest is known.
    pub reads: Pool,
    /// Permits of lists of tags and referrers, until they are created.
    pub lists: Pool,
    /// Permits of merges.
    pub merges: Pool,
    /// Permits of control calls that work.
    pub control: Pool,
    /// Open calls of the control API.
    pub calls: Lane,
    /// Open calls of health and reflection.
    pub health: Lane,
    uploads: Lane,
    manifests: Lane,
    forms: Lane,
    answers: Lane,
    responses: Arc<Responses>,
    /// Milliseconds.
    stall: AtomicU64,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({} requests)", self.requests.taken())
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(REQUESTS, CLIENT_STALL, &metrics::Admission::default())
    }
}

impl Admission {
    /// Permits for `requests` concurrent requests, and a limit on clients' silence; counted in `counts`.
    pub fn new(requests: usize, stall: Duration, counts: &metrics::Admission) -> Self {
        let lane = |most, counts: &metrics::LaneMetrics| Lane::counted(most, counts.clone());
        let manifests = lane(SLOW_MANIFESTS, &counts.manifests);
        let transfers = Pool::new("transfers", requests, QUEUE);
        let transfers = transfers.counted(counts.transfers.clone());
        let large = Pool::new("large_transfers", LARGE_TRANSFERS, SMALL_QUEUE);
        let large = large.counted(counts.large_transfers.clone());
        let admission = Self {
            requests: Pool::new("requests", requests, QUEUE).counted(counts.requests.clone()),
            tokens: Pool::new("tokens", TOKENS, SMALL_QUEUE).counted(counts.tokens.clone()),
            large_manifests: Pool::new("large_manifests", LARGE_MANIFESTS, SMALL_QUEUE)
                .counted(counts.large_manifests.clone()),
            transfers: Transfers::new(transfers, None, counts.transfers_cut.clone()),
            large_transfers: Transfers::new(large, Some(LONG), counts.large_transfers_cut.clone()),
            reads: Pool::new("reads", READS, QUEUE).counted(counts.reads.clone()),
            lists: Pool::new("lists", LISTS, SMALL_QUEUE).counted(counts.lists.clone()),
            merges: Pool::new("merges", MERGES, SMALL_QUEUE).counted(counts.merges.clone()),
            control: Pool::new("control", CONTROL, SMALL_QUEUE)
                .with_spare(CONTROL_SPARE)
                .counted(counts.control.clone()),
            calls: lane(CALLS, &counts.calls),
            health: lane(HEALTH, &counts.health),
            uploads: lane(SLOW_UPLOADS, &counts.uploads),
            manifests: manifests.clone(),
            forms: lane(FORMS, &counts.forms),
            answers: lane(ANSWERS, &counts.answers),
            responses: Arc::new(Responses::new(lane(UNREAD, &counts.responses), manifests)),
            stall: AtomicU64::default(),
        };
        admission.set_stall(stall);
        admission
    }

    /// Sets how many requests are processed, and how many transfers are in progress, at once.
    pub fn resize(&self, requests: usize) {
        self.requests.resize(requests);
        self.transfers.places().resize(requests);
    }

    /// Sets the maximum silence of clients.
    pub fn set_stall(&self, stall: Duration) {
        let ms = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
        self.stall.store(ms, Ordering::Relaxed);
    }

    /// Maximum silence of a client.
    pub fn stall(&self) -> Duration {
        Duration::from_millis(self.stall.load(Ordering::Relaxed))
    }

    /// Watches clients that do not read, as long as it is polled; never returns.
    pub async fn watch(&self) {
        self.responses.watch(|| self.stall()).await;
    }
}

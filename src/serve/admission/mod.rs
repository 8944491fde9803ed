//! Admission: how much of the daemon one caller may hold, decided in one module in front of all protocols.
//!
//! - Holds: [`Pool`]s of places that are shared fairly between callers, [`Lane`]s of slow clients that hold no place, the
//!   limits of time for bodies in both directions.
//! - Enters: a caller's [`Key`], requests' and responses' bodies.
//! - Leaves: a [`Ticket`] or [`Permit`]; or [`Full`] or a [`Fault`], which a protocol answers in its own terms (429, 408,
//!   400, `RESOURCE_EXHAUSTED`).
//! - Deliberately absent: who a caller is (`serve::auth`), routes, error bodies, sockets.
//!
//! The rule: a place of work is held only while the daemon itself works for a request whose caller is known, never while a client
//! sends or reads, however fast it is. Bytes on their way hold a place among [`Transfers`], which whoever holds most loses to those who hold
//! fewer. While a client sends slowly, or does not read, its request waits in a lane, which is bounded by cutting off the
//! client that has been there longest of whoever has most there.

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

/// Longest silence of a client in the middle of an upload, or that does not read its response, unless set otherwise.
pub const CLIENT_STALL: Duration = Duration::from_mins(10);
/// Requests to the registry that are worked on at once, and besides blobs that are received or sent at once, unless set otherwise.
pub const REQUESTS: usize = 512;

/// Requests for tokens at once: each may wait for a password to be checked, and takes some kilobytes.
const TOKENS: usize = 16;
/// Manifests of more than 64 KiB that are read or parsed at once: as much as they have is in memory once more.
const LARGE_MANIFESTS: usize = 8;
/// Manifests and lists of more than 64 KiB that are in memory, from their 64th KiB on until they are stored or sent: up to 4 MiB each.
const LARGE_TRANSFERS: usize = 16;
/// After so long one of them gives way to a caller that has none.
const LONG: Duration = Duration::from_secs(10);
/// Short answers to requests that are being sent: up to 64 KiB each are in memory.
const ANSWERS: usize = 1024;
/// Manifests that are looked up at once: a small one is read there, and one of up to 4 MiB where a store does not say its size before.
const READS: usize = 16;
/// Lists that are made at once: each reads up to 4 MiB at a time, and as much again is parsed or listed.
const LISTS: usize = 8;
/// Merges of caches at once; how many of them compute is for `ops::cache_tags` to say.
const MERGES: usize = 16;
/// Control calls that work at once, and how many more only for callers without one.
const CONTROL: usize = 4;
const CONTROL_SPARE: usize = 1;
/// Requests that wait for a place, all of them and those of one caller: some kilobytes each.
const QUEUE: Queue = Queue {
    total: 4096,
    each: 2048,
};
/// The same for places that are held for longer.
const SMALL_QUEUE: Queue = Queue {
    total: 1024,
    each: 256,
};
/// Slow uploads: one holds a file and up to 16 KiB.
const SLOW_UPLOADS: usize = 1024;
/// Manifests that come slowly, and large ones that are read slowly: up to 4 MiB each are in memory.
const SLOW_MANIFESTS: usize = 16;
/// Forms and calls that are being received: up to 64 KiB each are in memory.
const FORMS: usize = 256;
/// Responses that nobody reads, and connections that nobody reads from: together up to 512 KiB each are in memory.
const UNREAD: usize = 128;
/// Open calls of the control API, and of health and reflection: some kilobytes each.
const CALLS: usize = 256;
const HEALTH: usize = 256;

/// What is shared by all callers.
pub struct Admission {
    /// Places of requests to the registry.
    pub requests: Pool,
    /// Places of requests for tokens.
    pub tokens: Pool,
    /// Places of large manifests that are read or parsed.
    pub large_manifests: Pool,
    /// Bodies and blobs that are on their way.
    pub transfers: Transfers,
    /// Large manifests and lists that are in memory.
    pub large_transfers: Transfers,
    /// Places of manifests that are looked up, until it is known how large they are.
    pub reads: Pool,
    /// Places of lists of tags and referrers, until they are made.
    pub lists: Pool,
    /// Places of merges.
    pub merges: Pool,
    /// Places of control calls that work.
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
    /// Places for so many `requests` at once, and patience with silent clients; counted in `counts`.
    pub fn new(requests: usize, stall: Duration, counts: &metrics::Admission) -> Self {
        let lane = |most, counts: &metrics::Waiting| Lane::counted(most, counts.clone());
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

    /// From now on so many requests are worked on, and so many transfers under way, at once.
    pub fn resize(&self, requests: usize) {
        self.requests.resize(requests);
        self.transfers.places().resize(requests);
    }

    /// From now on clients may be silent for so long.
    pub fn set_stall(&self, stall: Duration) {
        let ms = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
        self.stall.store(ms, Ordering::Relaxed);
    }

    /// Longest silence of a client.
    pub fn stall(&self) -> Duration {
        Duration::from_millis(self.stall.load(Ordering::Relaxed))
    }

    /// Looks after clients that do not read, as long as it is polled; ends never.
    pub async fn watch(&self) {
        self.responses.watch(|| self.stall()).await;
    }
}

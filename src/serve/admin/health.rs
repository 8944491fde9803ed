//! Daemon health: lifecycle phase and store reachability.

use std::{
    fmt,
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use crate::{metrics, serve::pushes_blocked::PushesBlocked, store::ErrorKind};

/// A refused push is no longer relevant after this long.
const REFUSED: Duration = Duration::from_mins(10);

/// The daemon's lifecycle phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does not accept requests yet.
    Starting,
    /// It accepts requests.
    Ready,
    /// It is shutting down: active requests and the queue are finished first.
    Draining,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        })
    }
}

/// A store that is unreachable.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    kind: ErrorKind,
    since: Instant,
}

/// The last known state of one store.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    trouble: Option<Trouble>,
}

/// What probes report. Setting and reading it never wait for a store.
#[derive(Debug)]
pub struct Health {
    phase: Mutex<Phase>,
    was_ready: AtomicBool,
    stores: Mutex<Vec<Seen>>,
    /// Why and when a push was refused, if the last one was.
    refused: Mutex<Option<(PushesBlocked, Instant)>>,
    set_aside: OnceLock<SetAside>,
    started: Instant,
    shown: metrics::Phase,
}

/// Counts acknowledged data that can no longer be sent.
struct SetAside(Box<dyn Fn() -> u64 + Send + Sync>);

impl fmt::Debug for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetAside({})", (self.0)())
    }
}

/// Reports the health of one store.
#[derive(Debug, Clone)]
pub struct StoreHealth {
    health: Arc<Health>,
    at: usize,
}

impl Health {
    /// A daemon that is starting; `shown` mirrors its phase.
    pub fn new(shown: metrics::Phase) -> Arc<Self> {
        Arc::new(Self {
            phase: Mutex::new(Phase::Starting),
            was_ready: AtomicBool::new(false),
            stores: Mutex::default(),
            refused: Mutex::default(),
            set_aside: OnceLock::new(),
            started: Instant::now(),
            shown,
        })
    }

    /// Enters the next phase.
    pub fn set(&self, phase: Phase) {
        *lock(&self.phase) = phase;
        self.was_ready.fetch_or(phase == Phase::Ready, Relaxed);
        self.shown.ready.set((phase == Phase::Ready).into());
        self.shown.draining.set((phase == Phase::Draining).into());
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    /// Whether it was ever ready.
    pub fn was_ready(&self) -> bool {
        self.was_ready.load(Relaxed)
    }

    /// How long the process has been running.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a store, under its public name (`local`, `remote`); it counts as reachable until reported otherwise.
    pub fn store(self: &Arc<Self>, name: &str) -> StoreHealth {
        let mut stores = lock(&self.stores);
        stores.push(Seen {
            name: name.to_owned(),
            trouble: None,
        });
        StoreHealth {
            health: self.clone(),
            at: stores.len() - 1,
        }
    }

    /// Records the result of a push: refused, or accepted.
    pub fn pushed(&self, refused: Option<PushesBlocked>) {
        let now = refused.map(|why| (why, Instant::now()));
        let was = std::mem::replace(&mut *lock(&self.refused), now);
        match (was, refused) {
            (was, Some(why)) if was.is_none_or(|(before, _)| before != why) => {
                tracing::warn!(why = why.words(), "Pushes are refused");
            }
            (Some(_), None) => tracing::info!("Pushes are accepted again"),
            _ => {}
        }
    }

    /// Shows what `count` reports as set aside; only the first call has an effect. `count` must be fast.
    pub fn show_set_aside(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        // A daemon has one queue.
        let _ = self.set_aside.set(SetAside(Box::new(count)));
    }

    /// Why the last push was refused, if that was recent.
    fn refused(&self) -> Option<PushesBlocked> {
        let last = lock(&self.refused).filter(|(_, at)| at.elapsed() < REFUSED);
        last.map(|(why, _)| why)
    }

    /// Updates the gauge that shows whether anything is wrong.
    pub(super) fn show(&self) {
        let any = lock(&self.stores).iter().any(|seen| seen.trouble.is_some());
        let degraded = any || self.refused().is_some();
        self.shown.degraded.set(degraded.into());
    }

    /// The status of a ready daemon, without authentication: `ok`, or `degraded` with a line for each unreachable store,
    /// without the reason, and one while pushes are refused; then a line while anything is set aside.
    pub(super) fn said(&self) -> String {
        let mut away = String::new();
        for (name, trouble) in self.stores() {
            if trouble.is_some() {
                let _ = writeln!(away, "the {name} store is not ready");
            }
        }
        if let Some(why) = self.refused() {
            let _ = writeln!(away, "pushes are refused: {}", why.words());
        }
        let mut said = if away.is_empty() {
            "ok\n".to_owned()
        } else {
            format!("degraded, serving what is available\n{away}")
        };
        // Not an outage: it has already happened, and has its own alert.
        if let Some(n @ 1..) = self.set_aside.get().map(|aside| (aside.0)()) {
            let _ = writeln!(
                said,
                "{n} acknowledged entries cannot be uploaded and were set aside: see the log"
            );
        }
        said
    }

    /// The stores, and the problem of each.
    pub(super) fn stores(&self) -> Vec<(String, Option<String>)> {
        let stores = lock(&self.stores);
        let shown = stores.iter().map(|seen| {
            let trouble = seen.trouble.map(|trouble| {
                let since = trouble.since.elapsed().as_secs();
                format!("{} for {since}s", describe(trouble.kind))
            });
            (seen.name.clone(), trouble)
        });
        shown.collect()
    }
}

impl StoreHealth {
    /// The store answers.
    pub fn reachable(&self) {
        self.see(None, "");
    }

    /// The store is unreachable or unusable; the time at which that began is kept while it lasts. `why` is logged.
    pub fn away(&self, kind: ErrorKind, why: &str) {
        self.see(Some(kind), why);
    }

    fn see(&self, now: Option<ErrorKind>, why: &str) {
        let mut stores = lock(&self.health.stores);
        let seen = &mut stores[self.at];
        let (was, name) = (seen.trouble, seen.name.clone());
        seen.trouble = now.map(|kind| Trouble {
            kind,
            since: was.map_or_else(Instant::now, |was| was.since),
        });
        drop(stores);
        self.health.show();
        match (was, now) {
            (None, Some(kind)) => {
                tracing::warn!(
                    store = name,
                    kind = describe(kind),
                    error = why,
                    "Store is unreachable"
                );
            }
            (Some(was), None) => {
                let away_ms = was.since.elapsed().as_millis() as u64;
                tracing::info!(store = name, away_ms, "Store is reachable again");
            }
            _ => {}
        }
    }
}

/// A description for unprivileged callers: names of hosts and folders are only logged.
fn describe(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NoSuchStore => "does not exist",
        ErrorKind::Denied => "refuses access",
        ErrorKind::Unauthenticated => "does not accept the credentials",
        ErrorKind::Throttled => "is throttling requests",
        ErrorKind::Timeout => "does not answer",
        ErrorKind::Unavailable => "cannot be reached",
        ErrorKind::Full => "is full",
        ErrorKind::Io => "has a disk error",
        ErrorKind::Corrupt | ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Invalid => {
            "sends invalid responses"
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while the lock is held.
    of.lock()
}

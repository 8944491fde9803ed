//! How the daemon is: where in its life, and which of its stores can be reached.

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

use crate::{metrics, serve::refused::Refused, store::ErrorKind};

/// A push that was refused says nothing of now after this long.
const REFUSED: Duration = Duration::from_mins(10);

/// Where in its life the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It takes no requests yet.
    Starting,
    /// It takes requests.
    Ready,
    /// It ends: requests under way and the queue first.
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

/// A store that cannot be reached.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    kind: ErrorKind,
    since: Instant,
}

/// One store, as it was last seen.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    trouble: Option<Trouble>,
}

/// What probes are told. Setting and asking never wait for a store.
#[derive(Debug)]
pub struct Health {
    phase: Mutex<Phase>,
    was_ready: AtomicBool,
    stores: Mutex<Vec<Seen>>,
    /// Why and when a push was refused, if that was the last one's end.
    refused: Mutex<Option<(Refused, Instant)>>,
    set_aside: OnceLock<SetAside>,
    started: Instant,
    shown: metrics::Phase,
}

/// Counts what was acknowledged and cannot be sent any more.
struct SetAside(Box<dyn Fn() -> u64 + Send + Sync>);

impl fmt::Debug for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetAside({})", (self.0)())
    }
}

/// Tells the health of one store.
#[derive(Debug, Clone)]
pub struct StoreHealth {
    health: Arc<Health>,
    at: usize,
}

impl Health {
    /// A daemon that is starting; `shown` follows what is set here.
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

    /// Goes on to the next part of life.
    pub fn set(&self, phase: Phase) {
        *lock(&self.phase) = phase;
        self.was_ready.fetch_or(phase == Phase::Ready, Relaxed);
        self.shown.ready.set((phase == Phase::Ready).into());
        self.shown.draining.set((phase == Phase::Draining).into());
    }

    /// Where in its life it is.
    pub fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    /// Whether it was ever ready.
    pub fn was_ready(&self) -> bool {
        self.was_ready.load(Relaxed)
    }

    /// How long the process has lived.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a store, by what anybody may know of it (`local`, `remote`); it counts as reachable until somebody says otherwise.
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

    /// Notes how a push ended: refused, or taken.
    pub fn pushed(&self, refused: Option<Refused>) {
        let now = refused.map(|why| (why, Instant::now()));
        let was = std::mem::replace(&mut *lock(&self.refused), now);
        match (was, refused) {
            (was, Some(why)) if was.is_none_or(|(before, _)| before != why) => {
                tracing::warn!(why = why.words(), "Pushes are refused");
            }
            (Some(_), None) => tracing::info!("Pushes are taken again"),
            _ => {}
        }
    }

    /// Shows what `count` says was set aside; the first call counts. It must be quick.
    pub fn show_set_aside(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        // A daemon has one queue.
        let _ = self.set_aside.set(SetAside(Box::new(count)));
    }

    /// Why the last push was refused, if it was, a short while ago.
    fn refused(&self) -> Option<Refused> {
        let last = lock(&self.refused).filter(|(_, at)| at.elapsed() < REFUSED);
        last.map(|(why, _)| why)
    }

    /// Brings the gauge up to date that says whether anything is wrong.
    pub(super) fn show(&self) {
        let any = lock(&self.stores).iter().any(|seen| seen.trouble.is_some());
        let degraded = any || self.refused().is_some();
        self.shown.degraded.set(degraded.into());
    }

    /// What a ready daemon says to anybody: `ok`, or `degraded` with a line for each store that is unreachable, without the reason, and
    /// one while pushes are refused; then a line while anything is set aside.
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
            format!("degraded, serving what is at hand\n{away}")
        };
        // No outage: it is over, and has an alert of its own.
        if let Some(n @ 1..) = self.set_aside.get().map(|aside| (aside.0)()) {
            let _ = writeln!(
                said,
                "{n} of what was acknowledged cannot be sent and was set aside: see the log"
            );
        }
        said
    }

    /// The stores, and what is wrong with each.
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
    /// It answers.
    pub fn reachable(&self) {
        self.see(None, "");
    }

    /// It cannot be reached, or not used; since when is kept while that lasts. `why` goes to the log.
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
                tracing::info!(store = name, away_ms, "Store is back");
            }
            _ => {}
        }
    }
}

/// In words for whoever may not see more: names of hosts and folders stay in the log.
fn describe(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NoSuchStore => "does not exist",
        ErrorKind::Denied => "refuses access",
        ErrorKind::Unauthenticated => "does not accept the credentials",
        ErrorKind::Throttled => "asks to slow down",
        ErrorKind::Timeout => "does not answer",
        ErrorKind::Unavailable => "cannot be reached",
        ErrorKind::Full => "has no room",
        ErrorKind::Io => "has trouble with its disk",
        ErrorKind::Corrupt | ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Invalid => {
            "answers nonsense"
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one is held.
    of.lock()
}

//! Observability of the daemon: probes, metrics, traces.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    fs::Dir,
    metrics::Metrics,
    ops::cache_tags::CacheTags,
    serve::{
        admin::{self, Admin, Caches, Health, Stores},
        observe::Observer,
    },
    store::{RepoStore, Store, ingest::Uploads, tiered::Backlog, wrap::counters::Tier},
    task::{self, Task},
};

/// Interval between checks whether a store is reachable.
const ASK: Duration = Duration::from_secs(10);

/// Everything that is shown about the daemon.
#[derive(Debug, Clone)]
pub struct Observability {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The lifecycle phase, and the reachability of stores.
    pub health: Arc<Health>,
}

impl Observability {
    /// The state of a daemon that is starting.
    pub fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let health = Health::new(metrics.phase.clone());
        Self { metrics, health }
    }

    /// Observes the requests of all doors.
    pub fn observer(&self) -> Observer {
        Observer::new(self.metrics.http.clone())
    }

    /// Shows the counts of a store, and of a local cache directory.
    pub fn stores(&self, store: &Store) {
        let stores = Stores::new(store.facts().metrics.clone());
        self.metrics.add(Box::new(stores));
    }

    /// Shows statistics of BuildKit caches.
    pub fn caches(&self, tags: Arc<CacheTags>) {
        self.metrics.add(Box::new(Caches::new(tags)));
    }

    /// The admin door; at each scrape it reads `uploads`, the free space at `dir`, and the other given values.
    pub fn admin(
        &self,
        uploads: Arc<Uploads>,
        dir: &Path,
        more: Vec<admin::Refresh>,
        is_alone: bool,
    ) -> Arc<Admin> {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let open = move |metrics: &Metrics| {
            metrics.uploads.open.set(gauge(uploads.count() as u64));
        };
        let mut refresh: Vec<admin::Refresh> = vec![Box::new(open)];
        refresh.extend(more);
        if let Ok(dir) = Dir::open(dir) {
            refresh.push(Box::new(move |metrics| {
                if let Ok(Some(bytes)) = dir.free_bytes() {
                    metrics.disk.free.set(gauge(bytes));
                }
            }));
        }
        Arc::new(Admin::new(
            self.health.clone(),
            self.metrics.clone(),
            refresh,
            is_alone,
        ))
    }

    /// Periodically checks whether a store is reachable, as long as the task lives. For a store behind a local cache directory,
    /// that reports it. `folder` is the store's own, or its local cache directory: whether it is writable is shown too.
    pub fn watch(
        &self,
        store: Arc<dyn RepoStore>,
        tier: Tier,
        backlog: Option<Arc<dyn Backlog>>,
        folder: Option<PathBuf>,
    ) -> Task<()> {
        let health = self.health.store(tier.as_str());
        let Some(backlog) = backlog else {
            return task::spawn("watch store", admin::watch(store, folder, health, ASK));
        };
        let near = folder.map(|folder| {
            let health = self.health.store(Tier::Local.as_str());
            admin::watch_folder(folder, health, ASK)
        });
        task::spawn("watch store", async move {
            let near = async {
                if let Some(near) = near {
                    near.await;
                }
            };
            tokio::join!(admin::follow(backlog, health), near);
        })
    }
}

impl Default for Observability {
    fn default() -> Self {
        Self::new()
    }
}

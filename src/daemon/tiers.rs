//! The store behind the doors: a single one, or a local cache directory in front of a remote one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;

use super::error::{Error, Result};
use crate::{
    config::daemon::Config,
    digest::Digest,
    fs,
    metrics::Metrics,
    ops::cache_tags::{CacheTags, MergeCaches},
    serve::admin::Refresh,
    store::{
        self, Store,
        ingest::Evict,
        open::{Options, Repositories, StoreUrl},
        tiered::{self, Backlog, Numbers, Room, Tiered},
    },
    task,
};

/// Maximum time for retrying a request to a remote behind a local cache directory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file, in the state folder, that records which blobs on disk were hashed.
const VETTED: &str = "vetted";

/// The stores behind the doors.
pub(super) struct Tiers {
    /// The store that the doors use.
    pub(super) store: Store,
    /// Options for opening similar stores.
    pub(super) options: Options,
    /// Data that the remote does not have yet; `None` for a single store.
    pub(super) backlog: Option<Arc<dyn Backlog>>,
    /// The same repositories for requests that only read; `None` for a single store.
    pub(super) readers: Option<Arc<dyn Repositories>>,
    /// Called when an upload finds the disk of the local cache directory full.
    pub(super) evict: Option<Box<Evict>>,
}

/// Opens the store described by `config`; persistent data is kept in `state`.
pub(super) async fn open(config: &Config, state: &Path, caches: Arc<CacheTags>) -> Result<Tiers> {
    let url = store_url(config)?;
    let options = options(config, &url);
    let Some(front) = &config.front else {
        // Boxed: AWS's configuration creates a future of many kilobytes.
        let alone = Options {
            vetted: Some(state.join(VETTED)),
            ..options.clone()
        };
        let store = Box::pin(store::open::open(&url, &alone)).await?;
        return Ok(Tiers {
            store,
            options,
            backlog: None,
            readers: None,
            evict: None,
        });
    };
    let remote = Options {
        retry_for: options.retry_for.min(PATIENCE),
        ..options.clone()
    };
    let near = Options {
        verified: false,
        beside_doors: false,
        vetted: Some(state.join(VETTED)),
        ..options.clone()
    };
    let remote = Box::pin(store::open::open(&url, &remote)).await?;
    let near = Box::pin(store::open::open(&StoreUrl::Disk(front.clone()), &near)).await?;
    let mut settings = tiered::Settings::new(config.mode, state.join("queue"));
    settings.room.max_bytes = config.front_max_size;
    settings.room = room_at(front.clone(), settings.room).await?;
    let moved = Arc::new(MergeCaches(caches));
    let tiered = Arc::new(Tiered::open(near, remote, settings, moved).await?);
    Ok(Tiers {
        backlog: Some(tiered.backlog()),
        readers: Some(tiered.hasty()),
        evict: Some(tiered.evict()),
        store: tiered.store(),
        options,
    })
}

/// The URL of the store, if a daemon supports it.
pub(super) fn store_url(config: &Config) -> Result<StoreUrl> {
    let url: StoreUrl = config.store.0.parse()?;
    match url {
        StoreUrl::Disk(_) | StoreUrl::Layout(_) | StoreUrl::S3(_) | StoreUrl::Registry(_) => {}
        StoreUrl::Daemon(_) => {
            return Err(Error::usage(format!(
                "{url} cannot stand behind a daemon: it is one itself, and keeps its records to itself ({})",
                config.store.1
            ))
            .hint("expected disk:PATH, oci-layout:PATH, s3://BUCKET/PREFIX or oci://HOST/REPOSITORY"));
        }
    }
    if config.front.is_some() && matches!(url, StoreUrl::Disk(_) | StoreUrl::Layout(_)) {
        return Err(
            Error::usage(format!("a folder in front of {url} gains nothing")).hint(
                "leave out `front`, or set `store` to s3://BUCKET/PREFIX or oci://HOST/REPOSITORY",
            ),
        );
    }
    Ok(url)
}

/// The size limit of a local cache directory, with a warning if its file system is too small for it.
async fn room_at(front: PathBuf, room: Room) -> Result<Room> {
    let looked = task::blocking(move || fs::Dir::open(front)?.total_bytes()).await;
    let total = looked.map_err(|e| Error::from(store::Error::io("look for room", e)))?;
    // Some file systems do not report it.
    if total == 0 {
        return Ok(room);
    }
    let there = room.on(total);
    if there.max_bytes < room.max_bytes {
        tracing::warn!(
            front_max_size = room.max_bytes,
            total,
            left_free = there.min_free_bytes,
            "`front_max_size` exceeds the size of its file system, so blobs are evicted earlier"
        );
    }
    Ok(there)
}

/// Options for opening the store.
fn options(config: &Config, url: &StoreUrl) -> Options {
    Options {
        // Otherwise every user of this machine could read what grants protect.
        private: true,
        concurrency: config.concurrency,
        // Blobs on our own disk are hashed before they are reported to exist.
        verified: !matches!(url, StoreUrl::Disk(_) | StoreUrl::Layout(_)),
        beside_doors: true,
        ..config.remote.clone()
    }
}

/// Checks once whether the store in `config` is reachable, without changing anything. `Ok(false)` for a folder that does not
/// exist yet.
///
/// # Errors
/// Why it is unreachable.
pub(super) async fn reach(config: &Config) -> Result<bool> {
    let url = store_url(config)?;
    if let StoreUrl::Disk(folder) | StoreUrl::Layout(folder) = &url {
        // Opening it would create it, and a daemon may be using it.
        let folder = folder.clone();
        return Ok(task::blocking(move || folder.is_dir()).await);
    }
    let options = Options {
        retry_for: Duration::ZERO,
        ..options(config, &url)
    };
    let asked = async {
        let opened = Box::pin(store::open::open(&url, &options)).await?;
        // The digest of no bytes: it does not matter whether it is stored.
        opened.stat(&Digest::sha256_of(b"")).await
    };
    let Ok(answered) = timeout(PATIENCE, asked).await else {
        let why = format!("no answer from {url} within {}s", PATIENCE.as_secs());
        return Err(Error::failed(why));
    };
    answered.map(|_| true).map_err(Error::from)
}

/// Shows the tiers in the daemon's metrics.
pub(super) fn refresh(backlog: Arc<dyn Backlog>) -> Refresh {
    let told = parking_lot::Mutex::new(Numbers::default());
    Box::new(move |metrics: &Metrics| {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let status = backlog.status();
        metrics.queue.blobs.set(gauge(status.blobs));
        metrics.queue.tags.set(gauge(status.updates));
        metrics.queue.bytes.set(gauge(status.bytes));
        metrics.queue.aside.set(gauge(status.set_aside));
        let oldest = status.oldest;
        metrics
            .queue
            .oldest
            .set(oldest.and_then(|age| std::time::SystemTime::now().checked_sub(age)));
        metrics.disk.used.set(gauge(status.front_bytes));
        metrics.disk.limit.set(gauge(status.front_max_bytes));
        let now = status.numbers;
        let before = {
            let mut told = told.lock();
            std::mem::replace(&mut *told, now)
        };
        let queue = &metrics.queue;
        for (counter, now, before) in [
            (
                &queue.sent,
                now.sent_blobs + now.replayed,
                before.sent_blobs + before.replayed,
            ),
            (&queue.merged, now.merged, before.merged),
            (&queue.left, now.left_alone, before.left_alone),
            (&queue.failed, now.send_errors, before.send_errors),
            (
                &metrics.disk.evicted,
                now.evicted_blobs,
                before.evicted_blobs,
            ),
            (
                &metrics.disk.evicted_bytes,
                now.evicted_bytes,
                before.evicted_bytes,
            ),
        ] {
            counter.inc_by(now.saturating_sub(before));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::build::tests::config;

    #[test]
    fn every_store_but_a_daemon_can_stand_behind_the_doors_and_what_is_far_behind_a_folder() {
        for (store, alone, behind) in [
            ("disk:/a", true, false),
            ("oci-layout:/a", true, false),
            ("s3://bucket", true, true),
            ("oci://h/r", true, true),
            ("cachectld:/run/x.sock", false, false),
            ("nonsense", false, false),
        ] {
            let pairs = [("store", store), ("front", "/f")];
            assert_eq!(store_url(&config(&pairs[..1])).is_ok(), alone, "{store}");
            assert_eq!(store_url(&config(&pairs)).is_ok(), behind, "{store}");
        }
    }
}

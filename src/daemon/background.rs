//! Periodic background work, with a time limit and log messages.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument as _;

use super::{current_config::CurrentConfig, error::with_causes};
use crate::{
    metrics::Counter,
    store::{RepoStore, ingest::Uploads},
    task::{self, Task},
};

/// Maximum deviation of a pause from its period, as a fraction: daemons that were started together do not hit the store at the
/// same time.
const JITTER: f64 = 0.2;

/// Schedule of a kind of work.
pub struct Every {
    /// Its name in the log.
    pub name: &'static str,
    /// Time from one start to the next; queried each time.
    pub period: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Maximum duration; after that it is aborted until the next time.
    pub limit: Duration,
}

/// Result of the work: the number of items processed.
pub type Done = Result<u64, Box<dyn StdError + Send + Sync>>;

/// Runs `work` repeatedly, never twice at once, until the task is dropped. The first run comes after a part of the period, so
/// that a frequently restarted daemon gets to it too.
pub fn start<F>(every: Every, work: impl Fn() -> F + Send + Sync + 'static) -> Task<()>
where
    F: Future<Output = Done> + Send + 'static,
{
    let span = tracing::info_span!("background", work = every.name);
    let name = every.name;
    let work = async move {
        sleep((every.period)().mul_f64(fastrand::f64())).await;
        loop {
            let began = Instant::now();
            run(&every, work()).await;
            let jitter = 1.0 + JITTER * (2.0 * fastrand::f64() - 1.0);
            let pause = (every.period)().mul_f64(jitter);
            sleep(pause.saturating_sub(began.elapsed())).await;
        }
    };
    task::spawn(name, work.instrument(span))
}

async fn run(every: &Every, work: impl Future<Output = Done>) {
    let began = Instant::now();
    let ended = timeout(every.limit, work).await;
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match ended {
        Ok(Ok(0)) => tracing::debug!(elapsed_ms, "Nothing to do"),
        Ok(Ok(count)) => tracing::info!(count, elapsed_ms, "Done"),
        Ok(Err(e)) => tracing::warn!(error = with_causes(&*e), elapsed_ms, "Failed"),
        Err(_) => tracing::warn!(elapsed_ms, "Aborted: it took too long"),
    }
}

/// Removes uploads that received nothing for `upload_ttl`, and counts them.
pub(super) fn expire_uploads(
    live: CurrentConfig,
    uploads: Arc<Uploads>,
    store: Arc<dyn RepoStore>,
    expired: Counter,
) -> Task<()> {
    let ttl = live.clone();
    let every = Every {
        name: "expire uploads",
        period: Box::new(move || {
            let part = ttl.get().upload_ttl / 24;
            part.clamp(Duration::from_secs(30), Duration::from_hours(1))
        }),
        limit: Duration::from_mins(10),
    };
    start(every, move || {
        let (uploads, store) = (uploads.clone(), store.clone());
        let (ttl, expired) = (live.get().upload_ttl, expired.clone());
        async move {
            let now = store.clock().await?;
            let count = uploads.expire(ttl, now).await?;
            expired.inc_by(count);
            Ok(count)
        }
    })
}

/// Sends chunks that arrived while the store was unreachable, once it is back.
pub(super) fn send_late_chunks(uploads: Arc<Uploads>) -> Task<()> {
    let every = Every {
        name: "send late chunks",
        period: Box::new(|| Duration::from_secs(30)),
        limit: Duration::from_mins(10),
    };
    start(every, move || {
        let uploads = uploads.clone();
        async move { Ok(uploads.send_late().await?) }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn every(limit: Duration) -> Every {
        Every {
            name: "test",
            period: Box::new(|| Duration::from_secs(100)),
            limit,
        }
    }

    async fn runs_within(seconds: u64, every: Every, lasting: Duration) -> u32 {
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let _task = start(every, move || {
            let counted = counted.clone();
            async move {
                counted.fetch_add(1, Ordering::Relaxed);
                sleep(lasting).await;
                Err("no luck".into())
            }
        });
        sleep(Duration::from_secs(seconds)).await;
        count.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_fails_is_done_again_at_every_period() {
        let count = runs_within(1000, every(Duration::from_secs(9)), Duration::ZERO).await;
        // Between 80 and 120 s apart.
        assert!((8..=13).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_given_up_and_never_runs_twice_at_once() {
        let hangs = Duration::from_hours(9);
        let count = runs_within(1000, every(Duration::from_secs(250)), hangs).await;
        assert!((3..=5).contains(&count), "{count}");
    }
}

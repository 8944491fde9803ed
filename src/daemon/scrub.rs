//! Periodic hashing of blobs on this machine's disk, whose results are saved.

use std::time::Duration;

use parking_lot::Mutex;

use super::{background::Every, current_config::CurrentConfig};
use crate::{
    daemon::background,
    metrics::Metrics,
    serve::admin::Refresh,
    store::scrub::{Findings, Scrubber},
    task::Task,
};

/// Time between two rounds, after each of which the results are saved for the next process.
const EVERY: Duration = Duration::from_mins(10);

/// Runs rounds as long as the task lives.
pub(super) fn start(live: CurrentConfig, scrubber: Scrubber) -> Task<()> {
    let every = Every {
        name: "scrub",
        period: Box::new(|| EVERY),
        limit: EVERY,
    };
    background::start(every, move || {
        let (scrubber, age) = (scrubber.clone(), live.get().scrub_every);
        async move {
            // A round that takes too long is aborted before its end.
            scrubber.save().await?;
            if age.is_zero() {
                return Ok(0);
            }
            let count = scrubber.scrub(age).await?;
            scrubber.save().await?;
            Ok(count)
        }
    })
}

/// Shows the findings in the daemon's metrics.
pub(super) fn refresh(scrubber: Scrubber) -> Refresh {
    let told = Mutex::new(Findings::default());
    Box::new(move |metrics: &Metrics| {
        let now = scrubber.findings();
        let mut told = told.lock();
        let before = std::mem::replace(&mut *told, now);
        let disk = &metrics.disk;
        disk.hashed_bytes.inc_by(now.bytes - before.bytes);
        disk.damaged.inc_by(now.damaged - before.damaged);
    })
}

//! Blobs on this machine's disk are hashed again from time to time, and what is known of them is kept.

use std::time::Duration;

use parking_lot::Mutex;

use super::{background::Every, live::Live};
use crate::{
    daemon::background,
    metrics::Metrics,
    serve::admin::Refresh,
    store::scrub::{Findings, Scrubber},
    task::Task,
};

/// Time between two rounds: what a killed process knew at its last one, the next one knows.
const EVERY: Duration = Duration::from_mins(10);

/// Goes round as long as the task lives.
pub(super) fn start(live: Live, scrubber: Scrubber) -> Task<()> {
    let every = Every {
        name: "scrub",
        period: Box::new(|| EVERY),
        limit: EVERY,
    };
    background::start(every, move || {
        let (scrubber, age) = (scrubber.clone(), live.get().scrub_every);
        async move {
            // A round that takes too long is given up before its end.
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

/// Shows what was found in the daemon's numbers.
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

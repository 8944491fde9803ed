//! The marks of prunes, kept up to date: [`marked`] explains why every daemon has to know them.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    ops::prune,
    store::{Store, marked},
    task::{self, Task},
};

/// Maximum time that startup waits for them: an unreachable remote must not keep the doors closed.
const AT_START: Duration = Duration::from_secs(1);
/// Maximum time for reading them later.
const LATER: Duration = Duration::from_mins(2);
/// If they could not be read, the next attempt comes sooner by this factor.
const SOONER: u32 = 10;

/// Reads the marks, then repeats that as long as the task lives.
pub(super) async fn keep_reading(store: Store) -> Task<()> {
    let mut known = read(&store, AT_START).await;
    let again = async move {
        loop {
            sleep(marked::EVERY / if known { 1 } else { SOONER }).await;
            known = read(&store, LATER).await;
        }
    };
    task::spawn("read marks", again)
}

async fn read(store: &Store, limit: Duration) -> bool {
    match timeout(limit, prune::read_marked(store)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "Could not read prune marks");
            false
        }
        Err(_) => {
            tracing::warn!("Could not read prune marks: the store takes too long");
            false
        }
    }
}

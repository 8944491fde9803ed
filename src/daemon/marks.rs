//! What prunes have marked, kept known: [`marked`] says why every daemon has to know it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    ops::prune,
    store::{Store, marked},
    task::{self, Task},
};

/// Longest time that a start waits for them: a remote that is away does not keep the doors shut.
const AT_START: Duration = Duration::from_secs(1);
/// Longest time for reading them later.
const LATER: Duration = Duration::from_mins(2);
/// So much sooner they are asked for again where they could not be read.
const SOONER: u32 = 10;

/// Reads the marks, then again and again as long as the task lives.
pub(super) async fn keep_known(store: Store) -> Task<()> {
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
            tracing::warn!(%error, "Marks not read");
            false
        }
        Err(_) => {
            tracing::warn!("Marks not read: the store takes too long");
            false
        }
    }
}

//! Watches stores in the background, so that no probe has to ask one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::health::StoreHealth;
use crate::{
    digest::Digest,
    fs,
    store::{
        ErrorKind, RepoStore,
        error::{Error, Result},
        tiered::Backlog,
    },
    task,
};

/// Maximum wait for a store to answer whether it is reachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks every `pause` whether a store is reachable, and whether `folder` is writable; never returns.
pub async fn watch(
    store: Arc<dyn RepoStore>,
    folder: Option<PathBuf>,
    health: StoreHealth,
    pause: Duration,
) {
    // The digest of no bytes: it does not matter whether it is stored.
    let nothing = Digest::sha256_of(b"");
    let mut is_explained = false;
    loop {
        let mut asked = store.stat(&nothing);
        let soon = tokio::time::timeout(PATIENCE, &mut asked).await;
        let answer = if let Ok(answer) = soon {
            answer
        } else {
            let why = format!("no answer within {}s", PATIENCE.as_secs());
            health.away(ErrorKind::Timeout, &why);
            // It is retried below; its result is reported when it ends.
            let late = asked.await;
            if let (Err(error), false) = (&late, is_explained) {
                tracing::warn!(%error, "The store's late answer is an error");
                is_explained = true;
            }
            late
        };
        let answer = match (answer, &folder) {
            (Ok(_), Some(folder)) => may_write(folder.clone()).await,
            (answer, _) => answer.map(drop),
        };
        match answer {
            Ok(()) => {
                is_explained = false;
                health.reachable();
            }
            Err(error) => health.away(error.kind, &error.to_string()),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Checks every `pause` whether the local cache directory of a remote store is writable; never returns.
pub async fn watch_folder(folder: PathBuf, health: StoreHealth, pause: Duration) {
    loop {
        match may_write(folder.clone()).await {
            Ok(()) => health.reachable(),
            Err(error) => health.away(error.kind, &error.to_string()),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Reading continues to work on a file system that became read-only, as many do after an error.
async fn may_write(folder: PathBuf) -> Result<()> {
    let may = task::blocking(move || fs::may_write(&folder)).await;
    may.map_err(|e| Error::io("write", e))
}

/// Shows a remote store as its local cache directory sees it; never returns: both use the same probes.
pub async fn follow(backlog: Arc<dyn Backlog>, health: StoreHealth) {
    loop {
        let now = backlog.remote();
        match now.kind {
            None => health.reachable(),
            Some(kind) => health.away(kind, &now.why),
        }
        backlog.turned(!now.up).await;
    }
}

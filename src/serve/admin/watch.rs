//! Watches stores in the background, so that no probe asks one.

use std::{sync::Arc, time::Duration};

use super::health::StoreHealth;
use crate::{
    digest::Digest,
    store::{ErrorKind, Store, tiered::Backlog},
};

/// Longest wait for a store that is only asked whether it is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks a store every `pause` whether it is there, for ever.
pub async fn watch(store: Arc<dyn Store>, health: StoreHealth, pause: Duration) {
    // Of no bytes: whether it is there does not matter.
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
            // It is tried again below; what it was comes when that is over.
            let late = asked.await;
            if let (Err(error), false) = (&late, is_explained) {
                tracing::warn!(%error, "Why the store does not answer");
                is_explained = true;
            }
            late
        };
        match answer {
            Ok(_) => {
                is_explained = false;
                health.reachable();
            }
            Err(error) => health.away(error.kind, &error.to_string()),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Shows a remote store behind a folder as the folder finds it, for ever: both go by the same probes.
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

//! What an immediate prune needs of the doors that a daemon serves on its store: to shut them, and to know what they promised.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use crate::{
    digest::Digest,
    entry::Time,
    ops::Context,
    store::{self},
};

/// Longest wait for the clock of a file system to advance: some count whole seconds.
const TICK: Duration = Duration::from_secs(5);

/// Returns true for a blob that a client was told exists and may still reference.
pub type Promised = Box<dyn Fn(&Digest) -> bool + Send + Sync>;

/// The APIs that a daemon serves on its store.
#[async_trait]
pub trait Doors: Send + Sync {
    /// Holds new requests and waits until those working on the store have ended. Held requests continue when the guard is dropped.
    ///
    /// # Errors
    /// Names the request that does not end.
    async fn shut(&self) -> std::result::Result<Box<dyn Send>, String>;

    /// The blobs promised to clients so far.
    fn promised(&self) -> Promised;

    /// How long promises have been recorded, if clients may still rely on earlier ones because the daemon was restarted.
    fn noted_for(&self) -> Option<Duration>;

    /// Registers other work that writes to the store, so that [`Self::shut`] waits for it; `what` names it.
    async fn enter(&self, what: String) -> Box<dyn Send>;
}

/// For a process that serves nobody.
pub struct NoDoors;

#[async_trait]
impl Doors for NoDoors {
    async fn shut(&self) -> std::result::Result<Box<dyn Send>, String> {
        Ok(Box::new(()))
    }

    fn promised(&self) -> Promised {
        Box::new(|_| false)
    }

    fn noted_for(&self) -> Option<Duration> {
        None
    }

    async fn enter(&self, _: String) -> Box<dyn Send> {
        Box::new(())
    }
}

pub(super) async fn shut(doors: &dyn Doors) -> store::Result<Box<dyn Send>> {
    let shut = doors.shut().await;
    shut.map_err(|who| store::Error::conflict("prune", who))
}

/// Waits until the store's clock is past `then`: blobs renewed from then on are newer.
pub(super) async fn passed(ctx: &Context, then: Time) -> store::Result<()> {
    let later = async {
        while ctx.store.clock().await? <= then {
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    };
    timeout(TICK, later).await.unwrap_or_else(|_| {
        let why = "the clock of the store's file system does not advance";
        Err(store::Error::unsupported("prune", why))
    })
}

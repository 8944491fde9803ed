//! Requests that the front can also answer, if the remote is slow.

use tokio::{sync::oneshot, time::Instant};

use super::Core;
use crate::{
    store::{
        error::Result,
        wrap::counters::{answered, watched},
    },
    task,
};

/// Maximum number of requests that continue although nobody waits for them any more.
pub(super) const MAX_LEFT: usize = 64;

/// How long to wait for the remote if the front has an answer too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// [`super::health::PATIENCE`]: builds wait for names, and an older answer is good enough for them.
    Short,
    /// Until it is known to be unreachable: callers that delete based on the answer must not use an old one.
    Long,
}

impl Core {
    /// As [`Self::look`]; the answer of `front` counts if the remote does not give one in time, or is unreachable.
    pub(super) async fn look_or<T: Send + 'static>(
        &self,
        op: &'static str,
        patience: Patience,
        is_known: impl Future<Output = bool>,
        behind: impl Future<Output = Result<T>> + Send + 'static,
        front: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.look(op, patience, is_known, behind).await {
            Err(e) if e.kind.is_temporary() => front.await,
            answered => answered,
        }
    }

    /// Asks the remote. With short patience the request then continues in the background, so that its answer is stored, or the
    /// silence noticed, whatever happens to the caller. `is_known` then tells whether the front has an answer: if not, the caller
    /// keeps waiting for a remote that is only busy, since a miss costs more.
    ///
    /// # Errors
    /// Those of `behind`; a temporary one if there was no answer in time.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        op: &'static str,
        patience: Patience,
        is_known: impl Future<Output = bool>,
        behind: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if patience == Patience::Long || !self.health.is_up() {
            return behind.await;
        }
        let asked = Instant::now();
        let patience = async {
            self.health.hesitates(asked).await;
            if !is_known.await {
                self.health.is_doubted().await;
            }
        };
        let Ok(place) = self.looks.clone().try_acquire_owned() else {
            return tokio::select! {
                done = behind => done,
                () = patience => Err(self.health.silent(op)),
            };
        };
        let (tell, told) = oneshot::channel();
        let work = async move {
            let done = watched(behind).await;
            drop(place);
            // The caller may no longer be waiting.
            let _ = tell.send(done);
        };
        task::spawn("look", work).detach();
        tokio::select! {
            biased;
            told = told => match told {
                Ok((done, tier)) => {
                    tier.into_iter().for_each(answered);
                    done
                }
                // It ends without an answer only when the process ends.
                Err(_) => Err(self.health.silent(op)),
            },
            () = patience => Err(self.health.silent(op)),
        }
    }
}

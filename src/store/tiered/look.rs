//! Questions that the front can answer as well, if the remote is slow to.

use tokio::{sync::oneshot, time::Instant};

use super::Core;
use crate::{
    store::{
        error::Result,
        wrap::counters::{answered, watched},
    },
    task,
};

/// Most questions that go on though nobody waits for them any more.
pub(super) const MAX_LEFT: usize = 64;

/// How long the remote is waited for where the front has an answer too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// [`super::health::PATIENCE`]: builds wait for names, and an older answer serves them too.
    Short,
    /// Until it is known to be unreachable: who removes by what it finds must not go by an old answer.
    Long,
}

impl Core {
    /// Asks the remote. With short patience the question goes on by itself after that, so that its answer is kept, or its silence
    /// noticed, whatever becomes of the caller. `is_known` says then whether the front has an answer: if not, a remote that is only
    /// busy is waited for, since a miss costs more.
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
            // Nobody may wait any more.
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
                // It ends without a word only with the process.
                Err(_) => Err(self.health.silent(op)),
            },
            () = patience => Err(self.health.silent(op)),
        }
    }
}

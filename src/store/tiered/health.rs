//! Whether the remote answers.
//!
//! Trouble that outlasts the `Retrying` wrapper of the remote says that it is away. From then on nobody waits for it any
//! more: every question fails at once, until a probe is answered. Probes come after pauses that grow, with jitter.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    digest::Digest,
    store::{
        ByteStream, Store,
        error::{Error, ErrorKind, Result},
    },
};

/// The first pause before a probe, and after an outage that ended long ago.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause: how late a remote that is back is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a probe.
const PROBE: Duration = Duration::from_secs(10);
/// A remote that was up for less goes on where the pauses were.
const STEADY: Duration = Duration::from_mins(1);

/// The remote as it was found last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// Whether it answers.
    pub up: bool,
    /// For how long that has been so.
    pub since: Duration,
    /// Why it is away; empty while it is up.
    pub why: String,
    /// How often it went away since the start.
    pub outages: u64,
}

struct State {
    away: Option<String>,
    since: Instant,
    outages: u64,
}

/// What is known of the remote.
pub(super) struct Health {
    state: watch::Sender<State>,
    hurry: Notify,
    store: String,
}

impl Health {
    /// Begins with a remote that is up, until it proves otherwise. `store` names it in errors.
    pub(super) fn new(store: String) -> Self {
        let state = State {
            away: None,
            since: Instant::now(),
            outages: 0,
        };
        Self {
            state: watch::Sender::new(state),
            hurry: Notify::new(),
            store,
        }
    }

    /// What is known now.
    pub(super) fn now(&self) -> Reachable {
        let state = self.state.borrow();
        Reachable {
            up: state.away.is_none(),
            since: state.since.elapsed(),
            why: state.away.clone().unwrap_or_default(),
            outages: state.outages,
        }
    }

    #[cfg(test)]
    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().away.is_none()
    }

    /// Asks the remote, unless it is away.
    ///
    /// # Errors
    /// `Unavailable` at once while it is away; a temporary one says that it went away just now.
    pub(super) async fn ask<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outages = {
            let state = self.state.borrow();
            if state.away.is_some() {
                return Err(self.away(op));
            }
            state.outages
        };
        let done = work.await;
        if let Err(e) = &done {
            self.failed(e, outages);
        }
        done
    }

    /// What is asked for while the remote is away.
    pub(super) fn away(&self, op: &'static str) -> Error {
        let now = self.now();
        let message = format!(
            "the store behind has been away for {:.0}s ({})",
            now.since.as_secs_f64(),
            now.why
        );
        Error::new(ErrorKind::Unavailable, op, message).at(&self.store, "")
    }

    /// Watches a download: it may break off long after it began.
    pub(super) fn watched(self: &Arc<Self>, stream: ByteStream) -> ByteStream {
        let health = self.clone();
        let outages = self.state.borrow().outages;
        stream
            .inspect(move |piece| {
                if let Err(e) = piece {
                    health.failed(e, outages);
                }
            })
            .boxed()
    }

    /// `outages` is how often it had been away when the question was asked: an answer to an old one says nothing of now.
    fn failed(&self, e: &Error, outages: u64) {
        if !e.is_temporary() {
            return;
        }
        self.state.send_if_modified(|state| {
            if state.away.is_some() || state.outages != outages {
                return false;
            }
            tracing::warn!(store = %self.store, error = %e, "The store behind is away; what is here is served, and kept for it");
            state.away = Some(e.message.clone());
            state.since = Instant::now();
            state.outages += 1;
            true
        });
    }

    fn answered(&self) {
        self.state.send_if_modified(|state| {
            if state.away.take().is_none() {
                return false;
            }
            let away_s = state.since.elapsed().as_secs();
            tracing::info!(store = %self.store, away_s, "The store behind is back");
            state.since = Instant::now();
            true
        });
    }

    /// Waits until it is up.
    pub(super) async fn up(&self) {
        self.turned(true).await;
    }

    /// Waits until it is away.
    pub(super) async fn down(&self) {
        self.turned(false).await;
    }

    async fn turned(&self, up: bool) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = state.wait_for(|s| s.away.is_none() == up).await;
    }

    /// Probes at once.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Probes the remote whenever it is away; never ends.
    pub(super) async fn probe(&self, remote: Arc<dyn Store>) {
        // Whether this blob is there or not is all the same; that we are told is not.
        let digest = Digest::sha256_of(b"");
        let mut pause = FIRST_PAUSE;
        loop {
            let up = Instant::now();
            self.down().await;
            if up.elapsed() >= STEADY {
                pause = FIRST_PAUSE;
            }
            loop {
                let jittered = pause.mul_f64(0.5 + 0.5 * fastrand::f64());
                let hurried = self.hurry.notified();
                // Cut short by whoever cannot wait.
                let _ = timeout(jittered, hurried).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                match timeout(PROBE, remote.stat(&digest)).await {
                    Ok(Err(e)) if e.is_temporary() => {
                        tracing::debug!(error = %e, "The store behind is still away");
                        // A probe that fails at once must not be hurried into a loop.
                        sleep(Duration::from_millis(1)).await;
                    }
                    // A refusal is an answer.
                    Ok(_) => break,
                    Err(_) => tracing::debug!("The store behind is still away: no answer"),
                }
            }
            self.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    fn temporary() -> Error {
        Error::new(ErrorKind::Timeout, "get", "no answer")
    }

    async fn fail(health: &Health) {
        let failed = health.ask("get", async { Err::<(), _>(temporary()) });
        failed.await.unwrap_err();
    }

    #[tokio::test]
    async fn temporary_trouble_says_away_and_a_refusal_does_not() {
        let health = Health::new("s3:x".to_owned());
        let denied = async { Err::<(), _>(Error::new(ErrorKind::Denied, "get", "no")) };
        health.ask("get", denied).await.unwrap_err();
        assert!(health.is_up());
        fail(&health).await;
        let now = health.now();
        assert!(
            !now.up && now.outages == 1 && now.why == "no answer",
            "{now:?}"
        );
    }

    #[tokio::test]
    async fn nothing_is_asked_while_it_is_away() {
        let health = Health::new("s3:x".to_owned());
        fail(&health).await;
        let asked: Result<()> = health.ask("get", async { panic!("it was asked") }).await;
        let e = asked.unwrap_err();
        assert_eq!((e.kind, e.store.as_str()), (ErrorKind::Unavailable, "s3:x"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_answered_brings_it_back() {
        let health = Health::new(String::new());
        fail(&health).await;
        let probe = health.probe(Arc::new(Memory::new()));
        tokio::select! {
            () = health.up() => {}
            () = probe => {}
        }
        assert!(health.is_up());
    }

    #[tokio::test]
    async fn an_answer_from_before_the_last_outage_says_nothing_of_now() {
        let health = Health::new(String::new());
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        let old = health.ask("get", async {
            receive.await.unwrap();
            Err::<(), _>(temporary())
        });
        let rest = async {
            fail(&health).await;
            health.answered();
            send.send(()).unwrap();
        };
        let (old, ()) = tokio::join!(old, rest);
        old.unwrap_err();
        assert!(health.is_up());
    }
}

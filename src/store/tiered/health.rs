//! Reachability of the remote, determined in one place.
//!
//! One task probes the remote: periodically, as soon as any request has waited for [`PATIENCE`] without an answer, and when a
//! request failed that may be an isolated failure. Its verdict applies to all requests and does not depend on any client: a
//! remote that is silent for [`PROBE`] is unreachable, whatever the cause. From then on every request fails at once, until a
//! probe is answered; probes are repeated after growing pauses, with jitter.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    backoff::Backoff,
    digest::Digest,
    progress::span,
    store::{
        ByteStream, Records,
        error::{Error, ErrorKind, Result},
        keys::{self, Repo},
        record,
    },
};

/// How long a request may wait before the remote is probed.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Timeout of a probe while the remote is considered up.
const PROBE: Duration = Duration::from_secs(5);
/// The same while it is unreachable: it may be slow at first when it comes back.
const PROBE_AWAY: Duration = Duration::from_secs(10);
/// A remote that has not answered anything for this long is probed.
const IDLE: Duration = Duration::from_secs(10);
/// Pauses between probes; the longest is the maximum delay until a recovered remote is noticed.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// If a remote was up for less time, the pauses continue where they were.
const STEADY: Duration = Duration::from_mins(1);

/// The last known state of the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// Whether it answers.
    pub up: bool,
    /// For how long it has been in this state.
    pub since: Duration,
    /// Why it is unreachable, with its address and the cause; empty while it is up.
    pub why: String,
    /// The kind of error; `None` while it is up.
    pub kind: Option<ErrorKind>,
    /// How often it became unreachable since the start.
    pub outages: u64,
}

struct State {
    /// Why it is unreachable.
    away: Option<(ErrorKind, String)>,
    since: Instant,
    outages: u64,
    /// A request has waited too long, and the result of the probe is not known yet.
    doubted: bool,
    /// When it last answered anything.
    heard: Instant,
    /// A probe was answered since the start, so that the backlog may be sent.
    proven: bool,
    /// Pauses between probes while it was unreachable.
    pauses: u32,
    /// Probes that began, and that ended.
    begun: u64,
    ended: u64,
}

/// Tracks the state of the remote.
pub(super) struct Health {
    state: watch::Sender<State>,
    hurry: Notify,
    store: String,
}

impl Health {
    /// The remote is considered up at first; the first probe is sent at once. `store` names it in errors.
    pub(super) fn new(store: String) -> Self {
        let state = State {
            away: None,
            since: Instant::now(),
            outages: 0,
            doubted: false,
            heard: Instant::now(),
            proven: false,
            pauses: 0,
            begun: 0,
            ended: 0,
        };
        Self {
            state: watch::Sender::new(state),
            hurry: Notify::new(),
            store,
        }
    }

    /// The current state.
    pub(super) fn now(&self) -> Reachable {
        let state = self.state.borrow();
        Reachable {
            up: state.away.is_none(),
            since: state.since.elapsed(),
            why: state.away.clone().map(|(_, why)| why).unwrap_or_default(),
            kind: state.away.as_ref().map(|(kind, _)| *kind),
            outages: state.outages,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().away.is_none()
    }

    /// Sends a request with a small answer, unless the remote is unreachable; aborts it as soon as the remote is found to be
    /// unreachable.
    ///
    /// # Errors
    /// `Unavailable` at once while it is unreachable. A temporary error means that it just became unreachable; if only this
    /// request fails and others are answered, the error is marked `alone`.
    pub(super) async fn ask<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outages = self.outages(op)?;
        let done = tokio::select! {
            biased;
            done = work => done,
            () = self.lost() => return Err(self.away(op)),
        };
        self.judged(done, outages).await
    }

    /// Waits until the remote is unreachable, for callers that wait for something else from it: after a while a probe finds out.
    pub(super) async fn lost(&self) {
        let asked = Instant::now();
        if timeout(PATIENCE, self.down()).await.is_err() {
            self.doubt(asked);
            self.down().await;
        }
    }

    /// As [`Self::ask`], for long transfers, which are monitored for stalls separately.
    pub(super) async fn send<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outages = self.outages(op)?;
        self.judged(work.await, outages).await
    }

    /// How often it has been unreachable so far.
    ///
    /// # Errors
    /// While it is unreachable.
    fn outages(&self, op: &'static str) -> Result<u64> {
        let state = self.state.borrow();
        if state.away.is_none() {
            return Ok(state.outages);
        }
        drop(state);
        Err(self.away(op))
    }

    /// Updates the state from an answer. `outages` is how often the remote had been unreachable when the request was sent: an
    /// answer to an old request says nothing about the present.
    async fn judged<T>(&self, done: Result<T>, outages: u64) -> Result<T> {
        let e = match done {
            Err(e) if e.is_temporary() || e.kind == ErrorKind::Corrupt || is_refused(e.kind) => {
                e.at(&self.store, "")
            }
            answered => {
                self.heard();
                return answered.map_err(|e| e.at(&self.store, ""));
            }
        };
        // No connection, or too many requests: not specific to this request.
        if e.kind == ErrorKind::Throttled || (e.kind == ErrorKind::Unavailable && e.unheard) {
            self.failed(&e, outages);
            return Err(e);
        }
        let answers = self.still_answers().await;
        // If all requests are refused, that is an outage: local content is served until the credentials, or the bucket, are
        // corrected. Invalid bytes are damage, or a page from another server that answers in the store's place.
        if is_refused(e.kind) || e.kind == ErrorKind::Corrupt {
            return Err(if answers { e } else { self.away(e.op) });
        }
        if answers {
            tracing::warn!(error = %e, "The remote store fails this request but answers others");
            return Err(e.alone());
        }
        Err(e)
    }

    /// Waits until a request sent at `asked` has waited long enough, or further waiting is known to be useless.
    pub(super) async fn hesitates(&self, asked: Instant) {
        tokio::select! {
            () = sleep_until(asked + PATIENCE) => {}
            () = self.is_doubted() => {}
        }
    }

    async fn until(&self, check: impl FnMut(&State) -> bool) {
        // The sender is ours, so it cannot be gone.
        let _ = self.state.subscribe().wait_for(check).await;
    }

    /// Waits until requests are currently useless: one has waited too long without any answer, or the remote is unreachable.
    pub(super) async fn is_doubted(&self) {
        self.until(|s| s.doubted || s.away.is_some()).await;
    }

    /// The error if the remote has not answered in time.
    pub(super) fn silent(&self, op: &'static str) -> Error {
        if !self.is_up() {
            return self.away(op);
        }
        let message = "no answer yet; the request is still in progress";
        Error::timeout(op, message).unheard().at(&self.store, "")
    }

    /// The error while the remote is unreachable.
    pub(super) fn away(&self, op: &'static str) -> Error {
        let now = self.now();
        let message = format!(
            "the remote store has been unreachable for {} ({})",
            span(now.since),
            now.why
        );
        Error::unavailable(op, message)
            .unheard()
            .at(&self.store, "")
    }

    /// Watches a download: it may break off long after it began.
    pub(super) fn watched(self: &Arc<Self>, stream: ByteStream) -> ByteStream {
        let health = self.clone();
        stream
            .inspect(move |piece| match piece {
                Err(e) if e.is_temporary() => health.doubt(Instant::now()),
                _ => health.heard(),
            })
            .boxed()
    }

    /// Requests a probe, unless the remote has answered something since.
    fn doubt(&self, since: Instant) {
        let doubts = self.state.send_if_modified(|state| {
            let doubts = state.away.is_none() && !state.doubted && state.heard <= since;
            state.doubted |= doubts;
            doubts
        });
        if doubts {
            self.hurry.notify_one();
        }
    }

    /// Records that it has answered something.
    fn heard(&self) {
        // Only a probe ends an outage: a late answer may have been sent before the outage.
        self.state.send_if_modified(|state| {
            state.heard = Instant::now();
            std::mem::take(&mut state.doubted)
        });
    }

    /// Returns true if the remote answers a probe that begins now.
    async fn still_answers(&self) -> bool {
        let mut state = self.state.subscribe();
        // A running probe may have been sent before the problem began.
        let begun = state.borrow().begun;
        self.hurry.notify_one();
        let found = state
            .wait_for(|s| s.away.is_some() || s.ended > begun)
            .await;
        found.is_ok_and(|s| s.away.is_none())
    }

    fn failed(&self, e: &Error, outages: u64) {
        self.state.send_if_modified(|state| {
            if state.away.is_some() || state.outages != outages {
                return false;
            }
            tracing::warn!(store = %self.store, error = %e, "The remote store is unreachable; the local cache directory serves reads and keeps writes for it");
            if state.since.elapsed() >= STEADY {
                state.pauses = 0;
            }
            state.away = Some((e.kind, e.message.clone()));
            state.since = Instant::now();
            state.outages += 1;
            state.doubted = false;
            true
        });
    }

    /// Waits until it is up, confirmed by a probe.
    pub(super) async fn up(&self) {
        self.until(|s| s.away.is_none() && s.proven).await;
    }

    /// A value that changes when it becomes unreachable, and when it is back.
    pub(super) fn turn(&self) -> (u64, bool) {
        let state = self.state.borrow();
        (state.outages, state.away.is_none())
    }

    /// Waits until it is unreachable.
    pub(super) async fn down(&self) {
        self.turned(false).await;
    }

    /// Waits until it is up, or unreachable.
    pub(super) async fn turned(&self, up: bool) {
        self.until(|s| s.away.is_none() == up).await;
    }

    /// Probes at once.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Probes the remote when necessary; never ends.
    ///
    /// A probe reads a record that does not exist: such reads do not wait for transfers, and are not delayed by limits on bytes
    /// or concurrent requests. "Not found" is the only right answer. A page from another server answers differently; a refusal
    /// shows that our credentials are not accepted, so that no other request would succeed either.
    pub(super) async fn probe(&self, remote: Arc<dyn Records>) {
        loop {
            let unknown = Digest::sha256_of(&fastrand::u128(..).to_le_bytes());
            let key = keys::manifest(&Repo::cli(), &unknown);
            let limit = self.until_due().await;
            let begun = Instant::now();
            self.state.send_modify(|s| s.begun += 1);
            let outages = self.state.borrow().outages;
            let answer = timeout(limit, remote.read_record(&key, record::MAX_BYTES)).await;
            let failed = match answer {
                Ok(Ok(None)) => None,
                Ok(Ok(Some(_))) => {
                    let message = "it returned a record that nobody wrote: another server answers in its place";
                    Some(Error::unavailable("probe", message))
                }
                Ok(Err(e)) => Some(e),
                Err(_) => {
                    let message = format!("no answer in {}", span(limit));
                    Some(Error::timeout("probe", message).unheard())
                }
            };
            match failed {
                Some(e) => self.unanswered(&e, begun, outages),
                None => self.answered(),
            }
            self.state.send_modify(|s| s.ended += 1);
        }
    }

    /// Waits until a probe is due; returns how long its answer may take.
    async fn until_due(&self) -> Duration {
        if self.is_up() {
            let (heard, proven) = {
                let state = self.state.borrow();
                (state.heard, state.proven)
            };
            let idle = if proven { heard + IDLE } else { heard };
            tokio::select! {
                () = self.hurry.notified() => {}
                () = sleep_until(idle) => {}
                () = self.down() => {}
            }
            if self.is_up() {
                return PROBE;
            }
        }
        let pauses = self.state.borrow().pauses;
        // May be cut short by a caller that cannot wait.
        let _ = timeout(PAUSES.pause(pauses), self.hurry.notified()).await;
        self.state.send_modify(|s| s.pauses = pauses + 1);
        PROBE_AWAY
    }

    fn unanswered(&self, e: &Error, begun: Instant, outages: u64) {
        // A refusal, or an answer of another server in the store's place, counts even if other requests were answered: those
        // answers may come from that server too.
        if e.kind == ErrorKind::Timeout && self.state.borrow().heard > begun {
            // It answers other requests, though slowly.
            self.state.send_modify(|s| {
                s.doubted = false;
                s.proven = true;
            });
            return;
        }
        tracing::debug!(error = %e, "A probe of the remote store failed");
        self.failed(e, outages);
    }

    fn answered(&self) {
        self.state.send_if_modified(|state| {
            state.heard = Instant::now();
            let doubted = std::mem::take(&mut state.doubted);
            let proven = std::mem::replace(&mut state.proven, true);
            if state.away.take().is_none() {
                return doubted || !proven;
            }
            let away_s = state.since.elapsed().as_secs();
            tracing::info!(store = %self.store, away_s, "The remote store is back");
            state.since = Instant::now();
            true
        });
    }
}

/// Returns true if the store refuses us, or does not exist: usually that applies to all requests.
fn is_refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Denied | ErrorKind::Unauthenticated | ErrorKind::NoSuchStore
    )
}

#[cfg(test)]
mod tests;

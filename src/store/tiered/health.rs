//! Whether the remote answers, in one place for all who want to know.
//!
//! One task asks the remote something small: every so often, as soon as any question has waited [`PATIENCE`] in vain, and when
//! a question failed that may fail alone. Its verdict counts for everybody and does not depend on any client: a remote that
//! is silent for [`PROBE`] is unreachable, however it came to be. From then on every question fails at once, until a probe is
//! answered; these come after pauses that grow, with jitter.

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

/// How long a question is waited for before the remote is doubted.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait for the answer to a probe of a remote that is believed to be up.
const PROBE: Duration = Duration::from_secs(5);
/// The same of one that is unreachable: it may be slow at first when it comes back.
const PROBE_AWAY: Duration = Duration::from_secs(10);
/// A remote of which nothing was heard for this long is probed.
const IDLE: Duration = Duration::from_secs(10);
/// Pauses between probes; the longest is how late a remote that is back is noticed.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// A remote that was up for less goes on where the pauses were.
const STEADY: Duration = Duration::from_mins(1);

/// The remote as it was found last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// Whether it answers.
    pub up: bool,
    /// For how long that has been so.
    pub since: Duration,
    /// Why it is unreachable, with its address and the cause; empty while it is up.
    pub why: String,
    /// What sort of trouble that is; `None` while it is up.
    pub kind: Option<ErrorKind>,
    /// How often it became unreachable since the start.
    pub outages: u64,
}

struct State {
    /// Why it is unreachable.
    away: Option<(ErrorKind, String)>,
    since: Instant,
    outages: u64,
    /// A question has waited in vain, and the probe has not said yet what that means.
    doubted: bool,
    /// When it last answered anything.
    heard: Instant,
    /// A probe was answered since the start, so that what waits may be sent.
    proven: bool,
    /// Pauses between probes while it was unreachable.
    pauses: u32,
    /// Probes that began, and that ended.
    begun: u64,
    ended: u64,
}

/// What is known of the remote.
pub(super) struct Health {
    state: watch::Sender<State>,
    hurry: Notify,
    store: String,
}

impl Health {
    /// Begins with a remote that is up, until it proves otherwise; the first probe comes at once. `store` names it in errors.
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

    /// What is known now.
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

    /// Asks for a small answer, unless the remote is unreachable; given up as soon as it is found to be.
    ///
    /// # Errors
    /// `Unavailable` at once while it is unreachable. A temporary one says that it became so just now; where only this request
    /// fails and others are answered, the error is marked `alone`.
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

    /// Waits until the remote is unreachable, for who waits for something else of it: after a while it is found out whether it is.
    pub(super) async fn lost(&self) {
        let asked = Instant::now();
        if timeout(PATIENCE, self.down()).await.is_err() {
            self.doubt(asked);
            self.down().await;
        }
    }

    /// As [`Self::ask`], for bytes that take their time and are watched for stalls on their way.
    pub(super) async fn send<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outages = self.outages(op)?;
        self.judged(work.await, outages).await
    }

    /// How often it had been unreachable by now.
    ///
    /// # Errors
    /// While it is.
    fn outages(&self, op: &'static str) -> Result<u64> {
        let state = self.state.borrow();
        if state.away.is_none() {
            return Ok(state.outages);
        }
        drop(state);
        Err(self.away(op))
    }

    /// Finds out what an answer says of the remote. `outages` is how often it had been unreachable when the question was asked:
    /// an answer to an old one says nothing of now.
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
        // No connection, or too many requests: that is not about this request.
        if e.kind == ErrorKind::Throttled || (e.kind == ErrorKind::Unavailable && e.unheard) {
            self.failed(&e, outages);
            return Err(e);
        }
        let answers = self.still_answers().await;
        // Of all requests alike a refusal is an outage: what is at hand serves until the credentials, or the bucket, are right again.
        // Bytes that make no sense are damage, or a page of something that answers in its place.
        if is_refused(e.kind) || e.kind == ErrorKind::Corrupt {
            return Err(if answers { e } else { self.away(e.op) });
        }
        if answers {
            tracing::warn!(error = %e, "The remote store fails this request and answers others");
            return Err(e.alone());
        }
        Err(e)
    }

    /// Waits until a question that was asked at `asked` has waited long enough, or longer waiting is known to be in vain.
    pub(super) async fn hesitates(&self, asked: Instant) {
        tokio::select! {
            () = sleep_until(asked + PATIENCE) => {}
            () = self.is_doubted() => {}
        }
    }

    /// Waits until questions are in vain for now: one has waited while nothing was heard, or it is unreachable.
    pub(super) async fn is_doubted(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = state.wait_for(|s| s.doubted || s.away.is_some()).await;
    }

    /// What is answered instead of the remote, which has not answered in time.
    pub(super) fn silent(&self, op: &'static str) -> Error {
        if !self.is_up() {
            return self.away(op);
        }
        let message = "no answer yet; it is still being asked";
        Error::new(ErrorKind::Timeout, op, message)
            .unheard()
            .at(&self.store, "")
    }

    /// What is asked for while the remote is unreachable.
    pub(super) fn away(&self, op: &'static str) -> Error {
        let now = self.now();
        let message = format!(
            "the remote store has been unreachable for {} ({})",
            span(now.since),
            now.why
        );
        Error::new(ErrorKind::Unavailable, op, message)
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

    /// Has the remote probed, unless it has answered something since.
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

    /// It has answered something.
    fn heard(&self) {
        // Only the probe ends an outage: what comes late may have been on its way before.
        self.state.send_if_modified(|state| {
            state.heard = Instant::now();
            std::mem::take(&mut state.doubted)
        });
    }

    /// Returns true if the remote answers a probe that begins now.
    async fn still_answers(&self) -> bool {
        let mut state = self.state.subscribe();
        // One that runs by now may have been asked before the trouble began.
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
            tracing::warn!(store = %self.store, error = %e, "The remote store is unreachable; the local folder answers, and keeps what is written for it");
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

    /// Waits until it is up, and was found to be so by a probe.
    pub(super) async fn up(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = state.wait_for(|s| s.away.is_none() && s.proven).await;
    }

    /// Changes when it becomes unreachable, and when it is back.
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
        let mut state = self.state.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = state.wait_for(|s| s.away.is_none() == up).await;
    }

    /// Probes at once.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Probes the remote when there is reason to; never ends.
    ///
    /// It reads a record that nobody ever wrote: those wait for no transfer, and no limit on bytes or on requests at once holds them up.
    /// That there is none is the only right answer. A page in the store's place says otherwise; a refusal shows that our credentials are not
    /// accepted, so that nothing else would be answered either.
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
                    let message =
                        "it has a record that nobody wrote: something else answers in its place";
                    Some(Error::new(ErrorKind::Unavailable, "probe", message))
                }
                Ok(Err(e)) => Some(e),
                Err(_) => {
                    let message = format!("no answer in {}", span(limit));
                    Some(Error::new(ErrorKind::Timeout, "probe", message).unheard())
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
        // Cut short by whoever cannot wait.
        let _ = timeout(PAUSES.pause(pauses), self.hurry.notified()).await;
        self.state.send_modify(|s| s.pauses = pauses + 1);
        PROBE_AWAY
    }

    fn unanswered(&self, e: &Error, begun: Instant, outages: u64) {
        // A refusal, or what something else answered in its place, is not excused by what others were answered: that may be
        // from there too.
        if e.kind == ErrorKind::Timeout && self.state.borrow().heard > begun {
            // It answers others, if slowly.
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

/// Returns true if the store does not let us in, or is not there: as a rule that holds for all requests.
fn is_refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Denied | ErrorKind::Unauthenticated | ErrorKind::NoSuchStore
    )
}

#[cfg(test)]
mod tests;

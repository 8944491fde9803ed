//! Requests that wait for an unreachable store.
//!
//! Registry clients give up soon after an error, but never while they wait for an answer: BuildKit retries after 0, 1, 3 and 7
//! s, then the build fails (measured; it does not limit the time of an answer). So a request that cannot be answered otherwise
//! is held; but not one that fails while the store answers others, since that is no outage.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

use super::{admission::Ticket, refusal::Refusal};
use crate::{
    backoff::Backoff,
    digest::Digest,
    fair::Key,
    store::{
        Records,
        keys::{self, Repo},
        record,
    },
};

/// Maximum time that a request waits for an unreachable store, unless configured otherwise.
pub const HOLD: Duration = Duration::from_mins(2);

/// Between two tries.
const PAUSES: Backoff = Backoff::new(LEAST, Duration::from_secs(2));
/// Minimum time that an answer gets.
const LEAST: Duration = Duration::from_millis(250);
/// Maximum time for looking up a tag.
const A_WHILE: Duration = Duration::from_secs(10);
/// The same while the store is known to hang, and how long that knowledge lasts.
const A_MOMENT: Duration = Duration::from_secs(3);
const KNOWN: Duration = Duration::from_secs(30);
/// How often a request may fail while the store answers others: one failure may be the end of an outage.
const ALONE: u32 = 2;
/// Maximum wait for the answer to another request.
const OTHER: Duration = Duration::from_secs(5);
/// Maximum number of digests remembered, each of which logs one warning.
const MAX_HELD: usize = 10_000;
const MAX_TOLD: usize = 100;

/// A caller and the digest it waits for. Keyed by caller too, so that nobody can use up the waiting time of others for a digest
/// that can be guessed.
type Wait = (Key, Digest);

/// Whether a request waits for an unreachable store. If it does, it is asked again, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It fails at once.
    Never,
    /// For seconds: it looks up a name, and doing without costs less than waiting.
    ForAWhile,
    /// Until the store is back: no other answer helps a client that needs this content.
    UntilBack(Digest),
}

/// Holds requests until the store is back.
pub(super) struct Holds {
    /// Maximum time, counted from a caller's first request for a digest: a retry does not start a new wait.
    limit: Duration,
    since: Mutex<HashMap<Wait, Instant>>,
    /// A remote store without a local cache directory: it may answer slowly, and is asked here whether it answers other
    /// requests. A store with a local cache directory finds that out itself, and a store on disk is only slow.
    remote: Option<Arc<dyn Records>>,
    /// Requests are no longer held: the daemon is shutting down.
    ended: AtomicBool,
    /// Until when the store is assumed to hang: it did not answer the last lookup of a tag.
    away: Mutex<Option<Instant>>,
}

impl Holds {
    pub(super) fn new(limit: Duration, remote: Option<Arc<dyn Records>>) -> Self {
        Self {
            limit,
            remote,
            ended: AtomicBool::new(false),
            since: Mutex::default(),
            away: Mutex::default(),
        }
    }

    /// Releases all held requests, and holds no more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Retries as `hold` says.
    pub(super) async fn ask<T, F>(
        &self,
        hold: Hold,
        ticket: &Ticket,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        match hold {
            Hold::Never => ask().await,
            Hold::ForAWhile => self.for_a_while(ticket, ask()).await,
            Hold::UntilBack(digest) => self.until_back(&digest, ticket, ask).await,
        }
    }

    /// Retries until the store answers, or the time is up.
    pub(super) async fn until_back<T, F>(
        &self,
        digest: &Digest,
        ticket: &Ticket,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let (mut pauses, mut alone) = (0, 0);
        let (wait, began) = ((ticket.key().clone(), *digest), Instant::now());
        loop {
            // Boxed: the future of an answer is large, and this one is part of every door's future.
            let refusal = match Box::pin(ask()).await {
                Err(refusal) if refusal.is_unavailable() => refusal,
                answered => {
                    self.since.lock().remove(&wait);
                    return answered;
                }
            };
            if refusal.alone || self.answers_others().await {
                alone += 1;
            }
            if alone >= ALONE {
                self.since.lock().remove(&wait);
                return Err(refusal);
            }
            let pause = PAUSES.pause(pauses);
            pauses += 1;
            let (since, is_told) = self.since(&wait, began);
            if since.elapsed() + pause > self.limit || self.ended.load(Ordering::Relaxed) {
                return Err(refusal);
            }
            if is_told {
                let error = refusal.why.as_deref();
                tracing::warn!(%digest, seconds = self.limit.as_secs(), error, "Request waits for the store, up to this long");
            }
            // A request that waits here must not block requests that need not wait.
            if !ticket.rest(sleep(pause)).await {
                return Err(refusal);
            }
        }
    }

    /// Looks up a tag. The sooner a build knows that it runs without its cache the better, so the lookup takes a limited time,
    /// and less while the store is known to hang. Time that `ticket` waits for other callers does not count, since it says
    /// nothing about the store.
    async fn for_a_while<T>(
        &self,
        ticket: &Ticket,
        ask: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        if self.remote.is_none() {
            return ask.await;
        }
        let away = || {
            let words = "the store behind this registry does not answer";
            Refusal {
                why: Some(words.to_owned()),
                ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, words)
            }
        };
        let is_known = self.away().is_some_and(|until| until > Instant::now());
        let patience = if is_known { A_MOMENT } else { A_WHILE };
        let (began, before, mut ask) = (Instant::now(), ticket.waited(), Box::pin(ask));
        let answered = loop {
            let left = (patience + ticket.waited()).saturating_sub(before + began.elapsed());
            if left.is_zero() {
                break Err(away());
            }
            if let Ok(answered) = timeout(left.max(LEAST), &mut ask).await {
                break answered;
            }
        };
        let is_away = answered.as_ref().is_err_and(Refusal::is_unavailable);
        *self.away() = is_away.then(|| Instant::now() + KNOWN);
        answered
    }

    /// Returns true if a remote store answers another request; always `false` for other stores.
    async fn answers_others(&self) -> bool {
        let Some(remote) = &self.remote else {
            return false;
        };
        let key = keys::manifest(&Repo::cli(), &Digest::sha256_of(b""));
        match timeout(OTHER, remote.read_record(&key, record::MAX_BYTES)).await {
            Ok(Err(e)) => !e.kind.is_temporary(),
            Ok(Ok(_)) => true,
            Err(_) => false,
        }
    }

    fn away(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away.lock()
    }

    /// Since when a caller's requests for a digest are held, and whether to log that. If there is no room to remember it, since
    /// this request `began`.
    fn since(&self, wait: &Wait, began: Instant) -> (Instant, bool) {
        let mut held = self.since.lock();
        let now = Instant::now();
        // From an earlier outage, which is over for this digest's clients.
        let is_old = |since: &Instant| now - *since > self.limit * 2;
        held.retain(|_, since| !is_old(since));
        if let Some(since) = held.get(wait) {
            return (*since, false);
        }
        if held.len() >= MAX_HELD {
            return (began, false);
        }
        held.insert(wait.clone(), now);
        (now, held.len() <= MAX_TOLD)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::store;

    const LIMIT: Duration = Duration::from_mins(1);

    async fn ticket() -> Ticket {
        let (key, extensions) = (crate::fair::Key::Socket, axum::http::Extensions::new());
        let ticket = Ticket::take(&Arc::default(), key, &extensions).await;
        ticket.unwrap()
    }

    fn away() -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "away")
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_the_store_is_back() {
        let ticket = ticket().await;
        let (hold, began) = (Holds::new(LIMIT, None), Instant::now());
        let digest = Digest::sha256_of(b"a");
        let ask = async || match began.elapsed().as_secs() {
            0..40 => Err(away()),
            _ => Ok("bytes"),
        };
        assert_eq!(
            hold.until_back(&digest, &ticket, ask).await.unwrap(),
            "bytes"
        );
        assert!(began.elapsed() < Duration::from_secs(43));
        assert!(hold.since.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_does_not_wait_as_long_again() {
        let ticket = ticket().await;
        let (hold, began) = (Holds::new(LIMIT, None), Instant::now());
        let digest = Digest::sha256_of(b"a");
        for _ in 0..8 {
            let held = hold.until_back::<(), _>(&digest, &ticket, async || Err(away()));
            assert!(held.await.unwrap_err().is_unavailable());
        }
        assert!(began.elapsed() <= LIMIT);
        // The next outage counts separately.
        sleep(LIMIT * 2).await;
        let again = Instant::now();
        let held = hold.until_back::<(), _>(&digest, &ticket, async || Err(away()));
        held.await.unwrap_err();
        assert!(again.elapsed() > LIMIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_does_not_use_up_the_time_of_another() {
        let hold = Holds::new(LIMIT, None);
        let digest = Digest::sha256_of(b"a");
        for (caller, waits) in [("a", true), ("a", false), ("b", true)] {
            let (admission, key) = (Arc::default(), Key::Principal(caller.into()));
            let ticket = Ticket::take(&admission, key, &axum::http::Extensions::new()).await;
            let (ticket, began) = (ticket.unwrap(), Instant::now());
            let held = hold.until_back::<(), _>(&digest, &ticket, async || Err(away()));
            held.await.unwrap_err();
            assert_eq!(began.elapsed() > LIMIT / 2, waits, "{caller}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_limit_also_where_no_more_digests_are_remembered() {
        let hold = Holds::new(LIMIT, None);
        let other = |n: usize| Digest::sha256_of(&n.to_le_bytes());
        for n in 0..MAX_HELD {
            hold.since(&(Key::Unknown, other(n)), Instant::now());
        }
        let (ticket, began) = (ticket().await, Instant::now());
        let digest = Digest::sha256_of(b"a");
        let held = hold.until_back::<(), _>(&digest, &ticket, async || Err(away()));
        held.await.unwrap_err();
        assert!(began.elapsed() <= LIMIT && began.elapsed() > LIMIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn tags_of_a_store_that_hangs_cost_a_while_once_and_then_a_moment() {
        let ticket = ticket().await;
        let (hold, began) = (Holds::new(LIMIT, Some(remote(true))), Instant::now());
        for _ in 0..8 {
            let asked = hold.for_a_while::<()>(&ticket, std::future::pending());
            assert!(asked.await.unwrap_err().is_unavailable());
        }
        assert!(began.elapsed() <= A_WHILE + 7 * A_MOMENT);
        // It is asked anyway, so that its return is noticed.
        assert_eq!(
            hold.for_a_while(&ticket, async { Ok("there") })
                .await
                .unwrap(),
            "there"
        );
        assert_eq!(
            hold.for_a_while(&ticket, async { Ok("there") })
                .await
                .unwrap(),
            "there"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_others_does_not_wait_for_the_store() {
        let hold = Holds::new(LIMIT, Some(remote(true)));
        let ticket = ticket().await;
        let ask = async {
            sleep(A_WHILE / 2).await;
            ticket.aside(sleep(A_WHILE * 3)).await;
            sleep(A_WHILE / 4).await;
            Ok("there")
        };
        let asked = hold.for_a_while(&ticket, ask).await;
        assert_eq!(asked.unwrap(), "there");
        assert!(hold.away().is_none());
        // The store's time counts as before, whatever other waits there were.
        let began = Instant::now();
        let ask = async {
            ticket.aside(sleep(A_WHILE * 3)).await;
            std::future::pending::<Result<(), Refusal>>().await
        };
        let asked = hold.for_a_while(&ticket, ask).await;
        assert!(asked.unwrap_err().is_unavailable());
        assert!(hold.away().is_some());
        assert!(began.elapsed() <= A_WHILE * 4 + LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_held_at_the_end() {
        let ticket = ticket().await;
        let (hold, began) = (Holds::new(LIMIT, None), Instant::now());
        let digest = Digest::sha256_of(b"a");
        let ask = || {
            if began.elapsed() > Duration::from_secs(9) {
                hold.end();
            }
            std::future::ready(Err(away()))
        };
        let held = hold.until_back::<(), _>(&digest, &ticket, ask);
        held.await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(12));
    }

    /// A remote store that answers the question about another request.
    fn remote(answers: bool) -> Arc<dyn Records> {
        Arc::new(Others(answers))
    }

    struct Others(bool);

    #[async_trait::async_trait]
    impl Records for Others {
        async fn read_record(&self, _: &str, _: u64) -> store::Result<Option<bytes::Bytes>> {
            if self.0 {
                return Ok(None);
            }
            std::future::pending().await
        }

        async fn write_record(&self, _: &str, _: bytes::Bytes) -> store::Result<()> {
            Ok(())
        }

        async fn remove_record(&self, _: &str) -> store::Result<()> {
            Ok(())
        }

        async fn list_records(&self, _: &str) -> store::Result<Vec<store::records::Listed>> {
            Ok(Vec::new())
        }

        async fn repositories(&self) -> store::Result<Vec<Repo>> {
            Ok(Vec::new())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_content_that_fails_while_others_are_answered_is_not_held() {
        let ticket = ticket().await;
        let fails = |answer: &str| {
            let e = store::Error::unavailable("publish", answer);
            Refusal::from(e)
        };
        for (answers, held) in [(true, false), (false, true)] {
            let (hold, began) = (Holds::new(LIMIT, Some(remote(answers))), Instant::now());
            let digest = Digest::sha256_of(b"a");
            let ask = async || Err(fails("answered 500: unknown schema"));
            let refused = hold.until_back::<(), _>(&digest, &ticket, ask);
            let refused = refused.await.unwrap_err();
            assert!(refused.message.contains("answered 500"), "{refused:?}");
            assert_eq!(began.elapsed() > LIMIT / 2, held);
        }
        // A store with a local cache directory reports that itself.
        let (hold, began) = (Holds::new(LIMIT, None), Instant::now());
        let ask = async || {
            Err(Refusal {
                alone: true,
                ..fails("answered 500")
            })
        };
        let digest = Digest::sha256_of(b"a");
        hold.until_back::<(), _>(&digest, &ticket, ask)
            .await
            .unwrap_err();
        assert!(began.elapsed() < LIMIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn other_refusals_are_not_held() {
        let ticket = ticket().await;
        let (hold, count) = (Holds::new(LIMIT, None), AtomicU32::new(0));
        let digest = Digest::sha256_of(b"a");
        let held = hold.until_back::<(), _>(&digest, &ticket, async || {
            count.fetch_add(1, Ordering::Relaxed);
            Err(Refusal::new(StatusCode::NOT_FOUND, "gone"))
        });
        held.await.unwrap_err();
        assert_eq!(count.into_inner(), 1);
    }
}

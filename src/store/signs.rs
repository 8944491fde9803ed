//! Whether "not found" is the store's own answer: a page that answers 404 to everything (a captive portal, an ingress without a
//! back end, a wrong virtual host) must not be mistaken for an empty store.
//!
//! Stores sign their answers: by an error document, or by a header if an answer has no body. An unsigned answer without a body
//! is accepted if the store was recognized within [`LATELY`], or is recognized by a request now, which all callers share. That
//! request is always made if the store has signed answers to the same method before.

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::error::{Error, Result};

/// For how long a store that was recognized, or not, is not asked again.
const LATELY: Duration = Duration::from_secs(3);

/// The method of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// Its answers consist of headers only.
    Head,
    /// GET, or any other whose answers may have a body.
    Get,
}

#[derive(Debug, Default)]
struct State {
    /// When an answer was last recognized as the store's.
    seen: Option<Instant>,
    /// When it was last asked and not recognized.
    refused: Option<(Instant, Error)>,
    /// Whether it signs "not found", by method.
    head: bool,
    get: bool,
}

/// What is known about how a store signs.
#[derive(Debug, Default)]
pub(super) struct Signs {
    state: Mutex<State>,
    asking: tokio::sync::Mutex<()>,
}

impl Signs {
    /// Notes that an answer just now was the store's.
    pub(super) fn seen(&self) {
        let mut state = self.state.lock();
        state.seen = Some(Instant::now());
        state.refused = None;
    }

    /// Notes that the store signed a "not found".
    pub(super) fn signed(&self, to: To) {
        self.seen();
        let mut state = self.state.lock();
        match to {
            To::Head => state.head = true,
            To::Get => state.get = true,
        }
    }

    /// Determines whether an unsigned answer just received is the store's. `ask` requests an answer that would be signed.
    ///
    /// # Errors
    /// Those of `ask`, now or within [`LATELY`].
    pub(super) async fn settle(
        &self,
        op: &'static str,
        to: To,
        ask: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let came = Instant::now();
        if let Some(known) = self.known(op, to, came) {
            return known;
        }
        let _one_at_a_time = self.asking.lock().await;
        if let Some(known) = self.known(op, to, came) {
            return known;
        }
        let asked = ask.await;
        match &asked {
            Ok(()) => self.seen(),
            Err(e) => self.state.lock().refused = Some((Instant::now(), e.told())),
        }
        asked
    }

    fn known(&self, op: &'static str, to: To, came: Instant) -> Option<Result<()>> {
        let state = self.state.lock();
        if let Some((at, e)) = &state.refused
            && at.elapsed() <= LATELY
        {
            return Some(Err(Error { op, ..e.told() }));
        }
        let signs = match to {
            To::Head => state.head,
            To::Get => state.get,
        };
        let seen = state.seen?;
        let counts = if signs {
            seen > came
        } else {
            came.saturating_duration_since(seen) <= LATELY
        };
        counts.then_some(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unsigned_answer_has_the_store_asked_at_most_once_in_a_while() {
        let (signs, asked) = (Signs::default(), AtomicUsize::new(0));
        let settle = |to| {
            signs.settle("stat", to, async {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        let times = || asked.load(Ordering::Relaxed);
        for to in [To::Head, To::Get, To::Head] {
            settle(to).await.unwrap();
        }
        assert_eq!(times(), 1);
        tokio::time::advance(LATELY * 2).await;
        let (a, b) = tokio::join!(settle(To::Head), settle(To::Head));
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(times(), 2);
        // Any answer shows that it exists.
        tokio::time::advance(LATELY * 2).await;
        signs.seen();
        settle(To::Head).await.unwrap();
        assert_eq!(times(), 2);
        // A store that signs never omits it, so none of its earlier answers vouches for this one.
        signs.signed(To::Get);
        settle(To::Head).await.unwrap();
        assert_eq!(times(), 2);
        settle(To::Get).await.unwrap();
        assert_eq!(times(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_recognized_is_asked_again_after_a_while_or_when_it_is() {
        let (signs, asked) = (Signs::default(), AtomicUsize::new(0));
        let settle = || {
            signs.settle("stat", To::Head, async {
                asked.fetch_add(1, Ordering::Relaxed);
                Err(Error::unavailable("ask", "a page"))
            })
        };
        for _ in 0..3 {
            assert_eq!(settle().await.unwrap_err().message, "a page");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(LATELY * 2).await;
        settle().await.unwrap_err();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        signs.seen();
        settle().await.unwrap();
    }
}

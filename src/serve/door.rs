//! What a protocol writes so that the daemon serves it: its routes, its answers, its refusals.
//!
//! All else is the [`Gateway`](super::gateway::Gateway)'s, for every door alike: who may come in, places that callers share, waiting
//! for an unreachable store, HEAD, request ids, metrics and traces. Parts of content are begun by [`range`](super::range).

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Response, request::Parts},
};

use super::{
    admission::Ticket,
    auth::{Need, Principal},
    hold::{Hold, Holds},
    observe::X_REQUEST_ID,
    refusal::Refusal,
};
use crate::digest::Digest;

/// Result of answering a request.
pub type Answer = Result<Response<Body>, Refusal>;

/// A protocol that the daemon serves.
pub trait Door: Send + Sync + 'static {
    /// What a request asks for, as its head says.
    type Asked: Send + Sync + 'static;

    /// Its name in metrics and logs.
    fn name(&self) -> &'static str;

    /// Returns true if its requests come every few seconds from probes: they get no span, and a line at `debug` only.
    fn is_quiet(&self) -> bool {
        false
    }

    /// Where a request goes; `None` if it is for another door. The one time that its path is read; asks nobody and waits for nothing.
    fn route(&self, head: &Parts) -> Option<Route<Self::Asked>>;

    /// Answers a request that has the rights and the place that its route named. To HEAD it may answer as to GET. A request that is held
    /// is answered again, without its body.
    fn answer(
        &self,
        asked: &Self::Asked,
        call: &Call,
        body: Body,
    ) -> impl Future<Output = Answer> + Send;

    /// A refusal in the terms of the protocol; its cause is logged already.
    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        refusal.response()
    }

    /// Adds the headers that every answer of the protocol has.
    fn sign(&self, _headers: &mut HeaderMap) {}
}

/// Where a request goes, and what that takes.
#[derive(Debug)]
pub struct Route<A> {
    /// The path with its variable parts in braces, as metrics and spans call it.
    pub label: &'static str,
    /// What is looked up there (`blob`, `manifest`); `None` where finding nothing is no miss of a cache.
    pub looks_up: Option<&'static str>,
    /// Who may ask.
    pub access: Access,
    /// What the request holds while it is answered.
    pub place: Place,
    /// Whether it waits for an unreachable store.
    pub hold: Hold,
    /// What is asked for, or why that is nothing to be answered, whoever asks.
    pub asked: Result<A, Refusal>,
}

impl<A> Route<A> {
    /// A route for whoever need not log in first, whose requests have a place each and do not wait for an unreachable store.
    pub fn new(label: &'static str, asked: Result<A, Refusal>) -> Self {
        Self {
            label,
            looks_up: None,
            access: Access::Needs(Vec::new()),
            place: Place::Request,
            hold: Hold::Never,
            asked,
        }
    }
}

/// Who may ask.
#[derive(Debug)]
pub enum Access {
    /// Everybody, under whatever host name: what orchestrators and load balancers ask.
    Probe,
    /// Everybody but a web page of another site; it is not looked at who that is.
    Open,
    /// Whoever has these rights; with none of them, whoever could not get more by logging in.
    Needs(Vec<Need<'static>>),
}

/// What a request holds while it is answered.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Nothing: it is answered from memory, or its body has limits of its own.
    None,
    /// Nothing, after its body was read whole: while that comes, nothing is held.
    Form {
        /// Bytes after which no more is read: a longer body is cut, for the door to refuse.
        most: usize,
        /// Longest time.
        within: Duration,
    },
    /// A place among requests while the daemon works; the door receives its body by the [`Ticket`].
    Request,
}

/// A request that may be answered.
pub struct Call {
    /// Its head.
    pub parts: Parts,
    /// Who asks; nobody in particular where everybody may.
    pub who: Principal,
    /// What it holds.
    pub ticket: Ticket,
    pub(super) holds: Arc<Holds>,
}

impl Call {
    /// Names the request in the log of both sides.
    pub fn id(&self) -> &str {
        let id = self.parts.headers.get(X_REQUEST_ID);
        id.and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// Asks until the store is back, as [`Hold::UntilBack`] does: for the part of a request that comes after its body.
    ///
    /// # Errors
    /// What was refused last.
    pub async fn until_back<T, F>(
        &self,
        digest: &Digest,
        ask: impl FnMut() -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        self.holds.until_back(digest, &self.ticket, ask).await
    }
}

#[cfg(test)]
mod tests;

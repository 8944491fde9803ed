//! What a protocol implements so that the daemon serves it: its routes, its answers, its refusals.
//!
//! The [`Gateway`](super::gateway::Gateway) does the rest in the same way for every door: authorization, permits shared between
//! callers, waiting for an unreachable store, HEAD, request ids, metrics and traces. Partial content is handled by
//! [`range`](super::range).

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
    /// What a request asks for, according to its head.
    type Asked: Send + Sync + 'static;

    /// Its name in metrics and logs.
    fn name(&self) -> &'static str;

    /// Returns true if its requests come every few seconds from probes: they get no span, and are logged at `debug` only.
    fn is_quiet(&self) -> bool {
        false
    }

    /// Routes a request; `None` if it is for another door. This is the only place that parses its path; it never blocks or asks
    /// a store.
    fn route(&self, head: &Parts) -> Option<Route<Self::Asked>>;

    /// Answers a request that has the rights and the permit which its route requires. A HEAD may be answered like a GET. A
    /// request that waited for an unreachable store is answered again, without its body.
    fn answer(
        &self,
        asked: &Self::Asked,
        call: &Call,
        body: Body,
    ) -> impl Future<Output = Answer> + Send;

    /// A refusal in the terms of the protocol; its cause has already been logged.
    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        refusal.response()
    }

    /// Adds the headers that every answer of the protocol carries.
    fn sign(&self, _headers: &mut HeaderMap) {}
}

/// Where a request goes, and what it requires.
#[derive(Debug)]
pub struct Route<A> {
    /// The path with its variable parts in braces, as metrics and spans call it.
    pub label: &'static str,
    /// What is looked up there (`blob`, `manifest`); `None` if a negative answer does not count as a cache miss.
    pub looks_up: Option<&'static str>,
    /// Who may send it.
    pub access: Access,
    /// What the request holds while it is answered.
    pub place: Place,
    /// Whether it waits for an unreachable store.
    pub hold: Hold,
    /// What is asked for, or why every caller is refused.
    pub asked: Result<A, Refusal>,
}

impl<A> Route<A> {
    /// A route that needs no right on a repository (an anonymous caller may still be asked to log in), whose requests take one
    /// permit each and do not wait for an unreachable store.
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

/// Who may send a request.
#[derive(Debug)]
pub enum Access {
    /// Everybody, under any host name: probes of orchestrators and load balancers.
    Probe,
    /// Everybody except a web page of another site; the caller is not identified.
    Open,
    /// Callers with these rights; if the list is empty, callers that would not gain rights by logging in.
    Needs(Vec<Need<'static>>),
}

/// What a request holds while it is answered.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Nothing: it is answered from memory, or its body has its own limits.
    None,
    /// Nothing, and its whole body is read first; nothing is held while it is received.
    Form {
        /// Reading stops after this many bytes: a longer body is truncated, and the door refuses it.
        most: usize,
        /// Maximum time for reading it.
        within: Duration,
    },
    /// A permit for requests while the daemon works; the door receives the body through the [`Ticket`].
    Request,
}

/// A request that may be answered.
pub struct Call {
    /// Its head.
    pub parts: Parts,
    /// The caller; anonymous if everybody may send the request.
    pub who: Principal,
    /// What it holds.
    pub ticket: Ticket,
    pub(super) holds: Arc<Holds>,
}

impl Call {
    /// Identifies the request in the logs of client and server.
    pub fn id(&self) -> &str {
        let id = self.parts.headers.get(X_REQUEST_ID);
        id.and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// Retries until the store is back, as [`Hold::UntilBack`] does: for the part of a request that follows its body.
    ///
    /// # Errors
    /// The last refusal.
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

//! A request, with a body that can be sent again.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};

use super::scopes::Scopes;
use crate::store::{
    Body,
    net::{Sent, Upload},
};

/// Maximum time from the last byte to the answer if something is stored: registries on object stores copy the blob before they
/// answer (moby/moby#17038).
const COMMIT_WAIT: Duration = Duration::from_mins(1);

/// The payload of a request.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// Nothing; with `Content-Length: 0` if the method usually has a body.
    Nothing,
    /// A small document.
    Bytes(Bytes),
    /// A range of a body, as a stream with a known length.
    Part(Body, Range<u64>),
}

/// A request that can be sent repeatedly.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) op: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    /// The scopes that a token for it needs.
    pub(super) scopes: Scopes,
    /// Maximum time from the last byte sent to the answer; `None`: the usual timeout.
    pub(super) wait: Option<Duration>,
    /// It gets its own connection, which is closed afterwards.
    pub(super) alone: bool,
}

impl Ask {
    pub(super) fn new(op: &'static str, method: Method, url: Url, scopes: &Scopes) -> Self {
        Self {
            op,
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Nothing,
            scopes: scopes.clone(),
            wait: None,
            alone: false,
        }
    }

    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The same, allowing for the time that storing takes.
    #[must_use]
    pub(super) fn committing(self) -> Self {
        Self {
            wait: Some(COMMIT_WAIT),
            ..self
        }
    }

    #[must_use]
    pub(super) fn send(mut self, media_type: &'static str, payload: Payload) -> Self {
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.payload = payload;
        self
    }

    /// The request with `url` in place of its own, and the progress of its body.
    pub(super) fn build(&self, url: &Url) -> (reqwest::Request, Arc<Sent>) {
        let mut request = reqwest::Request::new(self.method.clone(), url.clone());
        *request.headers_mut() = self.headers.clone();
        match &self.payload {
            Payload::Nothing => {
                if !matches!(self.method, Method::GET | Method::HEAD | Method::DELETE) {
                    request
                        .headers_mut()
                        .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
            }
            // Small: it counts as sent immediately.
            Payload::Bytes(b) => *request.body_mut() = Some(b.clone().into()),
            Payload::Part(body, range) => {
                let length = range.end - range.start;
                request.headers_mut().insert(CONTENT_LENGTH, length.into());
                let (upload, sent) = Upload::new(body.stream(range.clone()), length);
                *request.body_mut() = Some(reqwest::Body::wrap(upload));
                return (request, sent);
            }
        }
        (request, Arc::new(Sent::nothing_of(0)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::store::net::{Common, Patience, sending};

    #[tokio::test(start_paused = true)]
    async fn answer_to_a_document_gets_the_time_that_its_request_asks_for() {
        let url: Url = "http://127.0.0.1:1/v2/".parse().unwrap();
        let ask = Ask::new("publish", Method::PUT, url.clone(), &Scopes::default());
        let ask = ask.send("x/y", Payload::Bytes("{}".into())).committing();
        let (_, sent) = ask.build(&url);
        let patience = Patience {
            answer: ask.wait.unwrap(),
            ..Patience::of(&Common::default(), 1)
        };
        let began = Instant::now();
        let silent = std::future::pending::<()>();
        sending("publish", patience, &sent, silent)
            .await
            .unwrap_err();
        assert_eq!(began.elapsed(), COMMIT_WAIT);
    }
}

//! One request and its answer: bodies that can be sent again, and patience that ends.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};

use super::{auth::Account, error, scopes::Scopes};
use crate::{
    digest::Digest,
    store::{
        Body, Error, ErrorKind, Result,
        net::{Sent, Upload, Watch},
    },
};

/// What registries name their API by in each answer (distribution, `docs/content/spec/api.md`).
pub(super) const API_VERSION: &str = "docker-distribution-api-version";

/// What a request sends.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// Nothing; with `Content-Length: 0` where the method usually sends something.
    Nothing,
    /// A small document.
    Bytes(Bytes),
    /// A range of a body, as a stream with its length announced.
    Part(Body, Range<u64>),
}

/// A request, as often as it needs to be sent.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) op: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    /// What a token for it must allow.
    pub(super) scopes: Scopes,
    /// Longest time from the last byte sent to the answer; `None`: the usual patience.
    pub(super) wait: Option<Duration>,
    /// It gets a connection of its own, which is closed after it.
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

    #[must_use]
    pub(super) fn send(mut self, media_type: &'static str, payload: Payload) -> Self {
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.payload = payload;
        self
    }

    /// The request with `url` in place of its own, and how far its body is sent.
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
            // Small: it counts as sent at once.
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

/// The head of an answer, its body still to come.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) method: Method,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Who answered in the end.
    pub(super) url: Url,
    /// It was another host than the registry.
    pub(super) away: bool,
    /// How to speak to the registry with TLS, or without.
    pub(super) other_way: &'static str,
    /// Which credentials were shown, where they were refused.
    pub(super) account: Option<Account>,
    pub(super) watch: Watch,
    pub(super) body: reqwest::Response,
}

impl Answer {
    /// A header as text.
    pub(super) fn text(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `Content-Length`, as it was sent.
    pub(super) fn length(&self) -> Option<u64> {
        self.text(CONTENT_LENGTH)?.parse().ok()
    }

    /// Returns true if its headers are a registry's: proxies add [`API_VERSION`] to their own pages too.
    pub(super) fn is_signed(&self) -> bool {
        self.headers.contains_key(API_VERSION) && self.media_type() != "text/html"
    }

    /// The media type without its parameters, in lower case; empty where none was sent.
    pub(super) fn media_type(&self) -> String {
        let text = self.text(CONTENT_TYPE).unwrap_or_default();
        text.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    }

    /// `Docker-Content-Digest`, if it is a digest.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.text("docker-content-digest")?.trim().parse().ok()
    }

    /// Checks that the digest header, where there is one, names `want`.
    ///
    /// distribution 2.8 names the SHA-256 of what was asked for by SHA-512, so another algorithm says nothing.
    pub(super) fn check_digest(&self, op: &'static str, want: &Digest) -> Result<()> {
        match self.digest() {
            Some(got) if got.algorithm() == want.algorithm() && got != *want => Err(Error::new(
                ErrorKind::Corrupt,
                op,
                format!("the registry says that it has {got} instead"),
            )),
            _ => Ok(()),
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn piece(&mut self, op: &'static str) -> Result<Option<Bytes>> {
        let next = async { self.body.chunk().await.transpose() };
        let piece = self.watch.next(next).await?.transpose();
        piece.map_err(|e| error::network(op, e, self.other_way))
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// `Corrupt` for a longer one, before it is read.
    pub(super) async fn read(&mut self, op: &'static str, limit: u64) -> Result<Bytes> {
        let too_long = || {
            Error::new(
                ErrorKind::Corrupt,
                op,
                format!("the answer is longer than {limit} bytes"),
            )
        };
        if self.length().is_some_and(|l| l > limit) && self.method != Method::HEAD {
            return Err(too_long());
        }
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece(op).await? {
            if (all.len() + piece.len()) as u64 > limit {
                return Err(too_long());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

/// Says something once a process.
#[derive(Debug, Default)]
pub(super) struct Once(AtomicBool);

impl Once {
    /// True the first time.
    pub(super) fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
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
        let ask = ask.send("x/y", Payload::Bytes("{}".into()));
        let (_, sent) = ask.build(&url);
        let patience = Patience {
            answer: Duration::from_mins(1),
            ..Patience::of(&Common::default(), 1)
        };
        let began = Instant::now();
        let silent = std::future::pending::<()>();
        sending("publish", patience, &sent, silent)
            .await
            .unwrap_err();
        assert_eq!(began.elapsed(), patience.answer);
    }
}

//! One request and its answer: bodies that can be sent again, and patience that ends.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::time::Instant;

use super::{auth::Account, error, scopes::Scopes};
use crate::{
    digest::Digest,
    progress::span,
    store::{Body, ByteStream, Error, ErrorKind, Result, net::Watch},
};

/// Bytes handed to the connection at once: small, so that a slow link is not taken for a stalled one.
const PIECE_BYTES: usize = 64 << 10;

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

impl Payload {
    fn len(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(b) => b.len() as u64,
            Self::Part(_, range) => range.end - range.start,
        }
    }
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

    /// The request with `url` in place of its own, and what watches it.
    pub(super) fn build(&self, url: &Url) -> (reqwest::Request, Arc<Pulse>) {
        let mut request = reqwest::Request::new(self.method.clone(), url.clone());
        *request.headers_mut() = self.headers.clone();
        let pulse = Arc::new(Pulse::new(self.payload.len()));
        match &self.payload {
            Payload::Nothing => {
                if !matches!(self.method, Method::GET | Method::HEAD | Method::DELETE) {
                    request
                        .headers_mut()
                        .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
            }
            Payload::Bytes(b) => *request.body_mut() = Some(b.clone().into()),
            Payload::Part(body, range) => {
                let length = HeaderValue::from(range.end - range.start);
                request.headers_mut().insert(CONTENT_LENGTH, length);
                let stream = watched(body.stream(range.clone()), pulse.clone());
                *request.body_mut() = Some(reqwest::Body::wrap_stream(stream));
            }
        }
        (request, pulse)
    }
}

fn watched(body: ByteStream, pulse: Arc<Pulse>) -> ByteStream {
    let small = body.flat_map(|piece| match piece {
        Ok(bytes) => stream::iter(cut(bytes).into_iter().map(Ok).collect::<Vec<_>>()),
        Err(e) => stream::iter(vec![Err(e)]),
    });
    small
        .inspect(move |piece| {
            if let Ok(bytes) = piece {
                pulse.beat(bytes.len() as u64);
            }
        })
        .boxed()
}

fn cut(mut bytes: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(bytes.len().div_ceil(PIECE_BYTES));
    while bytes.len() > PIECE_BYTES {
        pieces.push(bytes.split_to(PIECE_BYTES));
    }
    pieces.push(bytes);
    pieces
}

/// Knows when a body last moved.
#[derive(Debug)]
pub(super) struct Pulse {
    started: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
    left: AtomicU64,
}

impl Pulse {
    fn new(bytes: u64) -> Self {
        Self {
            started: Instant::now(),
            last: AtomicU64::new(0),
            left: AtomicU64::new(bytes),
        }
    }

    fn beat(&self, bytes: u64) {
        let left = self.left.load(Ordering::Relaxed);
        self.left
            .store(left.saturating_sub(bytes), Ordering::Relaxed);
        self.last
            .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When the request is given up, unless something moves before.
    pub(super) fn deadline(&self, patience: Patience) -> Instant {
        let last = self.last.load(Ordering::Relaxed);
        let moved = self.started + Duration::from_millis(last);
        let sent_all = self.left.load(Ordering::Relaxed) == 0;
        moved
            + match (last, sent_all) {
                (0, false) => patience.stall.max(patience.connect),
                (0, true) => patience.answer.max(patience.connect),
                (_, false) => patience.stall,
                (_, true) => patience.answer,
            }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a connection.
    pub(super) connect: Duration,
    /// For the next byte.
    pub(super) stall: Duration,
    /// For the answer when all is sent.
    pub(super) answer: Duration,
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
        let came = |piece: &reqwest::Result<Option<Bytes>>| match piece {
            Ok(Some(bytes)) => bytes.len() as u64,
            // The end and an error are no stall, however small the rest was.
            _ => u64::MAX / 2,
        };
        let piece = self.watch.wait(self.body.chunk(), came).await?;
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

/// Nothing moved for too long.
pub(super) fn stalled(op: &'static str, after: Duration) -> Error {
    let message = format!("no data for {}", span(after));
    Error::new(ErrorKind::Timeout, op, message)
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

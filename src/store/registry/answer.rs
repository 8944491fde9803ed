//! A response: its head, and its body as it arrives.

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap},
};

use super::{API_VERSION, credentials::Account, error};
use crate::{
    digest::Digest,
    store::{Error, Result, net::Watch},
};

/// The head of a response whose body is still to be read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) method: Method,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The URL that finally answered.
    pub(super) url: Url,
    /// It was another host than the registry.
    pub(super) away: bool,
    /// The option for using TLS, or not, if the current choice is wrong.
    pub(super) other_way: &'static str,
    /// Which credentials were sent, if they were refused.
    pub(super) account: Option<Account>,
    pub(super) watch: Watch,
    pub(super) body: reqwest::Response,
}

impl Answer {
    pub(super) fn text(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The received `Content-Length`.
    pub(super) fn length(&self) -> Option<u64> {
        self.text(CONTENT_LENGTH)?.parse().ok()
    }

    /// Returns true if its headers identify a registry: proxies add [`API_VERSION`] to their own pages too.
    pub(super) fn is_signed(&self) -> bool {
        self.headers.contains_key(API_VERSION) && self.media_type() != "text/html"
    }

    /// The media type without its parameters, in lower case; empty if there is none.
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

    /// Checks that the digest header, if there is one, names `want`.
    ///
    /// distribution 2.8 sends the SHA-256 of content that was requested by SHA-512, so another algorithm is ignored.
    pub(super) fn check_digest(&self, op: &'static str, want: &Digest) -> Result<()> {
        match self.digest() {
            Some(got) if got.algorithm() == want.algorithm() && got != *want => Err(
                Error::corrupt(op, format!("the registry reports digest {got} instead")),
            ),
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
        let too_long = || Error::corrupt(op, format!("the answer is longer than {limit} bytes"));
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

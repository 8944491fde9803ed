//! One upload in progress at the registry; cancelled when it is dropped unfinished (spec, "Pushing a blob in chunks").

use std::{collections::VecDeque, ops::Range, sync::Arc};

use parking_lot::Mutex;
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_RANGE, HeaderValue, LOCATION, RANGE},
};
use tracing::debug;

use super::{
    client::Inner,
    error,
    wire::{Answer, Ask, Payload},
};
use crate::{
    digest::Digest,
    store::{Body, Error, ErrorKind, Result},
    task::{self, Task},
};

/// Most cancellations under way; the oldest is given up for a new one.
const MAX_CLEANUPS: usize = 16;
/// Media type of pieces of a blob.
const BYTES: &str = "application/octet-stream";

/// Cancellations that run beside the work and end with the store.
#[derive(Debug, Default)]
pub(super) struct Cleanups(Mutex<VecDeque<Task<()>>>);

impl Cleanups {
    fn add(&self, task: Task<()>) {
        let mut all = self.0.lock();
        if all.len() >= MAX_CLEANUPS {
            all.pop_front();
        }
        all.push_back(task);
    }
}

/// An upload that the registry holds for us.
#[derive(Debug)]
pub(super) struct Session {
    inner: Arc<Inner>,
    /// Where it goes on, as the last answer said; `None` when there is nothing left to cancel.
    at: Option<Url>,
    /// Fewest bytes of a piece that is not the last (`OCI-Chunk-Min-Length`).
    pub(super) min_chunk: u64,
    /// Every request of it gets a connection of its own: what closes connections after so many bytes, or so much time, does not
    /// cut one that has carried only little.
    pub(super) alone: bool,
}

/// What the registry has of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offset {
    /// So many bytes from its start.
    At(u64),
    /// It does not know the session (any more).
    Lost,
}

impl Session {
    /// Starts one; see [`Self::alone`].
    pub(super) async fn open(inner: &Arc<Inner>, alone: bool) -> Result<Self> {
        let mut ask = Ask::new(
            "put",
            Method::POST,
            inner.url("blobs/uploads/"),
            &inner.push(),
        );
        ask.alone = alone;
        let answer = inner.transport.send(&ask).await?;
        if answer.status == StatusCode::ACCEPTED {
            return Self::of(inner, &answer);
        }
        Err(error::refusal("put", answer).await.error)
    }

    /// Takes the one that a `202` offers.
    pub(super) fn of(inner: &Arc<Inner>, answer: &Answer) -> Result<Self> {
        let mut session = Self {
            inner: inner.clone(),
            at: None,
            min_chunk: answer
                .text("oci-chunk-min-length")
                .and_then(|t| t.trim().parse().ok())
                .unwrap_or(0),
            alone: false,
        };
        session.moved(answer)?;
        match session.at {
            Some(_) => Ok(session),
            None => Err(Error::new(
                ErrorKind::Corrupt,
                "put",
                "the registry started an upload without saying where",
            )),
        }
    }

    /// Follows the session to where an answer says it goes on.
    pub(super) fn moved(&mut self, answer: &Answer) -> Result<()> {
        if let Some(text) = answer.text(LOCATION) {
            self.at = Some(self.inner.transport.named("put", answer, text)?);
        }
        Ok(())
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    fn url(&self) -> Result<Url> {
        let gone = || Error::new(ErrorKind::Unavailable, "put", "the upload is over");
        self.at.clone().ok_or_else(gone)
    }

    /// Sends a range of `body`; `placed` says where in the blob it belongs.
    pub(super) async fn patch(
        &self,
        body: &Body,
        range: Range<u64>,
        placed: bool,
    ) -> Result<Answer> {
        let mut ask = Ask::new("put", Method::PATCH, self.url()?, &self.inner.push());
        if placed {
            let text = format!("{}-{}", range.start, range.end - 1);
            let value = HeaderValue::from_str(&text).expect("digits are plain text");
            ask = ask.header(CONTENT_RANGE, value);
        }
        ask.wait = Some(super::upload::COMMIT_WAIT);
        ask.alone = self.alone;
        self.inner
            .transport
            .send(&ask.send(BYTES, Payload::Part(body.clone(), range)))
            .await
    }

    /// Ends the upload: the registry checks the digest and shows the blob.
    pub(super) async fn close(&self, digest: &Digest, payload: Payload) -> Result<Answer> {
        let mut url = self.url()?;
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut ask = Ask::new("put", Method::PUT, url, &self.inner.push()).send(BYTES, payload);
        ask.wait = Some(super::upload::COMMIT_WAIT);
        ask.alone = self.alone;
        self.inner.transport.send(&ask).await
    }

    /// Asks what the registry has.
    pub(super) async fn offset(&mut self) -> Result<Offset> {
        let mut ask = Ask::new("put", Method::GET, self.url()?, &self.inner.push());
        ask.alone = self.alone;
        let answer = self.inner.transport.send(&ask).await?;
        match answer.status.as_u16() {
            200..=204 => {
                self.moved(&answer)?;
                Ok(Offset::At(taken(&answer).unwrap_or(0)))
            }
            404 => {
                self.forget();
                Ok(Offset::Lost)
            }
            _ => Err(error::refusal("put", answer).await.error),
        }
    }

    /// There is nothing to cancel any more.
    pub(super) fn forget(&mut self) {
        self.at = None;
    }
}

/// Bytes that an answer says were taken, from the start of the blob: `Range: 0-<last>`.
///
/// An empty session says `0-0` as well (`distribution/distribution:registry/handlers/blobupload.go`), so that counts as nothing.
pub(super) fn taken(answer: &Answer) -> Option<u64> {
    let text = answer.text(RANGE)?.trim();
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let (first, last) = text.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then_some(if last == 0 { 0 } else { last.checked_add(1)? })
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(url) = self.at.take() else { return };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let inner = self.inner.clone();
        let task = task::spawn("cancel upload", async move {
            let ask = Ask::new("cancel", Method::DELETE, url, &inner.push());
            match inner.transport.send(&ask).await {
                Ok(answer) => debug!(status = answer.status.as_u16(), "Upload cancelled"),
                Err(error) => debug!(%error, "Upload left to the registry"),
            }
        });
        self.inner.cleanups.add(task);
    }
}

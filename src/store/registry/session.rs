//! One upload in progress at the registry; cancelled when it is dropped unfinished (spec, "Pushing a blob in chunks").

use std::{ops::Range, sync::Arc};

use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_RANGE, HeaderValue, LOCATION, RANGE},
};
use tracing::debug;

use super::{
    answer::Answer,
    request::{Ask, Payload},
    shared::Shared,
};
use crate::{
    digest::Digest,
    store::{Body, Error, Result},
    task,
};

/// Media type of pieces of a blob.
pub(super) const BYTES: &str = "application/octet-stream";

/// An upload session at the registry.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    /// Its next URL, according to the last answer; `None` if there is nothing left to cancel.
    at: Option<Url>,
    /// Minimum size of a piece, except the last one (`OCI-Chunk-Min-Length`).
    pub(super) min_chunk: u64,
    /// Every request of the session gets its own connection: a device that closes connections after a number of bytes, or some
    /// time, does not interrupt one that has carried only little.
    pub(super) alone: bool,
}

/// The registry's progress with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offset {
    /// This many bytes from its start.
    At(u64),
    /// It does not, or no longer, know the session.
    Lost,
}

impl Session {
    /// Starts one; see [`Self::alone`].
    pub(super) async fn open(shared: &Arc<Shared>, alone: bool) -> Result<Self> {
        let mut ask = Ask::new(
            "put",
            Method::POST,
            shared.url("blobs/uploads/"),
            &shared.push(),
        );
        ask.alone = alone;
        let answer = shared.transport.send(&ask).await?;
        if answer.status == StatusCode::ACCEPTED {
            return Self::of(shared, &answer);
        }
        Err(answer.refusal("put").await.error)
    }

    /// Takes over the session that a `202` offers.
    pub(super) fn of(shared: &Arc<Shared>, answer: &Answer) -> Result<Self> {
        let mut session = Self {
            shared: shared.clone(),
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
            None => Err(Error::corrupt(
                "put",
                "the registry started an upload without a `Location`",
            )),
        }
    }

    /// Updates the session's URL from an answer.
    pub(super) fn moved(&mut self, answer: &Answer) -> Result<()> {
        if let Some(text) = answer.text(LOCATION) {
            self.at = Some(self.shared.transport.named("put", answer, text)?);
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn url(&self) -> Result<Url> {
        let gone = || Error::unavailable("put", "the upload has ended");
        self.at.clone().ok_or_else(gone)
    }

    /// Sends a range of `body`; `placed` says where in the blob it belongs.
    pub(super) async fn patch(
        &self,
        body: &Body,
        range: Range<u64>,
        placed: bool,
    ) -> Result<Answer> {
        let mut ask = Ask::new("put", Method::PATCH, self.url()?, &self.shared.push());
        if placed {
            let text = format!("{}-{}", range.start, range.end - 1);
            let value = HeaderValue::from_str(&text).expect("digits are plain text");
            ask = ask.header(CONTENT_RANGE, value);
        }
        ask.alone = self.alone;
        let ask = ask.send(BYTES, Payload::Part(body.clone(), range));
        self.shared.transport.send(&ask.committing()).await
    }

    /// Finishes the upload: the registry checks the digest and publishes the blob.
    pub(super) async fn close(&self, digest: &Digest, payload: Payload) -> Result<Answer> {
        let mut url = self.url()?;
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut ask = Ask::new("put", Method::PUT, url, &self.shared.push()).send(BYTES, payload);
        ask.alone = self.alone;
        self.shared.transport.send(&ask.committing()).await
    }

    /// Asks for the registry's progress.
    pub(super) async fn offset(&mut self) -> Result<Offset> {
        let mut ask = Ask::new("put", Method::GET, self.url()?, &self.shared.push());
        ask.alone = self.alone;
        let answer = self.shared.transport.send(&ask).await?;
        match answer.status.as_u16() {
            200..=204 => {
                self.moved(&answer)?;
                Ok(Offset::At(taken(&answer).unwrap_or(0)))
            }
            404 => {
                self.forget();
                Ok(Offset::Lost)
            }
            _ => Err(answer.refusal("put").await.error),
        }
    }

    /// There is nothing to cancel any more.
    pub(super) fn forget(&mut self) {
        self.at = None;
    }
}

/// The number of bytes received according to an answer, from the start of the blob: `Range: 0-<last>`.
///
/// An empty session reports `0-0` as well (`distribution/distribution:registry/handlers/blobupload.go`), so that counts as
/// none.
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
        let shared = self.shared.clone();
        let task = task::spawn("cancel upload", async move {
            let ask = Ask::new("cancel", Method::DELETE, url, &shared.push());
            match shared.transport.send(&ask).await {
                Ok(answer) => debug!(status = answer.status.as_u16(), "Upload cancelled"),
                Err(error) => {
                    debug!(%error, "Could not cancel an upload; leaving it to the registry");
                }
            }
        });
        self.shared.cleanups.add(task);
    }
}

//! Reading blobs: `HEAD` and ranged `GET`, without trusting the answer (spec, "Pulling blobs").

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE},
};

use super::{API_VERSION, answer::Answer, error, request::Ask, shared::Shared};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{ByteStream, Error, Result, check, net::ContentRange},
};

fn ask(shared: &Shared, op: &'static str, method: Method, digest: &Digest) -> Ask {
    Ask::new(
        op,
        method,
        shared.url(&format!("blobs/{digest}")),
        &shared.pull(),
    )
    .header(ACCEPT, HeaderValue::from_static("*/*"))
    // Bytes are counted and hashed as stored: they must not be compressed in transit.
    .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

fn range_header(range: &Range<u64>) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1))
        .expect("digits are plain text")
}

/// The size of a blob; `None` if the registry does not have it.
pub(super) async fn stat(shared: &Shared, digest: &Digest) -> Result<Option<u64>> {
    let answer = shared
        .transport
        .send(&ask(shared, "stat", Method::HEAD, digest))
        .await?;
    match answer.status {
        StatusCode::OK => {
            answer.check_digest("stat", digest)?;
            check_plain("stat", &answer, digest)?;
            match answer.length() {
                Some(size) if is_vouched(&answer, digest) => can_be("stat", digest, size).map(Some),
                _ => stat_by_get(shared, digest).await,
            }
        }
        StatusCode::NOT_FOUND => {
            shared.transport.missing("stat", answer).await?;
            Ok(None)
        }
        // A URL signed for GET only, or a registry without HEAD.
        StatusCode::METHOD_NOT_ALLOWED => stat_by_get(shared, digest).await,
        _ if answer.away => stat_by_get(shared, digest).await,
        _ => Err(answer.refusal("stat").await.error),
    }
}

/// Checks whether the blob exists.
///
/// # Errors
/// `Corrupt` if it exists with another size.
pub(super) async fn is_there(shared: &Shared, desc: &Descriptor) -> Result<bool> {
    match stat(shared, &desc.digest).await? {
        None => Ok(false),
        Some(size) if size == desc.size => Ok(true),
        Some(size) => {
            let message = format!(
                "the registry has {size} bytes under this digest, but the blob has {}",
                desc.size
            );
            Err(Error::corrupt("put", message))
        }
    }
}

/// As [`stat`], by requesting the first byte.
async fn stat_by_get(shared: &Shared, digest: &Digest) -> Result<Option<u64>> {
    let ask = ask(shared, "stat", Method::GET, digest).header(RANGE, range_header(&(0..1)));
    let answer = shared.transport.send(&ask).await?;
    let size = match answer.status {
        StatusCode::NOT_FOUND => {
            shared.transport.missing("stat", answer).await?;
            return Ok(None);
        }
        StatusCode::PARTIAL_CONTENT => content_range(&answer).and_then(|r| r.total),
        StatusCode::OK if is_vouched(&answer, digest) => answer.length(),
        StatusCode::OK => {
            check_plain("stat", &answer, digest)?;
            return Err(error::foreign(
                "stat",
                "the answer does not state the blob's digest",
            ));
        }
        // An empty blob has no first byte.
        StatusCode::RANGE_NOT_SATISFIABLE => Some(0),
        _ => return Err(answer.refusal("stat").await.error),
    };
    check_plain("stat", &answer, digest)?;
    let size = size.ok_or_else(|| {
        error::foreign("stat", "the registry does not report the size of the blob")
    })?;
    can_be("stat", digest, size).map(Some)
}

/// Returns true if an answer proves to come from a registry, or from the storage that it names: a server that answers 200 to
/// everything does not.
fn is_vouched(answer: &Answer, digest: &Digest) -> bool {
    answer.away
        || answer.digest() == Some(*digest)
        || answer.text(API_VERSION).is_some()
        || answer.media_type() == "application/octet-stream"
}

/// Only one blob can be empty.
fn can_be(op: &'static str, digest: &Digest, size: u64) -> Result<u64> {
    if size == 0 && !digest.matches(b"") {
        return Err(error::foreign(op, "the answer is empty"));
    }
    Ok(size)
}

/// The bytes of `range` of a blob; `None` if the registry does not have it.
pub(super) async fn get(
    shared: &Arc<Shared>,
    desc: &Descriptor,
    range: Range<u64>,
) -> Result<Option<ByteStream>> {
    check::check_range("get", desc, &range)?;
    if range.is_empty() {
        return match stat(shared, &desc.digest).await? {
            Some(size) if size == desc.size => Ok(Some(stream::empty().boxed())),
            Some(size) => Err(Error::other_size(size, desc.size)),
            None => Ok(None),
        };
    }
    let whole = range.start == 0 && range.end == desc.size;
    let mut ask = ask(shared, "get", Method::GET, &desc.digest);
    if !whole {
        ask = ask.header(RANGE, range_header(&range));
    }
    let answer = shared.transport.send(&ask).await?;
    let skip = match answer.status {
        StatusCode::OK => {
            check_plain("get", &answer, &desc.digest)?;
            if let Some(size) = answer.length().filter(|s| *s != desc.size) {
                let e = Error::other_size(can_be("get", &desc.digest, size)?, desc.size);
                return Err(if is_vouched(&answer, &desc.digest) {
                    e
                } else {
                    error::foreign("get", e.message)
                });
            }
            range.start
        }
        StatusCode::PARTIAL_CONTENT => {
            check_range(desc, &range, &answer)?;
            0
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let size = answer
                .text(CONTENT_RANGE)
                .and_then(|t| t.strip_prefix("bytes */")?.parse().ok());
            return Err(Error::other_size(size.unwrap_or(0), desc.size));
        }
        StatusCode::NOT_FOUND => {
            shared.transport.missing("get", answer).await?;
            return Ok(None);
        }
        _ => return Err(answer.refusal("get").await.error),
    };
    answer.check_digest("get", &desc.digest)?;
    check_plain("get", &answer, &desc.digest)?;
    // For a whole blob the end of the stream is known.
    let to_the_end = answer.status == StatusCode::OK && range.end == desc.size;
    let left = range.end - range.start;
    Ok(Some(pieces(Pieces {
        answer,
        skip,
        left,
        to_the_end,
    })))
}

fn content_range(answer: &Answer) -> Option<ContentRange> {
    ContentRange::parse(answer.text(CONTENT_RANGE)?)
}

/// A part must start where it was requested; one that ends early ends the stream early, which reports it.
fn check_range(desc: &Descriptor, range: &Range<u64>, answer: &Answer) -> Result<()> {
    let Some(got) = content_range(answer) else {
        return Err(Error::corrupt(
            "get",
            "the registry sent a part without its range",
        ));
    };
    if let Some(total) = got.total.filter(|t| *t != desc.size) {
        return Err(Error::other_size(total, desc.size));
    }
    if got.first != range.start || got.last < got.first || got.last >= desc.size {
        let message = format!(
            "received bytes {}-{} instead of {}-{}",
            got.first,
            got.last,
            range.start,
            range.end - 1
        );
        return Err(Error::corrupt("get", message));
    }
    Ok(())
}

/// Refuses a page in place of a blob, and bytes that were compressed in transit.
fn check_plain(op: &'static str, answer: &Answer, digest: &Digest) -> Result<()> {
    answer.check_plain(op)?;
    let media_type = answer.media_type();
    let page = matches!(
        media_type.as_str(),
        "text/html" | "application/xhtml+xml" | "application/xml" | "text/xml"
    );
    // A blob may be HTML too: then the registry names its digest.
    if page && answer.digest() != Some(*digest) {
        let whence = super::guard::show(&answer.url);
        let why = format!("received a page ({media_type}) from `{whence}` instead of the blob");
        return Err(error::foreign(op, why));
    }
    Ok(())
}

struct Pieces {
    answer: Answer,
    /// Bytes at the start that were not requested.
    skip: u64,
    /// Bytes still to be received.
    left: u64,
    to_the_end: bool,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.left > 0 {
            let Some(mut piece) = self.answer.piece("get").await? else {
                let message = format!("the answer ended {} bytes early", self.skip + self.left);
                return Err(Error::unavailable("get", message));
            };
            let skipped = self.skip.min(piece.len() as u64);
            self.skip -= skipped;
            let _ = piece.split_to(skipped as usize);
            if piece.len() as u64 > self.left {
                if self.to_the_end {
                    return Err(Error::corrupt(
                        "get",
                        "the registry sent more bytes than the blob has",
                    ));
                }
                piece.truncate(self.left as usize);
            }
            self.left -= piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

fn pieces(pieces: Pieces) -> ByteStream {
    stream::try_unfold(pieces, |mut pieces| async move {
        let next = pieces.next().await?;
        Ok(next.map(|bytes| (bytes, pieces)))
    })
    .boxed()
}

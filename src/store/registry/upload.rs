//! Sending a blob, in the order in which registries take it (reference/oci-and-s3.md §2.3): there already, mounted, one POST
//! if it is tiny, one PUT, one streaming PATCH, pieces.
//!
//! distribution 2.8 (Debian's registry) cannot go on with a request that broke in its middle: the `_state` in every `Location`
//! names the offset that the upload's file had, a cut request leaves more bytes in the file, and at the next request of any
//! sort the registry finds the two different and drops the upload, acknowledged pieces and all
//! (`registry/handlers/blobupload.go`, `ResumeBlobUpload`). So after the first loss blobs go there *carefully*: in small
//! pieces, each by a connection of its own and with the `Location` of the one before, so that what limits the life of a connection
//! does not meet one in the middle; a piece that is lost before its first byte costs that piece only. Pieces get smaller with every loss.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use oci_client::errors::OciErrorCode;
use reqwest::{Method, StatusCode};
use tracing::debug;

use super::{
    blobs, chunked,
    client::Inner,
    error::{self, Refusal},
    scopes::Scopes,
    session::{self, Session},
    wire::{Answer, Ask, Payload},
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{Body, Error, ErrorKind, Put, Result, check_body},
};

/// Longest time from the last byte to the answer: registries on object stores copy the blob before they say so (moby/moby#17038).
pub(super) const COMMIT_WAIT: Duration = Duration::from_mins(1);
/// A blob that is sent in one POST, at most: sending it in vain costs no more than another request.
const TINY_BYTES: u64 = 64 << 10;
/// A blob from here on is not sent whole again when the connection broke.
const BIG_BYTES: u64 = 1 << 20;
/// Most times that one blob is sent from its start because the way there broke; more tries are the caller's.
const MAX_STARTS: u32 = 6;
/// Bytes of a piece once an upload was lost, halved with every further loss.
const CAREFUL_BYTES: u64 = 8 << 20;
const MIN_CAREFUL_BYTES: u64 = 1 << 20;

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// One PUT with all of it.
    Whole = 0,
    /// One PATCH with all of it, then PUT.
    Stream = 1,
    /// PATCH by PATCH, then PUT.
    Pieces = 2,
}

/// What became of one try.
#[derive(Debug)]
pub(super) enum Sent {
    /// It is there.
    Stored,
    /// The registry does not know the session (any more); nothing of it is left. With what it said.
    Lost(Error),
    /// It dropped the session because a request broke in its middle.
    Dropped(Error),
    /// This registry does not take it this way.
    NotSo(Way),
    /// It broke off, as the error says; for this blob another way can go on where it breaks the next time.
    Broke(Way, Error),
}

fn way(inner: &Inner) -> Way {
    match inner.way.load(Ordering::Relaxed) {
        0 => Way::Whole,
        1 => Way::Stream,
        _ => Way::Pieces,
    }
}

/// Stores `body` under `desc.digest`.
pub(super) async fn put(inner: &Arc<Inner>, desc: &Descriptor, body: &Body) -> Result<Put> {
    check_body("put", desc, body).await?;
    if is_there(inner, desc).await? {
        return Ok(Put::Existed);
    }
    let mut session = None;
    if desc.size <= TINY_BYTES && !inner.no_single_post.load(Ordering::Relaxed) {
        match single_post(inner, desc, body).await? {
            Started::There => return Ok(Put::Stored),
            Started::Session(s) => session = Some(s),
            Started::Nothing => {}
        }
    } else if desc.size > TINY_BYTES {
        match mount(inner, &desc.digest).await? {
            Started::There => return Ok(Put::Existed),
            Started::Session(s) => session = Some(s),
            Started::Nothing => {}
        }
    }
    let mut way = way(inner);
    let mut starts = 0;
    loop {
        let careful = inner.careful_bytes.load(Ordering::Relaxed);
        let mut opened = match session.take() {
            Some(session) => session,
            None => Session::open(inner, careful > 0).await?,
        };
        opened.alone = careful > 0;
        let sent = if careful > 0 && desc.size > careful {
            chunked::carefully(opened, desc, body, careful).await?
        } else {
            send(opened, way, desc, body).await?
        };
        let broke = match sent {
            Sent::Stored => return Ok(Put::Stored),
            Sent::NotSo(next) => {
                debug!(?way, ?next, "The registry wants blobs another way");
                inner.way.fetch_max(next as u8, Ordering::Relaxed);
                way = next;
                continue;
            }
            Sent::Lost(error) => error,
            Sent::Dropped(error) => {
                let bytes = match careful {
                    0 => CAREFUL_BYTES,
                    bytes => (bytes / 2).max(MIN_CAREFUL_BYTES),
                };
                debug!(bytes, "The registry cannot go on where a request broke");
                inner.careful_bytes.store(bytes, Ordering::Relaxed);
                error
            }
            Sent::Broke(next, error) => {
                way = next;
                error
            }
        };
        starts += 1;
        debug!(digest = %desc.digest, starts, error = %broke, "Upload broke off");
        if starts == MAX_STARTS {
            return Err(broke);
        }
    }
}

/// A session that is gone is no reason to give up, whatever the registry's words for it.
pub(super) fn lost(said: Error) -> Sent {
    Sent::Lost(gone(said))
}

/// The same where a request had broken before.
pub(super) fn dropped(broke: Error) -> Sent {
    Sent::Dropped(gone(broke))
}

fn gone(mut said: Error) -> Error {
    said.kind = ErrorKind::Unavailable;
    said.message = format!("the upload was lost: {}", said.message);
    said
}

/// Asks whether the blob is there.
///
/// # Errors
/// `Corrupt` if it is there with another size.
pub(super) async fn is_there(inner: &Inner, desc: &Descriptor) -> Result<bool> {
    match blobs::stat(inner, &desc.digest).await? {
        None => Ok(false),
        Some(size) if size == desc.size => Ok(true),
        Some(size) => {
            let message = format!(
                "the registry has {size} bytes under this digest, {} were to be stored",
                desc.size
            );
            Err(Error::new(ErrorKind::Corrupt, "put", message))
        }
    }
}

enum Started {
    There,
    Session(Session),
    Nothing,
}

/// One POST with everything; a registry that cannot do that offers a session instead (spec, "Single POST").
async fn single_post(inner: &Arc<Inner>, desc: &Descriptor, body: &Body) -> Result<Started> {
    let mut url = inner.url("blobs/uploads/");
    url.query_pairs_mut()
        .append_pair("digest", &desc.digest.to_string());
    let payload = Payload::Bytes(body.read(0..desc.size).await?);
    let mut ask =
        Ask::new("put", Method::POST, url, &inner.push()).send("application/octet-stream", payload);
    ask.wait = Some(COMMIT_WAIT);
    let answer = inner.transport.send(&ask).await?;
    match answer.status {
        StatusCode::CREATED => {
            answer.check_digest("put", &desc.digest)?;
            Ok(Started::There)
        }
        StatusCode::ACCEPTED => {
            inner.no_single_post.store(true, Ordering::Relaxed);
            Ok(Started::Session(Session::of(inner, &answer)?))
        }
        _ => {
            let refusal = error::refusal("put", answer).await;
            // What is wrong in any case will be said again; this says that it is wrong this way.
            let hopeless = matches!(
                refusal.error.kind,
                ErrorKind::Denied | ErrorKind::Unauthenticated
            );
            if hopeless || refusal.error.is_temporary() {
                return Err(refusal.error);
            }
            debug!(error = %refusal.error, "No upload in one POST");
            inner.no_single_post.store(true, Ordering::Relaxed);
            Ok(Started::Nothing)
        }
    }
}

/// Lets the registry take the blob from another of its repositories. Without `from` Quay fails, so it is always named.
async fn mount(inner: &Arc<Inner>, digest: &Digest) -> Result<Started> {
    let mut started = Started::Nothing;
    for from in inner
        .mount_from
        .iter()
        .filter(|from| **from != inner.repository)
    {
        let mut url = inner.url("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let scopes = inner.push().and(&Scopes::pull(from));
        match inner
            .transport
            .send(&Ask::new("mount", Method::POST, url, &scopes))
            .await
        {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                answer.check_digest("mount", digest)?;
                return Ok(Started::There);
            }
            // Any earlier session is dropped, and so cancelled.
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                started = Started::Session(Session::of(inner, &answer)?);
            }
            Ok(answer) => debug!(from, status = answer.status.as_u16(), "Not mounted"),
            Err(e) if e.is_temporary() => return Err(e),
            Err(error) => debug!(from, %error, "Not mounted"),
        }
    }
    Ok(started)
}

async fn send(session: Session, way: Way, desc: &Descriptor, body: &Body) -> Result<Sent> {
    match way {
        Way::Whole => whole(session, desc, body).await,
        Way::Stream => stream(session, desc, body).await,
        Way::Pieces => chunked::send(session, desc, body, 0).await,
    }
}

async fn whole(mut session: Session, desc: &Descriptor, body: &Body) -> Result<Sent> {
    let payload = if desc.size == 0 {
        Payload::Nothing
    } else {
        Payload::Part(body.clone(), 0..desc.size)
    };
    let answer = match session.close(&desc.digest, payload).await {
        Ok(answer) => answer,
        Err(e) if e.is_temporary() => return after_break(&mut session, desc, e).await,
        Err(e) => return Err(e),
    };
    if answer.status.is_success() {
        return stored(&mut session, desc, answer).await;
    }
    let Refusal { status, error, .. } = error::refusal("put", answer).await;
    match status.as_u16() {
        404 => {
            session.forget();
            Ok(lost(error))
        }
        405 | 411 | 415 | 501 => Ok(Sent::NotSo(Way::Stream)),
        413 | 416 => Ok(Sent::NotSo(Way::Pieces)),
        _ => Err(error),
    }
}

/// The connection broke before the answer: the blob may be there all the same.
async fn after_break(session: &mut Session, desc: &Descriptor, broke: Error) -> Result<Sent> {
    let inner = session.inner().clone();
    match is_there(&inner, desc).await {
        Ok(true) => {
            session.forget();
            Ok(Sent::Stored)
        }
        // Some registries reset big PUTs (§2.3, Azure); a PATCH passes there, and can go on where it broke elsewhere.
        Ok(false) if desc.size >= BIG_BYTES => Ok(Sent::Broke(Way::Stream, broke)),
        _ => Err(broke),
    }
}

/// Checks a success, and asks again where it is none by the letter.
pub(super) async fn stored(
    session: &mut Session,
    desc: &Descriptor,
    answer: Answer,
) -> Result<Sent> {
    answer.check_digest("put", &desc.digest)?;
    session.forget();
    let inner = session.inner().clone();
    if answer.status == StatusCode::CREATED || is_there(&inner, desc).await? {
        return Ok(Sent::Stored);
    }
    let why = format!(
        "the upload was answered with {}, and the blob is not there",
        answer.status
    );
    Err(error::foreign("put", why))
}

async fn stream(mut session: Session, desc: &Descriptor, body: &Body) -> Result<Sent> {
    if desc.size == 0 {
        return chunked::send(session, desc, body, 0).await;
    }
    let answer = match session.patch(body, 0..desc.size, false).await {
        Ok(answer) => answer,
        Err(e) if e.is_temporary() => return chunked::resume(session, desc, body, e).await,
        Err(e) => return Err(e),
    };
    if answer.status.is_success() {
        session.moved(&answer)?;
        let taken = session::taken(&answer)
            .filter(|t| *t > 0)
            .unwrap_or(desc.size);
        return chunked::send(session, desc, body, taken).await;
    }
    let Refusal {
        status,
        error,
        codes,
    } = error::refusal("put", answer).await;
    match status.as_u16() {
        404 => {
            session.forget();
            Ok(lost(error))
        }
        413 | 416 => Ok(Sent::NotSo(Way::Pieces)),
        400 if codes.contains(&OciErrorCode::SizeInvalid) => Ok(Sent::NotSo(Way::Pieces)),
        _ if error.is_temporary() => chunked::resume(session, desc, body, error).await,
        _ => Err(error),
    }
}

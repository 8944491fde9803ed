//! Sending a blob. The ways are tried in the order that suits registries: already stored, mounted, one POST if it is tiny, one
//! PUT, one streaming PATCH, pieces.
//!
//! distribution 2.8 (Debian's registry) cannot continue after a request that was interrupted in the middle: the `_state` in every
//! `Location` contains the previous offset of the upload's file, an interrupted request leaves more bytes in the file, and at
//! the next request of any kind the registry notices the difference and drops the upload, including acknowledged pieces
//! (`registry/handlers/blobupload.go`, `ResumeBlobUpload`). So after the first loss blobs are sent there *carefully*: in small
//! pieces, each on its own connection and with the `Location` of the one before, so that a limit on the life of a connection
//! does not interrupt one in the middle; a piece that is lost before its first byte costs that piece only. Pieces get smaller
//! with every loss.

use std::sync::{Arc, atomic::Ordering};

use reqwest::{Method, StatusCode};
use tracing::debug;

use super::{
    blobs, chunked,
    outcome::{Outcome, Way, stored},
    refusal::Refusal,
    request::{Ask, Payload},
    scopes::Scopes,
    session::{self, BYTES, Session},
    shared::Shared,
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{Body, Error, ErrorKind, Put, Result, check_body},
};

/// Maximum size of a blob that is sent in one POST: sending it in vain costs no more than another request.
const TINY_BYTES: u64 = 64 << 10;
/// From this size on a blob is not sent whole again after the connection broke.
const BIG_BYTES: u64 = 1 << 20;
/// Maximum number of times that a blob is sent from its start because of a broken connection; more attempts are left to the
/// caller.
const MAX_STARTS: u32 = 6;
/// Size of a piece once an upload was lost, halved with every further loss.
const CAREFUL_BYTES: u64 = 8 << 20;
const MIN_CAREFUL_BYTES: u64 = 1 << 20;

fn way(shared: &Shared) -> Way {
    match shared.way.load(Ordering::Relaxed) {
        0 => Way::Whole,
        1 => Way::Stream,
        _ => Way::Pieces,
    }
}

/// Stores `body` under `desc.digest`.
pub(super) async fn put(shared: &Arc<Shared>, desc: &Descriptor, body: &Body) -> Result<Put> {
    check_body("put", desc, body).await?;
    // An upload is begun without waiting for the answer, since most blobs are new; if this one is not, it is cancelled by dropping it.
    let (is_there, begun) = tokio::join!(blobs::is_there(shared, desc), begin(shared, desc, body));
    if is_there? {
        return Ok(Put::Existed);
    }
    let mut session = match begun? {
        Begun::Done(put) => return Ok(put),
        Begun::Session(session) => Some(session),
    };
    let mut way = way(shared);
    let mut starts = 0;
    loop {
        let careful = shared.careful_bytes.load(Ordering::Relaxed);
        let mut opened = match session.take() {
            Some(session) => session,
            None => Session::open(shared, careful > 0).await?,
        };
        opened.alone = careful > 0;
        let sent = if careful > 0 && desc.size > careful {
            chunked::carefully(opened, desc, body, careful).await?
        } else {
            send(opened, way, desc, body).await?
        };
        let broke = match sent {
            Outcome::Stored => return Ok(Put::Stored),
            Outcome::NotSo(next) => {
                debug!(
                    ?way,
                    ?next,
                    "The registry needs another way of uploading blobs"
                );
                shared.way.fetch_max(next as u8, Ordering::Relaxed);
                way = next;
                continue;
            }
            Outcome::Lost(error) => error,
            Outcome::Dropped(error) => {
                let bytes = match careful {
                    0 => CAREFUL_BYTES,
                    bytes => (bytes / 2).max(MIN_CAREFUL_BYTES),
                };
                debug!(bytes, "The registry cannot resume an interrupted request");
                shared.careful_bytes.store(bytes, Ordering::Relaxed);
                error
            }
            Outcome::Broke(next, error) => {
                way = next;
                error
            }
        };
        starts += 1;
        debug!(digest = %desc.digest, starts, error = %broke, "Upload interrupted");
        if starts == MAX_STARTS {
            return Err(broke);
        }
    }
}

enum Begun {
    /// The registry has the blob now.
    Done(Put),
    Session(Session),
}

/// The first request of an upload: with the blob itself if it is tiny, or for a blob of another repository.
async fn begin(shared: &Arc<Shared>, desc: &Descriptor, body: &Body) -> Result<Begun> {
    let begun = if desc.size > TINY_BYTES {
        mount(shared, &desc.digest).await?
    } else if shared.no_single_post.load(Ordering::Relaxed) {
        None
    } else {
        single_post(shared, desc, body).await?
    };
    if let Some(begun) = begun {
        return Ok(begun);
    }
    let is_careful = shared.careful_bytes.load(Ordering::Relaxed) > 0;
    Ok(Begun::Session(Session::open(shared, is_careful).await?))
}

/// One POST with everything; a registry that does not support that offers a session instead (spec, "Single POST").
async fn single_post(
    shared: &Arc<Shared>,
    desc: &Descriptor,
    body: &Body,
) -> Result<Option<Begun>> {
    let mut url = shared.url("blobs/uploads/");
    url.query_pairs_mut()
        .append_pair("digest", &desc.digest.to_string());
    let payload = Payload::Bytes(body.read(0..desc.size).await?);
    let ask = Ask::new("put", Method::POST, url, &shared.push()).send(BYTES, payload);
    let answer = shared.transport.send(&ask.committing()).await?;
    match answer.status {
        StatusCode::CREATED => {
            answer.check_digest("put", &desc.digest)?;
            Ok(Some(Begun::Done(Put::Stored)))
        }
        StatusCode::ACCEPTED => {
            shared.no_single_post.store(true, Ordering::Relaxed);
            Ok(Some(Begun::Session(Session::of(shared, &answer)?)))
        }
        _ => {
            let refusal = answer.refusal("put").await;
            // A general error will be reported again; this one means that only this way fails.
            let hopeless = matches!(
                refusal.error.kind,
                ErrorKind::Denied | ErrorKind::Unauthenticated
            );
            if hopeless || refusal.error.is_temporary() {
                return Err(refusal.error);
            }
            debug!(error = %refusal.error, "The registry does not support uploads in one POST");
            shared.no_single_post.store(true, Ordering::Relaxed);
            Ok(None)
        }
    }
}

/// Lets the registry take the blob from another of its repositories. Quay fails without `from`, so it is always sent.
async fn mount(shared: &Arc<Shared>, digest: &Digest) -> Result<Option<Begun>> {
    let mut begun = None;
    for from in shared
        .mount_from
        .iter()
        .filter(|from| **from != shared.repository)
    {
        let mut url = shared.url("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let scopes = shared.push().and(&Scopes::pull(from));
        match shared
            .transport
            .send(&Ask::new("mount", Method::POST, url, &scopes))
            .await
        {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                answer.check_digest("mount", digest)?;
                return Ok(Some(Begun::Done(Put::Existed)));
            }
            // Any earlier session is dropped, and thereby cancelled.
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                begun = Some(Begun::Session(Session::of(shared, &answer)?));
            }
            Ok(answer) => debug!(from, status = answer.status.as_u16(), "Blob not mounted"),
            Err(e) if e.is_temporary() => return Err(e),
            Err(error) => debug!(from, %error, "Blob not mounted"),
        }
    }
    Ok(begun)
}

async fn send(session: Session, way: Way, desc: &Descriptor, body: &Body) -> Result<Outcome> {
    match way {
        Way::Whole => whole(session, desc, body).await,
        Way::Stream => stream(session, desc, body).await,
        Way::Pieces => chunked::send(session, desc, body, 0).await,
    }
}

async fn whole(mut session: Session, desc: &Descriptor, body: &Body) -> Result<Outcome> {
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
    let Refusal { status, error, .. } = answer.refusal("put").await;
    match status.as_u16() {
        404 => {
            session.forget();
            Ok(Outcome::lost(error))
        }
        405 | 411 | 415 | 501 => Ok(Outcome::NotSo(Way::Stream)),
        413 | 416 => Ok(Outcome::NotSo(Way::Pieces)),
        _ => Err(error),
    }
}

/// The connection broke before the answer: the blob may be stored anyway.
async fn after_break(session: &mut Session, desc: &Descriptor, broke: Error) -> Result<Outcome> {
    let shared = session.shared().clone();
    match blobs::is_there(&shared, desc).await {
        Ok(true) => {
            session.forget();
            Ok(Outcome::Stored)
        }
        // Some registries reset big PUTs (§2.3, Azure); a PATCH works there, and can be resumed elsewhere.
        Ok(false) if desc.size >= BIG_BYTES => Ok(Outcome::Broke(Way::Stream, broke)),
        _ => Err(broke),
    }
}

async fn stream(mut session: Session, desc: &Descriptor, body: &Body) -> Result<Outcome> {
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
    let refusal = answer.refusal("put").await;
    let is_size = refusal.says("SIZE_INVALID");
    let error = refusal.error;
    match refusal.status.as_u16() {
        404 => {
            session.forget();
            Ok(Outcome::lost(error))
        }
        413 | 416 => Ok(Outcome::NotSo(Way::Pieces)),
        400 if is_size => Ok(Outcome::NotSo(Way::Pieces)),
        _ if error.is_temporary() => chunked::resume(session, desc, body, error).await,
        _ => Err(error),
    }
}

//! Uploads of blobs: in one request, in chunks, streamed; mounted from another repository; resumed and cancelled.
//!
//! The states are those of the distribution spec, "Pushing Blobs". After a chunk out of order (416) the upload continues; after
//! a wrong digest it is removed.

use std::ops::Range;

use axum::{
    body::Body,
    http::{StatusCode, header, request::Parts, response::Builder},
};

use super::{
    Answer, Registry, Sight,
    error::{Code, of_store, refuse},
    http::{UPLOAD_UUID, answer, chunk, finish, param, text, with_digest},
    route::{self, no_upload},
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    serve::{auth::Need, door::Call, observe::Saved, refusal::Refusal},
    store::{
        Body as Bytes, ByteStream, Put,
        ingest::{Appended, Finished, UploadId},
        keys::Repo,
    },
};

/// The URL for the next request of an upload; `at` tells any daemon that receives it how many bytes there are.
fn location(repo: &Repo, id: &UploadId, size: u64) -> String {
    format!("/v2/{repo}/blobs/uploads/{id}?at={size}")
}

/// Reports the progress of an upload. An empty one has no valid range; registries report `0-0`.
fn progress(builder: Builder, repo: &Repo, id: &UploadId, size: u64) -> Builder {
    builder
        .header(header::LOCATION, location(repo, id, size))
        .header(header::RANGE, format!("0-{}", size.saturating_sub(1)))
        .header(UPLOAD_UUID, id.to_string())
}

/// The progress of the upload according to the client.
fn at(parts: &Parts) -> Option<u64> {
    param(parts.uri.query(), "at")?.parse().ok()
}

/// The repository to mount a blob from.
pub(super) fn source(parts: &Parts) -> Option<Repo> {
    param(parts.uri.query(), "from")?.parse().ok()
}

fn stored(repo: &Repo, digest: &Digest) -> Answer {
    let builder = with_digest(answer(StatusCode::CREATED), digest)
        .header(header::LOCATION, format!("/v2/{repo}/blobs/{digest}"));
    finish(builder, "")
}

/// Notes that this many bytes need not be sent, or stored, again.
fn saved(answer: Answer, how: &'static str, bytes: u64) -> Answer {
    answer.map(|mut response| {
        response.extensions_mut().insert(Saved { how, bytes });
        response
    })
}

/// Checks that blobs may use this algorithm.
fn check_algorithm(name: &str) -> Result<(), Refusal> {
    if matches!(name, "sha256" | "sha512") {
        return Ok(());
    }
    let why = format!("unsupported digest algorithm `{name}`: expected sha256 or sha512");
    Err(refuse(Code::DIGEST_INVALID, why))
}

impl Registry {
    /// `POST …/blobs/uploads/`: with `mount`, with `digest` and the whole body, or to begin.
    pub(super) async fn begin_upload(
        &self,
        repo: &Repo,
        call: &Call,
        body: Body,
        sight: Sight,
    ) -> Answer {
        let query = call.parts.uri.query();
        if let Some(digest) = param(query, "mount") {
            let digest = route::digest(&digest)?;
            let source = source(&call.parts);
            let source = source.filter(|from| call.who.may(&Need::pull(from.as_str())));
            let source = source.as_ref();
            // A source that may not be read is treated like a missing one.
            let hidden = source.is_none() && param(query, "from").is_some();
            if !hidden && let Some(size) = self.mount(repo, &digest, source, sight, call).await? {
                return saved(stored(repo, &digest), "mounted", size);
            }
        }
        if let Some(name) = param(query, "digest-algorithm") {
            check_algorithm(&name)?;
        }
        let whole = param(query, "digest")
            .map(|d| route::digest(&d))
            .transpose()?;
        let owner = call.ticket.key().to_string();
        let id = self.uploads.begin(repo, &owner, whole.is_some()).await?;
        match whole {
            Some(digest) => {
                let all = (Some(0), None, Some(call.ticket.receive(body)));
                let done = self.commit(repo, &id, &digest, all, sight, call).await;
                if done.is_err() {
                    // The client never learned of the upload, so nobody can continue it.
                    if let Err(error) = self.uploads.drop_unheard(&id).await {
                        tracing::debug!(%error, "Could not remove an upload; it stays until it expires");
                    }
                }
                done
            }
            None => finish(progress(answer(StatusCode::ACCEPTED), repo, &id, 0), ""),
        }
    }

    /// Makes a blob visible here that another repository (any, without `from`) already shows to the caller; returns its size.
    async fn mount(
        &self,
        repo: &Repo,
        digest: &Digest,
        from: Option<&Repo>,
        sight: Sight,
        call: &Call,
    ) -> Result<Option<u64>, Refusal> {
        let _pass = self.pass(call).await;
        let source = self.repository(from.unwrap_or(repo));
        if !self.sees(&source, digest, sight).await?
            || (from.is_some() && source.stat_or_send(digest).await?.is_none())
        {
            return Ok(None);
        }
        let size = self.repository(repo).mount_blob(digest).await?;
        if size.is_some() {
            self.own(repo, digest, sight).await?;
            self.promise(call, digest);
        }
        Ok(size)
    }

    /// Notes that a caller that sees no other blobs brought this one here.
    async fn own(&self, repo: &Repo, digest: &Digest, sight: Sight) -> Result<(), Refusal> {
        if sight == Sight::Own {
            self.sights.link(&self.repository(repo), digest).await?;
        }
        Ok(())
    }

    /// `GET <upload>`
    pub(super) async fn upload_status(&self, repo: &Repo, id: &UploadId) -> Answer {
        let size = self.uploads.size(own(repo, id)?).await?;
        let size = size.ok_or_else(no_upload)?;
        finish(progress(answer(StatusCode::NO_CONTENT), repo, id, size), "")
    }

    /// `PATCH <upload>`
    pub(super) async fn append(
        &self,
        repo: &Repo,
        id: &UploadId,
        call: &Call,
        body: Body,
    ) -> Answer {
        let id = own(repo, id)?;
        let range = chunk(&call.parts.headers)?;
        let owner = call.ticket.key().to_string();
        let (at, body) = (at(&call.parts), call.ticket.receive(body));
        let appended = self.uploads.append((id, &owner), at, range, body);
        match appended.await? {
            Appended::Size(size) => {
                finish(progress(answer(StatusCode::ACCEPTED), repo, id, size), "")
            }
            other => Err(refused(repo, id, other)),
        }
    }

    /// `PUT <upload>?digest=…`, with the last bytes or without
    pub(super) async fn finish_upload(
        &self,
        repo: &Repo,
        id: &UploadId,
        call: &Call,
        body: Body,
        sight: Sight,
    ) -> Answer {
        let (id, parts) = (own(repo, id)?, &call.parts);
        let digest = param(parts.uri.query(), "digest")
            .ok_or_else(|| refuse(Code::DIGEST_INVALID, "`digest` is missing"))?;
        let digest = route::digest(&digest)?;
        let range = chunk(&parts.headers)?;
        let empty = text(&parts.headers, &header::CONTENT_LENGTH) == Some("0");
        let body = (range.is_some() || !empty).then(|| call.ticket.receive(body));
        self.commit(repo, id, &digest, (at(parts), range, body), sight, call)
            .await
    }

    /// `DELETE <upload>`
    pub(super) async fn cancel_upload(&self, repo: &Repo, id: &UploadId) -> Answer {
        if self.uploads.cancel(own(repo, id)?).await? {
            finish(answer(StatusCode::NO_CONTENT), "")
        } else {
            Err(no_upload())
        }
    }

    /// Removes what the store has of an upload that has ended.
    async fn clear_upload(&self, id: &UploadId, at: Option<u64>, given_up: bool) {
        if let Err(error) = self.uploads.forget(id, at, given_up).await {
            tracing::debug!(%error, "Could not remove the pieces of a finished upload; they stay until they expire");
        }
    }

    /// Takes the last bytes of an upload and stores it under its digest.
    async fn commit(
        &self,
        repo: &Repo,
        id: &UploadId,
        digest: &Digest,
        (at, range, body): (Option<u64>, Option<Range<u64>>, Option<ByteStream>),
        sight: Sight,
        call: &Call,
    ) -> Answer {
        let owner = call.ticket.key().to_string();
        let finished = match self.uploads.finish((id, &owner), at, range, body).await? {
            Ok(finished) => finished,
            Err(other) => return Err(refused(repo, id, other)),
        };
        if let Err(wrong) = check_digest(&finished, digest) {
            self.clear_upload(id, at, true).await;
            return Err(wrong);
        }
        let desc = Descriptor::new("", *digest, finished.spool.size());
        let body = Bytes::Spool(finished.spool.clone());
        let repository = self.repository(repo);
        let put = || async {
            let _pass = self.pass(call).await;
            let put = repository.put_blob(&desc, &body).await;
            let put = put.map_err(|e| of_store(&e, Code::DIGEST_INVALID));
            if put.as_ref().is_err_and(Refusal::is_unavailable) {
                finished.waits();
            }
            let put = put?;
            self.promise(call, digest);
            Ok(put)
        };
        let put = Box::pin(call.until_back(digest, put));
        let put = tokio::select! {
            biased;
            put = put => put,
            full = finished.given_up() => Err(full.into()),
        };
        // A client that is told to retry continues with what the store has of it.
        let goes_on = put.as_ref().is_err_and(Refusal::is_unavailable);
        if !goes_on {
            self.clear_upload(id, at, put.is_err()).await;
        }
        let put = put?;
        self.own(repo, digest, sight).await?;
        match put {
            Put::Stored => stored(repo, digest),
            Put::Existed => saved(stored(repo, digest), "existed", desc.size),
        }
    }
}

/// Refuses bytes with another digest at once, even while the store is unreachable; digests other than SHA-256 are checked by
/// the store.
fn check_digest(finished: &Finished, digest: &Digest) -> Result<(), Refusal> {
    let is = finished.spool.digest();
    if is.algorithm() != digest.algorithm() || is == *digest {
        return Ok(());
    }
    let why = format!("the bytes have the digest {is}, not {digest}");
    Err(refuse(Code::DIGEST_INVALID, why))
}

/// An upload exists only in the repository that it was begun in.
fn own<'i>(repo: &Repo, id: &'i UploadId) -> Result<&'i UploadId, Refusal> {
    id.is_of(repo).then_some(id).ok_or_else(no_upload)
}

/// The answer to bytes that were not accepted.
fn refused(repo: &Repo, id: &UploadId, why: Appended) -> Refusal {
    match why {
        Appended::Unknown => no_upload(),
        Appended::Size(_) | Appended::WrongLength(_) => refuse(
            Code::SIZE_INVALID,
            "the body is not as long as its `Content-Range`",
        ),
        Appended::OutOfOrder(size) => refuse(
            Code::BLOB_UPLOAD_INVALID,
            format!("the next chunk begins at {size}"),
        )
        .header(header::LOCATION, location(repo, id, size))
        .header(header::RANGE, format!("0-{}", size.saturating_sub(1))),
    }
}

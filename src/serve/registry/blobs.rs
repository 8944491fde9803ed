//! Blobs: read, whole or in part, and deleted.

use axum::http::{StatusCode, header, request::Parts};

use super::{
    Answer, Registry, Sight,
    error::{Code, Refusal},
    http::{Part, answer, finish, outgoing, part, with_digest},
    uploads::ticket,
};
use crate::{artifact::Descriptor, digest::Digest, store::keys::Repo};

/// The type of every blob: what it is, only its manifest knows.
const OCTETS: &str = "application/octet-stream";

fn unknown(digest: &Digest) -> Refusal {
    Refusal::new(Code::BlobUnknown, format!("there is no blob {digest} here"))
}

fn damaged(e: &crate::store::Error) -> Refusal {
    if e.is_temporary() {
        tracing::debug!(error = %e, "Blob cannot be served yet");
    } else {
        tracing::warn!(error = %e, "Blob cannot be served");
    }
    Refusal::of_store(e, Code::BlobUnknown)
}

impl Registry {
    pub(super) async fn get_blob(
        &self,
        repo: &Repo,
        digest: &Digest,
        parts: &Parts,
        sight: Sight,
    ) -> Answer {
        let repository = self.read_only(repo);
        if !self.sees(&repository, digest, sight).await? {
            return Err(unknown(digest));
        }
        // A push asks first; told that it is not there, it is sent.
        let size = match parts.method {
            axum::http::Method::HEAD => {
                let _pass = self.pass(parts).await;
                let size = repository.stat_or_send(digest).await;
                if matches!(size, Ok(Some(_))) {
                    self.promise(parts, digest);
                }
                size
            }
            _ => repository.stat_blob(digest).await,
        };
        let size = size.map_err(|e| damaged(&e))?;
        let size = size.ok_or_else(|| unknown(digest))?;
        // Content never changes under its digest.
        let etag = format!("\"{digest}\"");
        let (status, range) = match part(&parts.headers, size, &etag) {
            Part::Whole => (StatusCode::OK, 0..size),
            Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
            Part::Unsatisfiable => {
                return Err(
                    Refusal::new(Code::SizeInvalid, "the blob does not have this range")
                        .status(StatusCode::RANGE_NOT_SATISFIABLE)
                        .header(header::CONTENT_RANGE, format!("bytes */{size}")),
                );
            }
        };
        let mut builder = with_digest(answer(status), digest)
            .header(header::CONTENT_TYPE, OCTETS)
            // A browser saves it, whatever it is.
            .header(header::CONTENT_DISPOSITION, "attachment")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, etag)
            .header(header::CONTENT_LENGTH, range.end - range.start);
        if status == StatusCode::PARTIAL_CONTENT {
            let named = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            builder = builder.header(header::CONTENT_RANGE, named);
        }
        if parts.method == axum::http::Method::HEAD {
            return finish(builder, axum::body::Body::empty());
        }
        let desc = Descriptor::new(OCTETS, *digest, size);
        // Before it is opened: whoever waits keeps no file and no connection.
        ticket(parts).transfer().await?;
        let stream = repository.get_blob(&desc, range).await;
        let stream = stream.map_err(|e| damaged(&e))?;
        finish(builder, outgoing(stream.ok_or_else(|| unknown(digest))?))
    }

    pub(super) async fn delete_blob(&self, repo: &Repo, digest: &Digest, sight: Sight) -> Answer {
        let repository = self.repository(repo);
        // What the caller does not see is as unknown to it as what is missing.
        if self.sees(&repository, digest, sight).await? && repository.delete_blob(digest).await? {
            finish(answer(StatusCode::ACCEPTED), "")
        } else {
            Err(unknown(digest))
        }
    }
}

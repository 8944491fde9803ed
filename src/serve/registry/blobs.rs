//! Blobs: read, whole or in part, and deleted.

use axum::http::{Method, StatusCode, header};

use super::{
    Answer, Registry, Sight,
    error::{Code, of_store, refuse},
    http::{answer, finish, outgoing, with_digest},
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    serve::{door::Call, range, refusal::Refusal},
    store::keys::Repo,
};

/// The type of every blob: only its manifest knows what it is.
const OCTETS: &str = "application/octet-stream";

fn unknown(digest: &Digest) -> Refusal {
    refuse(
        Code::BLOB_UNKNOWN,
        format!("blob {digest} is not in this repository"),
    )
}

fn damaged(e: &crate::store::Error) -> Refusal {
    if e.is_temporary() {
        tracing::debug!(error = %e, "Blob cannot be served yet");
    } else {
        tracing::warn!(error = %e, "Blob cannot be served");
    }
    of_store(e, Code::BLOB_UNKNOWN)
}

impl Registry {
    pub(super) async fn get_blob(
        &self,
        repo: &Repo,
        digest: &Digest,
        call: &Call,
        sight: Sight,
    ) -> Answer {
        let repository = self.read_only(repo);
        if !self.sees(&repository, digest, sight).await? {
            return Err(unknown(digest));
        }
        // A push checks first whether the blob exists; if not, it is sent.
        let size = match call.parts.method {
            Method::HEAD => {
                let _pass = self.pass(call).await;
                let size = repository.stat_or_send(digest).await;
                if matches!(size, Ok(Some(_))) {
                    self.promise(call, digest);
                }
                size
            }
            _ => repository.stat_blob(digest).await,
        };
        let size = size.map_err(|e| damaged(&e))?;
        let size = size.ok_or_else(|| unknown(digest))?;
        // Content never changes under a digest.
        let etag = format!("\"{digest}\"");
        let (builder, range) = range::begin(&call.parts.headers, size, &etag)?;
        let builder = with_digest(builder, digest)
            .header(header::CONTENT_TYPE, OCTETS)
            // Browsers save it instead of showing it.
            .header(header::CONTENT_DISPOSITION, "attachment");
        if call.parts.method == Method::HEAD {
            return finish(builder, "");
        }
        let desc = Descriptor::new(OCTETS, *digest, size);
        // Before it is opened: a waiting request holds no file and no connection.
        call.ticket.transfer().await?;
        let stream = repository.get_blob(&desc, range).await;
        let stream = stream.map_err(|e| damaged(&e))?;
        finish(builder, outgoing(stream.ok_or_else(|| unknown(digest))?))
    }

    pub(super) async fn delete_blob(&self, repo: &Repo, digest: &Digest, sight: Sight) -> Answer {
        let repository = self.repository(repo);
        // A blob that the caller may not see is treated like a missing one.
        if self.sees(&repository, digest, sight).await? && repository.delete_blob(digest).await? {
            finish(answer(StatusCode::ACCEPTED), "")
        } else {
            Err(unknown(digest))
        }
    }
}

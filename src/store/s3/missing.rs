//! Whether an answer 404 is the store's: see [`crate::store::signs`].
//!
//! S3 reports missing objects in a document (S3 API reference, "Error responses"), except for HEAD, whose answers have only a
//! request id: `x-amz-request-id` (AWS, MinIO, Ceph, SeaweedFS), `x-guploader-uploadid` (Google).

use std::sync::atomic::Ordering;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::{Wire, error::from_sdk, foreign::foreign, patience::Answer};
use crate::{
    digest::Digest,
    store::{
        error::{ErrorKind, Result},
        keys,
        signs::To,
    },
};

/// How an answer reports a missing object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// By S3's document.
    Said,
    /// Without a document, but with an S3 store's headers: the bucket may be missing, too.
    Signed,
    /// By its status alone, which any server may send.
    Bare,
}

/// Classifies an answer; `None` if it reports something else.
pub(super) fn missing<E: ProvideErrorMetadata>(e: &SdkError<E, HttpResponse>) -> Option<Missing> {
    let SdkError::ServiceError(service) = e else {
        return None;
    };
    let raw = service.raw();
    if raw.status().as_u16() != 404 {
        return None;
    }
    let has_words = raw.body().bytes().is_some_and(|body| !body.is_empty());
    let header = |name: &str| raw.headers().get(name);
    let signed = header("x-amz-request-id").or(header("x-guploader-uploadid"));
    let is_page = header("content-type").is_some_and(|t| t.trim_start().starts_with("text/html"));
    match service.err().code() {
        Some("NoSuchKey" | "NotFound") if has_words => Some(Missing::Said),
        // The SDK makes up a code if there is no body.
        None | Some("NotFound") if !has_words => Some(match signed {
            Some(_) if !is_page => Missing::Signed,
            _ => Missing::Bare,
        }),
        _ => None,
    }
}

impl Wire {
    /// Accepts that an object is missing, unless the answer is not the store's, or the bucket is missing. If answers are
    /// signed, it asks for that at most once.
    pub(super) async fn believe(&self, op: &'static str, missing: Missing, to: To) -> Result<()> {
        match missing {
            Missing::Said => self.bucket_seen.store(true, Ordering::Relaxed),
            Missing::Signed if self.bucket_seen.load(Ordering::Relaxed) => {}
            Missing::Signed => self.ask_for_nothing(op).await?,
            Missing::Bare => return self.signs.settle(op, to, self.ask_for_nothing(op)).await,
        }
        self.signs.signed(to);
        Ok(())
    }

    /// Requests an object that nobody wrote: the store then reports whether the object or the bucket is missing.
    async fn ask_for_nothing(&self, op: &'static str) -> Result<()> {
        let unknown = Digest::sha256_of(&fastrand::u128(..).to_le_bytes());
        let sent = Box::pin(
            self.client
                .get_object()
                .bucket(&self.bucket)
                .key(self.key(&keys::blob(&unknown)))
                .send(),
        );
        match self.within(op, Answer::Soon, sent).await? {
            Ok(_) => return Err(foreign(op, "an object that was never written exists")),
            Err(e) if missing(&e) == Some(Missing::Said) => {}
            Err(e) => {
                let is_said = e.code().is_some();
                let e = from_sdk(op, e);
                // A caller that may not list the bucket may still read it.
                if !is_said || !matches!(e.kind, ErrorKind::Denied | ErrorKind::Unsupported) {
                    return Err(e);
                }
            }
        }
        self.bucket_seen.store(true, Ordering::Relaxed);
        self.signs.seen();
        Ok(())
    }
}

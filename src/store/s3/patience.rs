//! Timeouts for a bucket's answers: a number of stall times, depending on the work of the request.

use std::sync::Arc;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::{ByteStream as SdkStream, SdkBody},
};

use super::{Wire, error::from_sdk};
use crate::store::{
    body::ByteStream,
    error::Result,
    net::{self, Sent, Upload},
};

/// Maximum time of a server for an answer once it has the whole request, in stall times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Reads: it only has to look.
    Soon = 1,
    /// Writes and listings: it has work to do, and our last bytes may still be in buffers in between.
    Later = 3,
    /// Completing an upload: S3 documents that this can take minutes.
    AfterWork = 12,
}

/// The body of a request of `bytes`, of exactly `len` bytes, and its progress.
pub(super) fn counted(bytes: ByteStream, len: u64) -> (SdkStream, Arc<Sent>) {
    let (upload, sent) = Upload::new(bytes, len);
    (SdkStream::new(SdkBody::from_body_1_x(upload)), sent)
}

impl Wire {
    /// Waits for the answer to a request with a small body or none.
    ///
    /// # Errors
    /// `Timeout` if there is none in time, and any error in the answer.
    pub(super) async fn answer<T, E>(
        &self,
        op: &'static str,
        answer: Answer,
        sent: impl Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let answered = self.within(op, answer, sent).await?;
        answered.map_err(|e| from_sdk(op, e))
    }

    /// As [`Self::answer`], but leaves errors in the answer to the caller.
    pub(super) async fn within<T>(
        &self,
        op: &'static str,
        answer: Answer,
        sent: impl Future<Output = T>,
    ) -> Result<T> {
        net::within(op, self.patience.stall * answer as u32, sent).await
    }

    /// The same for a request with a body, as long as its bytes are accepted.
    pub(super) async fn sending<T>(
        &self,
        op: &'static str,
        sent: &Sent,
        answer: impl Future<Output = T>,
    ) -> Result<T> {
        net::sending(op, self.patience, sent, answer).await
    }
}

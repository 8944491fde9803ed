//! Ability: checks whether the store may be written to, before anything is packed.

use async_trait::async_trait;

use super::error::{ErrorKind, Result};

/// Checks whether blobs may be written to a store.
#[async_trait]
pub trait PushCheck: Send + Sync {
    /// Checks with one request. It leaves nothing behind, except perhaps the empty JSON object (`{}`) as a blob, which
    /// snapshots without layers consist of.
    ///
    /// # Errors
    /// `Denied` or `Unauthenticated` if blobs may not be written. Other failures are inconclusive and not reported as errors
    /// here.
    async fn check_push(&self) -> Result<()>;
}

/// Keeps only whether an answer is a refusal.
pub(in crate::store) fn refusal<T>(answer: Result<T>) -> Result<()> {
    match answer {
        Err(e) if matches!(e.kind, ErrorKind::Denied | ErrorKind::Unauthenticated) => Err(e),
        _ => Ok(()),
    }
}

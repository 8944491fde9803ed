//! Ability: to say before anything is packed that nothing may be stored.

use async_trait::async_trait;

use super::error::{ErrorKind, Result};

/// Asks a store whether blobs may be written there.
#[async_trait]
pub trait PushCheck: Send + Sync {
    /// Asks in one request. It leaves nothing behind, but perhaps the empty JSON object (`{}`) as a blob, of which snapshots without
    /// layers are made.
    ///
    /// # Errors
    /// `Denied` or `Unauthenticated` if blobs may not be written. Whatever else goes wrong says nothing about that: it is no error here.
    async fn check_push(&self) -> Result<()>;
}

/// Keeps of an answer whether it refuses.
pub(in crate::store) fn refusal<T>(answer: Result<T>) -> Result<()> {
    match answer {
        Err(e) if matches!(e.kind, ErrorKind::Denied | ErrorKind::Unauthenticated) => Err(e),
        _ => Ok(()),
    }
}

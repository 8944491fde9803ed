//! Ability: a local folder answers for a store, and can ask that store itself whether it still has what the folder has.

use async_trait::async_trait;

use super::error::{Error, Result};
use crate::digest::Digest;

/// What a store behind a local folder says of a blob.
#[derive(Debug)]
pub enum Behind {
    /// It has the blob or is about to get it; or the folder does not have it, and so hides nothing.
    Kept,
    /// It had lost the blob, and was sent it again.
    SentAgain,
    /// It has lost the blob, and sending it again failed.
    Lost(Error),
}

/// A local folder in front of a store.
#[async_trait]
pub trait Hides: Send + Sync {
    /// Asks the store itself for a blob, and sends it again if only the folder has it. Content is asked for that a name leads to:
    /// what was removed must not come back.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn restore(&self, digest: &Digest) -> Result<Behind>;
}

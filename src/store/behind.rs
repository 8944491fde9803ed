//! Ability: a local cache directory answers for a store, and can ask that store itself whether it still has what the directory
//! has.

use async_trait::async_trait;

use super::error::{Error, Result};
use crate::digest::Digest;

/// What a store behind a local cache directory says about a blob.
#[derive(Debug)]
pub enum Behind {
    /// It has the blob or is about to get it; or the directory does not have it either, so it hides nothing.
    Kept,
    /// It had lost or damaged the blob, which was sent again.
    SentAgain,
    /// It has lost or damaged the blob, and sending it again failed.
    Lost(Error),
}

/// How thoroughly to check a blob behind a local cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Existence and size.
    Size,
    /// Its bytes are read and hashed.
    Bytes,
}

/// A local cache directory in front of a store.
#[async_trait]
pub trait Hides: Send + Sync {
    /// Asks the store itself for a blob, and sends it again if only the directory has it, or has the only intact copy. Only for
    /// blobs that a name leads to: what was removed must not come back.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn restore(&self, digest: &Digest, look: Look) -> Result<Behind>;
}

//! Ability: a local folder answers for a store, and can ask that store itself whether it still has what the folder has.

use async_trait::async_trait;

use super::error::{Error, Result};
use crate::digest::Digest;

/// What a store behind a local folder says of a blob.
#[derive(Debug)]
pub enum Behind {
    /// It has the blob or is about to get it; or the folder does not have it, and so hides nothing.
    Kept,
    /// It had lost or damaged the blob, and was sent it again.
    SentAgain,
    /// It has lost or damaged the blob, and sending it again failed.
    Lost(Error),
}

/// How closely to look at a blob behind a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Whether it is there, with its size.
    Size,
    /// Its bytes are read and hashed.
    Bytes,
}

/// A local folder in front of a store.
#[async_trait]
pub trait Hides: Send + Sync {
    /// Asks the store itself for a blob, and sends it again if only the folder has it, or the folder alone has it whole. Content is asked for
    /// that a name leads to: what was removed must not come back.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn restore(&self, digest: &Digest, look: Look) -> Result<Behind>;
}

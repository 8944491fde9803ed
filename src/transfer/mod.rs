//! From store to store: every transfer of content that is already stored.
//!
//! - Holds: the copy of one manifest with everything below it, and the children of a manifest.
//! - Enters: two stores, a manifest, a tag.
//! - Leaves: the same bytes in the other store, counts of moved and saved bytes.
//! - Deliberately absent: the meaning of blobs beyond manifests and their children; names, folding, the terminal.

pub mod copy;
pub mod graph;

pub use copy::{Copied, CopyReport, Options, copy};

use crate::{digest::Digest, store};

/// Why content could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A store refused or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source lacks content that one of its manifests names.
    #[error("{digest} is missing, {parent} names it")]
    Missing {
        /// What is missing.
        digest: Digest,
        /// The manifest that names it.
        parent: Digest,
    },
    /// The source has other bytes under a digest, or an invalid manifest.
    #[error("{digest} is damaged: {why}")]
    Damaged {
        /// What is damaged.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
}

/// Result of a movement.
pub type Result<T> = std::result::Result<T, Error>;

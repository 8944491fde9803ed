//! Store to store: every movement of content that is already stored.
//!
//! - Holds: the copy of one manifest with all below it, and what is below a manifest.
//! - Enters: two stores, a manifest, a tag.
//! - Leaves: the same bytes in the other store, counts of what was moved and saved.
//! - Deliberately absent: what blobs mean beyond manifest to children; names, folding, the terminal.

pub mod copy;
pub mod graph;

pub use copy::{Copied, CopyReport, Options, copy};

use crate::{digest::Digest, store};

/// Why content could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A store said no, or broke.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source does not have what one of its manifests names.
    #[error("{digest} is missing, {parent} names it")]
    Missing {
        /// What is missing.
        digest: Digest,
        /// The manifest that names it.
        parent: Digest,
    },
    /// The source has other bytes under a digest, or a manifest that makes no sense.
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

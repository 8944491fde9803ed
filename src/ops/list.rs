//! List: what snapshots a store holds.

use super::{Context, Result};
use crate::{digest::Digest, entry::Time};

/// One name with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tag.
    pub tag: String,
    /// `gobuild`, `gomod`, `dir`.
    pub kind: String,
    /// Full name.
    pub name: String,
    /// Scope.
    pub scope: String,
    /// Key; empty for the head.
    pub key: String,
    /// Digest of the snapshot.
    pub digest: Digest,
    /// When it was made.
    pub created: Option<Time>,
    /// Live entries.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Packs.
    pub packs: usize,
    /// Stored bytes of the packs.
    pub stored_bytes: u64,
    /// Side tags not yet contained in it.
    pub pending: usize,
}

/// What the listing found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Sorted by tag.
    pub rows: Vec<Row>,
    /// Tags whose snapshot cannot be read, with why.
    pub broken: Vec<super::LeftOut>,
}

/// Lists all names, or those of the kind and name given.
pub async fn run(_ctx: &Context, _name: Option<&str>) -> Result<Report> {
    Err(super::Error::Usage("ls is not built yet".into()))
}

//! Prune: names by age, size and count; then blobs that nothing reaches (design §5).

use std::time::Duration;

use super::{Context, LeftOut, Result};

/// What may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names not written for so long go.
    pub max_age: Option<Duration>,
    /// Oldest names go until the store's blobs are below so many bytes.
    pub max_size: Option<u64>,
    /// So many newest keys of each name and scope stay; the others go.
    pub keep: Option<usize>,
    /// Unreachable blobs go once a mark at least so old names them.
    pub grace: Duration,
    /// Say what would go, remove nothing.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Tags removed.
    pub tags: Vec<String>,
    /// Blobs that nothing reaches, marked now.
    pub marked: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be read or removed.
    pub left_out: Vec<LeftOut>,
    /// Why blobs were not swept, where they were not (a registry collects its own).
    pub not_swept: Option<String>,
}

/// Prunes; see the module.
pub async fn run(_ctx: &Context, _options: &Options) -> Result<Report> {
    Err(super::Error::Usage("prune is not built yet".into()))
}

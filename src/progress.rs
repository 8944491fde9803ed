//! What a room tells whoever watches: phases, bytes, warnings. How it looks is the watcher's business.

use std::sync::Arc;

/// A part of an operation that takes time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Finding and reading names, manifests and tables of contents.
    Resolve,
    /// Reading the tree's metadata and what metadata does not prove.
    Scan,
    /// Packing what is new.
    Pack,
    /// Sending packs.
    Upload,
    /// Fetching and unpacking.
    Restore,
    /// Renaming into place.
    Place,
    /// Publishing the name.
    Publish,
}

impl Phase {
    /// The word shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Scan => "scan",
            Self::Pack => "pack",
            Self::Upload => "upload",
            Self::Restore => "restore",
            Self::Place => "place",
            Self::Publish => "publish",
        }
    }
}

/// Watches an operation; called from many threads, must return at once.
pub trait Watch: Send + Sync {
    /// A phase begins; `total_bytes` where it is known.
    fn begin(&self, phase: Phase, total_bytes: Option<u64>);
    /// So many more bytes of the phase are done.
    fn advance(&self, phase: Phase, bytes: u64);
    /// The phase ended.
    fn end(&self, phase: Phase);
    /// Something that the user should know, though the operation goes on. One line, no final period.
    fn warn(&self, message: &str);
}

/// Shared handle of a watcher.
pub type Progress = Arc<dyn Watch>;

/// Watches nothing; warnings go to the log.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {
    fn begin(&self, _: Phase, _: Option<u64>) {}
    fn advance(&self, _: Phase, _: u64) {}
    fn end(&self, _: Phase) {}
    fn warn(&self, message: &str) {
        tracing::warn!("{message}");
    }
}

/// A watcher that shows nothing.
pub fn silent() -> Progress {
    Arc::new(Silent)
}

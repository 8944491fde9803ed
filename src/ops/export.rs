//! Export: packs what is new of a cache and publishes it under its name.

use std::{sync::Arc, time::Duration};

use super::{Context, Created, LeftOut, Moved, PhaseTime, Result, Target};
use crate::{digest::Digest, source::Source};

/// What to export, and how.
#[derive(Clone)]
pub struct Options {
    /// The cache.
    pub source: Arc<dyn Source>,
    /// Where it is published.
    pub target: Target,
    /// A folder only: keep the paths of the name's snapshot that this tree does not have.
    pub merge: bool,
    /// Write one full snapshot anew, readable by `tar --zstd`, instead of an increment.
    pub flatten: bool,
    /// Go kinds: entries leave after so many days without use.
    pub max_age_days: u32,
    /// The snapshot's packs stay below so many bytes; least recently used entries leave first.
    pub max_size: Option<u64>,
    /// Time of creation to write.
    pub created: Created,
}

/// What an export did.
#[derive(Debug, Clone)]
pub struct Report {
    /// `gobuild`, `gomod` or `dir`.
    pub kind: &'static str,
    /// The name.
    pub target: Target,
    /// Digest of this writer's snapshot.
    pub digest: Digest,
    /// Nothing was new: the head is what it was.
    pub unchanged: bool,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries packed now.
    pub entries_packed: u64,
    /// What was sent.
    pub moved: Moved,
    /// What was left out of it.
    pub left_out: Vec<LeftOut>,
    /// Seconds by phase.
    pub phases: Vec<PhaseTime>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Exports; see the module.
///
/// # Errors
/// Nothing is published under the name then, or what another writer published stays.
pub async fn run(_ctx: &Context, _options: &Options) -> Result<Report> {
    Err(super::Error::Usage("export is not built yet".into()))
}

//! Import: finds the best snapshot of a name and puts it back, fetching only what the node lacks.

use std::{sync::Arc, time::Duration};

use super::{Context, LeftOut, Moved, PhaseTime, Result};
use crate::{digest::Digest, source::Source};

/// What to import, and from where.
#[derive(Clone)]
pub struct Options {
    /// The cache to fill.
    pub source: Arc<dyn Source>,
    /// Name within the kind.
    pub name: String,
    /// Scopes that may be read, in order.
    pub scopes: Vec<String>,
    /// Key that is asked for; empty for the name's head.
    pub key: String,
    /// Prefixes of keys that do as well, in order, newest first within one.
    pub restore_keys: Vec<String>,
    /// One snapshot by digest instead of by name.
    pub digest: Option<Digest>,
    /// Remove what is not in the snapshot.
    pub mirror: bool,
}

/// Which way a hit was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// The exact key (or the head, where no key was asked for) in the first scope.
    Exact,
    /// By a fallback: another scope, a key's prefix, the head.
    Fallback,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct Report {
    /// `gobuild`, `gomod` or `dir`.
    pub kind: &'static str,
    /// Name asked for.
    pub name: String,
    /// How it was found; `None`: a miss, nothing was changed.
    pub hit: Option<Hit>,
    /// Why it is a miss, in one line.
    pub miss: Option<String>,
    /// A Go cache of which some entries could not be had; those that were restored are whole and verified.
    pub partial: bool,
    /// Scope and key of what was found.
    pub found: Option<(String, String)>,
    /// Digest of the snapshot.
    pub digest: Option<Digest>,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries written now; the others were there.
    pub entries_restored: u64,
    /// What was fetched.
    pub moved: Moved,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
    /// Seconds by phase.
    pub phases: Vec<PhaseTime>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Imports; see the module.
///
/// # Errors
/// When the target cannot be written; trouble with the store is an error too, which the command line turns into a miss.
pub async fn run(_ctx: &Context, _options: &Options) -> Result<Report> {
    Err(super::Error::Usage("import is not built yet".into()))
}

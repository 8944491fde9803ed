//! Inspect: what one name holds, pack by pack.

use super::{Context, Result, list};
use crate::digest::Digest;

/// One pack of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Digest of the layer.
    pub digest: Digest,
    /// Stored bytes.
    pub size: u64,
    /// Entries in its table of contents.
    pub entries: u64,
    /// Those of them that are live.
    pub live: u64,
    /// Objects that live entries of the snapshot need of it, and all it has.
    pub objects: (u64, u64),
    /// Frames.
    pub frames: u64,
    /// Packed anew so many times because a store held a damaged copy.
    pub generation: u8,
}

/// A snapshot in detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// As in a listing.
    pub row: list::Row,
    /// Packs in the manifest's order.
    pub packs: Vec<PackRow>,
    /// Side tags that it contains.
    pub folded: Vec<String>,
    /// What it is good for: gate and traits.
    pub fingerprint: Vec<(String, String)>,
    /// Paths of the live entries with sizes, if asked for; sorted.
    pub files: Option<Vec<(String, u64)>>,
}

/// Shows every snapshot whose name, tag or digest is `name`; empty where there is none.
pub async fn run(_ctx: &Context, _name: &str, _files: bool) -> Result<Vec<Snapshot>> {
    Err(super::Error::Usage("inspect is not built yet".into()))
}

//! List: what snapshots a store holds. Manifests and configs are read, nothing of the packs.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Context, LeftOut, Result,
    names::{self, Found, Group, Ours, Word},
};
use crate::{
    artifact::{Descriptor, Manifest, Tag, media},
    digest::Digest,
    entry::Time,
    transfer::graph,
};

/// The kind of a row whose manifest is not ours: an image, a BuildKit cache.
pub const FOREIGN: &str = "foreign";

/// One name with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tag of its head, which a name that only has side tags yet does not have.
    pub tag: String,
    /// `gobuild`, `gomod`, `dir`; [`FOREIGN`] for a manifest that is none of ours.
    pub kind: String,
    /// Full name; the tag for a foreign manifest.
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
    /// Packs; of a foreign manifest what it names.
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

/// Lists all names, or those that `name` (a name or tag) means.
///
/// # Errors
/// When the store cannot be asked; what cannot be read is in the report.
pub async fn run(ctx: &Context, name: Option<&str>) -> Result<Report> {
    super::within_budget(ctx, "listing", list(ctx, name)).await
}

async fn list(ctx: &Context, name: Option<&str>) -> Result<Report> {
    let groups = names::groups(ctx, &Word::new(name)).await?;
    let read: Vec<_> = stream::iter(groups)
        .map(|group| row(ctx, group))
        .buffered(ctx.concurrency.max(1))
        .try_collect()
        .await?;
    let mut report = Report::default();
    for (row, broken) in read {
        report.rows.extend(row);
        report.broken.extend(broken);
    }
    Ok(report)
}

/// The row of a name: its head's, or where there is none yet, that of its last side tag that can be read.
async fn row(ctx: &Context, group: Group) -> Result<(Option<Row>, Vec<LeftOut>)> {
    let mut broken = Vec::new();
    let mut sides = group.sides;
    if group.is_there {
        match names::look(ctx, &group.head.clone().into()).await? {
            Found::Ours(ours) => {
                let folded: HashSet<&str> =
                    ours.config.folded.iter().map(|f| f.tag.as_str()).collect();
                let pending = sides
                    .iter()
                    .filter(|s| !folded.contains(s.as_str()))
                    .count();
                return Ok((Some(of_ours(&group.head, &ours, pending)), broken));
            }
            Found::Foreign(manifest) => {
                return Ok((Some(of_foreign(&group.head, &manifest)), broken));
            }
            Found::Broken(why) => broken.push(names::fault(&group.head, why)),
            Found::Gone => {}
        }
    }
    let pending = sides.len();
    while let Some(side) = sides.pop() {
        match names::look(ctx, &side.clone().into()).await? {
            Found::Ours(ours) => return Ok((Some(of_ours(&group.head, &ours, pending)), broken)),
            Found::Broken(why) => broken.push(names::fault(&side, why)),
            Found::Foreign(_) | Found::Gone => {}
        }
    }
    Ok((None, broken))
}

pub(super) fn of_ours(tag: &Tag, ours: &Ours, pending: usize) -> Row {
    let config = &ours.config;
    let packs = || {
        ours.outline
            .layers
            .iter()
            .filter(|d| d.media_type != media::EMPTY)
    };
    Row {
        tag: tag.to_string(),
        kind: config.kind.clone(),
        name: config.name.clone(),
        scope: config.scope.clone(),
        key: config.key.clone(),
        digest: ours.manifest.digest,
        created: ours.outline.created,
        entries: config.entries,
        bytes: config.bytes,
        packs: packs().count(),
        stored_bytes: sum(packs()),
        pending,
    }
}

pub(super) fn of_foreign(tag: &Tag, manifest: &Manifest) -> Row {
    // One that cannot be understood is listed all the same.
    let children = graph::children(manifest).unwrap_or_default();
    let named = || children.blobs.iter().chain(&children.manifests);
    Row {
        tag: tag.to_string(),
        kind: FOREIGN.to_owned(),
        name: tag.to_string(),
        scope: String::new(),
        key: String::new(),
        digest: manifest.digest,
        created: None,
        entries: 0,
        bytes: 0,
        packs: named().count(),
        stored_bytes: sum(named()),
        pending: 0,
    }
}

/// Hostile sizes may be anything.
fn sum<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> u64 {
    descriptors.fold(0, |sum, d| sum.saturating_add(d.size))
}

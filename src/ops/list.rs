//! List: shows what a store holds, snapshots and other manifests under its tags. Manifests and configs are read, nothing of the packs.

use serde::Serialize;

use super::{
    Context, LeftOut, Result,
    counted::Faults,
    foreign::{self, Needs},
    head::Contained,
    in_turn::InTurn,
    json, load,
    names::{self, Foreign, Found, NameInRepo, Ours, Word},
    reach::RepoContext,
};
use crate::{
    artifact::{Descriptor, Tag, media},
    digest::Digest,
    entry::Time,
};

/// One name with what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The tag of its head, even if the name has only side tags so far; `REPO:TAG` in a repository other than cachectl's own.
    pub tag: String,
    /// Its repository; empty if the store holds only one.
    pub repository: String,
    /// `gobuild`, `gomod`, `dir`; for a foreign manifest `buildkit`, `image`, `index`, `other` ([`foreign`]).
    pub kind: String,
    /// Full name, or the tag of a foreign manifest; `REPO:NAME` in a repository other than cachectl's own.
    pub name: String,
    /// Scope.
    pub scope: String,
    /// Key; empty for the head.
    pub key: String,
    /// Digest of the snapshot.
    pub digest: Digest,
    /// When it was created.
    #[serde(serialize_with = "json::moment")]
    pub created: Option<Time>,
    /// When its tag was last written, if the store reports it.
    #[serde(serialize_with = "json::moment")]
    pub pushed: Option<Time>,
    /// Live entries.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Number of packs; for a foreign manifest, configs and layers, including those below an index and of its referrers.
    pub packs: usize,
    /// Stored bytes of these, each counted once.
    pub stored_bytes: u64,
    /// Side tags not yet contained in it.
    pub pending: usize,
}

/// What the listing found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Sorted by repository and tag.
    #[serde(rename = "snapshots")]
    pub rows: Vec<Row>,
    /// Tags whose snapshot cannot be read, with reasons.
    pub broken: Vec<super::LeftOut>,
}

/// Lists all names, or those that `name` (a name or tag) selects.
///
/// # Errors
/// When the store cannot be reached; unreadable tags are in the report.
pub async fn run(ctx: &Context, name: Option<&str>) -> Result<Report> {
    super::within_budget(ctx, "listing", list(ctx, name)).await
}

async fn list(ctx: &Context, name: Option<&str>) -> Result<Report> {
    let found = names::find(ctx, &Word::new(name)).await?;
    let (mut report, mut broken) = (Report::default(), Faults::within(ctx));
    let mut rows = InTurn::new(found, ctx.concurrency, row);
    while let Some((name, read)) = rows.next().await {
        match load::too_large(ctx, read)? {
            Ok((row, faults)) => {
                report.rows.extend(row);
                broken.extend(faults);
            }
            Err(why) => broken.push(name.fault(&name.group.head, why)),
        }
        broken.check()?;
    }
    report.broken = broken.into_all();
    Ok(report)
}

/// The row of a name: that of its head or, if there is none yet, of its last readable side tag.
async fn row(name: NameInRepo) -> Result<(Option<Row>, Vec<LeftOut>)> {
    let NameInRepo { place, group, .. } = &name;
    let _turn = place.ctx.tables.turn().await;
    let mut broken = Vec::new();
    let mut sides = group.sides.clone();
    if group.is_there {
        match names::look_within_room(&place.ctx, &group.head.clone().into()).await? {
            Found::Ours(ours) => {
                let now = place.ctx.store.clock().await?;
                let contained = Contained::by(&ours, now);
                let pending = sides.iter().filter(|s| !contained.has(s)).count();
                return Ok((Some(of_ours(place, &group.head, &ours, pending)), broken));
            }
            Found::Foreign(found) => {
                let needs = foreign::needs(place, Some(&group.head), &found.manifest).await?;
                let row = of_foreign(place, &group.head, &found, &needs).await?;
                let faults = needs.faults.into_iter();
                broken.extend(faults.map(|why| name.fault(&group.head, why)));
                return Ok((Some(row), broken));
            }
            Found::Broken(why) => broken.push(name.fault(&group.head, why)),
            Found::Gone => {}
        }
    }
    let pending = sides.len();
    while let Some(side) = sides.pop() {
        match names::look_within_room(&place.ctx, &side.clone().into()).await? {
            Found::Ours(ours) => {
                return Ok((Some(of_ours(place, &group.head, &ours, pending)), broken));
            }
            Found::Broken(why) => broken.push(name.fault(&side, why)),
            Found::Foreign(_) | Found::Gone => {}
        }
    }
    Ok((None, broken))
}

pub(super) fn of_ours(place: &RepoContext, tag: &Tag, ours: &Ours, pending: usize) -> Row {
    let config = &ours.config;
    let packs = || {
        ours.outline
            .layers
            .iter()
            .filter(|d| d.media_type != media::EMPTY)
    };
    Row {
        tag: place.shown(tag.as_str()),
        repository: place.repository().to_owned(),
        kind: config.kind.clone(),
        name: place.shown(&config.name),
        scope: config.scope.clone(),
        key: config.key.clone(),
        digest: ours.manifest.digest,
        created: ours.outline.created,
        pushed: ours.written,
        entries: config.entries,
        bytes: config.bytes,
        packs: packs().count(),
        stored_bytes: sum(packs()),
        pending,
    }
}

/// The row of a foreign manifest. One that cannot be parsed is listed anyway.
pub(super) async fn of_foreign(
    place: &RepoContext,
    tag: &Tag,
    found: &Foreign,
    needs: &Needs,
) -> Result<Row> {
    Ok(Row {
        tag: place.shown(tag.as_str()),
        repository: place.repository().to_owned(),
        kind: foreign::kind(&found.manifest).await.to_owned(),
        name: place.shown(tag.as_str()),
        scope: String::new(),
        key: String::new(),
        digest: found.manifest.digest,
        created: None,
        pushed: foreign::pushed(place, tag, found.written).await?,
        entries: 0,
        bytes: 0,
        packs: needs.blobs.len(),
        stored_bytes: needs.blob_bytes(),
        pending: 0,
    })
}

/// Hostile manifests may claim any size.
fn sum<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> u64 {
    descriptors.fold(0, |sum, d| sum.saturating_add(d.size))
}

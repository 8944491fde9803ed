//! Remove: deletes a name, side tags first. The next prune removes its blobs.
//!
//! The order matters: a head without side tags is still the name; side tags without a head would bring the name back.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{
    Context, Error, Result, json,
    names::{self, Found, NameInRepo, Word},
};
pub use crate::artifact::name::{Only, SnapshotName};
use crate::{
    artifact::{Tag, name},
    store,
};

/// What to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A name or tag; `REPO:NAME` in another repository than the command line's own.
    pub name: String,
    /// Limits the removal to some of its snapshots.
    pub only: Only,
    /// Dry run: reports what would be removed, removes nothing.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The names.
    pub names: Vec<Removed>,
    /// Every existing tag of theirs, in the order of removal.
    pub tags: Vec<String>,
}

/// A name that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The tag of its head; `REPO:TAG` in another repository than the command line's own.
    pub tag: String,
    /// Its repository; empty if the store holds only one.
    pub repository: String,
    /// The name in full; `None` if the tag is not a cache's, or its name cannot be read.
    #[serde(flatten, serialize_with = "json::or_nulls")]
    pub name: Option<SnapshotName>,
}

/// Removes every tag that `options` select, with its side tags and the parts it is merged from.
///
/// # Errors
/// `Unsupported` if the store cannot remove tags, `Usage` for a digest. Tags removed before an error stay removed; the head is last.
pub async fn run(ctx: &Context, options: &Options) -> Result<Report> {
    super::within_budget(ctx, "removing", remove(ctx, options)).await
}

async fn remove(ctx: &Context, options: &Options) -> Result<Report> {
    let word = Word::new(Some(&options.name));
    if let Word::Digest(_) = word {
        let why =
            "a digest cannot be deleted, only names and tags: `cachectl ls --wide` shows the tags";
        return Err(Error::Usage(why.to_owned()));
    }
    let mut found = names::find(ctx, &word).await?;
    found.retain(|named| options.only.admits(&named.group.head));
    let names = stream::iter(&found).map(described);
    let names = names.buffered(ctx.concurrency.max(1)).try_collect().await?;
    let names: Vec<Removed> = names;
    let mut report = Report::default();
    for (found, name) in found.iter().zip(names) {
        let before = report.tags.len();
        if options.dry_run {
            still_there(found, &mut report.tags).await?;
        } else {
            take_away(found, &mut report.tags).await?;
        }
        // Some registries list removed tags forever.
        if report.tags.len() > before {
            report.names.push(name);
        }
    }
    Ok(report)
}

/// The existing tags of a name, in the order in which they may be removed.
async fn still_there(name: &NameInRepo, there: &mut Vec<String>) -> Result<()> {
    let ctx = &name.place.ctx;
    let look = |tag: Tag| async move {
        let resolved = names::resolve(ctx, &tag.clone().into()).await?;
        // A damaged tag exists too.
        let is_there = !matches!(resolved, Ok(None));
        Ok::<_, Error>(is_there.then_some(tag))
    };
    let tags: Vec<Tag> = name.group.tags().cloned().collect();
    let mut looked = stream::iter(tags)
        .map(look)
        .buffered(ctx.concurrency.max(1));
    while let Some(tag) = looked.try_next().await? {
        there.extend(tag.map(|tag| name.place.shown(tag.as_str())));
    }
    Ok(())
}

/// A name as the user wrote it; only a long one takes reading its config.
async fn described(named: &NameInRepo) -> Result<Removed> {
    let NameInRepo { place, group, .. } = named;
    let mut name = None;
    if names::is_ours(&group.head) {
        name = name::spelled(&group.head);
        if name.is_none() {
            for tag in group.tags() {
                if let Found::Ours(ours) = names::look(&place.ctx, &tag.clone().into()).await? {
                    name = Some(ours.name());
                }
            }
        }
    }
    Ok(Removed {
        tag: named.shown(),
        repository: place.repository().to_owned(),
        name,
    })
}

/// Removes side tags one by one, then the head; records those that existed.
pub(super) async fn take_away(name: &NameInRepo, removed: &mut Vec<String>) -> store::Result<()> {
    for tag in name.group.tags() {
        if name.place.remove(tag).await? {
            removed.push(name.place.shown(tag.as_str()));
        }
    }
    Ok(())
}

//! Prune: removes names by age, size and count; then unreachable blobs.
//!
//! - Names: in the command line's own repository only cachectl snapshots (an image there is never touched); in other repositories, which
//!   builders push to, every tag. A head and its side tags count as one name, as old as the youngest of them; so do a tag and its parts.
//! - Blobs: [`sweep`].

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use serde::Serialize;

use super::{
    Context, LeftOut, Result,
    counted::Needed,
    dated, foreign,
    in_turn::InTurn,
    json, load,
    names::{self, NameInRepo, Word},
    remove,
};
use crate::{
    artifact::Tag,
    digest::Digest,
    entry::Time,
    store::{self, PublishedAt, Store, StoredBlob},
};

pub mod doors;
mod mark;
mod measure;
mod named;
pub mod now;
mod reached;
mod sweep;
mod tidy;

use measure::{Blobs, Sizes};

/// What may be pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Removes names not published for this long; a copy is as old as its original.
    pub max_age: Option<Duration>,
    /// Removes the oldest names until the blobs that names within reach need total less than this many bytes.
    pub max_size: Option<u64>,
    /// Keeps the N newest keys per kind, name and scope (the head counts as one), and the N newest tags in every other repository; removes
    /// the rest.
    pub keep: Option<usize>,
    /// Removes unreachable blobs once a mark of at least this age names them. Zero: in this run, if the store can lock others out.
    pub grace: Duration,
    /// Removes unreachable blobs in this run, regardless of the grace time ([`now`]).
    pub now: bool,
    /// Dry run: reports what would be removed, removes nothing.
    pub dry_run: bool,
}

/// A count of blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Count {
    fn of<'b>(blobs: impl IntoIterator<Item = &'b StoredBlob>) -> Self {
        blobs
            .into_iter()
            .fold(Self::default(), |sum, blob| sum.and(blob.size))
    }

    fn and(self, size: u64) -> Self {
        Self {
            blobs: self.blobs + 1,
            bytes: self.bytes.saturating_add(size),
        }
    }
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Tags removed.
    pub tags: Vec<String>,
    /// Unreachable blobs, marked now for a later run.
    pub marked: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be read or removed.
    pub left_out: Vec<LeftOut>,
    /// Why blobs were not swept, if they were not (a registry collects its own garbage).
    pub not_swept: Option<String>,
    /// They should have been swept: listing or removing failed, or another prune was running.
    #[serde(skip)]
    pub sweep_failed: bool,
    /// Unreachable blobs, marked now or earlier, that stay until the grace time is over.
    #[serde(skip)]
    pub waiting: Count,
    /// Time until a prune removes the last of these.
    #[serde(rename = "waiting_ms", serialize_with = "json::millis")]
    pub waiting_for: Duration,
    /// Unreachable blobs that are too new to be marked.
    #[serde(skip)]
    pub new: Count,
    /// Blobs that [`now`] keeps because a pushing client was told that they exist.
    #[serde(skip)]
    pub promised: Count,
}

/// Prunes; see the module.
///
/// # Errors
/// When the names cannot be listed or removed. A failed sweep is in the report: the names are removed anyway.
pub async fn run(ctx: &Context, options: &Options) -> Result<Report> {
    if options.now {
        return now::run(ctx, options, &doors::NoDoors).await;
    }
    super::within_budget(ctx, "pruning", prune(ctx, options)).await
}

/// Reads the marked digests, for doors that serve the store while it is pruned ([`crate::store::marked`]); does nothing for other stores.
///
/// # Errors
/// When the marks cannot be read; the known ones are kept.
pub async fn read_marked(store: &Store) -> store::Result<()> {
    let (Some(marked), Some(sweep)) = (&store.facts().marked, store.sweep()) else {
        return Ok(());
    };
    let mut all = HashSet::new();
    for name in sweep.marks().await? {
        let mark = sweep.read_mark(&name).await?;
        all.extend(
            mark.and_then(|m| mark::Mark::decode(&m))
                .map(|m| m.blobs)
                .unwrap_or_default(),
        );
    }
    marked.replace(all);
    Ok(())
}

async fn prune(ctx: &Context, options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let gone = by_policy(ctx, options, &mut report).await?;
    if ctx.reach.is_whole() {
        sweep::run(ctx, options, &gone, &mut report).await;
    } else {
        let why =
            "this needs a grant of all actions on all repositories, since repositories share blobs";
        report.not_swept = Some(why.to_owned());
    }
    tidy::run(ctx, options, &mut report).await?;
    Ok(report)
}

/// A name as the policy sees it.
struct Name {
    named: NameInRepo,
    /// When the store last wrote one of its tags, if the store reports it: shows whether someone wrote it meanwhile.
    written: Option<Time>,
    /// Its last publication, as an import by a key's prefix sees it; `None` while no manifest was read.
    published: Option<PublishedAt>,
    /// Manifests of its tags and their parts.
    manifests: Vec<Digest>,
    /// Blobs that all of them need; empty unless sizes matter.
    needs: measure::Set,
    /// Prune may remove it.
    is_ours: bool,
}

impl Name {
    /// When it was published last; `None` if neither the store nor the manifests record it.
    fn time(&self) -> Option<Time> {
        self.published.and_then(|p| p.time)
    }

    /// The group within which `keep` counts.
    fn family(&self) -> String {
        let head = &self.named.group.head;
        let family = if names::is_ours(head) {
            without_key(head)
        } else {
            ""
        };
        self.named.place.shown(family)
    }
}

/// Removes names; returns their manifests, except those that a remaining name has too.
async fn by_policy(
    ctx: &Context,
    options: &Options,
    report: &mut Report,
) -> Result<HashSet<Digest>> {
    if options.max_age.is_none() && options.max_size.is_none() && options.keep.is_none() {
        report.left_out.extend(named::damaged_tags(ctx).await?);
        return Ok(HashSet::new());
    }
    let found = names::find(ctx, &Word::All).await?;
    let sized = options.max_size.is_some();
    let now = ctx.store.clock().await?;
    let mut reads = InTurn::new(found, ctx.concurrency, |named| read_name(named, sized, now));
    let (mut all, mut blobs) = (Vec::new(), Blobs::within(ctx));
    while let Some((named, read)) = reads.next().await {
        match load::too_large(ctx, read)? {
            Ok((name, broken)) => {
                if let Some((mut name, needed)) = name {
                    name.needs = blobs.set_of(&needed)?;
                    all.push(name);
                }
                report.left_out.extend(broken);
            }
            Err(why) => report.left_out.push(named.fault(&named.group.head, why)),
        }
    }
    let sizes = if sized {
        blobs.sizes(ctx, &all).await?
    } else {
        Vec::new()
    };
    let leaving = choose(&all, options, (now, &sizes), &mut report.left_out);
    let (mut gone, mut stays) = (HashSet::new(), HashSet::new());
    for (i, name) in all.iter().enumerate() {
        let leaves = leaving.contains(&i) && leave(options, name, now, report).await?;
        let side = if leaves { &mut gone } else { &mut stays };
        side.extend(name.manifests.iter().copied());
    }
    gone.retain(|d| !stays.contains(d));
    Ok(gone)
}

/// Removes a name, unless someone wrote it meanwhile; returns true if it was removed.
async fn leave(options: &Options, name: &Name, now: Time, report: &mut Report) -> Result<bool> {
    if options.dry_run {
        report.tags.extend(name.named.tags());
        return Ok(true);
    }
    let (again, _) = read_name(name.named.clone(), false, now).await?;
    if again.is_none_or(|(n, _)| n.written != name.written || n.manifests != name.manifests) {
        return Ok(false);
    }
    remove::take_away(&name.named, &mut report.tags).await?;
    Ok(true)
}

/// Reads the manifests of a name. An unreadable one keeps the whole name, since its age is unknown. `now` is the store's clock.
async fn read_name(
    named: NameInRepo,
    sized: bool,
    now: Time,
) -> Result<(Option<(Name, Needed)>, Option<LeftOut>)> {
    let mut name = Name {
        written: None,
        published: None,
        manifests: Vec::new(),
        needs: measure::Set::default(),
        is_ours: names::is_ours(&named.group.head),
        named,
    };
    let NameInRepo { place, group, .. } = &name.named;
    let _turn = place.ctx.tables.turn().await;
    let mut needed = Needed::within(&place.ctx);
    for tag in group.tags() {
        let resolved = match names::resolve(&place.ctx, &tag.clone().into()).await? {
            Ok(Some(resolved)) => resolved,
            Ok(None) => continue,
            Err(why) => return Ok((None, Some(named::left(&place.shown(tag.as_str()), &why)))),
        };
        let outline = load::outline(&resolved.manifest).await.ok().flatten();
        // If a registry cannot remove a tag, an empty manifest takes the place of a side tag; it does not keep the name.
        name.is_ours &= outline.is_some() || *tag != group.head;
        name.manifests.push(resolved.manifest.digest);
        let mut written = resolved.modified;
        if outline.is_none() {
            for part in place.parts(tag).await? {
                written = written.max(part.modified);
                name.manifests.push(part.digest);
            }
        }
        name.written = name.written.max(written);
        let digest = resolved.manifest.digest;
        let published = dated::publication(outline.as_ref(), digest, written, now);
        name.published = name.published.max(Some(published));
        if sized && outline.is_some() {
            needed.add(names::needed(&resolved.manifest).await)?;
        } else if sized {
            let needs = foreign::needs(place, Some(tag), &resolved.manifest).await?;
            needed.add(needs.sizes())?;
        }
    }
    // In other repositories everything that builders push is pruned.
    name.is_ours |= !place.is_own();
    Ok((Some((name, needed)), None))
}

/// Chooses the names to remove, by index. `sizes` are those of the blobs that they need.
fn choose(
    all: &[Name],
    options: &Options,
    (now, sizes): (Time, &[u64]),
    left_out: &mut Vec<LeftOut>,
) -> HashSet<usize> {
    let mut leaving = HashSet::new();
    // Newest first; a name of unknown age is never old.
    let mut ours: Vec<usize> = (0..all.len()).filter(|i| all[*i].is_ours).collect();
    let age = |i: &usize| (all[*i].time().is_none(), all[*i].published);
    ours.sort_by_key(|i| std::cmp::Reverse(age(i)));
    if let Some(limit) = options.max_age {
        let limit = i128::try_from(limit.as_nanos()).unwrap_or(i128::MAX);
        let old = |i: &&usize| {
            let published = all[**i].time();
            published.is_some_and(|at| now.as_nanos() - at.as_nanos() > limit)
        };
        leaving.extend(ours.iter().filter(old));
    }
    if let Some(keep) = options.keep {
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        for i in &ours {
            let count = kept.entry(all[*i].family()).or_default();
            *count += 1;
            if *count > keep {
                leaving.insert(*i);
            }
        }
    }
    if let Some(limit) = options.max_size {
        let mut sizes = Sizes::new(sizes);
        for (_, name) in all.iter().enumerate().filter(|(i, _)| !leaving.contains(i)) {
            sizes.add(name);
        }
        let staying: Vec<usize> = ours
            .iter()
            .rev()
            .filter(|i| !leaving.contains(i))
            .copied()
            .collect();
        for i in staying.into_iter().filter(|i| all[*i].time().is_some()) {
            if sizes.total <= limit {
                break;
            }
            sizes.take(&all[i]);
            leaving.insert(i);
        }
        if sizes.total > limit {
            left_out.push(LeftOut {
                what: "max size".to_owned(),
                why: format!(
                    "{} bytes are kept: they belong to tags of other tools or of unknown age",
                    sizes.total
                ),
            });
        }
    }
    leaving
}

/// `<kind>.<name>.<scope>` of a tag with four fields.
fn without_key(head: &Tag) -> &str {
    head.as_str()
        .rsplit_once('.')
        .map_or(head.as_str(), |(front, _)| front)
}

//! `--max-size`: which entries of a Go cache an increment keeps, drops or does not add.
//!
//! Packs cannot be changed, so this is decided before the final packing. If the limit takes effect, the new items are first packed without
//! being stored, to measure them; then the least recently used entries are evicted, new or old. An unchanged tree leaves out the same
//! entries again: an export that would only fill free space starts below three quarters of the limit, one that has to evict goes down to
//! seven eighths. A limit that leaves nothing is an error, and so is a folder that exceeds its limit.

use std::{collections::HashSet, sync::Arc};

use super::{Choice, LeftOut, Options, Result, assemble::assemble, kept_objects, shape};
use crate::{
    artifact::{
        fold::{self, Rules, size},
        name::SnapshotName,
        snapshot::{At, Pack, Snapshot},
    },
    digest::Digest,
    entry::EntryPath,
    ops::{
        Context, Error,
        diff::{Diff, New},
        head::Current,
        publish::Limits,
        upload::{self, Work},
    },
    pack::{self, item::ContentPlan, write::Outcome},
    source::Item,
};

/// Most bytes that a pack has per entry besides its content: a tar header, a line in the table of contents.
const ENTRY_BYTES: u64 = 1024;
/// Bytes that a pack has besides entries.
const PACK_BYTES: u64 = 1024;

/// The input of the decision.
pub(super) struct Basis<'a> {
    pub(super) name: &'a SnapshotName,
    /// The stored snapshot, closed.
    pub(super) base: Option<&'a Arc<Snapshot>>,
    /// Entries of it that this node has, and whether the job used them.
    pub(super) kept: &'a [(At, bool)],
    pub(super) today: u32,
    pub(super) rules: Rules,
}

/// Entries, and bytes of their contents.
pub type Totals = (u64, u64);

/// What the limits of a Go cache dropped, new or stored; not reported anywhere else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Dropped because not used for `max_age_days`.
    pub by_age: Totals,
    /// Dropped for `max_size`.
    pub by_size: Totals,
    /// The totals before either limit.
    pub of: Totals,
    /// The given days.
    pub max_age_days: u32,
    /// The given stored bytes.
    pub max_size: Option<u64>,
}

impl Dropped {
    fn age(&mut self, before: Totals, after: Totals) {
        self.by_age = add(self.by_age, less(before, after));
    }

    fn size(&mut self, before: Totals, after: Totals) {
        self.by_size = add(self.by_size, less(before, after));
    }

    /// Applies both limits to the snapshot to publish, and counts. A union emptied by age alone is not an error of the size limit.
    pub(super) fn last(
        &mut self,
        limits: Limits,
        options: &Options,
        mine: &mut Snapshot,
        today: u32,
        rules: Rules,
    ) -> Result<()> {
        let before = mine.totals();
        let age_alone = Limits {
            max_bytes: None,
            ..limits
        };
        age_alone.apply(mine, today, rules);
        let young = mine.totals();
        self.age(before, young);
        if limits.max_bytes.is_some() {
            limits.apply(mine, today, rules);
            leaves_something(options, mine, young.0 == 0)?;
        }
        let left = mine.totals();
        self.size(young, left);
        self.of = add(left, add(self.by_age, self.by_size));
        (self.max_age_days, self.max_size) = (limits.max_age_days, limits.max_bytes);
        Ok(())
    }
}

fn add(a: Totals, b: Totals) -> Totals {
    (a.0.saturating_add(b.0), a.1.saturating_add(b.1))
}

fn less(a: Totals, b: Totals) -> Totals {
    (a.0.saturating_sub(b.0), a.1.saturating_sub(b.1))
}

/// The outcome.
#[derive(Default)]
pub(super) struct Limited {
    /// The base without evicted entries; it still has all its packs.
    pub(super) base: Option<Arc<Snapshot>>,
    /// The remaining packs of the base must be below this size, if the limit takes effect.
    pub(super) room: Option<u64>,
    /// Entries found unfit during the decision.
    pub(super) left_out: Vec<LeftOut>,
    /// Entries evicted or not added.
    pub(super) dropped: Dropped,
}

/// Removes from `diff` what does not fit, and from the base what must be evicted for it.
pub(super) async fn apply(
    ctx: &Context,
    options: &Options,
    basis: &Basis<'_>,
    scanned: &Arc<Vec<Item>>,
    diff: &mut Diff,
) -> Result<Limited> {
    let Basis { base, rules, .. } = *basis;
    let untouched = Limited {
        base: base.cloned(),
        ..Limited::default()
    };
    let Some(limit) = options.max_size.filter(|_| options.source.kind().is_go()) else {
        return Ok(untouched);
    };
    let stored = base.map_or(0, |b| b.stored_bytes());
    let raw: u64 = diff.new.iter().map(raw_bytes).sum();
    if stored + raw + PACK_BYTES <= limit {
        return Ok(untouched);
    }
    let mut there = snapshot(options, basis, Vec::new());
    fold::expire(&mut there, basis.today, options.max_age_days, None, rules);
    let lowest = size::lowest(&there, rules);
    let comes_before = |n: &New| {
        let entry = &n.pack.entry;
        let rank = size::rank(&entry.path, entry.needs.as_ref(), basis.today, rules);
        rank.is_some() && rank >= lowest
    };
    let only_fills =
        base.is_some() && lowest.is_some() && stored <= limit && !diff.new.iter().any(comes_before);
    if only_fills && stored >= limit / 4 * 3 {
        let contents = diff.new.iter().map(|n| n.pack.entry.kind.content_len());
        let mut dropped = Dropped::default();
        dropped.size((diff.new.len() as u64, contents.sum()), (0, 0));
        diff.new.clear();
        return Ok(Limited {
            dropped,
            ..untouched
        });
    }
    let target = if only_fills {
        limit / 4 * 3
    } else {
        limit / 8 * 7
    };
    let (new_packs, outcomes) = rehearse(ctx, options, basis, scanned, diff).await?;
    let ours: HashSet<Digest> = new_packs.iter().map(Pack::digest).collect();
    let mut all = snapshot(options, basis, new_packs);
    let mut dropped = Dropped::default();
    let before = all.totals();
    fold::expire(&mut all, basis.today, options.max_age_days, None, rules);
    let young = all.totals();
    dropped.age(before, young);
    size::shrink(&mut all, target.saturating_sub(PACK_BYTES), rules);
    leaves_something(options, &all, young.0 == 0)?;
    dropped.size(young, all.totals());
    let is_ours: Vec<bool> = all
        .packs
        .iter()
        .map(|p| ours.contains(&p.digest()))
        .collect();
    let cost = size::cost(&all, |pack| is_ours[pack]);
    let live: HashSet<&EntryPath> = all.live().map(|(_, e)| &e.entry.path).collect();
    let taken: HashSet<&EntryPath> = all
        .live()
        .filter(|(at, _)| is_ours[at.pack])
        .map(|(_, e)| &e.entry.path)
        .collect();
    let left_out = diff
        .new
        .iter()
        .zip(outcomes)
        .filter_map(|(n, outcome)| match outcome {
            Outcome::Packed(_) => None,
            Outcome::LeftOut(why) => Some(LeftOut {
                what: n.pack.entry.path.to_string(),
                why,
            }),
        })
        .collect();
    diff.new.retain(|n| taken.contains(&n.pack.entry.path));
    let base = base.map(|b| {
        let mut left = (**b).clone();
        let gone: Vec<At> = b
            .live()
            .filter(|(_, e)| !live.contains(&e.entry.path))
            .map(|(at, _)| at)
            .collect();
        for at in gone {
            left.packs[at.pack].live[at.entry] = false;
            left.packs[at.pack].days[at.entry] = 0;
        }
        diff.kept
            .retain(|(_, at)| left.packs[at.pack].live[at.entry]);
        Arc::new(left)
    });
    Ok(Limited {
        base,
        room: Some(limit.saturating_sub(cost + cost / 16 + PACK_BYTES)),
        left_out,
        dropped,
    })
}

/// Refuses a folder whose packs would exceed the limit, before anything of it is sent.
pub(super) async fn must_fit(
    ctx: &Context,
    options: &Options,
    basis: &Basis<'_>,
    current: &Current,
    work: &Work,
) -> Result<()> {
    let rules = basis.rules;
    let Some(limit) = options.max_size.filter(|_| rules == Rules::Tree) else {
        return Ok(());
    };
    let there = current.folded().map_or(0, |head| head.stored_bytes());
    let stored = basis.base.map_or(0, |b| b.stored_bytes()).max(there);
    let raw: u64 = work.new.iter().map(raw_bytes).sum();
    if stored.saturating_add(raw).saturating_add(PACK_BYTES) <= limit {
        return Ok(());
    }
    let (packs, _) = upload::rehearse(ctx, work.clone(), 0).await?;
    let own = packs.iter().map(Pack::digest).collect();
    stays_below(
        options,
        current,
        &snapshot(options, basis, packs),
        &own,
        rules,
    )
}

/// Refuses to publish an empty snapshot because of the limit, if there was content.
fn leaves_something(options: &Options, left: &Snapshot, was_empty: bool) -> Result<()> {
    match options.max_size {
        Some(limit) if !was_empty && left.live().next().is_none() => {
            Err(Error::NothingFits { limit })
        }
        _ => Ok(()),
    }
}

/// Refuses a folder that exceeds the limit: its entries cannot be evicted.
pub(super) fn stays_below(
    options: &Options,
    current: &Current,
    mine: &Snapshot,
    own: &HashSet<Digest>,
    rules: Rules,
) -> Result<()> {
    let Some(limit) = options.max_size.filter(|_| rules == Rules::Tree) else {
        return Ok(());
    };
    let today = current.today();
    let merged = match current.folded() {
        Some(head) if mine.merge => {
            let mut merged = fold::fold(&head, mine, None, today, rules);
            fold::drop_covered(&mut merged, own);
            merged.stored_bytes()
        }
        _ => 0,
    };
    let stored = mine.stored_bytes().max(merged);
    if stored <= limit {
        return Ok(());
    }
    Err(Error::TooBig { stored, limit })
}

/// An upper bound for the packed size of the new items.
pub(super) fn raw_bytes(n: &New) -> u64 {
    let content = match n.pack.content {
        ContentPlan::Read => n.pack.entry.kind.content_len(),
        ContentPlan::None | ContentPlan::Kept { .. } => 0,
    };
    // zstd makes incompressible data slightly longer.
    content + content / 64 + ENTRY_BYTES
}

fn snapshot(options: &Options, basis: &Basis<'_>, new: Vec<Pack>) -> Snapshot {
    let base = basis.base.map(|b| &**b);
    let own: HashSet<Digest> = new.iter().map(Pack::digest).collect();
    let mut all = assemble(options, basis.name, base, basis.kept, new, basis.today);
    fold::close(&mut all, basis.rules);
    fold::drop_covered(&mut all, &own);
    all
}

async fn rehearse(
    ctx: &Context,
    options: &Options,
    basis: &Basis<'_>,
    scanned: &Arc<Vec<Item>>,
    diff: &Diff,
) -> Result<(Vec<Pack>, Vec<Outcome>)> {
    if diff.new.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let base = basis.base;
    let work = Work {
        source: options.source.clone(),
        scanned: scanned.clone(),
        new: diff.new.clone(),
        kept: Arc::new(kept_objects(base.map(|b| &**b), &Choice::default())),
        options: pack::write::Options {
            shape: shape(options, base.is_none()),
            generation: 0,
            threads: ctx.threads,
            level: options.level_of_packs(ctx.threads),
        },
    };
    upload::rehearse(ctx, work, basis.today).await
}

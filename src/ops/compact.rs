//! Few packs: small ones are merged, dead weight is left behind.
//!
//! Only an export that writes anyway does this. Repacked content comes from this node's files; content that the node lacks is fetched, up
//! to a limit, beyond which its pack is left alone. The new pack's generation is above those of the packs that it replaces, so that a fold
//! with a head that still lists these reads it first. Every entry that a victim lists, or of which it holds content, is repacked, so that
//! the victims hold nothing that the new pack lacks: then its writer drops them ([`crate::artifact::fold::drop_covered`]).

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::PathBuf,
    sync::Arc,
};

mod needs;

use needs::{Needs, Shares};

use super::{
    Context, Result,
    blame::blame,
    damage,
    diff::{Diff, From, New},
    fetch,
};
use crate::{
    artifact::{
        fold::Rules,
        snapshot::{At, Snapshot},
        toc::MAX_GENERATION,
    },
    digest::Digest,
    fs,
    pack::{
        item::{ContentPlan, PackItem},
        plan::{Plan, Wanted, plan},
        unpack::{FileOutcome, Target},
    },
    source::{Item, Source},
    task,
};

/// Size classes: this many packs between the previous bound and this one are merged into one pack.
const CLASSES: [u64; 3] = [1 << 20, 8 << 20, 64 << 20];
const PACKS_OF_A_CLASS: usize = 8;
/// A pack of at least this many bytes is replaced when live entries need less than half of it.
const DEAD_WEIGHT_BYTES: u64 = 4 << 20;
/// Most stored bytes that are fetched for compaction.
const FETCHED_BYTES: u64 = 64 << 20;
/// With more packs than this, the smallest are merged regardless of their class.
const PACKS_AT_MOST: usize = 100;

/// What is repacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Indices of the packs to be replaced.
    pub victims: HashSet<usize>,
    /// Entries that this node has: index in the scan, and location in the snapshot.
    pub local: Vec<(usize, At)>,
    /// Entries to be fetched.
    pub remote: Vec<At>,
    /// Generation of the pack that they are repacked into.
    pub generation: u32,
}

/// Decides which packs are replaced; `kept` are the entries that this node has (for a tree, those that stay at all). `None`: nothing to do.
pub fn choose(base: &Snapshot, kept: &[(usize, At)], rules: Rules) -> Option<Choice> {
    choose_within(base, kept, rules, None)
}

/// The same, where the packs must stay below `room` bytes once the replaced ones are reduced to their needed content: replaces as many as
/// that takes, those with the most dead weight first, however much must be fetched.
pub fn choose_within(
    base: &Snapshot,
    kept: &[(usize, At)],
    rules: Rules,
    room: Option<u64>,
) -> Option<Choice> {
    let local: HashMap<At, usize> = kept.iter().map(|(i, at)| (*at, *i)).collect();
    let shares: Vec<Shares> = base.packs.iter().map(|p| Shares::new(&p.toc)).collect();
    let stays = |at: &At| rules != Rules::Tree || local.contains_key(at);
    let Needs {
        first,
        needed,
        remote_cost,
        users,
    } = Needs::of(base, &shares, stays, |at| local.contains_key(at));
    let mut wanted = candidates(base, &shares, &needed);
    // Cheapest first, as many as the limit allows.
    wanted.sort_by_key(|pack| (remote_cost[*pack], *pack));
    let mut cost = 0;
    wanted.retain(|pack| {
        cost += remote_cost[*pack];
        cost <= FETCHED_BYTES
    });
    let is_dead = |p: &usize| is_dead(base, &shares, &needed, *p);
    let has_dead = wanted.iter().any(is_dead);
    let used: HashSet<usize> = users.values().flatten().copied().collect();
    let made_room = room.is_some_and(|room| make_room(base, &used, &first, room, &mut wanted));
    if wanted.is_empty() || (wanted.len() < 2 && !has_dead && !made_room) {
        return None;
    }
    let victims: HashSet<usize> = wanted.into_iter().collect();
    let generation = victims
        .iter()
        .map(|p| base.packs[*p].toc.generation)
        .max()
        .unwrap_or(0)
        .saturating_add(1)
        .min(MAX_GENERATION);
    let mut choice = Choice {
        victims,
        generation,
        ..Choice::default()
    };
    for (at, packs) in users {
        if packs.is_disjoint(&choice.victims) {
            continue;
        }
        match local.get(&at) {
            Some(item) => choice.local.push((*item, at)),
            None => choice.remote.push(at),
        }
    }
    choice.local.sort_unstable();
    choice.remote.sort_unstable();
    Some(choice)
}

/// Adds packs to the replaced ones until the rest fits; returns true if it added any.
fn make_room(
    base: &Snapshot,
    used: &HashSet<usize>,
    needed: &[u64],
    room: u64,
    wanted: &mut Vec<usize>,
) -> bool {
    let size = |p: usize| base.packs[p].layer.descriptor.size;
    // The new pack has headers and a table of contents too.
    let anew = |p: usize| needed[p] + needed[p] / 16;
    let mut total: u64 = used
        .iter()
        .map(|p| {
            if wanted.contains(p) {
                anew(*p)
            } else {
                size(*p)
            }
        })
        .sum();
    let mut rest: Vec<usize> = (0..base.packs.len())
        .filter(|p| !wanted.contains(p))
        .collect();
    rest.sort_by_key(|p| (std::cmp::Reverse(size(*p).saturating_sub(anew(*p))), *p));
    let before = wanted.len();
    for p in rest {
        if !used.contains(&p) {
            // It is dropped anyway, and nothing new may depend on it.
            wanted.push(p);
        } else if total > room && size(p) > anew(p) {
            total -= size(p) - anew(p);
            wanted.push(p);
        }
    }
    wanted.len() > before
}

fn is_dead(base: &Snapshot, shares: &[Shares], needed: &[u64], pack: usize) -> bool {
    let size = base.packs[pack].layer.descriptor.size;
    // Slightly more than twice: shares are rounded down.
    size >= DEAD_WEIGHT_BYTES && needed[pack] * 9 / 4 < shares[pack].total()
}

fn candidates(base: &Snapshot, shares: &[Shares], needed: &[u64]) -> Vec<usize> {
    let size = |p: &usize| base.packs[*p].layer.descriptor.size;
    let all = || 0..base.packs.len();
    let mut chosen: Vec<usize> = all()
        .filter(|p| is_dead(base, shares, needed, *p))
        .collect();
    let mut from = 0;
    for bound in CLASSES {
        let class: Vec<usize> = all().filter(|p| (from..bound).contains(&size(p))).collect();
        if class.len() >= PACKS_OF_A_CLASS {
            chosen.extend(class);
        }
        from = bound;
    }
    if base.packs.len() > PACKS_AT_MOST {
        let mut by_size: Vec<usize> = all().collect();
        by_size.sort_by_key(size);
        chosen.extend(&by_size[..base.packs.len() - PACKS_AT_MOST / 2]);
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Carries out a choice: adds the victims' entries to the items to pack. The folder of fetched files must live until packing is over.
///
/// # Errors
/// When something cannot be fetched or completed: the caller continues without merging.
pub async fn carry_out(
    ctx: &Context,
    source: Arc<dyn Source>,
    base: &Arc<Snapshot>,
    choice: &Choice,
    items: &Arc<Vec<Item>>,
    diff: &mut Diff,
) -> Result<Option<tempfile::TempDir>> {
    let mut new = complete_local(source, base, choice, items).await?;
    let temp = if choice.remote.is_empty() {
        None
    } else {
        let temp = fetch_remote(ctx, base, choice).await?;
        new.extend(choice.remote.iter().enumerate().map(|(i, at)| New {
            item: None,
            from: From::File(temp.path().join(i.to_string())),
            pack: anew(base, *at),
        }));
        Some(temp)
    };
    let moved: HashSet<At> = choice.local.iter().map(|(_, at)| *at).collect();
    diff.kept.retain(|(_, at)| !moved.contains(at));
    // In the order of their original packs, which keeps neighbors together; new items follow.
    new.append(&mut diff.new);
    diff.new = new;
    Ok(temp)
}

fn anew(base: &Snapshot, at: At) -> PackItem {
    let e = base.entry(at);
    let content = if e.entry.kind.content_len() > 0 {
        ContentPlan::Read
    } else {
        ContentPlan::None
    };
    PackItem {
        entry: e.entry.clone(),
        claim: Some(e.content).filter(|_| content == ContentPlan::Read),
        content,
    }
}

async fn complete_local(
    source: Arc<dyn Source>,
    base: &Arc<Snapshot>,
    choice: &Choice,
    items: &Arc<Vec<Item>>,
) -> Result<Vec<New>> {
    let mut local = choice.local.clone();
    local.sort_unstable_by_key(|(_, at)| *at);
    let (items, base) = (items.clone(), base.clone());
    task::blocking(move || {
        let mut new = Vec::with_capacity(local.len());
        for (i, at) in local {
            let mut item = items[i].clone();
            if !item.complete {
                source
                    .complete(&mut item)
                    .map_err(crate::source::Error::Invalid)?;
            }
            new.push(New {
                item: Some(i),
                from: From::Item(Box::new(item)),
                pack: anew(&base, at),
            });
        }
        Ok(new)
    })
    .await
}

/// Fetched files, named by number.
struct Numbered {
    dir: PathBuf,
}

impl Target for Numbered {
    fn create(&self, file: usize) -> fs::Result<File> {
        fs::Dir::open(&self.dir)?.create_file(file.to_string().as_bytes(), 0o600)
    }

    fn finish(&self, _: usize, _: &File) -> fs::Result<()> {
        Ok(())
    }
}

async fn fetch_remote(
    ctx: &Context,
    base: &Arc<Snapshot>,
    choice: &Choice,
) -> Result<tempfile::TempDir> {
    let temp_dir = ctx.spool_dir();
    fs::make_dirs(&temp_dir)?;
    let temp = tempfile::Builder::new()
        .prefix("merge-")
        .tempdir_in(&temp_dir)
        .map_err(|e| fs::Error::new("create a folder in", &temp_dir, e))?;
    let wanted: Vec<Wanted> = choice
        .remote
        .iter()
        .map(|at| Wanted {
            at: *at,
            check: true,
        })
        .collect();
    let plan: Arc<Plan> = Arc::new(plan(base, &wanted));
    let dir = temp.path().to_owned();
    let (outcomes, mut fetched) =
        fetch::fetch_and_unpack(ctx, base, plan, Numbered { dir }).await?;
    if let Some(e) = fetched.failed {
        return Err(e.into());
    }
    let all = choice.remote.iter().zip(&outcomes);
    let broken = all.filter(|(_, o)| **o != FileOutcome::Whole);
    let broken: Vec<At> = broken.map(|(at, _)| *at).collect();
    let known: HashSet<Digest> = fetched.damaged.iter().map(|(d, _)| *d).collect();
    let blamed = blame(ctx, base, broken, &HashSet::new(), &known).await;
    fetched.damaged.extend(blamed);
    damage::note(ctx, &fetched.damaged).await;
    match outcomes.into_iter().find(|o| *o != FileOutcome::Whole) {
        Some(FileOutcome::Broken(why)) => Err(super::Error::Damaged {
            what: "a pack to be merged".into(),
            why,
        }),
        _ => Ok(temp),
    }
}

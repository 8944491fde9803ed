//! Reading the side tags of a name: several ahead, folded one by one in their order, and then forgotten.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    super::{
        Context, Error, Result, dated,
        in_turn::InTurn,
        load::{self, Loaded, NotLoaded, told},
        readable, rules,
    },
    Current, FoldedSide, MAX_FLAWS, Side, flaws_of, fold_side, note,
};
use crate::{
    artifact::{
        Manifest, Tag,
        config::Folded,
        fold::{
            self, Died, Rules, contained,
            dated::{AHEAD_SECS, is_ahead},
            replaced::newest_mark,
        },
        name::{self, SnapshotName},
        snapshot::Snapshot,
    },
    digest::Digest,
    entry::Time,
    store::Resolved,
    task,
};

/// Folds all side tags that the head does not contain into `current`; the tag `own` is not read back.
///
/// # Errors
/// When the store cannot be asked, or other calls use up the daemon's memory.
pub(super) async fn fold_all(
    ctx: &Context,
    name: &SnapshotName,
    damaged: &HashSet<Digest>,
    own: Option<&Side>,
    current: &mut Current,
) -> Result<()> {
    let contained = current.contained();
    let open = current.side_tags.iter();
    let open: Vec<Tag> = open.filter(|t| !contained.has(t)).cloned().collect();
    drop(contained);
    let at_once = ctx.concurrency.max(1);
    let mut known = Known::new(current);
    for some in open.chunks(at_once) {
        let resolve = |tag: Tag| async move {
            if own.is_some_and(|own| own.tag == tag) {
                return Ok((tag, Ok(None)));
            }
            let resolved = told(ctx.store.resolve(&tag.clone().into()).await)?;
            Ok::<_, Error>((tag, resolved))
        };
        let resolved: Vec<_> = stream::iter(some.to_vec())
            .map(resolve)
            .buffered(at_once)
            .try_collect()
            .await?;
        let wanted = known.wanted(&resolved);
        let read =
            |manifest: Manifest| async move { load::within_room(ctx, &manifest, damaged).await };
        let mut reads = InTurn::new(wanted.clone(), at_once, read);
        let mut wanted = wanted.into_iter().map(|m| m.digest).peekable();
        for (tag, resolved) in resolved {
            if let Some(own) = own.filter(|own| own.tag == tag) {
                known.last = Some(own.loaded.digest);
                if let Err(why) = add(current, &tag, own.loaded.clone()).await {
                    unfit(current, tag, why);
                }
                continue;
            }
            let resolved = match resolved {
                Ok(Some(resolved)) => resolved,
                Ok(None) => {
                    current.gone.insert(tag);
                    continue;
                }
                Err(why) => {
                    unfit(current, tag, why);
                    continue;
                }
            };
            let digest = resolved.manifest.digest;
            if wanted.next_if_eq(&digest).is_some()
                && let Some((_, read)) = reads.next().await
            {
                let read = match load::too_large(ctx, read)? {
                    Ok(read) => read.map_err(NotLoaded::text),
                    Err(why) => Err(why),
                };
                let read = match read {
                    Ok(loaded) if loaded.snapshot.name != *name => Err("holds another name".into()),
                    read => read,
                };
                let taken = match read {
                    Ok(loaded) => take(current, &tag, &resolved, loaded).await,
                    Err(why) => Err(why),
                };
                if let Err(why) = taken {
                    known.broken.insert(digest, why.clone());
                    unfit(current, tag, why);
                }
            } else if let Some(why) = known.broken.get(&digest) {
                unfit(current, tag, why.clone());
            } else {
                again(current, tag, digest);
            }
        }
    }
    finish(current);
    Ok(())
}

/// Manifests that were read already.
struct Known {
    rules: Rules,
    folded: HashSet<Digest>,
    /// The manifest read last: for trees the last one counts, so only a repetition of that one adds nothing.
    last: Option<Digest>,
    broken: HashMap<Digest, String>,
}

impl Known {
    fn new(current: &Current) -> Self {
        let head = current.head.as_ref().map(|h| h.digest);
        Self {
            rules: current.rules,
            folded: head.into_iter().collect(),
            last: head,
            broken: HashMap::new(),
        }
    }

    /// The manifests that are to be read, in order.
    fn wanted(
        &mut self,
        resolved: &[(Tag, std::result::Result<Option<Resolved>, String>)],
    ) -> Vec<Manifest> {
        let mut wanted = Vec::new();
        for (_, resolved) in resolved {
            let Ok(Some(Resolved { manifest, .. })) = resolved else {
                continue;
            };
            let is_new = self.folded.insert(manifest.digest);
            let is_last = self.last.replace(manifest.digest) == Some(manifest.digest);
            let is_wanted = match self.rules {
                Rules::Union { .. } => is_new,
                Rules::Tree => !is_last,
            };
            if is_wanted {
                wanted.push(manifest.clone());
            }
        }
        wanted
    }
}

fn unfit(current: &mut Current, tag: Tag, why: String) {
    note(&mut current.broken, format!("tag {tag}"), why);
    current.unfit.push(tag);
}

/// Folds what was read of a tag, unless it claims a time in the future; or returns why it cannot.
async fn take(
    current: &mut Current,
    tag: &Tag,
    resolved: &Resolved,
    mut loaded: Loaded,
) -> std::result::Result<(), String> {
    let (modified, now) = (resolved.modified, current.now);
    if is_of_the_future(tag, &loaded, modified, now) {
        let why = format!(
            "claims a publication time more than {} minutes after the actual one",
            AHEAD_SECS / 60
        );
        note(&mut current.ahead, format!("tag {tag}"), why);
        current.refused.push(tag.clone());
        return Ok(());
    }
    let left_out = dated::leave_out(&mut loaded, Some(tag), modified, now);
    if let Some(left_out) = left_out {
        note(&mut current.ahead, left_out.what, left_out.why);
    }
    contained::keep_listed(&mut loaded.snapshot, &current.listed(), now);
    add(current, tag, loaded).await
}

/// Returns true if a folder's side tag claims a later time than it can have been written at: the latest wins, so it would override all
/// others.
fn is_of_the_future(tag: &Tag, loaded: &Loaded, modified: Option<Time>, now: Time) -> bool {
    let is_tree = rules::of_name(&loaded.snapshot.name.kind) == Rules::Tree;
    let written = modified.unwrap_or(now);
    is_tree && name::side_time(tag).is_some_and(|at| is_ahead(at, written))
}

/// A side tag that points at what another one, or the head, points at.
fn again(current: &mut Current, tag: Tag, digest: Digest) {
    let before = current.sides.iter().rev().find(|s| s.digest == digest);
    let before = before.map(|s| (s.generation, s.mark.clone()));
    let (generation, mark) = before.unwrap_or_default();
    current.sides.push(FoldedSide {
        tag,
        digest,
        generation,
        mark,
    });
}

/// The result of folding one side tag.
#[derive(Default)]
struct Folding {
    united: Option<Snapshot>,
    flaws: Vec<Died>,
    /// Why `united` is unchanged.
    left: Option<String>,
}

/// Folds one side tag, or returns why it is left out.
async fn add(current: &mut Current, tag: &Tag, loaded: Loaded) -> std::result::Result<(), String> {
    let head = match &current.united {
        None => current.head.as_ref().map(|h| h.snapshot.clone()),
        Some(_) => None,
    };
    let side = FoldedSide {
        tag: tag.clone(),
        digest: loaded.digest,
        generation: loaded
            .snapshot
            .packs
            .iter()
            .map(|p| p.toc.generation)
            .max()
            .unwrap_or(0),
        mark: newest_mark(&loaded.snapshot).map(str::to_owned),
    };
    for lost in &loaded.lost {
        if !current.lost.contains(lost) {
            note(&mut current.lost, lost.what.clone(), lost.why.clone());
        }
    }
    let before = current.united.take();
    let (now, rules) = (current.now, current.rules);
    let tag = tag.clone();
    // One tag at a time: once nobody waits any more, the next one is not started.
    let folding = task::stoppable(move |stop| {
        if stop.is_set() {
            return Folding::default();
        }
        let before = before.or_else(|| {
            let mut head = head?;
            fold::close(&mut head, rules);
            Some(head)
        });
        let flaws = match rules {
            Rules::Tree => flaws_of(&loaded.snapshot),
            Rules::Union { .. } => Vec::new(),
        };
        let united = fold_side(before.as_ref(), &loaded.snapshot, &tag, now, rules);
        match readable::check(&united) {
            Ok(()) => Folding {
                united: Some(united),
                flaws,
                left: None,
            },
            Err(e) => Folding {
                united: before,
                flaws,
                left: Some(e.to_string()),
            },
        }
    })
    .await;
    current.united = folding.united;
    current.flaws.extend(folding.flaws);
    current.flaws.truncate(MAX_FLAWS);
    match folding.left {
        None => current.sides.push(side),
        Some(why) => return Err(format!("is left out: with it, {why}")),
    }
    Ok(())
}

/// Records what is contained without having been folded.
fn finish(current: &mut Current) {
    let today = current.today();
    let all = current.united.take().or_else(|| {
        let has_sides = !current.sides.is_empty();
        let mut head = current
            .head
            .as_ref()
            .filter(|_| has_sides)?
            .snapshot
            .clone();
        fold::close(&mut head, current.rules);
        Some(head)
    });
    current.united = all.map(|mut all| {
        let tags = current
            .sides
            .iter()
            .map(|s| Folded::new(s.tag.as_str(), today));
        fold::remember(&mut all, tags.collect::<Vec<_>>(), today);
        current.remember_untaken(&mut all);
        all
    });
}

//! Mark and sweep.
//!
//! A run marks unreachable blobs. A later run removes those in a mark at least `grace` old that are still unreachable and were not written
//! since. A damaged manifest ends the run before anything is removed, since its children are unknown. A manifest with a matching digest
//! that is not JSON was pushed that way: it keeps everything its bytes may name, with a warning if it is tagged. If the store can lock
//! others out, the run holds that lock, and with a grace of zero one run marks and removes.
//!
//! All times are the store's. A mark is dated [`SLACK_SECS`] back, since a store's clock and the times of its blobs agree to a few seconds
//! only; a mark from the future (the clock was set back) is discarded.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    Count, Options, Report,
    doors::{self, Doors},
    mark::Mark,
    named,
    reached::{BlobKind, Listing, Marking},
};
use crate::{
    digest::Digest,
    entry::Time,
    ops::Context,
    store::{self, ErrorKind, StoreUrl, StoredBlob, Sweep},
};

const SLACK_SECS: i64 = 10;
/// A mark dated later than the store's clock by more than this is from a clock that was wrong.
const FUTURE_SECS: i64 = 300;
/// Later than any write time.
const EVER: Time = Time {
    secs: i64::MAX,
    nanos: 0,
};
/// No upload of one blob takes this long: an incomplete upload that started earlier was abandoned.
const LONGEST_UPLOAD: Duration = Duration::from_hours(24);
/// Most blobs removed by one call.
const AT_ONCE: usize = 1000;

/// Marks and sweeps. Blobs that only the manifests in `gone` reach count as unreachable (their tags are removed, or would be).
pub(super) async fn run(
    ctx: &Context,
    options: &Options,
    gone: &HashSet<Digest>,
    report: &mut Report,
) {
    let Some(sweep) = ctx.store.sweep().map(|s| &**s) else {
        let collects_itself =
            matches!(ctx.store.url(), StoreUrl::Registry(_) | StoreUrl::Daemon(_));
        let why = if collects_itself {
            "the registry removes unreferenced blobs itself"
        } else {
            "the store is read-only for this process"
        };
        report.not_swept = Some(why.to_owned());
        report.sweep_failed = !collects_itself;
        return;
    };
    if let Err(e) = mark_and_sweep(ctx, sweep, options, gone, report).await {
        report.not_swept = Some(e.to_string());
        report.sweep_failed = true;
    }
}

async fn mark_and_sweep(
    ctx: &Context,
    sweep: &dyn Sweep,
    options: &Options,
    gone: &HashSet<Digest>,
    report: &mut Report,
) -> store::Result<()> {
    // Everything from here on is read under the lock. A dry run need not lock others out, unless the result depends on the lock.
    let at_once = options.grace.is_zero();
    let alone = if options.dry_run && !at_once {
        None
    } else {
        sweep.lock_alone().await?
    };
    let now = ctx.store.clock().await?;
    let gone = options.dry_run.then_some(gone);
    let mut roots = sweep.roots().await?;
    roots.retain(|d| gone.is_none_or(|gone| !gone.contains(d)));
    // Roots first: everything they reach existed before them, so the listing has it. Blobs written after the roots may be listed too, but
    // are too young to be marked.
    let mut marking = Marking::new(ctx, Listing::of(sweep.blobs().await?));
    marking.keep(roots).await?;
    marking.keep_referrers(gone).await?;
    if !options.dry_run {
        keep_doubts(&mut marking).await?;
    }
    let (all, _) = found_loose(ctx, marking).await?;
    let (mut loose, mut removed) = (Vec::new(), HashSet::new());
    if at_once && alone.is_some() {
        removed = remove(sweep, options, &all, EVER, report).await?;
    } else {
        let (old, new): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|b| b.modified <= settled(now));
        report.new = Count::of(&new);
        loose = old;
    }
    let marked = old_marks(sweep, options, &loose, now, removed, report).await?;
    write_mark(sweep, options, &loose, &marked, now, report).await?;
    if !options.dry_run {
        let longest = options.grace.max(LONGEST_UPLOAD).as_secs();
        let limit = Time {
            secs: now.secs.saturating_sub_unsigned(longest),
            nanos: 0,
        };
        let count = sweep.abandon_uploads(limit).await?;
        if count > 0 {
            tracing::info!(count, "Aborted abandoned uploads");
        }
    }
    drop(alone);
    Ok(())
}

/// Removes unreachable blobs, except those that `doors` promised, and drops all marks; the caller keeps other processes locked out. The
/// doors are shut while unreachable blobs are found, not while they are removed: [`store::marked`] explains why.
pub(super) async fn at_once(
    ctx: &Context,
    sweep: &dyn Sweep,
    options: &Options,
    gone: &HashSet<Digest>,
    doors: &dyn Doors,
    report: &mut Report,
) -> store::Result<()> {
    let shut = doors::shut(doors).await?;
    let promised = doors.promised();
    let gone = options.dry_run.then_some(gone);
    let mut roots = sweep.roots().await?;
    roots.retain(|d| gone.is_none_or(|gone| !gone.contains(d)));
    let mut marking = Marking::new(ctx, Listing::of(sweep.blobs().await?));
    marking.keep(roots).await?;
    marking.keep_referrers(gone).await?;
    report.promised = marking.keep_promised(promised).await?;
    if !options.dry_run {
        keep_doubts(&mut marking).await?;
    }
    let (loose, kinds) = found_loose(ctx, marking).await?;
    let mut until = EVER;
    let mut going = None;
    if let Some(marked) = ctx
        .store
        .facts()
        .marked
        .as_ref()
        .filter(|_| !options.dry_run)
    {
        until = ctx.store.clock().await?;
        going = Some(marked.going(kinds.keys(), loose.iter().map(|b| &b.digest)));
        doors::passed(ctx, until).await?;
    }
    drop(shut);
    let removed = remove(sweep, options, &loose, until, report).await?;
    drop(going);
    let now = ctx.store.clock().await?;
    old_marks(sweep, options, &[], now, removed, report).await?;
    Ok(())
}

/// Pruning frees space, so it must not depend on free space: if this fails, only manifests stay, which are small, until the next prune.
async fn keep_doubts(marking: &mut Marking<'_>) -> store::Result<()> {
    match marking.keep_doubts().await {
        Err(e) if e.kind == ErrorKind::Full => marking.keep_manifests().await,
        noted => noted,
    }
}

/// Unreachable blobs in the order in which they may be removed, and which of them are manifests; warns about unreadable ones.
async fn found_loose(
    ctx: &Context,
    marking: Marking<'_>,
) -> store::Result<(Vec<StoredBlob>, HashMap<Digest, BlobKind>)> {
    let kinds = marking.kinds().await?;
    let Marking {
        listing,
        unreadable,
        ..
    } = marking;
    named::warn_of_unreadable(ctx, unreadable).await?;
    Ok((listing.loose(&kinds), kinds))
}

/// Removes the blobs in old marks, and updates the marks; returns the digests of `loose` that are now marked or removed.
async fn old_marks(
    sweep: &dyn Sweep,
    options: &Options,
    loose: &[StoredBlob],
    now: Time,
    mut done: HashSet<Digest>,
    report: &mut Report,
) -> store::Result<HashSet<Digest>> {
    for name in sweep.marks().await? {
        let Some(bytes) = sweep.read_mark(&name).await? else {
            continue;
        };
        let Some(mark) = Mark::decode(&bytes).filter(|m| m.time.secs <= now.secs + FUTURE_SECS)
        else {
            if !options.dry_run {
                sweep.remove_mark(&name).await?;
            }
            continue;
        };
        let due = |b: &&StoredBlob| {
            mark.blobs.contains(&b.digest) && b.modified <= mark.time && !done.contains(&b.digest)
        };
        let due: Vec<StoredBlob> = loose.iter().filter(due).cloned().collect();
        let mut still: HashSet<Digest> = due.iter().map(|b| b.digest).collect();
        let age = age(now, mark.time);
        let left = options.grace.saturating_sub(age);
        if left > Duration::ZERO {
            waits(&due, left, report);
        } else {
            for digest in remove(sweep, options, &due, mark.time, report).await? {
                still.remove(&digest);
                done.insert(digest);
            }
        }
        done.extend(&still);
        // A blob that was reached or written meanwhile must be marked again before it may be removed.
        if still.len() < mark.blobs.len() && !options.dry_run {
            if still.is_empty() {
                sweep.remove_mark(&name).await?;
            } else {
                let less = Mark {
                    blobs: still,
                    ..mark
                };
                sweep.write_mark(&name, less.encode().into()).await?;
            }
        }
    }
    Ok(done)
}

async fn write_mark(
    sweep: &dyn Sweep,
    options: &Options,
    loose: &[StoredBlob],
    marked: &HashSet<Digest>,
    now: Time,
    report: &mut Report,
) -> store::Result<()> {
    let time = settled(now);
    let new = loose
        .iter()
        .filter(|b| !marked.contains(&b.digest) && b.modified <= time);
    let new: Vec<StoredBlob> = new.cloned().collect();
    waits(&new, options.grace, report);
    let mark = Mark {
        time,
        blobs: new.iter().map(|b| b.digest).collect(),
    };
    if !mark.blobs.is_empty() && !options.dry_run {
        sweep.write_mark(&mark.name(), mark.encode().into()).await?;
    }
    report.marked = mark.blobs.len() as u64;
    Ok(())
}

/// Reports that marked blobs stay for `time`.
fn waits(blobs: &[StoredBlob], time: Duration, report: &mut Report) {
    let more = Count::of(blobs);
    report.waiting.blobs += more.blobs;
    report.waiting.bytes = report.waiting.bytes.saturating_add(more.bytes);
    if more.blobs > 0 {
        report.waiting_for = report.waiting_for.max(time);
    }
}

/// Anything written before this time was certainly written before the run.
fn settled(now: Time) -> Time {
    Time {
        secs: now.secs - SLACK_SECS,
        nanos: 0,
    }
}

fn age(now: Time, then: Time) -> Duration {
    Duration::from_secs(u64::try_from(now.secs - then.secs).unwrap_or(0))
}

/// Removes blobs that were not written since; returns those that were tried. Only blobs that existed are counted.
async fn remove(
    sweep: &dyn Sweep,
    options: &Options,
    blobs: &[StoredBlob],
    unless_newer_than: Time,
    report: &mut Report,
) -> store::Result<HashSet<Digest>> {
    let digests: Vec<Digest> = blobs.iter().map(|b| b.digest).collect();
    if options.dry_run {
        report.blobs += blobs.len() as u64;
        report.bytes += blobs.iter().map(|b| b.size).sum::<u64>();
    } else {
        for chunk in digests.chunks(AT_ONCE) {
            let (count, bytes) = sweep.remove(chunk, unless_newer_than).await?;
            report.blobs += count;
            report.bytes += bytes;
        }
    }
    Ok(digests.into_iter().collect())
}

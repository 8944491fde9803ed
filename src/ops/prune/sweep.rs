//! Mark and sweep (design §5).
//!
//! A run writes down the blobs that nothing reaches. A later one removes those that a mark at least `grace` old names, that are
//! still unreachable and were not written since. A damaged manifest ends it before anything is removed: its children are
//! unknown. A manifest whose bytes are right and are not JSON is what somebody pushed: it keeps whatever its bytes may name, and is
//! warned of if it stands under a tag. Where the store can keep others out it does, and with a grace of zero one run marks and
//! removes.
//!
//! Times are the store's. A mark is dated [`SLACK_SECS`] back, since a store's clock and the times of its blobs agree to a few
//! seconds only; a mark from the future (the clock was set back) is thrown away.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    Count, Options, Report,
    mark::Mark,
    named,
    now::{self, Doors},
    reached::{Kind, Listing, Marking},
};
use crate::{
    digest::Digest,
    entry::Time,
    ops::Context,
    store::{self, ErrorKind, StoredBlob, Sweep, open::StoreUrl},
};

const SLACK_SECS: i64 = 10;
/// A mark dated later than the store's clock by more than this is from a clock that was wrong.
const FUTURE_SECS: i64 = 300;
/// Later than anything was written.
const EVER: Time = Time {
    secs: i64::MAX,
    nanos: 0,
};
/// No upload of one blob takes so long: what was begun before and is not complete was given up.
const LONGEST_UPLOAD: Duration = Duration::from_hours(24);
/// Blobs removed by one call.
const AT_ONCE: usize = 1000;

/// Marks and sweeps. What the manifests in `gone` alone reach counts as unreachable (their tags are gone, or would be).
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
            "nothing may be written to the store: it is read-only for this process"
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
    // Everything that is asked from here on is asked behind the lock. A rehearsal need not shut others out, unless only the lock tells what would go.
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
    // Roots first: all that they reach was there before them, so it is on the list. What is written after that is on it too, and
    // too young to be marked.
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
            tracing::info!(count, "Uploads that were given up are taken back");
        }
    }
    drop(alone);
    Ok(())
}

/// Removes what nothing reaches but what `doors` promised, and forgets all marks; other processes are kept out by whoever calls
/// this. The doors are shut for as long as it takes to find that out, not while it is removed: [`store::marked`] says why.
pub(super) async fn at_once(
    ctx: &Context,
    sweep: &dyn Sweep,
    options: &Options,
    gone: &HashSet<Digest>,
    doors: &dyn Doors,
    report: &mut Report,
) -> store::Result<()> {
    let shut = now::shut(doors).await?;
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
        now::passed(ctx, until).await?;
    }
    drop(shut);
    let removed = remove(sweep, options, &loose, until, report).await?;
    drop(going);
    let now = ctx.store.clock().await?;
    old_marks(sweep, options, &[], now, removed, report).await?;
    Ok(())
}

/// This is how room is made, so it must not need any: without it manifests stay, which are small, and go with the next prune.
async fn keep_doubts(marking: &mut Marking<'_>) -> store::Result<()> {
    match marking.keep_doubts().await {
        Err(e) if e.kind == ErrorKind::Full => marking.keep_manifests().await,
        noted => noted,
    }
}

/// What nothing reaches, in the order in which it may be removed, and which of it are manifests; warns of what could not be read.
async fn found_loose(
    ctx: &Context,
    marking: Marking<'_>,
) -> store::Result<(Vec<StoredBlob>, HashMap<Digest, Kind>)> {
    let kinds = marking.kinds().await?;
    let Marking {
        listing,
        unreadable,
        ..
    } = marking;
    named::warn_of_unreadable(ctx, unreadable).await?;
    Ok((listing.loose(&kinds), kinds))
}

/// Removes what old marks name, and keeps the marks true; the digests of `loose` that are marked or gone now.
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
        // What was reached or written meanwhile must be marked anew before it may go.
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

/// Notes that marked blobs stay for `time`.
fn waits(blobs: &[StoredBlob], time: Duration, report: &mut Report) {
    let more = Count::of(blobs);
    report.waiting.blobs += more.blobs;
    report.waiting.bytes = report.waiting.bytes.saturating_add(more.bytes);
    if more.blobs > 0 {
        report.waiting_for = report.waiting_for.max(time);
    }
}

/// What was written before this was certainly written before the run.
fn settled(now: Time) -> Time {
    Time {
        secs: now.secs - SLACK_SECS,
        nanos: 0,
    }
}

fn age(now: Time, then: Time) -> Duration {
    Duration::from_secs(u64::try_from(now.secs - then.secs).unwrap_or(0))
}

/// Removes blobs that were not written since; which were tried. The counts are of what was there.
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

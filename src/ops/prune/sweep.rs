//! Mark and sweep (design §5).
//!
//! A run writes down the blobs that nothing reaches. A later one removes those that a mark at least `grace` old names, that are
//! still unreachable and were not written since. A damaged manifest ends it before anything is removed: its children are
//! unknown. A manifest whose bytes are right and are not JSON is what somebody pushed: it keeps whatever its bytes may name, and is
//! reported if it stands under a tag. Where the store can keep others out it does, and with a grace of zero one run marks and
//! removes.
//!
//! Times are the store's. A mark is dated [`SLACK_SECS`] back, since a store's clock and the times of its blobs agree to a few
//! seconds only; a mark from the future (the clock was set back) is thrown away.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};

use super::{Options, Report, mark::Mark, named};
use crate::{
    artifact::{Descriptor, descriptor::MAX_MANIFEST_BYTES, media, mentions::Mentions},
    digest::Digest,
    entry::Time,
    ops::{Context, load},
    store::{self, Error, ErrorKind, Store, StoredBlob, Sweep},
};

const SLACK_SECS: i64 = 10;
/// A mark dated later than the store's clock by more than this is from a clock that was wrong.
const FUTURE_SECS: i64 = 300;
/// Blobs removed by one call.
const AT_ONCE: usize = 1000;

/// Marks and sweeps. What the manifests in `gone` alone reach counts as unreachable (their tags are gone, or would be).
pub(super) async fn run(
    ctx: &Context,
    options: &Options,
    gone: &HashSet<Digest>,
    report: &mut Report,
) {
    let Some(sweep) = ctx.opened.sweep.as_deref() else {
        let why = "the store removes unreferenced blobs itself, or nothing may be written";
        report.not_swept = Some(why.to_owned());
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
    let now = ctx.opened.store.clock().await?;
    // Blobs first: what is written after that is not on the list, whatever reaches it.
    let blobs = sweep.blobs().await?;
    let Reached {
        all: reached,
        unreadable,
    } = reachable(ctx, sweep, options.dry_run.then_some(gone)).await?;
    report
        .left_out
        .extend(named::unreadable(ctx, unreadable).await?);
    let mut loose: Vec<StoredBlob> = blobs
        .into_iter()
        .filter(|b| !reached.contains(&b.digest))
        .collect();
    let removed = if at_once && alone.is_some() {
        let all: Vec<_> = std::mem::take(&mut loose);
        let ever = Time {
            secs: i64::MAX,
            nanos: 0,
        };
        remove(sweep, options, &all, ever, report).await?
    } else {
        HashSet::new()
    };
    let marked = old_marks(sweep, options, &loose, now, removed, report).await?;
    write_mark(sweep, options, &loose, &marked, now, report).await?;
    drop(alone);
    Ok(())
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
        if age(now, mark.time) >= options.grace {
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
    let time = Time {
        secs: now.secs - SLACK_SECS,
        nanos: 0,
    };
    let new = loose
        .iter()
        .filter(|b| !marked.contains(&b.digest) && b.modified <= time);
    let mark = Mark {
        time,
        blobs: new.map(|b| b.digest).collect(),
    };
    if !mark.blobs.is_empty() && !options.dry_run {
        sweep.write_mark(&mark.name(), mark.encode().into()).await?;
    }
    report.marked = mark.blobs.len() as u64;
    Ok(())
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

/// What a marking run found.
#[derive(Default)]
struct Reached {
    /// Digests that must stay.
    all: HashSet<Digest>,
    /// Manifests under tags that are not JSON, with why.
    unreadable: BTreeMap<Digest, String>,
}

/// A manifest, or what may be one, to be read.
struct Next {
    digest: Digest,
    sort: Sort,
    /// What led to it.
    root: Digest,
}

/// Everything that any tag or part of any repository of the store reaches, without the roots in `gone`; and what refers to any of
/// that, though no tag leads there: signatures and attestations of an image live as long as it does.
async fn reachable(
    ctx: &Context,
    sweep: &dyn Sweep,
    gone: Option<&HashSet<Digest>>,
) -> store::Result<Reached> {
    let store = &*ctx.opened.store;
    let mut roots = sweep.roots().await?;
    roots.retain(|d| gone.is_none_or(|gone| !gone.contains(d)));
    let mut found = Reached::default();
    let mut read = HashSet::new();
    let next = |sort| {
        move |digest| Next {
            digest,
            sort,
            root: digest,
        }
    };
    let mut level: Vec<Next> = roots.into_iter().map(next(Sort::Root)).collect();
    found.all.extend(level.iter().map(|n| n.digest));
    read.extend(level.iter().map(|n| n.digest));
    let mut referrers = Referrers::default();
    loop {
        while !level.is_empty() {
            let mut looked = stream::iter(std::mem::take(&mut level))
                .map(|next| async move { (mentions(store, &next).await, next) })
                .buffer_unordered(ctx.concurrency.max(1));
            while let Some((looked, next)) = looked.next().await {
                let Looked { mentions, why } = match looked {
                    Ok(looked) => looked,
                    Err(e) => return Err(named::damaged(ctx, e, next.root).await),
                };
                let of = |sort| {
                    move |digest| Next {
                        digest,
                        sort,
                        root: next.root,
                    }
                };
                let others = if why.is_none() {
                    Sort::Document
                } else {
                    Sort::Guess
                };
                let manifests = mentions.manifests.into_iter().map(of(Sort::Manifest));
                let documents = mentions.documents.into_iter().map(of(others));
                level.extend(manifests.chain(documents).filter(|n| read.insert(n.digest)));
                found.all.extend(mentions.all);
                let why = why.filter(|_| next.sort == Sort::Root);
                found.unreadable.extend(why.map(|why| (next.digest, why)));
            }
        }
        let more = referrers.of(ctx, &found.all).await?;
        found.all.extend(&more);
        level.extend(more.into_iter().map(next(Sort::Manifest)));
        level.retain(|n| read.insert(n.digest));
        if level.is_empty() {
            return Ok(found);
        }
    }
}

/// Manifests that no tag reaches, with what they refer to; read once they are asked for.
#[derive(Default)]
struct Referrers(Option<Vec<(Digest, Digest)>>);

impl Referrers {
    /// Those that refer to something in `reached`, and are not there themselves.
    async fn of(&mut self, ctx: &Context, reached: &HashSet<Digest>) -> store::Result<Vec<Digest>> {
        let all = match &mut self.0 {
            Some(all) => all,
            none => none.insert(unreached_subjects(ctx, reached).await?),
        };
        let (live, dead) = std::mem::take(all)
            .into_iter()
            .partition(|(_, subject)| reached.contains(subject));
        *all = dead;
        let live: Vec<(Digest, Digest)> = live;
        let new = live.into_iter().map(|(digest, _)| digest);
        Ok(new.filter(|d| !reached.contains(d)).collect())
    }
}

/// What the repositories know of the subjects of manifests that are not in `reached`. The records of all others need not be read.
async fn unreached_subjects(
    ctx: &Context,
    reached: &HashSet<Digest>,
) -> store::Result<Vec<(Digest, Digest)>> {
    let Some(repositories) = &ctx.opened.repositories else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for name in repositories.records().repositories().await? {
        let repository = &repositories.repository(&name);
        let mut left = repository.manifests().await?;
        left.retain(|d| !reached.contains(d));
        let mut known = stream::iter(left)
            .map(|digest| async move { (digest, repository.known(&digest).await) })
            .buffer_unordered(ctx.concurrency.max(1));
        while let Some((digest, known)) = known.next().await {
            match known {
                Ok(known) => {
                    let subject = known.and_then(|k| k.subject);
                    all.extend(subject.map(|s| (digest, s.digest)));
                }
                // Nobody can ask for it by its digest either: it is lost already.
                Err(e) if e.kind == ErrorKind::Corrupt => {
                    tracing::debug!(%digest, error = %e, "Record of a manifest is damaged");
                }
                Err(e) => return Err(e),
            }
        }
    }
    Ok(all)
}

/// What a digest is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// A tag or a part of one leads to it: it was taken as a manifest when it was pushed.
    Root,
    /// A descriptor says that it is a manifest. Whoever wrote that may be wrong.
    Manifest,
    /// It is JSON, and may name others.
    Document,
    /// It is spelled out in a document that cannot be read, and may be anything.
    Guess,
}

/// What was found in a manifest.
#[derive(Default)]
struct Looked {
    mentions: Mentions,
    /// Why it could not be read as what it is said to be.
    why: Option<String>,
}

/// What a manifest mentions; nothing if it is cleanly absent. It is read as a blob: this store's handle knows the manifests
/// of one repository alone, the blobs are those of all.
///
/// # Errors
/// `Corrupt` for a manifest whose bytes are not those of its digest: they may have named anything.
async fn mentions(store: &dyn Store, next: &Next) -> store::Result<Looked> {
    let Next { digest, sort, .. } = *next;
    let damaged = |why: String| {
        let why = format!("{why}; nothing is removed while what it needs is unknown");
        Error::new(ErrorKind::Corrupt, "read manifest", why).at("", digest)
    };
    let Some(size) = store.stat(&digest).await? else {
        return Ok(Looked::default());
    };
    if size > MAX_MANIFEST_BYTES {
        return match sort {
            Sort::Root => Err(damaged(format!("{size} bytes are too many for a manifest"))),
            // No registry takes a manifest of that size, so it is none.
            Sort::Manifest | Sort::Document | Sort::Guess => Ok(Looked::default()),
        };
    }
    let desc = Descriptor::new(media::IMAGE_MANIFEST, digest, size);
    let bytes = match load::read_blob(store, &desc).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Looked::default()),
        Err(e) if e.kind == ErrorKind::Corrupt && sort == Sort::Guess => {
            return Ok(Looked::default());
        }
        Err(e) if e.kind == ErrorKind::Corrupt => return Err(damaged(e.message)),
        Err(e) => return Err(e),
    };
    Ok(match Mentions::of(&bytes) {
        Ok(mentions) => Looked {
            mentions,
            why: None,
        },
        Err(why) => {
            tracing::debug!(%digest, why, ?sort, "Not a manifest: what its bytes may name is kept");
            Looked {
                mentions: Mentions::of_unreadable(&bytes),
                why: Some(why),
            }
        }
    })
}

//! Publishing a snapshot under its name, safely with any number of concurrent writers.
//!
//! Where the store compares and swaps, the head is written if nobody else wrote it meanwhile; otherwise the snapshot is folded with it and
//! the write retried. Everywhere else the snapshot is first published under a side tag; from then on it cannot be lost, and folding it into
//! the head only spares readers work; any writer may finish it.

use std::{collections::HashSet, time::Duration};

use futures_util::future::{join_all, try_join_all};

use super::{
    Context, Error, Result,
    head::{self, AtHand, Contained, Current, FoldedSide, KnownHead, Side, fold_side},
    load::Loaded,
    readable,
    upload::Sending,
};
use crate::{
    artifact::{
        Manifest, Tag,
        fold::{self, Rules, contained, dated::is_ahead, replaced::is_replaced},
        name::{self, SnapshotName},
        snapshot::{EMPTY_CONTENT, Sealed, Snapshot, empty_layer},
    },
    digest::Digest,
    entry::Time,
    memory::Reservation,
    store::{self, Body, Expect, Meet, Published},
    task,
};

/// Most rounds of folding before it is left to other writers.
const ROUNDS: u32 = 10;
/// Most rounds of compare-and-swap: each lost one is another writer's success.
const SWAPS: u32 = 200;
/// Longest time from reading the head to sending the new one.
const ROUND_TIME: Duration = Duration::from_mins(1);
/// A contained side tag is removed once it is this old by the store's clock.
const SIDE_TAG_SECS: i64 = 24 * 3600;
/// Most side tags removed in one export.
const REMOVED_AT_ONCE: usize = 32;

/// Limits that evict entries of a Go cache when it is published.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Days without use.
    pub max_age_days: u32,
    /// Stored bytes.
    pub max_bytes: Option<u64>,
}

impl Limits {
    /// Applies them; trees do not age.
    pub fn apply(&self, snapshot: &mut Snapshot, today: u32, rules: Rules) -> u64 {
        match rules {
            Rules::Tree => 0,
            Rules::Union { .. } => {
                fold::expire(snapshot, today, self.max_age_days, self.max_bytes, rules)
            }
        }
    }
}

/// A snapshot to publish, with its context.
#[derive(Clone, Copy)]
pub struct Publication<'a> {
    /// This writer's snapshot: everything for Go kinds and plain folders, only this node's tree with `--merge`.
    pub mine: &'a Snapshot,
    /// Its packs that this writer made from content it read itself: they replace all packs with the same content.
    pub own: &'a HashSet<Digest>,
    /// The state of the name when `mine` was made.
    pub base: &'a Current,
    /// Whether `mine` was made from `base`, and so can replace it.
    pub built_on_base: bool,
    /// How the kind behaves.
    pub rules: Rules,
    /// The limits that evict entries.
    pub limits: Limits,
    /// Packs known to be damaged.
    pub damaged: &'a HashSet<Digest>,
    /// Time of creation to write.
    pub created: Time,
    /// The original publication time, if this is a copy; otherwise the store's clock counts.
    pub copied: Option<Time>,
}

impl Publication<'_> {
    /// The snapshot to publish, as of `now` by the store's clock.
    fn mine(&self, now: Time) -> Snapshot {
        Snapshot {
            published: Some(self.copied.unwrap_or(now)),
            ..self.mine.clone()
        }
    }

    /// The publication time of a head folded from it and the current state: now, unless it has nothing new.
    fn head_published(&self, head: &Snapshot, now: Time) -> Option<Time> {
        match self.copied {
            Some(_) => head.published,
            None => Some(now),
        }
    }

    fn replaced(&self) -> Error {
        Error::Replaced {
            name: self.mine.name.name.clone(),
            since: "while this export ran",
        }
    }
}

/// What a name points at after a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Digest of the snapshot.
    pub digest: Digest,
    /// Its entries, and bytes of their contents.
    pub totals: (u64, u64),
}

/// Publishes; returns the head that contains it, or this writer's own snapshot while none does.
///
/// All its packs must be stored. Once this returns, every reader of the name gets this writer's content.
///
/// # Errors
/// Nothing is published then, or (side tags) all of it but not yet folded. [`Error::Replaced`]: the name was replaced after this writer
/// read its base; no reader gets this writer's content.
pub async fn publish(ctx: &Context, p: &Publication<'_>) -> Result<Head> {
    let stored = &mut Sending::default();
    match ctx.store.facts().meet {
        Meet::CompareAndSwap => swap(ctx, p).await,
        Meet::SideTags => {
            let heads = by_side_tags(ctx, std::slice::from_ref(p), stored).await?;
            Ok(heads[0])
        }
    }
}

/// Publishes under several names, as [`publish`], as soon as `packs` are stored.
///
/// # Errors
/// As [`publish`], of the first publication that fails.
pub async fn publish_all(
    ctx: &Context,
    all: &[Publication<'_>],
    packs: &mut Sending,
) -> Result<Vec<Head>> {
    match ctx.store.facts().meet {
        Meet::CompareAndSwap => {
            packs.settle(&ctx.progress).await?;
            let mut heads = Vec::new();
            for p in all {
                heads.push(swap(ctx, p).await?);
            }
            Ok(heads)
        }
        Meet::SideTags => by_side_tags(ctx, all, packs).await,
    }
}

async fn swap(ctx: &Context, p: &Publication<'_>) -> Result<Head> {
    let name = &p.mine.name;
    let mut read_again: Option<Current> = None;
    for round in 0..SWAPS {
        let current = read_again.as_ref().unwrap_or(p.base);
        let now = ctx.store.clock().await?;
        let mine = p.mine(now);
        let moved = round > 0 || p.mine.merge || !p.built_on_base;
        let mut next = match current.folded() {
            Some(head) if is_replaced(&mine, &head, p.rules) => return Err(p.replaced()),
            Some(head) if moved => {
                let mut next = fold::fold(&head, &mine, None, now.day(), p.rules);
                p.limits.apply(&mut next, now.day(), p.rules);
                fold::drop_covered(&mut next, p.own);
                next
            }
            _ => mine,
        };
        next.published = p.head_published(&next, now);
        let sealed = seal(&mut next, p.created, &current.listed(), now)?;
        put_config(ctx, &sealed).await?;
        let expect = current
            .version
            .clone()
            .map_or(Expect::Absent, Expect::Version);
        let tag = name.tag();
        match ctx
            .store
            .publish(&sealed.manifest, Some(&tag), &expect)
            .await?
        {
            Published::Done => {
                return Ok(Head {
                    digest: sealed.manifest.digest,
                    totals: next.totals(),
                });
            }
            Published::Conflict => {
                // Drop the previous read first.
                drop(read_again.take());
                read_again = Some(head::read(ctx, name, p.damaged).await?);
            }
        }
    }
    let why = format!(
        "gave up after {SWAPS} attempts: others keep writing `{}`",
        name.name
    );
    Err(store::Error::unavailable("publish", why).into())
}

/// A publication with its documents. Their blobs are stored, the manifests not yet.
struct Prepared<'a> {
    p: &'a Publication<'a>,
    /// The side tag that is to be written.
    side: Side,
    manifest: Manifest,
    /// The head that contains it, if nobody else writes the name meanwhile.
    draft: Option<KnownHead>,
}

/// Each step waits for the one before, which its promise needs: blobs; manifests; side tags, from which on the export is durable; heads;
/// reading the heads back. Whatever a step needs is sent at once.
async fn by_side_tags(
    ctx: &Context,
    all: &[Publication<'_>],
    packs: &mut Sending,
) -> Result<Vec<Head>> {
    let now = ctx.store.clock().await?;
    let prepared = try_join_all(all.iter().map(|p| prepare(ctx, p, now)));
    let (packs, prepared) = tokio::join!(packs.settle(&ctx.progress), prepared);
    packs?;
    let prepared = prepared?;
    try_join_all(prepared.iter().map(|p| ctx.store.stage(&p.manifest))).await?;
    let heads = join_all(prepared.into_iter().map(|p| by_side_tag(ctx, p))).await;
    heads.into_iter().collect()
}

/// Makes the documents of a publication, and stores the blobs that they name besides packs.
async fn prepare<'a>(ctx: &Context, p: &'a Publication<'a>, now: Time) -> Result<Prepared<'a>> {
    let mut mine = p.mine(now);
    let sealed = seal(&mut mine, p.created, &p.base.listed(), now)?;
    let side = Side {
        tag: p.mine.name.side_tag(now, fastrand::u64(..)),
        loaded: as_loaded(&sealed.manifest, mine, p.created),
    };
    let draft = async {
        let (head, draft) = draft(p, &side, now).await?;
        match put_config(ctx, &draft).await {
            Ok(()) => Some(KnownHead {
                loaded: as_loaded(&draft.manifest, head, p.created),
                manifest: draft.manifest,
            }),
            Err(e) => {
                tracing::debug!(error = %e, "Head not prepared; it is made once the side tag is published");
                None
            }
        }
    };
    let (put, draft) = tokio::join!(put_config(ctx, &sealed), draft);
    put?;
    Ok(Prepared {
        p,
        side,
        manifest: sealed.manifest,
        draft,
    })
}

/// A sealed snapshot, as it will be read.
fn as_loaded(manifest: &Manifest, snapshot: Snapshot, created: Time) -> Loaded {
    Loaded {
        digest: manifest.digest,
        snapshot: Snapshot {
            created: Some(created),
            ..snapshot
        },
        lost: Vec::new(),
        barred: None,
        memory: Reservation::default(),
    }
}

/// The head that contains `side`, made from what the name stood for when this export began. `None` if that is too long ago, or if the
/// head cannot be made: the first round of folding then reports why.
async fn draft(p: &Publication<'_>, side: &Side, now: Time) -> Option<(Snapshot, Sealed)> {
    if !is_recent(p.base) {
        return None;
    }
    let (base, mine, tag) = (
        p.base.clone(),
        side.loaded.snapshot.clone(),
        side.tag.clone(),
    );
    let rules = p.rules;
    let next = task::blocking(move || fold_side(base.folded().as_ref(), &mine, &tag, now, rules));
    let mut next = next.await;
    let sealed = seal_head(p, p.base, side, &mut next, now).ok()?;
    Some((next, sealed))
}

/// Returns true if a head made from `current` may still be written.
fn is_recent(current: &Current) -> bool {
    current.asked.elapsed() <= ROUND_TIME
}

async fn by_side_tag(ctx: &Context, prepared: Prepared<'_>) -> Result<Head> {
    let Prepared {
        p,
        side,
        manifest,
        draft,
    } = prepared;
    let published = ctx
        .store
        .publish(&manifest, Some(&side.tag), &Expect::Anything);
    // Not with the side tag's own manifest: what is sent at once should find open connections.
    let staged = async {
        match &draft {
            Some(draft) => ctx.store.stage(&draft.manifest).await,
            None => Ok(()),
        }
    };
    let (published, staged) = tokio::join!(published, staged);
    published?;
    if let Err(e) = staged {
        tracing::debug!(error = %e, "Head not stored ahead; it is stored with its tag");
    }
    tracing::debug!(tag = %side.tag, digest = %manifest.digest, "Side tag published");
    // The export is durable; if a later step fails, the next writer completes it, and readers fold it themselves.
    let head = match fold_into_head(ctx, p, &side, draft).await {
        Err(
            e @ (Error::Replaced { .. } | Error::TooManyEntries { .. } | Error::Unreadable { .. }),
        ) => return Err(e),
        Err(e) => {
            tracing::warn!(error = %e, "Head not updated; readers use the side tag");
            None
        }
        Ok(head) => head,
    };
    Ok(head.unwrap_or_else(|| Head {
        digest: manifest.digest,
        totals: p.mine.totals(),
    }))
}

/// Folds until the head contains `side` and all listed side tags; returns that head.
///
/// The first head is the draft: it was made from what the name stood for at most a minute ago, as in each round. If somebody wrote
/// meanwhile, a store that compares and swaps refuses it; on any other it may take the place of a head that contains more. Nothing is
/// lost by that: what it lacks was published within this minute, and side tags stay for a day. Whoever reads folds them, and this writer
/// finds them when it reads the head back.
async fn fold_into_head(
    ctx: &Context,
    p: &Publication<'_>,
    side: &Side,
    draft: Option<KnownHead>,
) -> Result<Option<Head>> {
    let (name, own, mine) = (&p.mine.name, &side.tag, &side.loaded.snapshot);
    let mut seen: HashSet<Tag> = HashSet::from([own.clone()]);
    let mut heads: Vec<KnownHead> = p.base.known_head().into_iter().collect();
    if let Some(draft) = draft.filter(|_| is_recent(p.base)) {
        match put_head(ctx, name, &draft.manifest, p.base).await? {
            Published::Done => heads.push(draft),
            Published::Conflict => pause(0).await,
        }
    }
    for round in 0..ROUNDS {
        let at_hand = AtHand {
            own: Some(side),
            heads: &heads,
            guess: None,
        };
        // Also after the last write: without compare-and-swap only the head itself, and the listing, show what was lost.
        let current = head::read_with(ctx, name, p.damaged, at_hand).await?;
        seen.extend(current.side_tags.iter().cloned());
        if let Some(why) = current.why_unfit(own) {
            return Err(Error::Unreadable { why });
        }
        let contained = current.contained();
        if seen.iter().all(|t| current.is_done(t, &contained)) {
            remove_old(ctx, &current, &contained).await;
            let head = current.head.as_ref().map(|h| &h.snapshot);
            if head.is_some_and(|head| is_replaced(mine, head, p.rules)) {
                return Err(p.replaced());
            }
            return Ok(current.head.as_ref().map(|h| Head {
                digest: h.digest,
                totals: h.snapshot.totals(),
            }));
        }
        let mut next = current.folded();
        if !contained.has(own) && !current.sides.iter().any(|s| s.tag == *own) {
            // The listing lags behind.
            next = Some(fold_side(next.as_ref(), mine, own, current.now, p.rules));
        }
        // A tag that was listed before and is in no head now: someone removed it, or a stale head came back.
        seen.retain(|t| t == own || current.side_tags.contains(t));
        let Some(mut next) = next else { continue };
        let sealed = seal_head(p, &current, side, &mut next, current.now)?;
        put_config(ctx, &sealed).await?;
        if !is_recent(&current) {
            continue;
        }
        let published = put_head(ctx, name, &sealed.manifest, &current).await?;
        if published == Published::Conflict || round > 0 {
            pause(round).await;
        }
        heads.truncate(1);
        heads.push(KnownHead {
            loaded: as_loaded(&sealed.manifest, next, p.created),
            manifest: sealed.manifest,
        });
    }
    tracing::info!(
        name = name.name,
        "Side tag left for the next writer to fold"
    );
    Ok(None)
}

/// Writes a head made from `current`.
async fn put_head(
    ctx: &Context,
    name: &SnapshotName,
    manifest: &Manifest,
    current: &Current,
) -> Result<Published> {
    let version = current.version.clone();
    let expect = version.map_or(Expect::Absent, Expect::Version);
    let published = ctx
        .store
        .publish(manifest, Some(&name.tag()), &expect)
        .await?;
    Ok(published)
}

/// Without a random pause, writers that collided once would collide again.
async fn pause(round: u32) {
    let pause = fastrand::u64(0..50 << round.min(5));
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

/// The documents of the head `next`, folded from `current` and `side`.
fn seal_head(
    p: &Publication<'_>,
    current: &Current,
    side: &Side,
    next: &mut Snapshot,
    now: Time,
) -> Result<Sealed> {
    current.remember_untaken(next);
    if replaces(p, current, side) {
        next.packs.clone_from(&p.mine.packs);
        next.fingerprint.clone_from(&p.mine.fingerprint);
    }
    p.limits.apply(next, now.day(), p.rules);
    fold::drop_covered(next, p.own);
    next.published = p.head_published(next, now);
    let mut listed = current.listed();
    listed.insert(side.tag.as_str());
    seal(next, p.created, &listed, now)
}

/// Returns true if nobody wrote since `mine` was derived from `base`: then `mine` replaces it, as with compare-and-swap. A union would
/// bring back entries evicted for their age or size.
fn replaces(p: &Publication<'_>, current: &Current, own: &Side) -> bool {
    let digest = |c: &Current| c.head.as_ref().map(|h| h.digest);
    let is_known = |s: &FoldedSide| s.tag == own.tag || p.base.sides.iter().any(|b| b.tag == s.tag);
    p.built_on_base
        && matches!(p.rules, Rules::Union { .. })
        && digest(p.base) == digest(current)
        && !current.contained().has(&own.tag)
        && current.sides.iter().all(is_known)
}

/// The documents of a snapshot, which records only the side tags `listed` now; checked like a reader does, since a fold may exceed limits
/// that each of its inputs met.
fn seal(next: &mut Snapshot, created: Time, listed: &HashSet<&str>, now: Time) -> Result<Sealed> {
    contained::keep_listed(next, listed, now);
    readable::check(next)?;
    let sealed = next.seal(created);
    readable::check_sealed(&sealed)?;
    Ok(sealed)
}

/// Stores the blobs that the manifest names besides packs.
async fn put_config(ctx: &Context, sealed: &Sealed) -> Result<()> {
    let body = Body::Bytes(sealed.config_bytes.clone().into());
    let config = ctx.store.put(&sealed.config, &body);
    let layer = async {
        if sealed.is_empty {
            let body = Body::Bytes(EMPTY_CONTENT.into());
            ctx.store.put(&empty_layer(), &body).await?;
        }
        Ok(())
    };
    tokio::try_join!(config, layer)?;
    Ok(())
}

/// Removes old side tags that the head contains, the latest first; those that cannot be removed wait for the next export.
async fn remove_old(ctx: &Context, current: &Current, contained: &Contained<'_>) {
    let Some(untag) = ctx.store.untag() else {
        return;
    };
    let listed = current.side_tags.iter();
    let mut old: Vec<&Tag> = listed.filter(|t| contained.has(t)).collect();
    if old.is_empty() {
        return;
    }
    let Ok(now) = ctx.store.clock().await else {
        return;
    };
    // One that claims a time in the future would never become old: no writer that follows the store's clock made it.
    old.retain(|t| {
        name::side_time(t).is_some_and(|at| at.secs + SIDE_TAG_SECS < now.secs || is_ahead(at, now))
    });
    // The first one alone: it shows whether the store has removed them before.
    let (mut was_gone, mut at_once) = (false, 1);
    let mut left = REMOVED_AT_ONCE;
    while left > 0 && !old.is_empty() {
        let batch = old.split_off(old.len() - at_once.min(left).min(old.len()));
        left -= batch.len();
        let removed = batch.iter().rev().map(|tag| untag.untag(tag));
        for (tag, removed) in batch.iter().rev().zip(join_all(removed).await) {
            match removed {
                Ok(true) => {}
                // On a registry that does not delete tags the earlier ones were untagged too, except some left by concurrent exports.
                Ok(false) if !was_gone => {
                    was_gone = true;
                    fastrand::shuffle(&mut old);
                }
                Ok(false) => return,
                Err(e) => {
                    tracing::debug!(%tag, error = %e, "Old side tag not removed");
                    return;
                }
            }
        }
        if !was_gone {
            at_once = ctx.concurrency.max(1);
        }
    }
}

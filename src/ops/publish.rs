//! Publishing a snapshot under its name, safely with any number of concurrent writers.
//!
//! Where the store compares and swaps, the head is written if nobody else wrote it meanwhile; otherwise the snapshot is folded with it and
//! the write retried. Everywhere else the snapshot is first published under a side tag; from then on it cannot be lost, and folding it into
//! the head only spares readers work; any writer may finish it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    Context, Error, Result,
    head::{self, Contained, Current, FoldedSide, Side, fold_side},
    load::Loaded,
    readable,
};
use crate::{
    artifact::{
        Tag,
        fold::{self, Rules, contained, dated::is_ahead, replaced::is_replaced},
        name,
        snapshot::{EMPTY_CONTENT, Sealed, Snapshot, empty_layer},
    },
    digest::Digest,
    entry::Time,
    memory::Reservation,
    store::{self, Body, Expect, Meet, Published},
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
    match ctx.store.facts().meet {
        Meet::CompareAndSwap => swap(ctx, p).await,
        Meet::SideTags => by_side_tag(ctx, p).await,
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

async fn by_side_tag(ctx: &Context, p: &Publication<'_>) -> Result<Head> {
    let name = &p.mine.name;
    let store = &ctx.store;
    let now = store.clock().await?;
    let own = name.side_tag(now, fastrand::u64(..));
    let mut mine = p.mine(now);
    let sealed = seal(&mut mine, p.created, &p.base.listed(), now)?;
    put_config(ctx, &sealed).await?;
    store
        .publish(&sealed.manifest, Some(&own), &Expect::Anything)
        .await?;
    tracing::debug!(tag = %own, digest = %sealed.manifest.digest, "Side tag published");
    // The export is durable; if a later step fails, the next writer completes it, and readers fold it themselves.
    let own = Side {
        tag: own,
        loaded: Loaded {
            digest: sealed.manifest.digest,
            snapshot: Snapshot {
                created: Some(p.created),
                ..mine
            },
            lost: Vec::new(),
            barred: None,
            memory: Reservation::default(),
        },
    };
    let head = match fold_into_head(ctx, p, &own).await {
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
        digest: sealed.manifest.digest,
        totals: p.mine.totals(),
    }))
}

/// Folds until the head contains `own` and all listed side tags; returns that head.
async fn fold_into_head(ctx: &Context, p: &Publication<'_>, side: &Side) -> Result<Option<Head>> {
    let (name, own, mine) = (&p.mine.name, &side.tag, &side.loaded.snapshot);
    let mut seen: HashSet<Tag> = HashSet::from([own.clone()]);
    for round in 0..ROUNDS {
        let started = Instant::now();
        let current = head::read_beside(ctx, name, p.damaged, Some(side)).await?;
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
        current.remember_untaken(&mut next);
        if replaces(p, &current, side) {
            next.packs.clone_from(&p.mine.packs);
            next.fingerprint.clone_from(&p.mine.fingerprint);
        }
        p.limits.apply(&mut next, current.today(), p.rules);
        fold::drop_covered(&mut next, p.own);
        next.published = p.head_published(&next, current.now);
        let mut listed = current.listed();
        listed.insert(own.as_str());
        let sealed = seal(&mut next, p.created, &listed, current.now)?;
        put_config(ctx, &sealed).await?;
        if started.elapsed() > ROUND_TIME {
            continue;
        }
        let expect = current.version.map_or(Expect::Absent, Expect::Version);
        let published = ctx
            .store
            .publish(&sealed.manifest, Some(&name.tag()), &expect)
            .await?;
        if published == Published::Conflict || round > 0 {
            // Without a random pause, writers that collided once would collide again.
            let pause = fastrand::u64(0..50 << round.min(5));
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
    tracing::info!(
        name = name.name,
        "Side tag left for the next writer to fold"
    );
    Ok(None)
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
    ctx.store.put(&sealed.config, &body).await?;
    if sealed.is_empty {
        let body = Body::Bytes(EMPTY_CONTENT.into());
        ctx.store.put(&empty_layer(), &body).await?;
    }
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
    let mut was_gone = false;
    for _ in 0..REMOVED_AT_ONCE {
        let Some(tag) = old.pop() else { return };
        match untag.untag(tag).await {
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
}

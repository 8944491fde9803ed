//! Export: packs what is new of a cache and publishes it under its name.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    Clock, Context, Created, LeftOut, Moved, PhaseTime, Result, Target,
    compact::{self, Choice},
    damage, dated,
    diff::{self, Diff},
    head::{self, Current},
    load,
    publish::{self, Limits, Publication},
    upload::{self, Work},
};
use crate::{
    artifact::{
        fold::{
            self, Rules,
            replaced::{is_replaced, newest_mark},
        },
        name::SnapshotName,
        snapshot::{At, Pack, Snapshot},
        toc::{MAX_GENERATION, Object, ObjectId},
    },
    digest::{Digest, Sha256},
    entry::{EntryPath, Time},
    pack::{
        self,
        write::{Outcome, Shape},
    },
    progress::Phase,
    source::{
        Item, KnownContent, NothingKnown, Source,
        index::{NodeIndex, Notes, Stamp},
    },
    store::{self, ErrorKind},
    task,
};

mod assemble;
mod limit;
pub(super) mod readable;
mod replace;
mod skewed;

use assemble::{assemble, date_merged, differs, kept_bytes};
pub use limit::{Dropped, Totals};

/// Tags that cannot be read and are warned of.
const MAX_WARNED: usize = 10;

/// What to export, and how.
#[derive(Clone)]
pub struct Options {
    /// The cache.
    pub source: Arc<dyn Source>,
    /// Where it is published.
    pub target: Target,
    /// A folder only: keep the paths of the name's snapshot that this tree does not have.
    pub merge: bool,
    /// Publish a folder of which nothing is carried; without it that is an error, since it is seldom meant.
    pub allow_empty: bool,
    /// Write one full snapshot anew, readable by `tar --zstd`, instead of an increment.
    pub flatten: bool,
    /// The name stands for this tree alone from then on: nothing stored is built on, and what was begun before adds nothing.
    pub replace: bool,
    /// Go kinds: entries leave after so many days without use.
    pub max_age_days: u32,
    /// The snapshot's packs stay below so many bytes; least recently used entries leave first.
    pub max_size: Option<u64>,
    /// Time of creation to write.
    pub created: Created,
}

/// What an export did.
#[derive(Debug, Clone)]
pub struct Report {
    /// `gobuild`, `gomod` or `dir`.
    pub kind: &'static str,
    /// The name.
    pub target: Target,
    /// Digest of the snapshot that the name stands for now: with what other writers had, and with `merge` what was there.
    pub digest: Digest,
    /// Nothing was new: the head is what it was.
    pub unchanged: bool,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries packed now.
    pub entries_packed: u64,
    /// What was sent.
    pub moved: Moved,
    /// What was left out of it.
    pub left_out: Vec<LeftOut>,
    /// What its limits took out of it.
    pub dropped: Dropped,
    /// Seconds by phase.
    pub phases: Vec<PhaseTime>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Exports; see the module.
///
/// # Errors
/// Nothing is published under the name then, or what another writer published stays.
pub async fn run(ctx: &Context, options: &Options) -> Result<Report> {
    let export = async {
        match Box::pin(export(ctx, options, None)).await {
            Err(super::Error::Store(e)) if stuck(&e).is_some() => {
                tracing::warn!(error = %e, "Packing anew under another digest");
                Box::pin(export(ctx, options, stuck(&e))).await
            }
            end => end,
        }
    };
    super::within_budget(ctx, "exporting", export).await
}

/// The digest under which a store has something else and takes nothing: a registry never replaces a blob that it has.
fn stuck(e: &store::Error) -> Option<Digest> {
    if e.kind != ErrorKind::Corrupt || e.op != "put" {
        return None;
    }
    e.key.parse().ok()
}

/// What is known before anything is packed.
struct Ground {
    /// Index of this node, if there is one.
    index: Option<NodeIndex>,
    /// Packs that an import here found damaged.
    damaged: HashSet<Digest>,
    /// What the target's tag stands for.
    current: Current,
    /// What the head stands for, where the target is another tag and the kind folds into it.
    head: Option<Current>,
    /// What is kept and compared with: closed.
    base: Option<Snapshot>,
    /// Whether `base` is what the target's tag stands for.
    base_is_current: bool,
}

async fn export(ctx: &Context, options: &Options, stuck: Option<Digest>) -> Result<Report> {
    let mut clock = Clock::start();
    let source = &options.source;
    let rules = head::rules(source.kind());
    let name = name_of(options, &options.target.key);
    ctx.progress.begin(Phase::Resolve, None);
    let (ground, scanned) = tokio::join!(
        ground(ctx, options, &name, rules),
        scan(ctx, source.clone()),
    );
    let (mut ground, mut scanned) = (ground?, scanned?);
    for LeftOut { what, why } in ground.current.broken.iter().take(MAX_WARNED) {
        ctx.progress.warn(&format!("{what}: {why}"));
    }
    let today = ground.current.today();
    let mark = replace::mark(options, &ground, &name);
    if mark.is_none() {
        replace::must_be_newer(ctx, &ground, &name)?;
    }
    ctx.progress.end(Phase::Resolve);
    clock.lap(Phase::Resolve);

    let base = ground.base.clone().map(Arc::new);
    let generation = generation(&ground, stuck);
    let (mut diff, items, index) = compare(
        ctx,
        options,
        base.clone(),
        &mut scanned,
        ground.index.take(),
    )
    .await;
    clock.lap(Phase::Scan);
    let mut left_out: Vec<LeftOut> = scanned.skipped;
    left_out.append(&mut diff.left_out);
    let skewed = skewed::leave_out(&mut diff, ground.current.now);
    left_out.extend(skewed.clone());
    left_out.extend(ground.current.ahead.iter().cloned());

    // Nothing to pack and nothing there: there is no name to make.
    if base.is_none() && diff.new.is_empty() && source.kind().is_go() {
        let path = source.root().to_owned();
        return Err(match skewed {
            Some(LeftOut { why, .. }) => super::Error::AllAhead { path, why },
            None => super::Error::NothingToExport { path },
        });
    }
    if mark.is_some() {
        replace::warn_of_imported(ctx, &name, index.as_ref(), &items);
    }
    let must_hold_something = !source.kind().is_go() && !options.allow_empty;
    if items.is_empty() && must_hold_something {
        let nothing = nothing_carried(&**source, &left_out);
        if !options.merge {
            return Err(nothing);
        }
        ctx.progress.warn(&nothing.to_string());
    }
    upload::must_be_allowed(ctx, &diff.new).await?;
    let first = base.is_none();
    let used = |i: usize| source.used(&items[i], index.as_ref().and_then(NodeIndex::imported_at));
    let with_use = |kept: &[(usize, At)]| -> Vec<(At, bool)> {
        kept.iter().map(|(i, at)| (*at, used(*i))).collect()
    };
    let grounds = limit::Ground {
        name: &name,
        base: base.as_ref(),
        kept: &with_use(&diff.kept),
        today,
        rules,
    };
    let limited = limit::apply(ctx, options, &grounds, &mut diff).await?;
    left_out.extend(limited.left_out);
    let mut dropped = limited.dropped;
    let base = limited.base;
    let merged = merge_packs(ctx, options, base.as_ref(), &items, &mut diff, limited.room).await;
    let packed: Vec<(Option<usize>, EntryPath)> = diff
        .new
        .iter()
        .map(|n| (n.item, n.pack.entry.path.clone()))
        .collect();
    let uploaded = if diff.new.is_empty() && !(first && limited.room.is_none()) {
        None
    } else {
        let work = Work {
            source: source.clone(),
            new: std::mem::take(&mut diff.new),
            kept: Arc::new(kept_objects(base.as_deref(), &merged.choice)),
            options: pack::write::Options {
                shape: shape(options, first),
                generation: generation.max(merged.choice.generation),
                threads: ctx.threads,
                level: pack::ZSTD_LEVEL,
            },
        };
        let grounds = limit::Ground {
            name: &name,
            base: base.as_ref(),
            kept: &with_use(&diff.kept),
            today,
            rules,
        };
        limit::must_fit(ctx, options, &grounds, &ground.current, &work).await?;
        Some(upload::upload(ctx, work, if source.kind().is_go() { today } else { 0 }).await?)
    };
    let (mut new_packs, outcomes, moved) = match uploaded {
        Some(u) => {
            clock.add(Phase::Pack, u.times.0);
            clock.add(Phase::Upload, u.times.1);
            (u.packs, u.outcomes, u.moved)
        }
        None => (Vec::new(), Vec::new(), Moved::default()),
    };
    clock.restart();
    let mut contents: Vec<(usize, Sha256)> = Vec::new();
    let mut entries_packed = 0;
    let mut fallen: HashSet<EntryPath> = HashSet::new();
    for ((item, path), outcome) in packed.iter().zip(&outcomes) {
        match outcome {
            Outcome::Packed(digest) => {
                contents.extend(item.map(|i| (i, *digest)));
                entries_packed += 1;
            }
            Outcome::LeftOut(why) => {
                fallen.extend(source.falls_with(path));
                left_out.push(LeftOut {
                    what: path.to_string(),
                    why: why.clone(),
                });
            }
        }
    }
    drop(merged.files);
    // What was left out before it came to packing takes others with it too.
    let unfit = left_out.iter().map(|l| EntryPath::new(l.what.as_bytes()));
    fallen.extend(unfit.filter_map(|p| source.falls_with(&p.ok()?)));
    entries_packed -= take_away(&mut new_packs, &fallen, &mut left_out);
    let kept = with_use(&diff.kept);
    if source.kind().is_go() {
        date_merged(&mut new_packs, base.as_deref(), &merged.choice, used, today);
    }
    let own: HashSet<Digest> = new_packs.iter().map(Pack::digest).collect();
    let mut mine = assemble(options, &name, base.as_deref(), &kept, new_packs, today);
    if let Some(mark) = &mark {
        replace::takes_the_place_of(&mut mine, &ground.current, mark);
    }
    no_longer_alone(&mut mine, &**source, &fallen);
    let died = fold::close(&mut mine, rules);
    fold::drop_covered(&mut mine, &own);
    left_out.extend(died.into_iter().map(|d| LeftOut {
        what: d.path.to_string(),
        why: d.why.into(),
    }));
    let limits = Limits {
        max_age_days: options.max_age_days,
        max_bytes: options.max_size,
    };
    if must_hold_something && !options.merge && mine.live().next().is_none() {
        return Err(nothing_carried(&**source, &left_out));
    }
    dropped.last(limits, options, &mut mine, today, rules)?;
    limit::stays_below(options, &ground.current, &mine, &own, rules)?;
    readable::check(&mine)?;

    let changed = !ground.base_is_current
        || !ground.current.lost().is_empty()
        || !ground.current.sides.is_empty()
        || !ground.current.ahead.is_empty()
        || if mine.merge {
            entries_packed > 0
        } else {
            differs(&mine, ground.current.head.as_ref().map(|h| &h.snapshot))
        };
    let moved = Moved {
        bytes_saved: moved.bytes_saved + kept_bytes(base.as_deref(), &mine),
        ..moved
    };
    let head = match (ground.current.digest(), &ground.current.head) {
        (Some(digest), Some(head)) if !changed => publish::Head {
            digest,
            totals: if mine.merge {
                head.snapshot.totals()
            } else {
                mine.totals()
            },
        },
        _ => {
            ctx.progress.begin(Phase::Publish, None);
            let publication = Publication {
                mine: &mine,
                own: &own,
                base: &ground.current,
                built_on_base: ground.base_is_current,
                rules,
                limits,
                damaged: &ground.damaged,
                created: created(options.created),
                copied: None,
            };
            let published = publish::publish(ctx, &publication).await?;
            if let Some(head) = &ground.head {
                let mut mine = mine.clone();
                mine.name = name_of(options, "");
                if let Some(mark) = &mark {
                    replace::takes_the_place_of(&mut mine, head, mark);
                }
                let publication = Publication {
                    mine: &mine,
                    base: head,
                    built_on_base: false,
                    ..publication
                };
                publish::publish(ctx, &publication).await?;
            }
            ctx.progress.end(Phase::Publish);
            published
        }
    };
    clock.lap(Phase::Publish);

    let publish::Head {
        digest,
        totals: (entries, bytes),
    } = head;
    contents.extend(diff.kept.iter().map(|(i, at)| {
        let base = base.as_ref().expect("only a base has entries to keep");
        (*i, base.entry(*at).content)
    }));
    let matched = Matched {
        digest,
        mark: mark.or_else(|| newest_mark(&mine).map(str::to_owned)),
    };
    remember(ctx, options, items, contents, index, scanned.stamp, matched).await;
    Ok(Report {
        kind: source.kind().name(),
        target: options.target.clone(),
        digest,
        unchanged: !changed,
        entries,
        bytes,
        entries_packed,
        moved,
        left_out,
        dropped,
        phases: clock.phases(),
        elapsed: clock.total(),
    })
}

/// Nothing of a folder is carried: there is nothing in it, or nothing that can be read.
fn nothing_carried(source: &dyn Source, left_out: &[LeftOut]) -> super::Error {
    super::Error::EmptyFolder {
        path: source.root().to_owned(),
        why: left_out.first().map_or_else(
            || "it is empty, or all of it is left out".to_owned(),
            |first| format!("{}: {}", first.what, first.why),
        ),
    }
}

/// Packs that are merged with what is new.
#[derive(Default)]
struct Merged {
    choice: Choice,
    /// Files that were fetched for it.
    files: Option<tempfile::TempDir>,
}

/// Takes what is of no use without something that was left out from what was packed; how many that were.
fn take_away(packs: &mut [Pack], fallen: &HashSet<EntryPath>, left_out: &mut Vec<LeftOut>) -> u64 {
    let mut count = 0;
    for pack in packs.iter_mut().filter(|_| !fallen.is_empty()) {
        for (live, e) in pack.live.iter_mut().zip(&pack.toc.entries) {
            if *live && fallen.contains(&e.entry.path) {
                *live = false;
                count += 1;
                left_out.push(LeftOut {
                    what: e.entry.path.to_string(),
                    why: "it is of no use without what was left out".into(),
                });
            }
        }
    }
    count
}

/// The same for what was there already, where that without which it is of no use is not there either.
fn no_longer_alone(mine: &mut Snapshot, source: &dyn Source, fallen: &HashSet<EntryPath>) {
    if fallen.is_empty() {
        return;
    }
    let there: HashSet<EntryPath> = mine
        .live()
        .filter_map(|(_, e)| source.falls_with(&e.entry.path))
        .collect();
    for pack in &mut mine.packs {
        for (live, e) in pack.live.iter_mut().zip(&pack.toc.entries) {
            *live &= !fallen.contains(&e.entry.path) || there.contains(&e.entry.path);
        }
    }
}

/// What new packs are to other tools.
fn shape(options: &Options, first: bool) -> Shape {
    if first || options.flatten {
        Shape::Full
    } else {
        Shape::Increment
    }
}

/// Merges small packs and leaves dead weight behind, if anything is written at all or `room` is short. Trouble with it only puts it off.
async fn merge_packs(
    ctx: &Context,
    options: &Options,
    base: Option<&Arc<Snapshot>>,
    items: &Arc<Vec<Item>>,
    diff: &mut Diff,
    room: Option<u64>,
) -> Merged {
    let is_short = |base: &Snapshot| room.is_some_and(|room| base.stored_bytes() > room);
    let writes = !diff.new.is_empty() && !options.flatten;
    let Some(base) = base.filter(|base| writes || is_short(base)) else {
        return Merged::default();
    };
    // A folder's own limit: dead weight goes before it is too big.
    let room = room.or_else(|| {
        let raw: u64 = diff.new.iter().map(limit::raw_bytes).sum();
        Some(options.max_size?.saturating_sub(raw))
    });
    let rules = head::rules(options.source.kind());
    let Some(mut choice) = compact::choose_within(base, &diff.kept, rules, room) else {
        return Merged::default();
    };
    if rules != Rules::Tree {
        // What this node has otherwise is packed anew, and must not meet its other in one pack: a false one may be the later.
        let anew: HashSet<&EntryPath> = diff.new.iter().map(|n| &n.pack.entry.path).collect();
        choice
            .remote
            .retain(|at| !anew.contains(&base.entry(*at).entry.path));
    }
    match compact::carry_out(ctx, options.source.clone(), base, &choice, items, diff).await {
        Ok(files) => Merged { choice, files },
        Err(e) => {
            tracing::debug!(error = %e, "Packs not merged this time");
            Merged::default()
        }
    }
}

/// The objects that need not be written again.
fn kept_objects(base: Option<&Snapshot>, choice: &Choice) -> HashSet<ObjectId> {
    let packs = base.into_iter().flat_map(|b| b.packs.iter().enumerate());
    let (go, stay): (Vec<_>, Vec<_>) = packs.partition(|(i, _)| choice.victims.contains(i));
    let objects = |packs: Vec<(usize, &Pack)>| -> HashSet<ObjectId> {
        let objects = packs.into_iter().flat_map(|(_, p)| &p.toc.objects);
        objects.map(Object::id).collect()
    };
    // What a pack that goes holds is written again, even where another one says that it holds it too.
    let mut kept = objects(stay);
    if !go.is_empty() {
        let gone = objects(go);
        kept.retain(|id| !gone.contains(id));
    }
    kept
}

fn name_of(options: &Options, key: &str) -> SnapshotName {
    SnapshotName {
        kind: options.source.kind().name().to_owned(),
        name: options.target.name.clone(),
        scope: options.target.scope.clone(),
        key: key.to_owned(),
    }
}

/// Reads the node index, what the target's tags stand for, and finds what to build on.
async fn ground(
    ctx: &Context,
    options: &Options,
    name: &SnapshotName,
    rules: Rules,
) -> Result<Ground> {
    let index = super::load_index(ctx, &options.source).await;
    let damaged = damage::known(ctx).await;
    let current = head::read(ctx, name, &damaged).await?;
    let folds_into_head = !name.key.is_empty() && options.source.kind().is_go();
    let head = if folds_into_head {
        Some(head::read(ctx, &name_of(options, ""), &damaged).await?)
    } else {
        None
    };
    let (of_head, folded, read) = task::blocking(move || {
        let of_head = head.as_ref().and_then(Current::folded);
        let folded = current.folded();
        (of_head, folded, (head, current))
    })
    .await;
    let (head, current) = read;
    let mut base = folded.filter(|_| !options.replace);
    // A key that was written before its name was replaced is not built on: with it all would come back.
    if let (Some(key), Some(head)) = (&base, &of_head)
        && is_replaced(key, head, rules)
    {
        base = None;
    }
    let base_is_current = base.is_some();
    if base.is_none() && !options.replace {
        base = of_head;
    }
    if base.is_none()
        && !options.replace
        && let Some(imported) = index.as_ref().and_then(|i| i.notes.imported.as_ref())
        && imported.store == ctx.store.url().to_string()
    {
        base = imported_base(ctx, &imported.snapshot, &damaged, rules).await;
    }
    Ok(Ground {
        index,
        damaged,
        current,
        head,
        base,
        base_is_current,
    })
}

/// The snapshot that this node imported: a first export of a scope need not send what that has. Not having it costs no more than time.
async fn imported_base(
    ctx: &Context,
    digest: &str,
    damaged: &HashSet<Digest>,
    rules: Rules,
) -> Option<Snapshot> {
    let digest: Digest = digest.parse().ok()?;
    let resolved = ctx.store.resolve(&digest.into()).await.ok()??;
    let loaded = load::load(ctx, &resolved.manifest, damaged)
        .await
        .ok()?
        .ok()?;
    let mut loaded = loaded;
    let now = ctx.store.clock().await.ok()?;
    dated::leave_out(&mut loaded, None, resolved.modified, now);
    fold::close(&mut loaded.snapshot, rules);
    Some(loaded.snapshot)
}

struct Scanned {
    items: Vec<Item>,
    skipped: Vec<LeftOut>,
    stamp: Option<Stamp>,
}

async fn scan(ctx: &Context, source: Arc<dyn Source>) -> Result<Scanned> {
    let state = ctx.state_dir.clone();
    task::blocking(move || {
        // The stamp comes before the first stat, else it proves nothing.
        let stamp =
            crate::fs::Dir::open_if_there(source.root())?.and_then(|root| Stamp::take(&root).ok());
        let index = state.and_then(|s| NodeIndex::load(&s, source.kind(), source.root()));
        let scan = match &index {
            Some(index) => source.scan(index)?,
            None => source.scan(&NothingKnown)?,
        };
        let skipped = scan
            .skipped
            .into_iter()
            .map(|s| LeftOut {
                what: s.path,
                why: s.why,
            })
            .collect();
        Ok(Scanned {
            items: scan.items,
            skipped,
            stamp,
        })
    })
    .await
}

async fn compare(
    ctx: &Context,
    options: &Options,
    base: Option<Arc<Snapshot>>,
    scanned: &mut Scanned,
    index: Option<NodeIndex>,
) -> (Diff, Arc<Vec<Item>>, Option<NodeIndex>) {
    let mut items = std::mem::take(&mut scanned.items);
    let (source, threads, flatten) = (options.source.clone(), ctx.threads, options.flatten);
    task::blocking(move || {
        let base = base.as_deref().filter(|_| !flatten);
        let diff = match &index {
            Some(index) => diff::diff(&*source, &mut items, base, index, threads),
            None => diff::diff(&*source, &mut items, base, &NothingKnown, threads),
        };
        (diff, Arc::new(items), index)
    })
    .await
}

/// Packs that replace damaged ones need other digests than those, which the generation gives them: above those of the packs
/// that are whole, and by a step that depends on what is damaged, since what was packed anew may be damaged again.
fn generation(ground: &Ground, stuck: Option<Digest>) -> u32 {
    let mut wrong: Vec<String> = ground.current.lost().into_iter().map(|l| l.what).collect();
    wrong.extend(stuck.map(|d| d.to_string()));
    if wrong.is_empty() && ground.base.is_some() {
        return 0;
    }
    wrong.extend(ground.damaged.iter().map(ToString::to_string));
    if wrong.is_empty() {
        return 0;
    }
    wrong.sort();
    let step = u32::from(Sha256::of(wrong.concat().as_bytes()).0[0]);
    let head = ground.current.head.iter().flat_map(|l| &l.snapshot.packs);
    let head = head.map(|p| p.toc.generation);
    let sides = ground.current.sides.iter().map(|s| s.generation);
    let highest = head.chain(sides).max().unwrap_or(0);
    // At the limit the damaged packs are left out all the same; another digest is what counts.
    match highest + 1 + step {
        generation if generation > MAX_GENERATION => MAX_GENERATION - step,
        generation => generation,
    }
}

fn created(created: Created) -> Time {
    match created {
        Created::Now => Time::now(),
        Created::At(time) => time,
    }
}

/// What the tree equals once it was exported.
struct Matched {
    digest: Digest,
    /// The last replacement of the name that it was made after.
    mark: Option<String>,
}

/// Writes down what the next export need not read again.
async fn remember(
    ctx: &Context,
    options: &Options,
    items: Arc<Vec<Item>>,
    contents: Vec<(usize, Sha256)>,
    before: Option<NodeIndex>,
    stamp: Option<Stamp>,
    tree: Matched,
) {
    let (Some(state), Some(stamp)) = (ctx.state_dir.clone(), stamp) else {
        return;
    };
    let source = options.source.clone();
    task::blocking(move || {
        let Ok(Some(root)) = crate::fs::Dir::open_if_there(source.root()) else {
            return;
        };
        let notes = Notes {
            imported: before.and_then(|b| b.notes.imported),
            matched: Some(tree.digest.to_string()),
            replacement: tree.mark,
        };
        let records = contents.into_iter().map(|(i, digest)| {
            let item = &items[i];
            (
                item.entry.path.clone(),
                item.stat,
                KnownContent {
                    digest,
                    len: item.entry.kind.content_len(),
                },
            )
        });
        match NodeIndex::record(&root, stamp, notes, records) {
            Ok(index) => index.save(&state, source.kind(), source.root()),
            Err(e) => tracing::debug!(error = %e, "Node index not made"),
        }
    })
    .await;
}

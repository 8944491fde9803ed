//! Export: packs what is new of a cache and publishes it under its name.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    Clock, Context, Created, Error, LeftOut, Moved, PhaseTime, Result, Target,
    compact::{self, Choice},
    diff::{self, Diff},
    publish::{self, Limits, Publication},
    readable, rules,
    upload::{self, Sending, Uploaded, Work},
};
use crate::{
    artifact::{
        fold::{self, Rules, replaced::newest_mark},
        name::SnapshotName,
        snapshot::{At, Pack, Snapshot},
        toc::{Object, ObjectId},
    },
    digest::{ContentId, Digest},
    entry::{EntryPath, Time},
    pack::{
        self,
        level::{Auto, Level},
        write::{Outcome, Shape},
    },
    progress::Phase,
    source::{
        Item, Known, KnownContent, NothingKnown, Source,
        index::{NodeIndex, Notes, Stamp},
    },
    store::{self, ErrorKind},
    task,
};

mod assemble;
mod ground;
mod limit;
mod replace;
mod skewed;

use assemble::{assemble, date_merged, differs, kept_bytes};
use ground::{Ground, Scanned, generation, ground, scan};
pub use limit::{Dropped, Totals};

/// Most unreadable tags to warn about.
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
    /// Publish a folder even if it has no content to export; otherwise that is an error, since it is rarely intended.
    pub allow_empty: bool,
    /// Write one new full snapshot, readable by `tar --zstd`, instead of an increment.
    pub flatten: bool,
    /// The name points at this tree alone from then on: the export builds on nothing stored, and exports that started earlier add nothing.
    pub replace: bool,
    /// Go kinds: evict entries after this many days without use.
    pub max_age_days: u32,
    /// Keep the snapshot's packs below this many bytes; least recently used entries are evicted first.
    pub max_size: Option<u64>,
    /// The zstd level of packs; `None`: as high as the link to the store permits.
    pub level: Option<i32>,
    /// Time of creation to write.
    pub created: Created,
}

impl Options {
    fn level_of_packs(&self, threads: usize) -> Level {
        match self.level {
            Some(level) => Level::Fixed(level),
            None => Level::Auto(Auto::new(threads)),
        }
    }
}

/// What an export did.
#[derive(Debug, Clone)]
pub struct Report {
    /// `gobuild`, `gomod` or `dir`.
    pub kind: &'static str,
    /// The name.
    pub target: Target,
    /// Digest of the snapshot that the name points at now, including other writers' content and, with `merge`, what was stored before.
    pub digest: Digest,
    /// Nothing was new: the head is unchanged.
    pub unchanged: bool,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries packed now.
    pub entries_packed: u64,
    /// What was sent.
    pub moved: Moved,
    /// Entries left out.
    pub left_out: Vec<LeftOut>,
    /// Entries dropped by the limits.
    pub dropped: Dropped,
    /// Seconds by phase.
    pub phases: Vec<PhaseTime>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Exports; see the module.
///
/// # Errors
/// On an error nothing is published under the name, or another writer's publication stays.
pub async fn run(ctx: &Context, options: &Options) -> Result<Report> {
    let export = async {
        match Box::pin(export(ctx, options, None)).await {
            Err(Error::Store(e)) if stuck(&e).is_some() => {
                tracing::warn!(error = %e, "Packing again under another digest");
                Box::pin(export(ctx, options, stuck(&e))).await
            }
            end => end,
        }
    };
    super::within_budget(ctx, "exporting", export).await
}

/// The digest under which a store holds wrong bytes and rejects new ones: a registry never replaces a blob that it has.
fn stuck(e: &store::Error) -> Option<Digest> {
    if e.kind != ErrorKind::Corrupt || e.op != "put" {
        return None;
    }
    e.key.parse().ok()
}

/// Reports the result, after all phases.
async fn export(ctx: &Context, options: &Options, stuck: Option<Digest>) -> Result<Report> {
    let mut export = Export::new(ctx, options);
    let (ground, scanned) = export.look().await?;
    let generation = generation(&ground, stuck);
    let mut tree = export.compare(&ground, scanned).await?;
    export.must_hold_something(&ground, &tree)?;
    let mut fitted = export.fit(&ground, &mut tree).await?;
    let mut packed = export
        .pack(&ground, &mut tree, &mut fitted, generation)
        .await?;
    let made = export.put_together(&ground, &tree, &mut fitted, &mut packed)?;
    let (head, changed) = export.publish(&ground, &made, &mut packed).await?;
    let (entries, bytes) = head.totals;
    let (moved, _) = packed.sending.done();
    let moved = Moved {
        bytes_saved: moved.bytes_saved + kept_bytes(fitted.base.as_deref(), &made.mine),
        ..moved
    };
    let matched = Matched {
        digest: head.digest,
        mark: ground
            .mark
            .or_else(|| newest_mark(&made.mine).map(str::to_owned)),
    };
    // A damaged output would be taken for intact by the next import.
    let read = tree.diff.kept.iter();
    let read = read.filter(|(i, _)| !tree.diff.unread.contains(i));
    let kept = read.map(|(i, at)| {
        let base = fitted.base.as_ref();
        let base = base.expect("only a base has entries to keep");
        (*i, base.entry(*at).content)
    });
    packed.contents.extend(kept);
    // In the order of the scan, which the index has too.
    packed.contents.sort_unstable_by_key(|(i, _)| *i);
    remember(ctx, options, tree, packed.contents, matched).await;
    Ok(Report {
        kind: options.source.kind().name(),
        target: options.target.clone(),
        digest: head.digest,
        unchanged: !changed,
        entries,
        bytes,
        entries_packed: packed.entries,
        moved,
        left_out: export.left_out,
        dropped: fitted.dropped,
        phases: export.clock.phases(),
        elapsed: export.clock.total(),
    })
}

/// The tree, and its differences from the base.
struct Tree {
    items: Arc<Vec<Item>>,
    diff: Diff,
    /// The previous node index.
    index: Arc<Option<NodeIndex>>,
    stamp: Option<Stamp>,
}

impl Tree {
    /// Returns true if the job used an item.
    fn is_used(&self, source: &dyn Source, item: usize) -> bool {
        let imported_at = (*self.index).as_ref().and_then(NodeIndex::imported_at);
        source.used(&self.items[item], imported_at)
    }

    /// Entries of the base that stay unchanged, and whether the job used them.
    fn kept(&self, source: &dyn Source) -> Vec<(At, bool)> {
        let kept = self.diff.kept.iter();
        kept.map(|(i, at)| (*at, self.is_used(source, *i)))
            .collect()
    }
}

/// The base within the limits, and the part of it that is repacked with the new items.
struct Fitted {
    /// The base without evicted entries.
    base: Option<Arc<Snapshot>>,
    /// `--max-size` takes effect.
    is_tight: bool,
    dropped: Dropped,
    merged: Merged,
}

/// What was packed and sent.
#[derive(Default)]
struct Packed {
    packs: Vec<Pack>,
    sending: Sending,
    /// Contents of items.
    contents: Vec<(usize, ContentId)>,
    /// Number of packed entries.
    entries: u64,
    /// Entries that are useless without one that was left out.
    fallen: HashSet<EntryPath>,
}

/// What to publish.
struct Made {
    mine: Snapshot,
    /// The packs in it that this export created.
    own: HashSet<Digest>,
}

/// The context of all phases of an export.
struct Export<'a> {
    ctx: &'a Context,
    options: &'a Options,
    source: &'a dyn Source,
    rules: Rules,
    name: SnapshotName,
    clock: Clock,
    left_out: Vec<LeftOut>,
}

impl<'a> Export<'a> {
    fn new(ctx: &'a Context, options: &'a Options) -> Self {
        Self {
            ctx,
            options,
            source: &*options.source,
            rules: rules::of(options.source.kind()),
            name: name_of(options, &options.target.key),
            clock: Clock::start(),
            left_out: Vec::new(),
        }
    }

    /// Reads what the name points at, and scans the tree concurrently.
    async fn look(&mut self) -> Result<(Ground, Scanned)> {
        let (ctx, options) = (self.ctx, self.options);
        ctx.progress.begin(Phase::Resolve, None);
        let index = Arc::new(super::load_index(ctx, &options.source).await);
        let (ground, scanned) = tokio::join!(
            ground(ctx, options, &self.name, self.rules, index.clone()),
            scan(options.source.clone(), index.clone()),
        );
        let (mut ground, scanned) = (ground?, scanned?);
        for LeftOut { what, why } in ground.current.broken.iter().take(MAX_WARNED) {
            ctx.progress.warn(&format!("{what}: {why}"));
        }
        ground.mark = replace::mark(options, &ground, &self.name);
        if ground.mark.is_none() {
            replace::must_be_newer(ctx, &ground, &self.name)?;
        }
        ctx.progress.end(Phase::Resolve);
        self.clock.lap(Phase::Resolve);
        Ok((ground, scanned))
    }

    /// Separates the scanned items into stored and new ones.
    ///
    /// # Errors
    /// When there is nothing to pack and nothing stored: no name is created.
    async fn compare(&mut self, ground: &Ground, scanned: Scanned) -> Result<Tree> {
        let (mut items, index) = (scanned.items, ground.index.clone());
        let (source, threads) = (self.options.source.clone(), self.ctx.threads);
        let base = ground.base.clone().filter(|_| !self.options.flatten);
        let (mut diff, items, index) = task::blocking(move || {
            let known: &dyn Known = match &*index {
                Some(index) => index,
                None => &NothingKnown,
            };
            let diff = diff::diff(&*source, &mut items, base.as_deref(), known, threads);
            (diff, Arc::new(items), index)
        })
        .await;
        self.clock.lap(Phase::Scan);
        self.left_out = scanned.skipped;
        self.left_out.append(&mut diff.left_out);
        let skewed = skewed::leave_out(&mut diff, ground.current.now);
        self.left_out.extend(skewed.clone());
        self.left_out.extend(ground.current.ahead.iter().cloned());
        if ground.base.is_none() && diff.new.is_empty() && self.source.kind().is_go() {
            let path = self.source.root().to_owned();
            return Err(match skewed {
                Some(LeftOut { why, .. }) => Error::AllAhead { path, why },
                None => Error::NothingToExport { path },
            });
        }
        Ok(Tree {
            items,
            diff,
            index,
            stamp: scanned.stamp,
        })
    }

    /// Refuses an empty folder, or warns about it; also warns about a replacement that contains imported files.
    fn must_hold_something(&self, ground: &Ground, tree: &Tree) -> Result<()> {
        if ground.mark.is_some() {
            let index = (*tree.index).as_ref();
            replace::warn_of_imported(self.ctx, &self.name, index, &tree.items);
        }
        if tree.items.is_empty() && !self.may_be_empty() {
            let nothing = nothing_carried(self.source, &self.left_out);
            if !self.options.merge {
                return Err(nothing);
            }
            self.ctx.progress.warn(&nothing.to_string());
        }
        Ok(())
    }

    fn may_be_empty(&self) -> bool {
        self.source.kind().is_go() || self.options.allow_empty
    }

    fn limits(&self) -> Limits {
        Limits {
            max_age_days: self.options.max_age_days,
            max_bytes: self.options.max_size,
        }
    }

    /// The input for deciding `--max-size`.
    fn basis<'b>(
        &'b self,
        ground: &Ground,
        base: Option<&'b Arc<Snapshot>>,
        kept: &'b [(At, bool)],
    ) -> limit::Basis<'b> {
        limit::Basis {
            name: &self.name,
            base,
            kept,
            today: ground.current.today(),
            rules: self.rules,
        }
    }

    /// Decides what `--max-size` leaves out, and which packs are merged with what is new.
    async fn fit(&mut self, ground: &Ground, tree: &mut Tree) -> Result<Fitted> {
        let (ctx, options) = (self.ctx, self.options);
        let kept = tree.kept(self.source);
        let basis = self.basis(ground, ground.base.as_ref(), &kept);
        let limited = limit::apply(ctx, options, &basis, &tree.items, &mut tree.diff).await?;
        self.left_out.extend(limited.left_out);
        let (base, room) = (limited.base, limited.room);
        let merged = merge_packs(ctx, options, base.as_ref(), tree, room).await;
        Ok(Fitted {
            base,
            is_tight: room.is_some(),
            dropped: limited.dropped,
            merged,
        })
    }

    /// Packs and sends the new items, and records those that could not be read.
    async fn pack(
        &mut self,
        ground: &Ground,
        tree: &mut Tree,
        fitted: &mut Fitted,
        generation: u32,
    ) -> Result<Packed> {
        let new = tree.diff.new.iter();
        let paths: Vec<_> = new.map(|n| (n.item, n.pack.entry.path.clone())).collect();
        let (mut packed, mut outcomes) = (Packed::default(), Vec::new());
        if let Some(uploaded) = self.upload(ground, tree, fitted, generation).await? {
            self.clock.add(Phase::Pack, uploaded.packed_in);
            (packed.packs, packed.sending) = (uploaded.packs, uploaded.sending);
            outcomes = uploaded.outcomes;
        }
        self.clock.restart();
        drop(fitted.merged.files.take());
        for ((item, path), outcome) in paths.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Packed(digest) => {
                    packed.contents.extend(item.map(|i| (i, digest)));
                    packed.entries += 1;
                }
                Outcome::LeftOut(why) => {
                    packed.fallen.extend(self.source.falls_with(&path));
                    let what = path.to_string();
                    self.left_out.push(LeftOut { what, why });
                }
            }
        }
        // Entries left out before packing make others useless too.
        let unfit = self.left_out.iter();
        let unfit = unfit.map(|l| EntryPath::new(l.what.as_bytes()));
        let falls = unfit.filter_map(|p| self.source.falls_with(&p.ok()?));
        packed.fallen.extend(falls);
        packed.entries -= take_away(&mut packed.packs, &packed.fallen, &mut self.left_out);
        Ok(packed)
    }

    /// `None` if there is nothing to pack; a name's first snapshot has a pack, even an empty one.
    async fn upload(
        &self,
        ground: &Ground,
        tree: &mut Tree,
        fitted: &Fitted,
        generation: u32,
    ) -> Result<Option<Uploaded>> {
        let (ctx, options) = (self.ctx, self.options);
        let first = ground.base.is_none();
        if tree.diff.new.is_empty() && (!first || fitted.is_tight) {
            return Ok(None);
        }
        let (base, choice) = (fitted.base.as_ref(), &fitted.merged.choice);
        let work = Work {
            source: options.source.clone(),
            scanned: tree.items.clone(),
            new: std::mem::take(&mut tree.diff.new),
            kept: Arc::new(kept_objects(base.map(|b| &**b), choice)),
            options: pack::write::Options {
                shape: shape(options, first),
                generation: generation.max(choice.generation),
                threads: ctx.threads,
                level: options.level_of_packs(ctx.threads),
            },
        };
        let kept = tree.kept(self.source);
        let basis = self.basis(ground, base, &kept);
        limit::must_fit(ctx, options, &basis, &ground.current, &work).await?;
        let day = if self.source.kind().is_go() {
            basis.today
        } else {
            0
        };
        upload::upload(ctx, work, day).await.map(Some)
    }

    /// Builds the snapshot from stored and newly packed entries: closed, within the limits, and readable.
    fn put_together(
        &mut self,
        ground: &Ground,
        tree: &Tree,
        fitted: &mut Fitted,
        packed: &mut Packed,
    ) -> Result<Made> {
        let (options, source, rules) = (self.options, self.source, self.rules);
        let (current, today) = (&ground.current, ground.current.today());
        let base = fitted.base.as_deref();
        let mut packs = std::mem::take(&mut packed.packs);
        if source.kind().is_go() {
            let is_used = |item| tree.is_used(source, item);
            date_merged(&mut packs, base, &fitted.merged.choice, is_used, today);
        }
        let own: HashSet<Digest> = packs.iter().map(Pack::digest).collect();
        let mut mine = assemble(options, &self.name, base, &tree.kept(source), packs, today);
        if let Some(mark) = &ground.mark {
            replace::takes_the_place_of(&mut mine, current, mark);
        }
        no_longer_alone(&mut mine, source, &packed.fallen);
        let died = fold::close(&mut mine, rules);
        fold::drop_covered(&mut mine, &own);
        self.left_out.extend(died.into_iter().map(|d| LeftOut {
            what: d.path.to_string(),
            why: d.why.into(),
        }));
        if !self.may_be_empty() && !options.merge && mine.live().next().is_none() {
            return Err(nothing_carried(source, &self.left_out));
        }
        let limits = self.limits();
        fitted
            .dropped
            .last(limits, options, &mut mine, today, rules)?;
        limit::stays_below(options, current, &mine, &own, rules)?;
        readable::check(&mine)?;
        Ok(Made { mine, own })
    }

    /// Publishes it unless nothing changed; the second value is true if something did.
    async fn publish(
        &mut self,
        ground: &Ground,
        made: &Made,
        packed: &mut Packed,
    ) -> Result<(publish::Head, bool)> {
        let (mine, current) = (&made.mine, &ground.current);
        let changed = !ground.base_is_current
            || !current.lost().is_empty()
            || !current.sides.is_empty()
            || !current.ahead.is_empty()
            || if mine.merge {
                packed.entries > 0
            } else {
                differs(mine, current.head.as_ref().map(|h| &h.snapshot))
            };
        let head = match (current.digest(), &current.head) {
            (Some(digest), Some(head)) if !changed => publish::Head {
                digest,
                totals: if mine.merge {
                    head.snapshot.totals()
                } else {
                    mine.totals()
                },
            },
            _ => {
                self.ctx.progress.begin(Phase::Publish, None);
                let published = self.send(ground, made, &mut packed.sending).await?;
                self.ctx.progress.end(Phase::Publish);
                published
            }
        };
        packed.sending.settle(&self.ctx.progress).await?;
        let (_, sent_in) = packed.sending.done();
        if sent_in > Duration::ZERO {
            self.clock.add(Phase::Upload, sent_in);
        }
        self.clock.lap(Phase::Publish);
        Ok((head, changed))
    }

    /// Publishes it under its name and, if the kind folds, under the name without a key.
    async fn send(
        &self,
        ground: &Ground,
        made: &Made,
        packs: &mut Sending,
    ) -> Result<publish::Head> {
        let publication = Publication {
            mine: &made.mine,
            own: &made.own,
            base: &ground.current,
            built_on_base: ground.base_is_current,
            rules: self.rules,
            limits: self.limits(),
            damaged: &ground.damaged,
            created: created(self.options.created),
            copied: None,
        };
        let Some(head) = &ground.head else {
            let all = publish::publish_all(self.ctx, &[publication], packs).await?;
            return Ok(all[0]);
        };
        let mut mine = made.mine.clone();
        mine.name = name_of(self.options, "");
        if let Some(mark) = &ground.mark {
            replace::takes_the_place_of(&mut mine, head, mark);
        }
        let of_head = Publication {
            mine: &mine,
            base: head,
            built_on_base: false,
            ..publication
        };
        let all = publish::publish_all(self.ctx, &[publication, of_head], packs).await?;
        Ok(all[0])
    }
}

/// The error that a folder has no content to export: it is empty, or nothing in it can be read.
fn nothing_carried(source: &dyn Source, left_out: &[LeftOut]) -> Error {
    Error::EmptyFolder {
        path: source.root().to_owned(),
        why: left_out.first().map_or_else(
            || "it is empty, or everything in it is left out".to_owned(),
            |first| format!("{}: {}", first.what, first.why),
        ),
    }
}

/// Packs that are merged with the new items.
#[derive(Default)]
struct Merged {
    choice: Choice,
    /// Files fetched for the merge.
    files: Option<tempfile::TempDir>,
}

/// Drops packed entries that are useless without one that was left out; returns their number.
fn take_away(packs: &mut [Pack], fallen: &HashSet<EntryPath>, left_out: &mut Vec<LeftOut>) -> u64 {
    let mut count = 0;
    for pack in packs.iter_mut().filter(|_| !fallen.is_empty()) {
        for (live, e) in pack.live.iter_mut().zip(&pack.toc.entries) {
            if *live && fallen.contains(&e.entry.path) {
                *live = false;
                count += 1;
                left_out.push(LeftOut {
                    what: e.entry.path.to_string(),
                    why: "it is useless without an entry that was left out".into(),
                });
            }
        }
    }
    count
}

/// The same for stored entries, unless the entry they depend on is stored too.
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

/// The shape of new packs, as other tools see them.
fn shape(options: &Options, first: bool) -> Shape {
    if first || options.flatten {
        Shape::Full
    } else {
        Shape::Increment
    }
}

/// Merges small packs and drops dead weight, if anything is written anyway or `room` is short. A failure only postpones it.
async fn merge_packs(
    ctx: &Context,
    options: &Options,
    base: Option<&Arc<Snapshot>>,
    tree: &mut Tree,
    room: Option<u64>,
) -> Merged {
    let Tree { items, diff, .. } = tree;
    let is_short = |base: &Snapshot| room.is_some_and(|room| base.stored_bytes() > room);
    let writes = !diff.new.is_empty() && !options.flatten;
    let Some(base) = base.filter(|base| writes || is_short(base)) else {
        return Merged::default();
    };
    // A folder's own limit: drop dead weight before the folder gets too big.
    let room = room.or_else(|| {
        let raw: u64 = diff.new.iter().map(limit::raw_bytes).sum();
        Some(options.max_size?.saturating_sub(raw))
    });
    let rules = rules::of(options.source.kind());
    let Some(mut choice) = compact::choose_within(base, &diff.kept, rules, room) else {
        return Merged::default();
    };
    if rules != Rules::Tree {
        // Entries for which this node has another version are packed from this node; both versions must not end up in one pack, since a
        // false one may be the later.
        let anew: HashSet<&EntryPath> = diff.new.iter().map(|n| &n.pack.entry.path).collect();
        choice
            .remote
            .retain(|at| !anew.contains(&base.entry(*at).entry.path));
    }
    match compact::carry_out(ctx, options.source.clone(), base, &choice, items, diff).await {
        Ok(files) => Merged { choice, files },
        Err(e) => {
            tracing::debug!(error = %e, "Could not merge packs in this export");
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
    // Objects of a replaced pack are written again, even if another pack claims to hold them too.
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

fn created(created: Created) -> Time {
    match created {
        Created::Now => Time::now(),
        Created::At(time) => time,
    }
}

/// The snapshot that the tree equals after the export.
struct Matched {
    digest: Digest,
    /// The last replacement of the name before it was made.
    mark: Option<String>,
}

/// Records the files that the next export need not read again.
async fn remember(
    ctx: &Context,
    options: &Options,
    tree: Tree,
    contents: Vec<(usize, ContentId)>,
    matched: Matched,
) {
    let (Some(state), Some(stamp)) = (ctx.state_dir.clone(), tree.stamp) else {
        return;
    };
    let source = options.source.clone();
    task::blocking(move || {
        let Ok(Some(root)) = crate::fs::Dir::open_if_there(source.root()) else {
            return;
        };
        let before = (*tree.index).as_ref();
        let notes = Notes {
            imported: before.and_then(|i| i.notes.imported.clone()),
            matched: Some(matched.digest.to_string()),
            replacement: matched.mark,
        };
        let records = || {
            let files = contents
                .iter()
                .map(|(i, content)| (&tree.items[*i], content));
            let files = files.filter(|(item, _)| item.entry.kind.is_file());
            files.map(|(item, content)| {
                let content = KnownContent {
                    content: *content,
                    len: item.entry.kind.content_len(),
                };
                (&item.entry.path, item.stat, content)
            })
        };
        if let Some(before) = before
            && before.notes == notes
            && before.proves_just(records())
        {
            return before.keep(&state, source.kind(), source.root());
        }
        match NodeIndex::record(&root, stamp, notes, records()) {
            Ok(index) => index.save(&state, source.kind(), source.root()),
            Err(e) => tracing::debug!(error = %e, "Could not write the node index"),
        }
    })
    .await;
}

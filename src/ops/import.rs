//! Import: finds the best snapshot of a name and puts it back, fetching only what the node lacks.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    Clock, Context, LeftOut, Moved, PhaseTime, Result, damage, dated, head,
    in_turn::InTurn,
    load,
    restore::{NotRestored, Stands, restore},
};
use crate::{
    artifact::{
        Tag,
        fold::{self, Rules, replaced::newest_mark},
        name::{self, SnapshotName},
        snapshot::{Pack, Snapshot},
    },
    digest::Digest,
    entry::{EntryPath, Time},
    progress::Phase,
    source::{
        self, Known as _, Source,
        index::{Imported, NodeIndex, Notes, Stamp},
        place::Leave,
    },
    store::{PublishedAt, Resolved},
    task,
};

/// What to import, and from where.
#[derive(Clone)]
pub struct Options {
    /// The cache to fill.
    pub source: Arc<dyn Source>,
    /// Name within the kind.
    pub name: String,
    /// Scopes that may be read, in order.
    pub scopes: Vec<String>,
    /// Key that is asked for; empty for the name's head.
    pub key: String,
    /// Prefixes of keys that do as well, in order, newest first within one.
    pub restore_keys: Vec<String>,
    /// One snapshot by digest instead of by name.
    pub digest: Option<Digest>,
    /// Remove what is not in the snapshot.
    pub mirror: bool,
}

/// Which way a hit was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// The exact key (or the head, where no key was asked for) in the first scope.
    Exact,
    /// By a fallback: another scope, a key's prefix, the head.
    Fallback,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct Report {
    /// `gobuild`, `gomod` or `dir`.
    pub kind: &'static str,
    /// Name asked for.
    pub name: String,
    /// How it was found; `None`: a miss, nothing was changed.
    pub hit: Option<Hit>,
    /// Why it is a miss, in one line.
    pub miss: Option<String>,
    /// The miss is because nothing is stored under that name: neither damaged, nor of another release.
    pub absent: bool,
    /// The miss is because something that the name stands for is lost or damaged.
    pub damaged: bool,
    /// A Go cache of which some entries could not be had; those that were restored are whole and verified.
    pub partial: bool,
    /// Scope and key of what was found.
    pub found: Option<(String, String)>,
    /// Digest of the snapshot.
    pub digest: Option<Digest>,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries written now; the others were there.
    pub entries_restored: u64,
    /// What was fetched.
    pub moved: Moved,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
    /// Seconds by phase.
    pub phases: Vec<PhaseTime>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Snapshots of keys with a prefix that are tried in each scope at most. Only what was asked for counts.
pub(super) const CANDIDATES: usize = 32;
/// Tags that are looked at in one go: two or three requests each, of which mostly the first decides.
const LOOKED_AT: usize = 8;

/// Imports; see the module.
///
/// # Errors
/// When the target cannot be written, or the store cannot be asked. What the store lost or damaged is a miss in the report.
pub async fn run(ctx: &Context, options: &Options) -> Result<Report> {
    let leave = Leave::default();
    let _awaited = leave.while_awaited();
    let mut work = Box::pin(import(ctx, options, &leave));
    let Some(budget) = ctx.budget else {
        return work.await;
    };
    let spent = || super::Error::Budget {
        phase: "importing",
        budget,
    };
    let done = match tokio::time::timeout(budget, &mut work).await {
        Ok(done) => done,
        // It stops at the next file and says what was changed, or was done by then.
        Err(_) if leave.take_back() => work.await,
        Err(_) => Err(spent()),
    };
    match done {
        Err(super::Error::Source(source::Error::GivenUp)) => Err(spent()),
        done => done,
    }
}

/// A snapshot whose key was asked for.
struct Keyed {
    at: PublishedAt,
    resolved: Resolved,
}

/// A snapshot that may be restored.
struct Candidate {
    snapshot: Snapshot,
    digest: Digest,
    lost: Vec<LeftOut>,
    /// Packs of the head: what side tags take their place may not hold what it says.
    spare: Vec<Pack>,
    /// What is dated later than it was published.
    ahead: Vec<LeftOut>,
    hit: Hit,
}

async fn import(ctx: &Context, options: &Options, leave: &Leave) -> Result<Report> {
    let mut clock = Clock::start();
    ctx.progress.begin(Phase::Resolve, None);
    let index = Arc::new(super::load_index(ctx, &options.source).await);
    let mut search = Search {
        ctx,
        options,
        why: Vec::new(),
        damaged: false,
        print: options.source.fingerprint(),
    };
    let found = search.find().await?;
    ctx.progress.end(Phase::Resolve);
    clock.lap(Phase::Resolve);
    let mut report = empty_report(options);
    let absent = match &found {
        None if search.why.is_empty() => search.why_absent().await,
        _ => String::new(),
    };
    let mut why = search.why;
    let mut is_damaged = search.damaged;
    let mut damaged: Vec<(Digest, String)> = Vec::new();
    if let Some(candidate) = found {
        let rules = head::rules(options.source.kind());
        let mut snapshot = candidate.snapshot;
        let (snapshot, died) = task::blocking(move || {
            let died = fold::close(&mut snapshot, rules);
            (snapshot, died)
        })
        .await;
        report.left_out.extend(candidate.lost.iter().cloned());
        if !died.is_empty() && rules == Rules::Tree {
            is_damaged = true;
            why.extend(
                candidate
                    .lost
                    .iter()
                    .map(|l| format!("{} {}", l.what, l.why)),
            );
            why.push(format!("{}: {}", died[0].path, died[0].why));
        } else if !is_lost_whole(&snapshot, &candidate.lost, &died) {
            let (entries, bytes) = snapshot.totals();
            let (scope, key) = (snapshot.name.scope.clone(), snapshot.name.key.clone());
            let origin = Origin {
                digest: candidate.digest,
                name: snapshot.name.replacement_prefix(),
                mark: newest_mark(&snapshot).map(str::to_owned),
            };
            let restored = restore(
                ctx,
                options.source.clone(),
                Arc::new(snapshot),
                candidate.spare,
                index.clone(),
                options.mirror,
                leave,
            )
            .await?;
            clock.lap(Phase::Restore);
            match restored {
                Ok(done) => {
                    let lost = died.into_iter().map(|d| LeftOut {
                        what: d.path.to_string(),
                        why: d.why.into(),
                    });
                    report.left_out.extend(lost.chain(done.missing));
                    report.partial = !report.left_out.is_empty();
                    for LeftOut { what, why } in &done.spared {
                        ctx.progress.warn(&format!("not restored: {what}: {why}"));
                    }
                    report.left_out.extend(done.spared);
                    // Nobody who was honest misses these.
                    report.left_out.extend(candidate.ahead);
                    report.hit = Some(candidate.hit);
                    report.found = Some((scope, key));
                    report.digest = Some(candidate.digest);
                    (report.entries, report.bytes) = (entries, bytes);
                    report.entries_restored = done.written;
                    report.moved = done.moved;
                    damaged = done.damaged;
                    remember(ctx, options, done.contents, origin, index.clone()).await;
                }
                Err(NotRestored::Incomplete(packs, reason)) => {
                    why.push(reason);
                    is_damaged = true;
                    damaged = packs;
                }
            }
        } else {
            is_damaged = true;
            why.push(nothing_left(&snapshot.name, &candidate.lost, &died));
        }
    }
    damage::note(ctx, &damaged).await;
    report
        .left_out
        .extend(damaged.into_iter().map(|(d, why)| LeftOut {
            what: format!("pack {d}"),
            why,
        }));
    if report.hit.is_none() {
        report.absent = why.is_empty();
        report.damaged = is_damaged;
        report.miss = Some(if why.is_empty() {
            absent
        } else {
            let why = why.join("; ");
            if is_damaged {
                format!("{} `{}`: {why}", report.kind, options.name)
            } else {
                why
            }
        });
    }
    clock.lap(Phase::Place);
    report.phases = clock.phases();
    report.elapsed = clock.total();
    Ok(report)
}

/// Says whether a Go cache lost all that it had: importing that is no hit.
fn is_lost_whole(snapshot: &Snapshot, lost: &[LeftOut], died: &[fold::Died]) -> bool {
    (!lost.is_empty() || !died.is_empty()) && snapshot.live().next().is_none()
}

/// Why nothing of a cache can be restored.
fn nothing_left(name: &SnapshotName, lost: &[LeftOut], died: &[fold::Died]) -> String {
    let first = lost.first().map(|l| format!("{} {}", l.what, l.why));
    let first = first.or_else(|| died.first().map(|d| format!("{}: {}", d.path, d.why)));
    let more = match lost.len() {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let first = first.unwrap_or_default();
    format!(
        "nothing is left of `{}` in {}: {first}{more}",
        name.name, name.scope
    )
}

fn empty_report(options: &Options) -> Report {
    Report {
        kind: options.source.kind().name(),
        name: options.name.clone(),
        hit: None,
        miss: None,
        absent: false,
        damaged: false,
        partial: false,
        found: None,
        digest: None,
        entries: 0,
        bytes: 0,
        entries_restored: 0,
        moved: Moved::default(),
        left_out: Vec::new(),
        phases: Vec::new(),
        elapsed: Duration::ZERO,
    }
}

struct Search<'a> {
    ctx: &'a Context,
    options: &'a Options,
    /// Why candidates that were there could not be used.
    why: Vec<String>,
    /// Some of them because they are lost or damaged.
    damaged: bool,
    print: crate::source::Fingerprint,
}

impl Search<'_> {
    /// Scope by scope: the exact key, prefixes of keys, the name's head (design §7).
    async fn find(&mut self) -> Result<Option<Candidate>> {
        if let Some(digest) = self.options.digest {
            return self.by_digest(digest).await;
        }
        let options = self.options;
        for (i, scope) in options.scopes.iter().enumerate() {
            let hit = if i == 0 { Hit::Exact } else { Hit::Fallback };
            if let Some(found) = self.by_key(scope, &options.key, hit).await? {
                return Ok(Some(found));
            }
            for prefix in &options.restore_keys {
                if let Some(found) = self.by_prefix(scope, prefix).await? {
                    return Ok(Some(found));
                }
            }
            if options.source.kind().is_go()
                && !options.key.is_empty()
                && let Some(found) = self.by_key(scope, "", Hit::Fallback).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Notes what was there and is lost or damaged.
    fn lost(&mut self, why: impl IntoIterator<Item = String>) {
        let before = self.why.len();
        self.why.extend(why);
        self.damaged |= self.why.len() > before;
    }

    fn name(&self, scope: &str, key: &str) -> SnapshotName {
        SnapshotName {
            kind: self.options.source.kind().name().to_owned(),
            name: self.options.name.clone(),
            scope: scope.to_owned(),
            key: key.to_owned(),
        }
    }

    async fn by_key(&mut self, scope: &str, key: &str, hit: Hit) -> Result<Option<Candidate>> {
        let name = self.name(scope, key);
        let current = head::read(self.ctx, &name, &HashSet::new()).await?;
        let rules = head::rules(self.options.source.kind());
        let lost = current.lost();
        let digest = current.digest();
        // Millions of entries take seconds, in which the time budget must be able to end.
        let (folded, flaws, rest) = task::blocking(move || {
            let flaws = match rules {
                Rules::Tree => current.flaws(),
                Rules::Union { .. } => Vec::new(),
            };
            (current.folded(), flaws, current)
        })
        .await;
        let (Some(snapshot), Some(digest)) = (folded, digest) else {
            self.lost(lost.iter().map(|l| format!("{} {}", l.what, l.why)));
            return Ok(None);
        };
        // What `folded` closed is gone from it; a tree must not lose anything unnoticed.
        if rules == Rules::Tree {
            let lost = lost.iter().map(|l| format!("{} {}", l.what, l.why));
            let flaws = flaws.iter().map(|d| format!("{}: {}", d.path, d.why));
            let why: Vec<String> = lost.chain(flaws).collect();
            if !why.is_empty() {
                self.lost(why);
                return Ok(None);
            }
        }
        Ok(self.usable(Candidate {
            snapshot,
            digest,
            lost,
            spare: rest.head.map(|h| h.snapshot.packs).unwrap_or_default(),
            ahead: rest.ahead,
            hit,
        }))
    }

    /// Says in words why a candidate is of no use, or gives it back.
    fn usable(&mut self, candidate: Candidate) -> Option<Candidate> {
        if is_lost_whole(&candidate.snapshot, &candidate.lost, &[]) {
            let name = &candidate.snapshot.name;
            self.lost([nothing_left(name, &candidate.lost, &[])]);
            return None;
        }
        let gates = &candidate.snapshot.fingerprint.gates;
        if self.print.gate.is_empty() || gates.is_empty() || gates.contains(&self.print.gate) {
            return Some(candidate);
        }
        let name = &candidate.snapshot.name;
        self.why.push(format!(
            "`{}` in {} is of {}, this is {}",
            name.name,
            name.scope,
            gates.join(", "),
            self.print.gate
        ));
        None
    }

    /// Keys that start with `prefix`, the newest first.
    ///
    /// What was published is never newer than when the store wrote its tag ([`PublishedAt`]). So where the listing tells that,
    /// tags are looked at from the latest on, until none of the rest can be newer than the best that was found.
    async fn by_prefix(&mut self, scope: &str, prefix: &str) -> Result<Option<Candidate>> {
        let store = &self.ctx.opened.store;
        let asked = self.name(scope, prefix);
        let listed = store.tags_dated(&asked.key_prefix(prefix)).await?;
        let now = store.clock().await?;
        let mut rest: Vec<(Tag, Option<Time>)> = listed
            .into_iter()
            .filter(|(tag, _)| name::is_head(tag))
            .collect();
        // Taken from the end; what has no time may be the newest.
        rest.sort_by_key(|(_, at)| at.map_or((1, 0), |at| (0, at.secs)));
        let mut found: Vec<Keyed> = Vec::new();
        let mut tried = 0;
        while tried < CANDIDATES {
            let newest = found.last().and_then(|best| best.at.time);
            let may_be_newer = |(_, at): &(Tag, Option<Time>)| match (at, newest) {
                (Some(at), Some(newest)) => at.secs >= newest.secs,
                _ => true,
            };
            if rest.last().is_some_and(may_be_newer) {
                let batch = rest.split_off(rest.len().saturating_sub(LOOKED_AT));
                found.extend(self.look_at(&asked, batch, now).await?);
                found.sort_by_key(|keyed| keyed.at);
                continue;
            }
            let Some(Keyed { resolved, .. }) = found.pop() else {
                break;
            };
            tried += 1;
            let manifest = &resolved.manifest;
            match load::load(self.ctx, manifest, &HashSet::new()).await? {
                Ok(loaded) => {
                    if let Some(candidate) =
                        self.take(loaded, resolved.modified, now, Hit::Fallback)
                    {
                        return Ok(Some(candidate));
                    }
                }
                Err(why) => self.lost([format!("{}: {}", manifest.digest, why.text())]),
            }
        }
        Ok(None)
    }

    /// Reads what tags point at; those that were not asked for are passed over.
    async fn look_at(
        &mut self,
        asked: &SnapshotName,
        tags: Vec<(Tag, Option<Time>)>,
        now: Time,
    ) -> Result<Vec<Keyed>> {
        let ctx = self.ctx;
        let look = |(tag, _): (Tag, Option<Time>)| async move {
            // One damaged tag must not hide the others.
            let resolved = load::told(ctx.opened.store.resolve(&tag.into()).await)?;
            let Some(resolved) = resolved.ok().flatten() else {
                return Ok(None);
            };
            let Ok(Some(outline)) = super::names::outline(&resolved.manifest).await else {
                return Ok(None);
            };
            let name = load::name_of(ctx, &outline).await?;
            let digest = resolved.manifest.digest;
            let at = dated::publication(Some(&outline), digest, resolved.modified, now);
            Ok::<_, super::Error>(Some((name, Keyed { at, resolved })))
        };
        let mut looks = InTurn::new(tags, ctx.concurrency, look);
        let mut meant = Vec::new();
        while let Some(((tag, _), looked)) = looks.next().await {
            let (name, keyed) = match load::too_large(ctx, looked)? {
                Ok(Some(looked)) => looked,
                Ok(None) => continue,
                Err(why) => {
                    self.lost([format!("tag {tag}: {why}")]);
                    continue;
                }
            };
            match name {
                // A tag holds only the clear part of a long key; the config has all of it.
                Ok(name) => {
                    let is_meant = name.kind == asked.kind
                        && name.name == asked.name
                        && name.scope == asked.scope
                        && name.key.starts_with(&asked.key);
                    meant.extend(is_meant.then_some(keyed));
                }
                Err(why) => self.lost([format!("{}: {why}", keyed.resolved.manifest.digest)]),
            }
        }
        Ok(meant)
    }

    /// Why a name that nobody damaged is a miss: nothing is stored under it, or only other keys.
    async fn why_absent(&self) -> String {
        let options = self.options;
        if let Some(digest) = &options.digest {
            return format!("no snapshot {digest} is stored");
        }
        let of = format!("{} `{}`", options.source.kind().name(), options.name);
        let scopes = options.scopes.join(", ");
        let keyed = !options.key.is_empty() || !options.restore_keys.is_empty();
        let mut others = 0;
        for scope in &options.scopes {
            let prefix = self.name(scope, "").key_prefix("");
            // Only for the message: a miss stays one.
            let Ok(tags) = self.ctx.opened.store.tags(&prefix).await else {
                continue;
            };
            others += tags.iter().filter(|tag| name::is_head(tag)).count();
        }
        if others == 0 {
            return format!("nothing is stored for {of} in {scopes}");
        }
        let mut missing = Vec::new();
        if !options.key.is_empty() {
            missing.push(format!("no key `{}`", options.key));
        }
        let prefixes = options.restore_keys.iter();
        missing.extend(prefixes.map(|prefix| format!("no key that starts with `{prefix}`")));
        let missing = if keyed {
            missing.join(" and ")
        } else {
            "nothing without a key".to_owned()
        };
        let others = match others {
            1 => "1 other key exists".to_owned(),
            n => format!("{n} other keys exist"),
        };
        format!("{missing} is stored for {of} in {scopes}; {others} (`cachectl ls`)")
    }

    async fn by_digest(&mut self, digest: Digest) -> Result<Option<Candidate>> {
        let resolved = match load::told(self.ctx.opened.store.resolve(&digest.into()).await)? {
            Ok(Some(resolved)) => resolved,
            Ok(None) => return Ok(None),
            Err(why) => {
                self.lost([format!("{digest} {why}")]);
                return Ok(None);
            }
        };
        match load::load(self.ctx, &resolved.manifest, &HashSet::new()).await? {
            Ok(loaded) if loaded.snapshot.name.kind != self.options.source.kind().name() => {
                self.why
                    .push(format!("{digest} is a {}", loaded.snapshot.name.kind));
                Ok(None)
            }
            Ok(loaded) => {
                let now = self.ctx.opened.store.clock().await?;
                Ok(self.take(loaded, resolved.modified, now, Hit::Exact))
            }
            Err(why) => {
                self.lost([format!("{digest}: {}", why.text())]);
                Ok(None)
            }
        }
    }

    fn take(
        &mut self,
        mut loaded: load::Loaded,
        modified: Option<Time>,
        now: Time,
        hit: Hit,
    ) -> Option<Candidate> {
        let ahead = dated::leave_out(&mut loaded, None, modified, now);
        let load::Loaded {
            digest,
            snapshot,
            lost,
            ..
        } = loaded;
        if !lost.is_empty() && head::rules(self.options.source.kind()) == Rules::Tree {
            self.lost(lost.iter().map(|l| format!("{} {}", l.what, l.why)));
            return None;
        }
        self.usable(Candidate {
            snapshot,
            digest,
            lost,
            spare: Vec::new(),
            ahead: ahead.into_iter().collect(),
            hit,
        })
    }
}

/// Where what was restored came from.
struct Origin {
    digest: Digest,
    /// The name that was found, whatever its key.
    name: String,
    /// The last replacement of it.
    mark: Option<String>,
}

/// Writes down what the next export or import here need not read again, and what this import was.
async fn remember(
    ctx: &Context,
    options: &Options,
    contents: Vec<Stands>,
    origin: Origin,
    before: Arc<Option<NodeIndex>>,
) {
    let Some(state) = ctx.state_dir.clone() else {
        return;
    };
    let source = options.source.clone();
    let now = Time::now();
    let imported = Imported {
        at: (now.secs, now.nanos),
        snapshot: origin.digest.to_string(),
        store: ctx.opened.url.to_string(),
        name: Some(origin.name),
    };
    let notes = Notes {
        imported: Some(imported),
        matched: None,
        replacement: origin.mark,
    };
    task::blocking(move || {
        let record = || -> crate::source::Result<()> {
            let root = crate::fs::Dir::open(source.root())?;
            let stamp = Stamp::take_settled(&root)?;
            let mut found = Vec::with_capacity(contents.len());
            let mut parent: Option<(Option<EntryPath>, crate::fs::Dir)> = None;
            // Sorted by path: most share their folder with the one before.
            for Stands {
                path,
                content,
                mtime,
            } in contents
            {
                let above = path.parent();
                if parent.as_ref().is_none_or(|(p, _)| *p != above) {
                    parent = root.open_parent_if_there(&path)?.map(|dir| (above, dir));
                }
                let Some((_, dir)) = &parent else { continue };
                let Some(stat) = dir.stat(path.name())? else {
                    continue;
                };
                // Somebody may have changed it since it was placed or compared.
                let known = before
                    .as_ref()
                    .as_ref()
                    .and_then(|b| b.content(&path, &stat));
                if stat.mtime == mtime || known == Some(content) {
                    found.push((path, stat, content));
                }
            }
            NodeIndex::record(&root, stamp, notes, found)?.save(
                &state,
                source.kind(),
                source.root(),
            );
            Ok(())
        };
        if let Err(e) = record() {
            tracing::debug!(error = %e, "Node index not made");
        }
    })
    .await;
}

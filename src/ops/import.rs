//! Import: finds the best snapshot of a name and restores it, fetching only what the node lacks.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use super::{
    Clock, Context, LeftOut, Moved, PhaseTime, Result, damage,
    restore::{Contents, How, NotRestored, Stands, restore},
    rules,
};
use crate::{
    artifact::{
        fold::{self, Rules, replaced::newest_mark},
        name::SnapshotName,
        snapshot::Snapshot,
    },
    digest::Digest,
    entry::Time,
    progress::Phase,
    source::{
        self, Known as _, Source,
        index::{Imported, NodeIndex, Notes, Stamp},
        place::Leave,
    },
    task,
};

mod search;

use search::{Candidate, Search};

/// What to import, and from where.
#[derive(Clone)]
pub struct Options {
    /// The cache to fill.
    pub source: Arc<dyn Source>,
    /// Name within the kind.
    pub name: String,
    /// Scopes that may be read, in order.
    pub scopes: Vec<String>,
    /// Requested key; empty for the name's head.
    pub key: String,
    /// Key prefixes to fall back to, in order; within one, the newest key first.
    pub restore_keys: Vec<String>,
    /// One snapshot by digest instead of by name.
    pub digest: Option<Digest>,
    /// How to restore.
    pub how: How,
}

/// How a hit was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// The exact key (or the head, if no key was requested) in the first scope.
    Exact,
    /// By a fallback: another scope, a key's prefix, the head.
    Fallback,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct Report {
    /// `gobuild`, `gomod` or `dir`.
    pub kind: &'static str,
    /// Requested name.
    pub name: String,
    /// How it was found; `None`: a miss, nothing was changed.
    pub hit: Option<Hit>,
    /// Why it is a miss, in one line.
    pub miss: Option<String>,
    /// The miss is because nothing is stored under that name, rather than because it is damaged or of another release.
    pub absent: bool,
    /// The miss is because part of what the name points at is lost or damaged.
    pub damaged: bool,
    /// A Go cache, some entries of which could not be fetched; the restored ones are whole and verified.
    pub partial: bool,
    /// Entries were left out because folders or mount points in the target blocked them.
    pub blocked: bool,
    /// Scope and key of the snapshot that was found.
    pub found: Option<(String, String)>,
    /// Digest of the snapshot.
    pub digest: Option<Digest>,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries written now; the others were already there.
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
        // It stops at the next file and reports what it changed, or has already finished.
        Err(_) if leave.take_back() => work.await,
        Err(_) => Err(spent()),
    };
    match done {
        Err(super::Error::Source(source::Error::GivenUp)) => Err(spent()),
        done => done,
    }
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
        guess: (*index).as_ref().and_then(NodeIndex::snapshot),
    };
    let found = search.find().await?;
    ctx.progress.end(Phase::Resolve);
    clock.lap(Phase::Resolve);
    let absent = match &found {
        None if search.why.is_empty() => search.why_absent().await,
        _ => String::new(),
    };
    let mut import = Import {
        ctx,
        options,
        leave,
        index,
        clock,
        report: empty_report(options),
        why: search.why,
        is_damaged: search.damaged,
        damaged: Vec::new(),
    };
    if let Some(candidate) = found {
        import.take(candidate).await?;
    }
    Ok(import.end(absent).await)
}

/// An import in progress, once a snapshot was found.
struct Import<'a> {
    ctx: &'a Context,
    options: &'a Options,
    leave: &'a Leave,
    index: Arc<Option<NodeIndex>>,
    clock: Clock,
    report: Report,
    /// Why a found snapshot could not be used.
    why: Vec<String>,
    /// The reason is that it is lost or damaged.
    is_damaged: bool,
    /// Packs found damaged, with reasons.
    damaged: Vec<(Digest, String)>,
}

impl Import<'_> {
    /// Restores the snapshot, unless too much of it is lost.
    async fn take(&mut self, candidate: Candidate) -> Result<()> {
        let rules = rules::of(self.options.source.kind());
        let (mut snapshot, lost) = (candidate.snapshot, candidate.lost);
        let (snapshot, died) = task::blocking(move || {
            let died = fold::close(&mut snapshot, rules);
            (snapshot, died)
        })
        .await;
        self.report.left_out.extend(lost.iter().cloned());
        if !died.is_empty() && rules == Rules::Tree {
            self.is_damaged = true;
            let lost = lost.iter().map(|l| format!("{} {}", l.what, l.why));
            self.why.extend(lost);
            self.why.push(format!("{}: {}", died[0].path, died[0].why));
            return Ok(());
        }
        if is_lost_whole(&snapshot, &lost, &died) {
            self.is_damaged = true;
            self.why.push(nothing_left(&snapshot.name, &lost, &died));
            return Ok(());
        }
        let (entries, bytes) = snapshot.totals();
        let (scope, key) = (snapshot.name.scope.clone(), snapshot.name.key.clone());
        let origin = Origin {
            digest: candidate.digest,
            name: snapshot.name.replacement_prefix(),
            mark: newest_mark(&snapshot).map(str::to_owned),
        };
        let restored = restore(
            self.ctx,
            self.options.source.clone(),
            Arc::new(snapshot),
            candidate.spare,
            self.index.clone(),
            self.options.how,
            self.leave,
        );
        let restored = restored.await?;
        self.clock.lap(Phase::Restore);
        let done = match restored {
            Ok(done) => done,
            Err(NotRestored::Incomplete(packs, reason)) => {
                self.why.push(reason);
                self.is_damaged = true;
                self.damaged = packs;
                return Ok(());
            }
        };
        let report = &mut self.report;
        let died = died.into_iter().map(|d| LeftOut {
            what: d.path.to_string(),
            why: d.why.into(),
        });
        report.left_out.extend(died.chain(done.missing));
        report.partial = !report.left_out.is_empty();
        report.blocked = done.blocked;
        report.left_out.extend(done.spared);
        // No honest writer's entries are lost by this.
        report.left_out.extend(candidate.ahead);
        report.hit = Some(candidate.hit);
        report.found = Some((scope, key));
        report.digest = Some(candidate.digest);
        (report.entries, report.bytes) = (entries, bytes);
        report.entries_restored = done.written;
        report.moved = done.moved;
        self.damaged = done.damaged;
        let index = self.index.clone();
        remember(self.ctx, self.options, done.contents, origin, index).await;
        Ok(())
    }

    /// Records the damage and reports; `absent` is why nothing was found, if nothing was.
    async fn end(mut self, absent: String) -> Report {
        damage::note(self.ctx, &self.damaged).await;
        let mut report = self.report;
        let damaged = self.damaged.into_iter().map(|(d, why)| LeftOut {
            what: format!("pack {d}"),
            why,
        });
        report.left_out.extend(damaged);
        if report.hit.is_none() {
            report.absent = self.why.is_empty();
            report.damaged = self.is_damaged;
            report.miss = Some(match few(&self.why) {
                _ if self.why.is_empty() => absent,
                why if self.is_damaged => {
                    format!("{} `{}`: {why}", report.kind, self.options.name)
                }
                why => why,
            });
        }
        self.clock.lap(Phase::Place);
        report.phases = self.clock.phases();
        report.elapsed = self.clock.total();
        report
    }
}

/// Returns true if a Go cache lost all its entries: importing it is not a hit.
fn is_lost_whole(snapshot: &Snapshot, lost: &[LeftOut], died: &[fold::Died]) -> bool {
    (!lost.is_empty() || !died.is_empty()) && snapshot.live().next().is_none()
}

/// The first reasons, and the number of others: each of hundreds of keys may be damaged in the same way.
fn few(why: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = why[..why.len().min(SHOWN)].join("; ");
    if why.len() > SHOWN {
        let _ = write!(text, "; and {} more", why.len() - SHOWN);
    }
    text
}

/// Why no entry of a cache can be restored.
fn nothing_left(name: &SnapshotName, lost: &[LeftOut], died: &[fold::Died]) -> String {
    let first = lost.first().map(|l| format!("{} {}", l.what, l.why));
    let first = first.or_else(|| died.first().map(|d| format!("{}: {}", d.path, d.why)));
    let more = match lost.len() {
        0 | 1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let first = first.unwrap_or_default();
    format!(
        "no entry of `{}` in {} can be restored: {first}{more}",
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
        blocked: false,
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

/// Where the restored content came from.
struct Origin {
    digest: Digest,
    /// The name that was found, whatever its key.
    name: String,
    /// Its last replacement.
    mark: Option<String>,
}

/// Records files that the next export or import here need not read again, and what was imported.
async fn remember(
    ctx: &Context,
    options: &Options,
    contents: Contents,
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
        store: ctx.store.url().to_string(),
        name: Some(origin.name),
    };
    let notes = Notes {
        imported: Some(imported),
        matched: None,
        replacement: origin.mark,
    };
    task::blocking(move || {
        let contents = match (contents, &*before) {
            (Contents::Known(contents), _) => contents,
            (Contents::AsIndexed, Some(index)) => {
                return again(index, &notes, &state, &*source);
            }
            (Contents::AsIndexed, None) => return,
        };
        let record = || -> crate::source::Result<()> {
            let root = crate::fs::Dir::open(source.root())?;
            let stamp = Stamp::take_settled(&root)?;
            let (mut parents, mut failed) = (crate::fs::Parents::new(&root), None);
            let mut examine = |file: Stands| {
                let Some(dir) = parents.of(&file.path)? else {
                    return Ok(None);
                };
                let Some(stat) = dir.stat(file.path.name())? else {
                    return Ok(None);
                };
                // Someone may have changed it since it was placed or compared.
                let before = (*before).as_ref();
                let known = before.and_then(|b| b.content(&file.path, &stat));
                let is_known = stat.mtime == file.mtime || known == Some(file.content);
                Ok(is_known.then_some((file.path, stat, file.content)))
            };
            let found = contents.into_iter().map_while(|file| {
                let examined = examine(file);
                examined
                    .map_err(|e: crate::fs::Error| failed = Some(e))
                    .ok()
            });
            let index = NodeIndex::record(&root, stamp, notes, found.flatten())?;
            if let Some(e) = failed {
                return Err(e.into());
            }
            index.save(&state, source.kind(), source.root());
            Ok(())
        };
        if let Err(e) = record() {
            tracing::debug!(error = %e, "Could not write the node index");
        }
    })
    .await;
}

/// Records an import that changed nothing of what the index lists.
fn again(index: &NodeIndex, notes: &Notes, state: &Path, source: &dyn Source) {
    let (kind, root) = (source.kind(), source.root());
    // When a folder was imported last decides nothing; when a Go cache was shows what its job used.
    let at = |notes: &Notes| notes.imported.as_ref().map(|i| i.at);
    let mut before = index.notes.clone();
    if let (Some(imported), Some(at), false) = (&mut before.imported, at(notes), kind.is_go()) {
        imported.at = at;
    }
    if before == *notes {
        index.keep(state, kind, root);
    } else {
        index.save_with(notes, state, kind, root);
    }
}

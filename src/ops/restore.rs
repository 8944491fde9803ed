//! Restoring a snapshot: matching files stay, missing ones are fetched, unpacked into a staging folder, verified, and moved into place.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs::File,
    sync::Arc,
};

use super::{
    Context, LeftOut, Moved, Result,
    fetch::{self, Fetched},
};
use crate::{
    artifact::{
        config::RootMeta,
        snapshot::{Pack, Snapshot},
        toc::TocEntry,
    },
    digest::Digest,
    entry::{Entry, EntryPath, Time},
    fs,
    pack::{
        plan::{Plan, Wanted, plan},
        unpack::{FileOutcome, Target},
    },
    progress::Phase,
    source::{
        KnownContent, Source, Standing,
        index::NodeIndex,
        place::{Leave, Placement, StageTree, Staging},
    },
    task,
};

mod again;
mod survey;

use survey::{Links, Survey, survey};

/// Space to leave free on the target's file system.
const SPARE_BYTES: u64 = 256 << 10;

/// What a restore hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// The frames that it reads, which proves that they are what was packed; and the contents of the files, which proves that they
    /// are what the table of contents lists.
    #[default]
    Contents,
    /// The frames.
    Frames,
}

/// How to restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Remove what is not in the snapshot.
    pub mirror: bool,
    /// What to hash.
    pub verify: Verify,
}

/// What a restore did.
pub struct Restored {
    /// Entries that were written.
    pub written: u64,
    /// Entries that could not be fetched; empty: the whole snapshot is in place.
    pub missing: Vec<LeftOut>,
    /// Entries left alone although nothing was missing; reported to the user.
    pub spared: Vec<LeftOut>,
    /// Something in the target blocked some of these.
    pub blocked: bool,
    /// Packs found damaged, with reasons.
    pub damaged: Vec<(Digest, String)>,
    /// What was fetched.
    pub moved: Moved,
    /// Files now in the target, sorted by path: for the node index.
    pub contents: Contents,
}

/// The files in the target after a restore.
pub enum Contents {
    /// Just those that the node index proves: nothing was changed.
    AsIndexed,
    /// Those whose content is known, sorted by path.
    Known(Vec<Stands>),
}

/// A file whose content is known.
pub struct Stands {
    /// Its path.
    pub path: EntryPath,
    /// Its content.
    pub content: KnownContent,
    /// The modification time that this restore set, or found and accepted: with a different one, someone has changed the file since.
    pub mtime: Time,
}

/// Why nothing was restored.
pub enum NotRestored {
    /// The snapshot is incomplete, and its kind must be restored whole: a miss. Holds the packs found damaged, and why.
    Incomplete(Vec<(Digest, String)>, String),
}

/// Restores `snapshot`, which must be closed. If a pack does not hold what it lists, the next pack with the same content is tried, those of
/// `spare` last.
///
/// # Errors
/// When the target cannot be written, or the store cannot be asked; the target is unchanged, unless the error says that some files were
/// already in place ([`crate::source::Error::Partly`]). If `leave` is taken back, it ends at the next file.
pub async fn restore(
    ctx: &Context,
    source: Arc<dyn Source>,
    snapshot: Arc<Snapshot>,
    spare: Vec<Pack>,
    index: Arc<Option<NodeIndex>>,
    how: How,
    leave: &Leave,
) -> Result<std::result::Result<Restored, NotRestored>> {
    let (survey, wanted) = {
        let (source, snapshot, index) = (source.clone(), snapshot.clone(), index.clone());
        task::blocking(move || -> Result<_> {
            let survey = survey(&*source, &snapshot, index.as_ref().as_ref(), how.mirror)?;
            let wanted = wanted(&survey, &snapshot, how.verify);
            Ok((survey, wanted))
        })
        .await?
    };
    if let (Some(first), false) = (survey.refused.first(), source.kind().is_go()) {
        let why = format!("{} is refused: {}", first.what, first.why);
        return Ok(Err(NotRestored::Incomplete(Vec::new(), why)));
    }
    // Planning indexes all objects of the snapshot.
    let plan = if wanted.is_empty() {
        Plan::default()
    } else {
        plan(&snapshot, &wanted)
    };
    let plan = Arc::new(plan);
    let job = Arc::new(Restorer {
        source,
        snapshot,
        survey,
        plan,
        how,
        leave: leave.clone(),
        now: Time::now(),
    });
    let staging = {
        let job = job.clone();
        task::blocking(move || job.begin()).await?
    };
    let (outcomes, fetched) = again::run(ctx, &job, &staging, spare).await?;
    if let Some(e) = fetched.failed {
        return Err(e.into());
    }
    let broken: Vec<(usize, String)> = outcomes
        .into_iter()
        .enumerate()
        .filter_map(|(i, o)| match o {
            FileOutcome::Whole => None,
            FileOutcome::Broken(why) => Some((i, why)),
        })
        .collect();
    if let (Some((i, why)), false) = (broken.first(), job.source.kind().is_go()) {
        let mut why = format!("{}: {why}", job.plan.files[*i].path);
        if let Some((pack, damage)) = fetched.damaged.first() {
            let _ = write!(why, " (pack {pack}: {damage})");
        }
        return Ok(Err(NotRestored::Incomplete(fetched.damaged, why)));
    }
    if let Some((i, why)) = broken.first().filter(|_| job.is_lost_whole(&broken)) {
        let path = &job.plan.files[*i].path;
        let why = format!("nothing could be restored; for example {path}: {why}");
        return Ok(Err(NotRestored::Incomplete(fetched.damaged, why)));
    }
    let frames = |p: &Pack| p.toc.frames.iter().map(|f| u64::from(f.len)).sum::<u64>();
    let total: u64 = job.snapshot.packs.iter().map(frames).sum();
    let moved = Moved {
        blobs_moved: fetched.packs,
        bytes_moved: fetched.bytes,
        bytes_saved: total.saturating_sub(fetched.bytes),
    };
    ctx.progress.begin(Phase::Place, None);
    let spared = job.survey.spared.clone();
    let blocked = !job.survey.in_the_way.is_empty();
    let placed = task::blocking(move || job.place(staging, &broken)).await;
    ctx.progress.end(Phase::Place);
    let (written, missing, contents) = placed?;
    Ok(Ok(Restored {
        written,
        missing,
        spared,
        blocked,
        damaged: fetched.damaged,
        moved,
        contents,
    }))
}

/// Fetching and unpacking at once.
async fn run(
    ctx: &Context,
    job: &Arc<Restorer>,
    staging: &Arc<Option<Staging>>,
) -> Result<(Vec<FileOutcome>, Fetched)> {
    if job.plan.files.is_empty() {
        return Ok((Vec::new(), Fetched::default()));
    }
    ctx.progress
        .begin(Phase::Restore, Some(job.plan.stored_bytes()));
    let target = Staged {
        job: job.clone(),
        snapshot: job.snapshot.clone(),
        staging: staging.clone(),
        plan: job.plan.clone(),
        is_again: false,
    };
    let done = fetch::fetch_and_unpack(ctx, &job.snapshot, job.plan.clone(), target).await;
    ctx.progress.end(Phase::Restore);
    done
}

struct Restorer {
    source: Arc<dyn Source>,
    snapshot: Arc<Snapshot>,
    survey: Survey,
    plan: Arc<Plan>,
    how: How,
    leave: Leave,
    now: Time,
}

/// The staged tree as the unpacker sees it.
struct Staged {
    job: Arc<Restorer>,
    /// The snapshot of the plan.
    snapshot: Arc<Snapshot>,
    staging: Arc<Option<Staging>>,
    plan: Arc<Plan>,
    /// Incomplete files may already exist.
    is_again: bool,
}

impl Staged {
    fn tree(&self) -> &StageTree {
        let staging = self.staging.as_ref().as_ref();
        staging
            .expect("files are staged only where a staging folder was made")
            .tree()
    }

    fn entry(&self, file: usize) -> &Entry {
        &self.snapshot.entry(self.plan.files[file].entry).entry
    }
}

impl Target for Staged {
    fn create(&self, file: usize) -> fs::Result<File> {
        let entry = self.entry(file);
        if self.is_again
            && let Some(dir) = self.tree().root().open_parent_if_there(&entry.path)?
            && dir.stat(entry.path.name())?.is_some()
        {
            dir.remove_file(entry.path.name())?;
        }
        self.tree().create_file(&entry.path, entry.meta.mode)
    }

    fn finish(&self, file: usize, out: &File) -> fs::Result<()> {
        let entry = self.entry(file);
        self.tree().finish_file(
            out,
            entry,
            self.job.source.restored_mtime(entry, self.job.now),
        )
    }
}

/// The files that must be fetched.
fn wanted(survey: &Survey, snapshot: &Snapshot, verify: Verify) -> Vec<Wanted> {
    let all = survey.entries.iter().zip(&survey.standing);
    all.filter(|(at, s)| is_wanted(&snapshot.entry(**at).entry, **s))
        .map(|(at, _)| Wanted {
            at: *at,
            check: verify == Verify::Contents,
        })
        .collect()
}

/// Returns true if the entry is a file that must be fetched, given what is in its place.
fn is_wanted(entry: &Entry, standing: Standing) -> bool {
    entry.kind.is_file() && matches!(standing, Standing::Absent | Standing::Other)
}

impl Restorer {
    /// Returns true if none of the files could be fetched, and none is in the target already.
    fn is_lost_whole(&self, broken: &[(usize, String)]) -> bool {
        let stands = |s: &Standing| !matches!(s, Standing::Absent | Standing::Other);
        broken.len() == self.plan.files.len() && !self.survey.standing.iter().any(stands)
    }

    /// The entries to be in the target, and what is in their places now.
    fn survey(&self) -> impl Iterator<Item = (&Entry, &Standing)> {
        let entries = self.survey.entries.iter();
        let entries = entries.map(|at| &self.snapshot.entry(*at).entry);
        entries.zip(&self.survey.standing)
    }

    /// Creates the staging folder, if there is anything to put into place, and checks for free space.
    fn begin(&self) -> Result<Arc<Option<Staging>>> {
        let all_there = self
            .survey
            .standing
            .iter()
            .all(|s| !matches!(s, Standing::Absent | Standing::Other));
        if all_there
            && !self.how.mirror
            && (!self.survey.entries.is_empty() || self.source.root().is_dir())
        {
            return Ok(Arc::new(None));
        }
        let staging = Staging::begin(self.source.root(), self.source.carry())?;
        let content = self.plan.content_bytes();
        let need = content + content / 64 + SPARE_BYTES;
        if let Some(free) = staging.tree().root().free_bytes()?
            && need > free
        {
            let why = format!("{need} bytes are needed, but only {free} are free");
            let e = std::io::Error::new(std::io::ErrorKind::StorageFull, why);
            return Err(fs::Error::new("restore into", self.source.root(), e).into());
        }
        Ok(Arc::new(Some(staging)))
    }

    /// Discards the staged files that the source refuses; they are lost.
    fn check_staged<'a>(
        &'a self,
        staging: &Staging,
        paths: &[EntryPath],
        lost: &mut HashMap<&'a EntryPath, String>,
    ) -> Result<()> {
        for (path, why) in self.source.check_staged(staging.tree().root(), paths)? {
            staging.tree().discard(&path)?;
            let file = self.plan.files.iter().find(|f| f.path == path);
            if let Some(file) = file {
                lost.insert(&file.path, why);
            }
        }
        Ok(())
    }

    /// Verifies the staged files as a whole, moves them into place and finishes the cache.
    fn place(
        &self,
        staging: Arc<Option<Staging>>,
        broken: &[(usize, String)],
    ) -> Result<(u64, Vec<LeftOut>, Contents)> {
        let mut lost: HashMap<&EntryPath, String> = HashMap::new();
        for (i, why) in broken {
            lost.insert(&self.plan.files[*i].path, why.clone());
        }
        let staged_paths: Vec<EntryPath> = self
            .plan
            .files
            .iter()
            .map(|f| f.path.clone())
            .filter(|p| !lost.contains_key(p))
            .collect();
        let staging =
            Arc::into_inner(staging).expect("the unpacker has ended, nobody else holds it");
        if let Some(staging) = &staging {
            for (i, _) in broken {
                staging.tree().discard(&self.plan.files[*i].path)?;
            }
            self.check_staged(staging, &staged_paths, &mut lost)?;
        }
        self.lose_what_needs_the_lost(staging.as_ref(), &mut lost)?;
        let mut placed: Vec<EntryPath> = staged_paths;
        placed.retain(|p| !lost.contains_key(p));
        let mut entries = Vec::with_capacity(self.survey.entries.len());
        let mut is_staged = Vec::with_capacity(self.survey.entries.len());
        let mut adjusted = Vec::new();
        for (entry, standing) in self.survey() {
            if lost.contains_key(&entry.path) {
                continue;
            }
            if *standing == Standing::SameContent
                || (self.source.kind().is_go()
                    && matches!(standing, Standing::Same | Standing::SameAsRead(_)))
            {
                adjusted.push(entry);
            }
            is_staged.push(is_wanted(entry, *standing));
            entries.push(entry);
        }
        let mut written = placed.len() as u64;
        let links = entries
            .iter()
            .zip(self.survey.standing.iter())
            .filter(|(e, s)| !e.kind.is_file() && **s == Standing::Absent);
        written += links.count() as u64;
        let mut made = None;
        let mut changed = 0;
        let mut removed = 0;
        if staging.is_none() {
            self.leave.ask()?;
        }
        let root = match staging {
            Some(staging) => {
                made = self.snapshot.root.filter(|_| staging.is_fresh());
                if let Some(root) = made {
                    // A private folder gets its restricted mode before it appears, but must stay writable for this process.
                    let mode = self.source.carry().mode(root.mode) | 0o700;
                    staging.tree().root().set_own_mode(mode)?;
                }
                let (in_the_way, kept) = (&self.survey.in_the_way, &self.survey.kept);
                let keep = |path: &[u8], is_dir: bool| {
                    in_the_way.contains(path)
                        || kept.contains(path)
                        || self.source.keeps(path, is_dir)
                };
                let placement = Placement {
                    entries: &entries,
                    staged: &is_staged,
                    mtime: &|e: &Entry| self.source.restored_mtime(e, self.now),
                    rank: &|p: &EntryPath| self.source.rank(p),
                    mirror: if self.how.mirror { Some(&keep) } else { None },
                    own: &self.survey.own,
                    leave: &self.leave,
                };
                let placed = staging.place(&placement)?;
                (changed, removed) = (placed.moves, placed.removed);
                placed.target
            }
            None => fs::Dir::open(self.source.root())?,
        };
        self.complete(&root, &entries, &adjusted, &placed, made)
            .map_err(|e| e.after(self.source.root(), changed, removed))?;
        let is_untouched = written == 0 && adjusted.is_empty() && removed == 0 && changed == 0;
        let contents = if self.survey.is_as_indexed && is_untouched {
            Contents::AsIndexed
        } else {
            Contents::Known(self.contents(&lost))
        };
        let mut missing = self.survey.refused.clone();
        missing.extend(lost.into_iter().map(|(p, why)| LeftOut {
            what: p.to_string(),
            why,
        }));
        missing.sort_by(|a, b| a.what.cmp(&b.what));
        Ok((written, missing, contents))
    }

    /// Final work in the target once everything is in place.
    fn complete(
        &self,
        root: &fs::Dir,
        entries: &[&Entry],
        adjusted: &[&Entry],
        placed: &[EntryPath],
        made: Option<RootMeta>,
    ) -> crate::source::Result<()> {
        let links = Links::of(entries.iter().copied());
        for entry in adjusted {
            if !links.is_shared(root, entry)? {
                self.source.adjust(root, entry, self.now)?;
            }
        }
        self.source.finish(root, placed, self.now)?;
        if let Some(meta) = made {
            root.set_own_mode(self.source.carry().mode(meta.mode))?;
            let (secs, nanos) = meta.mtime;
            root.set_own_mtime(Time {
                secs,
                nanos: nanos.min(999_999_999),
            })?;
        }
        Ok(())
    }

    /// An action entry whose output could not be restored is useless.
    fn lose_what_needs_the_lost<'a>(
        &'a self,
        staging: Option<&Staging>,
        lost: &mut HashMap<&'a EntryPath, String>,
    ) -> Result<()> {
        let refused: HashSet<&str> = self
            .survey
            .refused
            .iter()
            .map(|r| r.what.as_str())
            .collect();
        let files: HashSet<&EntryPath> = self.plan.files.iter().map(|f| &f.path).collect();
        for (entry, _) in self.survey() {
            let Some(needs) = &entry.needs else { continue };
            let gone = lost.contains_key(needs)
                || (!refused.is_empty() && refused.contains(needs.to_string().as_str()));
            if gone && files.contains(&entry.path) && !lost.contains_key(&entry.path) {
                if let Some(staging) = staging {
                    staging.tree().discard(&entry.path)?;
                }
                lost.insert(
                    &entry.path,
                    "the output that it names could not be restored".into(),
                );
            }
        }
        Ok(())
    }

    /// The known content of the target's files, without those that are `lost`.
    fn contents(&self, lost: &HashMap<&EntryPath, String>) -> Vec<Stands> {
        let all = self.survey.entries.iter().zip(&self.survey.standing);
        all.map(|(at, standing)| (self.snapshot.entry(*at), standing))
            .filter(|(TocEntry { entry: e, .. }, s)| {
                e.kind.is_file() && **s != Standing::Keep && !lost.contains_key(&e.path)
            })
            .map(
                |(
                    TocEntry {
                        entry: e, content, ..
                    },
                    standing,
                )| Stands {
                    path: e.path.clone(),
                    content: KnownContent {
                        content: *content,
                        len: e.kind.content_len(),
                    },
                    mtime: match standing {
                        Standing::SameAsRead(mtime) => *mtime,
                        _ => self.source.restored_mtime(e, self.now),
                    },
                },
            )
            .collect()
    }
}

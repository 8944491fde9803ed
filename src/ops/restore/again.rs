//! Trying the next pack: any writer of a name may add a pack that claims the content of other packs and precedes them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    super::{
        Context, Result,
        blame::blame,
        fetch::{self, Fetched},
    },
    Restorer, Staged,
};
use crate::{
    artifact::snapshot::{At, Pack, Snapshot},
    digest::Digest,
    entry::EntryPath,
    pack::{
        plan::{Piece, Plan, Wanted, plan_outside},
        unpack::FileOutcome,
    },
    source::place::Staging,
    task,
};

/// Most rounds of trying files from other packs.
const TRIES: usize = 16;

/// Fetches and unpacks the files of the job; broken ones are retried from other packs, including `spare`.
pub(super) async fn run(
    ctx: &Context,
    job: &Arc<Restorer>,
    staging: &Arc<Option<Staging>>,
    spare: Vec<Pack>,
) -> Result<(Vec<FileOutcome>, Fetched)> {
    let (mut outcomes, mut fetched) = super::run(ctx, job, staging).await?;
    let mut tries = Tries {
        job: job.clone(),
        whole: job.snapshot.clone(),
        spare: Some(spare),
        spent: HashSet::new(),
        last: job.plan.clone(),
        files: (0..outcomes.len()).collect(),
        broken: Vec::new(),
        tried: HashMap::new(),
    };
    for _ in 0..TRIES {
        if fetched.failed.is_some() || !tries.keep_broken(&outcomes) {
            break;
        }
        let known: HashSet<Digest> = fetched.damaged.iter().map(|(d, _)| *d).collect();
        let broken = tries.broken.clone();
        let blamed = blame(ctx, &tries.whole, broken, &tries.spent, &known).await;
        fetched.damaged.extend(blamed);
        let damaged: HashSet<Digest> = fetched.damaged.iter().map(|(d, _)| *d).collect();
        let next = move || {
            tries.next(&damaged);
            (tries, damaged)
        };
        let known;
        (tries, known) = task::blocking(next).await;
        let plan = tries.last.clone();
        if plan.files.is_empty() {
            break;
        }
        let target = Staged {
            job: job.clone(),
            snapshot: tries.whole.clone(),
            staging: staging.clone(),
            plan: plan.clone(),
            is_again: true,
        };
        let (new, more) = fetch::fetch_and_unpack(ctx, &tries.whole, plan, target).await?;
        for (file, outcome) in tries.files.iter().zip(new) {
            outcomes[*file] = outcome;
        }
        let others = more.damaged.into_iter();
        fetched
            .damaged
            .extend(others.filter(|(d, _)| !known.contains(d)));
        fetched.failed = more.failed;
        fetched.bytes += more.bytes;
        fetched.packs += more.packs;
    }
    Ok((outcomes, fetched))
}

struct Tries {
    job: Arc<Restorer>,
    /// The snapshot; from the second try on, with the spare packs after its own.
    whole: Arc<Snapshot>,
    spare: Option<Vec<Pack>>,
    /// Packs that are not tried again, by their index in `whole`.
    spent: HashSet<usize>,
    /// The last plan tried, for `files`, which are indexes into the job's files.
    last: Arc<Plan>,
    files: Vec<usize>,
    /// The entries tried for the broken ones among them.
    broken: Vec<At>,
    /// The entries tried for a file, and how many packs were spent then.
    tried: HashMap<(usize, At), usize>,
}

impl Tries {
    /// Keeps only the broken files in `files`; returns true if there are any.
    fn keep_broken(&mut self, outcomes: &[FileOutcome]) -> bool {
        let tried = self.files.iter().zip(&self.last.files);
        let broken = tried.filter(|(i, _)| outcomes[**i] != FileOutcome::Whole);
        let (files, broken) = broken.map(|(i, f)| (*i, f.entry)).unzip();
        (self.files, self.broken) = (files, broken);
        !self.files.is_empty()
    }

    /// Plans the remaining files that other packs have completely; `damaged` are the packs known to be damaged.
    fn next(&mut self, damaged: &HashSet<Digest>) {
        self.spend(damaged);
        if let Some(spare) = self.spare.take() {
            self.whole = Arc::new(with_spare(&self.job.snapshot, spare));
        }
        let choices = self.choices();
        let plan = plan_of(&self.whole, &choices, &self.spent);
        let mut come = vec![0_u64; plan.files.len()];
        for piece in pieces(&plan) {
            come[piece.file as usize] += u64::from(piece.len);
        }
        let mut chosen: Vec<(usize, At)> = Vec::new();
        for (i, choice) in choices.into_iter().enumerate() {
            let is_whole = come[i] == plan.files[i].content_len;
            if is_whole && chosen.last().is_none_or(|(file, _)| *file != choice.0) {
                chosen.push(choice);
            }
        }
        self.last = Arc::new(plan_of(&self.whole, &chosen, &self.spent));
        self.files = chosen.iter().map(|(file, _)| *file).collect();
        let spent = self.spent.len();
        self.tried.extend(chosen.into_iter().map(|c| (c, spent)));
    }

    /// Records the packs not to try again.
    fn spend(&mut self, damaged: &HashSet<Digest>) {
        let broken: HashSet<At> = self.broken.iter().copied().collect();
        let used = self.last.packs.iter().filter(|p| {
            let mut pieces = p.frames.iter().flat_map(|f| &f.pieces);
            pieces.any(|piece| broken.contains(&self.last.files[piece.file as usize].entry))
        });
        let is_damaged = |p: &usize| damaged.contains(&self.whole.packs[*p].digest());
        let lists = broken.iter().map(|at| at.pack).filter(|p| is_damaged(p));
        let used: HashSet<usize> = used.map(|p| p.pack).chain(lists).collect();
        // If no pack is known to be at fault, all that were read are suspect.
        let is_known = used.iter().any(is_damaged);
        let spent: Vec<usize> = used
            .into_iter()
            .filter(|p| !is_known || is_damaged(p))
            .collect();
        self.spent.extend(spent);
    }

    /// The candidates for each file, in order: its own entry, or entries of other packs with the same path and content, live or not; those
    /// of spent packs last. For folders, such an entry must be equal in every respect.
    fn choices(&self) -> Vec<(usize, At)> {
        let is_go = self.job.source.kind().is_go();
        let listed = |file: &usize| self.whole.entry(self.job.plan.files[*file].entry);
        let by_path: HashMap<&EntryPath, usize> = self
            .files
            .iter()
            .map(|file| (&listed(file).entry.path, *file))
            .collect();
        let mut choices: Vec<(usize, At)> = Vec::new();
        for (pack, p) in self.whole.packs.iter().enumerate() {
            for (entry, e) in p.toc.entries.iter().enumerate() {
                let Some(file) = by_path.get(&e.entry.path) else {
                    continue;
                };
                let held = listed(file);
                if e.is_file_of(held) && (is_go || e.entry == held.entry) {
                    choices.push((*file, At { pack, entry }));
                }
            }
        }
        // The same entry from the same packs would be wrong again.
        choices.retain(|choice| self.tried.get(choice) != Some(&self.spent.len()));
        let listed = |(file, at): &(usize, At)| *at == self.job.plan.files[*file].entry;
        choices.sort_by_key(|c| (c.0, self.spent.contains(&c.1.pack), !listed(c)));
        choices
    }
}

fn plan_of(whole: &Snapshot, choices: &[(usize, At)], spent: &HashSet<usize>) -> Plan {
    let wanted = choices.iter().map(|(_, at)| Wanted {
        at: *at,
        check: true,
    });
    plan_outside(whole, &wanted.collect::<Vec<_>>(), spent)
}

fn pieces(plan: &Plan) -> impl Iterator<Item = &Piece> {
    let frames = plan.packs.iter().flat_map(|p| &p.frames);
    frames.flat_map(|f| &f.pieces)
}

fn with_spare(snapshot: &Snapshot, mut spare: Vec<Pack>) -> Snapshot {
    let mut whole = snapshot.clone();
    let known: HashSet<Digest> = whole.packs.iter().map(Pack::digest).collect();
    spare.retain(|p| !known.contains(&p.digest()));
    for pack in &mut spare {
        pack.live.fill(false);
    }
    whole.packs.extend(spare);
    whole
}

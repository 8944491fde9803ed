//! Trying the next pack: whoever may write a name may add one that says it holds what others hold, and comes before them.

use std::{collections::HashSet, sync::Arc};

use super::{
    super::{
        Context, Result,
        fetch::{self, Fetched},
    },
    Job, Staged,
};
use crate::{
    artifact::snapshot::{Pack, Snapshot},
    digest::Digest,
    pack::{
        plan::{Plan, Wanted, plan_outside},
        unpack::FileOutcome,
    },
    source::place::Staging,
    task,
};

/// Times that files are tried from other packs.
const TRIES: usize = 16;

/// Fetches and unpacks the files of the job, those that are broken from other packs, `spare` among them.
pub(super) async fn run(
    ctx: &Context,
    job: &Arc<Job>,
    staging: &Arc<Option<Staging>>,
    spare: Vec<Pack>,
) -> Result<(Vec<FileOutcome>, Fetched)> {
    let (mut outcomes, mut fetched) = super::run(ctx, job, staging).await?;
    let mut tries = Tries {
        job: job.clone(),
        whole: None,
        spare,
        spent: HashSet::new(),
        last: job.plan.clone(),
        files: (0..outcomes.len()).collect(),
    };
    for _ in 0..TRIES {
        tries.files.retain(|i| outcomes[*i] != FileOutcome::Whole);
        if tries.files.is_empty() || fetched.failed.is_some() {
            break;
        }
        let damaged: HashSet<Digest> = fetched.damaged.iter().map(|(d, _)| *d).collect();
        let next = move || {
            let whole = tries.next(&damaged);
            (tries, whole, damaged)
        };
        let (whole, known);
        (tries, whole, known) = task::blocking(next).await;
        let plan = tries.last.clone();
        if plan.files.is_empty() {
            break;
        }
        let target = Staged {
            job: job.clone(),
            staging: staging.clone(),
            plan: plan.clone(),
            is_again: true,
        };
        let (new, more) = fetch::fetch_and_unpack(ctx, &whole, plan, target).await?;
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
    job: Arc<Job>,
    /// The snapshot with the spare packs behind its own.
    whole: Option<Arc<Snapshot>>,
    spare: Vec<Pack>,
    /// Packs that are not tried again, by their index in it.
    spent: HashSet<usize>,
    /// What was tried last: a plan of `files`, which are indexes of the job's.
    last: Arc<Plan>,
    files: Vec<usize>,
}

impl Tries {
    /// Plans the files that are left in `files`, as far as other packs have all of them; `damaged` are the packs known to be so.
    fn next(&mut self, damaged: &HashSet<Digest>) -> Arc<Snapshot> {
        let whole = self.whole.take().unwrap_or_else(|| self.with_spare());
        let broken: HashSet<_> = self
            .files
            .iter()
            .map(|i| self.job.plan.files[*i].entry)
            .collect();
        let used = self.last.packs.iter().filter(|p| {
            let mut pieces = p.frames.iter().flat_map(|f| &f.pieces);
            pieces.any(|piece| broken.contains(&self.last.files[piece.file as usize].entry))
        });
        let used: Vec<usize> = used.map(|p| p.pack).collect();
        let is_damaged = |p: &usize| damaged.contains(&whole.packs[*p].digest());
        // Where no frame gives a pack away, all that were read are in doubt.
        let is_known = used.iter().any(is_damaged);
        let spent = used.iter().filter(|p| !is_known || is_damaged(p));
        self.spent.extend(spent);
        let plan_of = |files: &[usize]| {
            let wanted = files.iter().map(|i| Wanted {
                at: self.job.plan.files[*i].entry,
                check: true,
            });
            plan_outside(&whole, &wanted.collect::<Vec<_>>(), &self.spent)
        };
        let plan = plan_of(&self.files);
        let mut come = vec![0_u64; plan.files.len()];
        for piece in plan
            .packs
            .iter()
            .flat_map(|p| &p.frames)
            .flat_map(|f| &f.pieces)
        {
            come[piece.file as usize] += u64::from(piece.len);
        }
        let is_whole = |i: &usize| come[*i] == plan.files[*i].content_len;
        let files: Vec<usize> = (0..self.files.len())
            .filter(is_whole)
            .map(|i| self.files[i])
            .collect();
        self.last = Arc::new(plan_of(&files));
        self.files = files;
        self.whole = Some(whole.clone());
        whole
    }

    fn with_spare(&mut self) -> Arc<Snapshot> {
        let mut whole = (*self.job.snapshot).clone();
        let known: HashSet<Digest> = whole.packs.iter().map(Pack::digest).collect();
        let mut spare = std::mem::take(&mut self.spare);
        spare.retain(|p| !known.contains(&p.digest()));
        for pack in &mut spare {
            pack.live.fill(false);
        }
        whole.packs.extend(spare);
        Arc::new(whole)
    }
}

//! `prune --now`: removes unreachable blobs in one run, for a full disk.
//!
//! A grace time protects blobs that clients were told exist but have not referenced yet, and blobs that they find during the prune. This
//! mode has no grace time: it locks other processes out of the folder, shuts the daemon's doors during the marking phase, and keeps the
//! blobs promised to clients ([`crate::store::marked`] explains why the rest may be removed after the doors open again). If other writers
//! cannot be locked out, it is refused before anything is removed.

use std::{collections::HashSet, time::Duration};

use tokio::time::timeout;

use super::{
    Options, Report, by_policy,
    doors::{Doors, shut},
    sweep, tidy,
};
use crate::{
    digest::Digest,
    ops::{self, Context, Error, Result},
    progress::span,
    store::{self, Sweep, wrap::counters::Tier},
};

/// Longest wait of a daemon for other processes to leave the folder: its requests are held meanwhile.
const OTHERS: Duration = Duration::from_secs(3);

/// Prunes; see the module. The grace time of `options` does not count.
///
/// # Errors
/// `Usage` for a store that cannot keep others out, `Denied` for a caller that may not do everything or a read-only folder,
/// `Conflict` while others use it. Nothing was removed then.
pub async fn run(ctx: &Context, options: &Options, doors: &dyn Doors) -> Result<Report> {
    ops::within_budget(ctx, "pruning", prune(ctx, options, doors)).await
}

async fn prune(ctx: &Context, options: &Options, doors: &dyn Doors) -> Result<Report> {
    let sweep = sweeper(ctx)?;
    let alone = {
        let _shut = shut(doors).await?;
        keep_others_out(ctx, sweep).await?
    };
    let mut report = Report::default();
    let gone: HashSet<Digest> = by_policy(ctx, options, &mut report).await?;
    let swept = sweep::at_once(ctx, sweep, options, &gone, doors, &mut report).await;
    if let Err(e) = swept {
        report.not_swept = Some(e.to_string());
        report.sweep_failed = true;
    }
    drop(alone);
    if let Some(age) = doors.noted_for().filter(|_| report.blobs > 0) {
        ctx.progress.warn(&forgotten(age));
    }
    tidy::run(ctx, options, &mut report).await?;
    Ok(report)
}

/// The warning of a daemon that does not know everything its clients rely on. It prunes anyway: a full disk is a reason both to restart the
/// daemon and to free space at once, and a build that loses a blob pushes again.
fn forgotten(age: Duration) -> String {
    let age = span(age);
    format!(
        "the daemon started {age} ago and does not know which blobs it confirmed to builds before: builds that were running then may have to push again"
    )
}

/// Returns what removes blobs, if immediate removal is allowed.
fn sweeper(ctx: &Context) -> Result<&dyn Sweep> {
    let url = ctx.store.url();
    if url.tier() == Tier::Remote {
        return Err(Error::Usage(format!(
            "--now needs a store in a folder (disk:, oci-layout:): {url} cannot lock out other writers while blobs are deleted; prune without --now, and again after --grace"
        )));
    }
    let denied = |why: &str| {
        let e = store::Error::denied("prune", why);
        Error::Store(e.at(&url.to_string(), ""))
    };
    if !ctx.reach.is_whole() {
        let why = "--now needs a grant of all actions on all repositories, since repositories share blobs";
        return Err(denied(why));
    }
    let sweep = ctx.store.sweep().map(|s| &**s);
    sweep.ok_or_else(|| denied("nothing can be deleted: the store was opened read-only"))
}

/// Keeps other processes out while the guard lives.
async fn keep_others_out(ctx: &Context, sweep: &dyn Sweep) -> store::Result<Box<dyn Send>> {
    let url = ctx.store.url().to_string();
    let locked = match &ctx.store.facts().marked {
        None => sweep.lock_alone().await?,
        Some(marked) => {
            let locked = timeout(OTHERS, marked.lock_alone()).await;
            let busy = |_| {
                let why = "another process uses the store's folder (a second daemon, or a command with --store); --now needs this daemon to be its only user";
                store::Error::conflict("prune", why).at(&url, "")
            };
            locked.map_err(busy)??
        }
    };
    locked.ok_or_else(|| {
        let why = "this store cannot lock out other writers";
        store::Error::unsupported("prune", why).at(&url, "")
    })
}

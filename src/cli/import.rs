//! `cachectl import`.

use std::time::Duration;

use super::{
    args,
    error::{CommandError, Result},
    export::finish,
    panics,
    part::Part,
    part::Verb,
    session::Session,
    sources::{self, NamedSource},
    stores,
    summary::Summary,
};
use crate::{
    digest::Digest,
    ops::{self, import, restore::How},
};

/// Budget if none is set: a build without the cache rarely takes longer.
pub(crate) const BUDGET: Duration = Duration::from_mins(10);

/// Runs it; on failure returns whether the object of `--json` must still be printed.
pub(crate) async fn run(
    session: &Session,
    args: &args::Import,
) -> std::result::Result<u8, (bool, CommandError)> {
    let work = collect(session, args);
    let mut summary = panics::caught(session, Verb::Import, args.source.source, work)
        .await
        .map_err(|e| (session.json, e))?;
    finish(session, &mut summary)
}

async fn collect(session: &Session, args: &args::Import) -> Result<Summary> {
    let digest = digest(args)?;
    let mut summary = Summary {
        verb: Verb::Import,
        store: session.store_shown_if_set(),
        parts: Vec::new(),
        troubles: Vec::new(),
        elapsed: Duration::ZERO,
    };
    let budget = session.budget(Some(BUDGET));
    match sources::to_carry(session, &args.source, budget).await {
        Ok(jobs) => {
            session.warn_of_local_store();
            Box::pin(all(
                session,
                args,
                digest.as_ref(),
                &jobs,
                budget,
                &mut summary,
            ))
            .await?;
        }
        Err(e) => summary.trouble_before(e, args.source.source)?,
    }
    summary.elapsed = session.began.elapsed();
    Ok(summary)
}

fn digest(args: &args::Import) -> Result<Option<Digest>> {
    let Some(text) = &args.digest else {
        return Ok(None);
    };
    if args.source.source == args::Source::Go || args.source.paths.len() > 1 {
        return Err(CommandError::usage(
            "--digest names one snapshot, but several caches were requested",
        )
        .hint("import `gobuild`, `gomod` or one folder at a time"));
    }
    let digest = text
        .parse()
        .map_err(|e| CommandError::usage(format!("--digest: {e}")))?;
    Ok(Some(digest))
}

async fn all(
    session: &Session,
    args: &args::Import,
    digest: Option<&Digest>,
    jobs: &[NamedSource],
    budget: Option<Duration>,
    summary: &mut Summary,
) -> Result<()> {
    if stores::is_unmade(session.store()?) {
        let shown = session.store_shown();
        for job in jobs {
            let why = format!("there is no store at {shown} yet; the first export creates it");
            let mut part = Part::nothing(job.kind().name(), &job.name, why);
            part.absent = true;
            summary.parts.push(part);
        }
        return Ok(());
    }
    let mut ctx = match session.within(budget, session.open(budget)).await {
        Ok(ctx) => ctx,
        Err(e) => return summary.store_is_lost(e, jobs),
    };
    for job in jobs {
        session.reporter.label(&job.label());
        ctx.budget = session.left_of(budget);
        match Box::pin(one(&ctx, session, args, digest, job, budget)).await {
            Ok(report) => {
                let key = &session.config().key;
                summary
                    .parts
                    .push(Part::imported(report, key, digest.is_some()));
            }
            Err(e) if e.is_usage() => return Err(e),
            // No budget is left for the others either.
            Err(e) if e.store_is_lost || session.left_of(budget) == Some(Duration::ZERO) => {
                return summary.store_is_lost(e, jobs);
            }
            Err(e) => summary.trouble(e, job),
        }
    }
    Ok(())
}

async fn one(
    ctx: &ops::Context,
    session: &Session,
    args: &args::Import,
    digest: Option<&Digest>,
    job: &NamedSource,
    budget: Option<Duration>,
) -> Result<import::Report> {
    session.within(budget, job.must_not_be_own()).await?;
    let config = session.config();
    let options = import::Options {
        source: job.source.clone(),
        name: job.name.clone(),
        scopes: session.scopes(),
        key: config.key.clone(),
        restore_keys: config.restore_keys.clone(),
        digest: digest.copied(),
        how: How {
            mirror: args.mirror,
            verify: args.verify.into(),
        },
    };
    // It observes the rest of the budget itself: an import that has begun to change the target is not dropped.
    let done = import::run(ctx, &options).await;
    done.map_err(|e| session.explained(e.into(), budget))
}

//! `cachectl export`.

use std::time::Duration;

use super::{
    args,
    error::{CommandError, Result},
    github, output, panics,
    part::Part,
    part::Verb,
    session::Session,
    sources::{self, NamedSource},
    summary::Summary,
};
use crate::{
    ops::{self, Target, export},
    progress::Watch as _,
    source::SourceKind,
};

/// Budget if none is set: an export runs last, and only the node waits for it.
pub(crate) const BUDGET: Duration = Duration::from_mins(30);

/// Runs it; on failure returns whether the object of `--json` must still be printed.
pub(crate) async fn run(
    session: &Session,
    args: &args::Export,
) -> std::result::Result<u8, (bool, CommandError)> {
    let work = collect(session, args);
    let mut summary = panics::caught(session, Verb::Export, args.source.source, work)
        .await
        .map_err(|e| (session.json, e))?;
    finish(session, &mut summary)
}

async fn collect(session: &Session, args: &args::Export) -> Result<Summary> {
    if args.merge && args.source.source != args::Source::Dir {
        return Err(CommandError::usage(
            "--merge applies only to folders: Go caches are always merged",
        ));
    }
    if args.merge && args.replace {
        return Err(CommandError::usage(
            "--merge keeps the stored content and --replace drops it: give only one of them",
        ));
    }
    let mut summary = Summary {
        verb: Verb::Export,
        store: session.store_shown_if_set(),
        parts: Vec::new(),
        troubles: Vec::new(),
        elapsed: Duration::ZERO,
    };
    let budget = session.budget(Some(BUDGET));
    match sources::to_carry(session, &args.source, budget).await {
        Ok(jobs) => {
            session.warn_of_doubt();
            if let Some(why) = session.why_not_exported() {
                let skipped = |j: &NamedSource| Part::nothing(j.kind().name(), &j.name, why);
                summary.parts = jobs.iter().map(skipped).collect();
            } else {
                session.warn_of_local_store();
                Box::pin(all(session, args, &jobs, budget, &mut summary)).await?;
            }
        }
        Err(e) => summary.trouble_before(e, args.source.source)?,
    }
    summary.elapsed = session.began.elapsed();
    Ok(summary)
}

async fn all(
    session: &Session,
    args: &args::Export,
    jobs: &[NamedSource],
    budget: Option<Duration>,
    summary: &mut Summary,
) -> Result<()> {
    let mut ctx = match session.within(budget, session.open(budget)).await {
        Ok(ctx) => ctx,
        Err(e) => return summary.store_is_lost(e, jobs),
    };
    for job in jobs {
        session.reporter.label(&job.label());
        ctx.budget = session.left_of(budget);
        match Box::pin(session.within(budget, one(&ctx, session, args, job))).await {
            Ok(report) => summary.parts.push(Part::exported(report)),
            Err(e) if e.is_usage() => return Err(e),
            Err(e) if e.store_is_lost => return summary.store_is_lost(e, jobs),
            Err(e) => summary.trouble(e, job),
        }
    }
    Ok(())
}

async fn one(
    ctx: &ops::Context,
    session: &Session,
    args: &args::Export,
    job: &NamedSource,
) -> Result<export::Report> {
    job.must_be_there().await?;
    job.must_not_be_own().await?;
    let config = session.config();
    let Some(scope) = session.scope() else {
        let why = session.why_not_exported().unwrap_or_default();
        return Err(CommandError::failed(why));
    };
    let options = export::Options {
        source: job.source.clone(),
        target: Target {
            name: job.name.clone(),
            scope: scope.to_owned(),
            key: config.key.clone(),
        },
        merge: args.merge && job.kind() == SourceKind::Dir,
        allow_empty: args.allow_empty,
        flatten: args.flatten,
        replace: args.replace,
        max_age_days: config.max_age_days,
        max_size: config.max_size,
        level: config.level,
        created: session.created(),
    };
    Ok(export::run(ctx, &options).await?)
}

/// Reports the result to people, scripts and GitHub, and decides how the command ends.
pub(crate) fn finish(
    session: &Session,
    summary: &mut Summary,
) -> std::result::Result<u8, (bool, CommandError)> {
    let config = session.config();
    summary.settle();
    for warning in summary.warnings(config.strict, config.require_hit) {
        session.reporter.warn(&warning);
    }
    if let Err(why) = github::append(&session.env, summary) {
        session.reporter.warn(&why);
    }
    session.reporter.clear();
    if session.json {
        output::object(&summary.json(&session.reporter.warnings())).map_err(|e| (false, e))?;
    } else {
        // The work is done: a terminal or log that rejects output does not change that.
        if let Err(e) = session.say(&summary.text(session.reporter.shows_steps())) {
            if config.strict {
                return Err((false, e));
            }
            output::note(&format!("cachectl: warning: {}\n", e.message));
        }
    }
    let verdict = summary.verdict(config.strict, config.require_hit);
    if verdict.is_ok()
        && !session.quiet
        && let Some(miss) = summary.plain_miss()
    {
        output::note(&format!("cachectl: miss: {miss}\n"));
    }
    verdict.map(|()| 0).map_err(|e| (false, e))
}

//! `cachectl prune`.

use std::fmt::Write as _;

use super::{
    args,
    error::{CommandError, Result},
    json,
    output::{self, bytes, count, printable},
    session::Session,
};
use crate::{ops::prune, progress::Watch as _};

pub(crate) async fn run(session: &Session, args: &args::Prune) -> Result<u8> {
    session.refuse_if_read_only("prune")?;
    let wanted = &session.config().prune;
    let options = prune::Options {
        max_age: wanted.max_age,
        max_size: wanted.max_size,
        keep: wanted.keep,
        grace: wanted.grace,
        dry_run: args.dry_run,
    };
    let budget = session.budget(None);
    let upkeep = session
        .within(budget, session.upkeep(budget, &args.chosen.repositories))
        .await?;
    session.reporter.label("prune");
    let report = session.within(budget, upkeep.prune(&options)).await?;
    session.reporter.clear();
    let store = session.store_shown();
    if session.json {
        output::object(&json::pruned(
            &store,
            &report,
            args.dry_run,
            session.began.elapsed(),
        ))?;
        return end(&report);
    }
    for left in &report.left_out {
        session.reporter.warn(&format!(
            "{}: {}",
            printable(&left.what),
            printable(&left.why)
        ));
    }
    session.say(&text(&report, args.dry_run))?;
    end(&report)
}

/// A job that prunes by the clock must hear of it when nothing goes any more.
fn end(report: &prune::Report) -> Result<u8> {
    if report.left_out.is_empty() && !report.sweep_failed {
        return Ok(0);
    }
    Err(CommandError::failed("not everything could be pruned")
        .hint("what was said above stays where it is; the next prune tries again")
        .told())
}

fn text(report: &prune::Report, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let word = if dry_run { "would remove" } else { "removed" };
    let names = output::names(&report.tags);
    let mut text = output::lines(names.iter().map(|name| format!("{word} {name}")));
    let _ = writeln!(
        text,
        "{} {would}removed; {} ({}) {would}removed, {} {would}marked for a later run",
        count(names.len() as u64, "name", "names"),
        count(report.blobs, "blob", "blobs"),
        bytes(report.bytes),
        report.marked
    );
    if let Some(why) = &report.not_swept {
        let _ = writeln!(text, "blobs were not swept: {}", printable(why));
    }
    text
}

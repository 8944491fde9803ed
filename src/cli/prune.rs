//! `cachectl prune`.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    args,
    error::{CommandError, Result},
    output::{self, bytes, count, printable},
    session::Session,
    upkeep::Upkeep,
};
use crate::{ops::prune, proto::v1};

pub(crate) async fn run(session: &Session, args: &args::Prune) -> Result<u8> {
    session.refuse_if_read_only("prune")?;
    let wanted = &session.config().prune;
    let options = prune::Options {
        max_age: wanted.max_age,
        max_size: wanted.max_size,
        keep: wanted.keep,
        grace: if args.now {
            Duration::ZERO
        } else {
            wanted.grace
        },
        now: args.now,
        dry_run: args.dry_run,
    };
    let upkeep = Upkeep::open(session, &args.chosen.repositories).await?;
    session.reporter.label("prune");
    let request = v1::PruneRequest {
        repositories: args.chosen.repositories.clone(),
        ..(&options).into()
    };
    let report = upkeep
        .run(request, async |ctx| prune::run(ctx, &options).await)
        .await?;
    session.reporter.clear();
    if session.json {
        let went = !report.tags.is_empty() || report.blobs > 0;
        let object = session.object("prune", went).with(&report);
        let object = object.with(json!({"dry_run": args.dry_run}));
        let object = object.with(counted("waiting", report.waiting));
        let object = object.with(counted("new", report.new));
        object.with(counted("promised", report.promised)).print()?;
        return end(&report);
    }
    session.warn_of(&report.left_out);
    session.say(&text(&report, args.dry_run))?;
    end(&report)
}

fn counted(which: &str, n: prune::Count) -> Value {
    json!({
        (format!("{which}_blobs")): n.blobs,
        (format!("{which}_bytes")): n.bytes,
    })
}

/// A scheduled prune must report when it no longer removes anything.
fn end(report: &prune::Report) -> Result<u8> {
    if report.left_out.is_empty() && !report.sweep_failed {
        return Ok(0);
    }
    Err(CommandError::failed("prune incomplete")
        .hint("the items listed above were kept; the next prune tries again")
        .told())
}

fn text(report: &prune::Report, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let word = if dry_run { "would remove" } else { "removed" };
    let names = output::names(&report.tags);
    let mut text = output::lines(names.iter().map(|name| format!("{word} {name}")));
    let blobs = |n: u64| count(n, "blob", "blobs");
    let _ = writeln!(
        text,
        "{} {would}removed; {} ({}) {would}removed",
        count(names.len() as u64, "name", "names"),
        blobs(report.blobs),
        bytes(report.bytes),
    );
    let prune::Count { blobs: n, bytes: b } = report.waiting;
    if n > 0 {
        let _ = writeln!(
            text,
            "{} will be freed by a prune after {} ({})",
            bytes(b),
            output::rough(report.waiting_for),
            blobs(n)
        );
    }
    let prune::Count { blobs: n, bytes: b } = report.new;
    if n > 0 {
        let _ = writeln!(
            text,
            "{} in {} are too new to be marked; run prune again in a minute",
            bytes(b),
            blobs(n)
        );
    }
    let prune::Count { blobs: n, bytes: b } = report.promised;
    let stay = if dry_run { "would stay" } else { "stay" };
    if n > 0 {
        let _ = writeln!(
            text,
            "{} in {} {stay}, since running pushes may need them; a prune in an hour deletes those still unused",
            bytes(b),
            blobs(n)
        );
    }
    if let Some(why) = &report.not_swept {
        let _ = writeln!(
            text,
            "unreferenced blobs were not deleted: {}",
            printable(why)
        );
    }
    text
}

//! `cachectl rm`.

use super::{args, error::Result, inspect::nothing_named, json, output, session::Session};

pub(crate) async fn run(session: &Session, args: &args::Rm) -> Result<u8> {
    session.refuse_if_read_only("rm")?;
    let budget = session.budget(None);
    let upkeep = session.within(budget, session.upkeep(budget, &[])).await?;
    let tags = session
        .within(budget, upkeep.remove(&args.name, args.dry_run))
        .await?;
    session.reporter.clear();
    if session.json {
        output::object(&json::removed(
            &session.store_shown(),
            &tags,
            args.dry_run,
            session.began.elapsed(),
        ))?;
    } else {
        let word = if args.dry_run {
            "would remove"
        } else {
            "removed"
        };
        session.say(&output::lines(
            output::names(&tags)
                .iter()
                .map(|name| format!("{word} {name}")),
        ))?;
    }
    if tags.is_empty() {
        return Err(nothing_named(session, &args.name).told());
    }
    Ok(0)
}

//! `cachectl ls`.

use super::{
    args,
    error::{CommandError, Result},
    json,
    output::{self, bytes, printable, short},
    session::Session,
};
use crate::{ops::list, progress::Watch as _};

pub(crate) async fn run(session: &Session, args: &args::Ls) -> Result<u8> {
    let budget = session.budget(None);
    let upkeep = session
        .within(budget, session.upkeep(budget, &args.chosen.repositories))
        .await?;
    let report = session
        .within(budget, upkeep.list(args.name.as_deref()))
        .await?;
    if let (Some(name), true) = (
        &args.name,
        report.rows.is_empty() && report.broken.is_empty(),
    ) {
        return Err(
            CommandError::failed(format!("nothing is stored under `{}`", printable(name)))
                .hint("`cachectl ls` lists all names"),
        );
    }
    if session.json {
        output::object(&json::listing(
            &session.store_shown(),
            &report,
            session.began.elapsed(),
        ))?;
        return Ok(0);
    }
    for broken in &report.broken {
        session.reporter.warn(&format!(
            "{}: {}",
            printable(&broken.what),
            printable(&broken.why)
        ));
    }
    session.reporter.clear();
    output::data(&text(&report, args.wide))?;
    Ok(0)
}

fn text(report: &list::Report, wide: bool) -> String {
    let heading = [
        "KIND", "NAME", "SCOPE", "KEY", "CREATED", "ENTRIES", "SIZE", "STORED", "DIGEST",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(report.rows.iter().map(|r| {
        vec![
            printable(&r.kind),
            printable(&r.name),
            or_dash(&r.scope),
            or_dash(&r.key),
            json::time(r.created.or(r.pushed)).unwrap_or_else(|| "-".to_owned()),
            r.entries.to_string(),
            bytes(r.bytes),
            bytes(r.stored_bytes),
            short(&r.digest),
        ]
    }));
    if wide {
        let tags = report.rows.iter().map(|r| printable(&r.tag));
        let tags = std::iter::once("TAG".to_owned()).chain(tags);
        rows.iter_mut()
            .zip(tags)
            .for_each(|(row, tag)| row.push(tag));
    }
    output::table(&rows, &[5, 6, 7])
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        printable(text)
    }
}

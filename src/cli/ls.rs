//! `cachectl ls`.

use std::{collections::HashMap, fmt::Write as _};

use super::{
    args,
    error::{CommandError, Result},
    json,
    output::{self, bytes, printable, short},
    session::Session,
    upkeep::Upkeep,
};
use crate::{
    ops::{json::rfc3339, list},
    proto::v1,
};

pub(crate) async fn run(session: &Session, args: &args::Ls) -> Result<u8> {
    let upkeep = Upkeep::open(session, &args.chosen.repositories).await?;
    let request = v1::ListRequest {
        name: args.name.clone(),
        repositories: args.chosen.repositories.clone(),
    };
    let here = async |ctx: &_| list::run(ctx, args.name.as_deref()).await;
    let report = upkeep.run(request, here).await?;
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
        let object = session.object("ls", !report.rows.is_empty());
        let object = object.with(&report).with(json::sums(report.rows.iter()));
        return object.print().map(|()| 0);
    }
    session.warn_of(&report.broken);
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
            rfc3339(r.created.or(r.pushed)).unwrap_or_else(|| "-".to_owned()),
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
    } else {
        rows = merged(rows);
    }
    output::table(&rows, &[5, 6, 7])
}

/// Rows that differ only by tag, combined into one with a count; if tags are shown, each keeps its own row.
fn merged(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let mut counts: Vec<(Vec<String>, usize)> = Vec::new();
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    for row in rows {
        let place = *places.entry(row.clone()).or_insert(counts.len());
        match counts.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => counts.push((row, 1)),
        }
    }
    let one = |(mut row, count): (Vec<String>, usize)| {
        if let (Some(last), true) = (row.last_mut(), count > 1) {
            let _ = write!(last, " ({count} tags)");
        }
        row
    };
    counts.into_iter().map(one).collect()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        printable(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_by_their_tag_alone_are_one_that_counts_them() {
        let row = |tag: &str, name: &str| list::Row {
            tag: tag.into(),
            repository: String::new(),
            kind: "dir".into(),
            name: name.into(),
            scope: "default".into(),
            key: String::new(),
            digest: crate::digest::Digest::sha256_of(name.as_bytes()),
            created: None,
            pushed: None,
            entries: 1,
            bytes: 1,
            packs: 1,
            stored_bytes: 1,
            pending: 0,
        };
        let report = list::Report {
            rows: vec![row("a", "n"), row("b", "other"), row("c", "n")],
            broken: Vec::new(),
        };
        let short = text(&report, false);
        assert_eq!(short.lines().count(), 3, "{short}");
        assert!(short.lines().any(|l| l.ends_with(" (2 tags)")), "{short}");
        let wide = text(&report, true);
        assert_eq!(wide.lines().count(), 4, "{wide}");
        assert!(!wide.contains("tags)"), "{wide}");
    }
}

//! `cachectl du`.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    args,
    error::Result,
    inspect::nothing_named,
    output::{self, bytes, count, printable},
    session::Session,
    upkeep::Upkeep,
};
use crate::{ops::du, proto::v1};

pub(crate) async fn run(session: &Session, args: &args::Du) -> Result<u8> {
    let upkeep = Upkeep::open(session, &args.chosen.repositories).await?;
    let name = args.name.as_deref();
    let request = v1::DiskUsageRequest {
        name: args.name.clone(),
        repositories: args.chosen.repositories.clone(),
    };
    let report = upkeep
        .run(request, async |ctx| du::run(ctx, name).await)
        .await?;
    if session.json {
        let object = session.object("du", !report.rows.is_empty());
        let object = object.with(&report);
        object.with(json!({"bytes": report.bytes})).print()?;
    } else {
        session.warn_of(&report.broken);
        session.reporter.clear();
        output::data(&text(&report))?;
    }
    match name {
        Some(name) if report.rows.is_empty() && report.broken.is_empty() => {
            Err(nothing_named(session, name).told())
        }
        _ => Ok(0),
    }
}

fn text(report: &du::Report) -> String {
    let heading = ["KIND", "NAME", "SCOPE", "KEY", "BLOBS", "STORED", "OWN"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(report.rows.iter().map(|r| {
        let key = if r.key.is_empty() { "-" } else { &r.key };
        vec![
            printable(&r.kind),
            printable(&r.name),
            printable(&r.scope),
            printable(key),
            r.blobs.to_string(),
            bytes(r.bytes),
            bytes(r.own_bytes),
        ]
    }));
    let mut text = output::table(&rows, &[4, 5, 6]);
    let blobs = |n| count(n, "blob", "blobs");
    let _ = write!(text, "\n{} in {}", bytes(report.bytes), blobs(report.blobs));
    // Blobs shared by several names belong to none alone, but are freed when all of them are removed.
    if let Some(own) = report.own_bytes.filter(|_| report.rows.len() > 1) {
        let _ = write!(text, "; deleting all of these frees {}", bytes(own));
    }
    if let Some(store) = &report.store {
        let _ = write!(
            text,
            "; the store holds {} in {}",
            bytes(store.bytes),
            blobs(store.blobs)
        );
    }
    text.push('\n');
    text
}

//! `cachectl verify`.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    args,
    error::{CommandError, Kind, Result},
    inspect::nothing_named,
    output::{bytes, count, printable, seconds},
    session::Session,
    upkeep::Upkeep,
};
use crate::{
    ops::{
        self,
        verify::{self, Depth},
    },
    proto::{Wire as _, v1},
};

pub(crate) async fn run(session: &Session, args: &args::Verify) -> Result<u8> {
    let (depth, word) = match (args.digests, args.data) {
        (_, true) => (Depth::Data, "data"),
        (true, _) => (Depth::Digests, "digests"),
        _ => (Depth::Structure, "structure"),
    };
    let upkeep = Upkeep::open(session, &args.chosen.repositories).await?;
    session.reporter.label("verify");
    let name = args.name.as_deref();
    let request = v1::VerifyRequest {
        name: args.name.clone(),
        depth: depth.into_wire(),
        repositories: args.chosen.repositories.clone(),
    };
    let report = upkeep
        .run(request, async |ctx| verify::run(ctx, name, depth).await)
        .await?;
    if upkeep.daemon.is_some() {
        // Whichever process found it, this node's next export repairs it.
        verify::remember(&upkeep.ctx, &report).await;
    }
    session.reporter.clear();
    let elapsed = session.began.elapsed();
    let unknown = name.filter(|_| report.snapshots == 0);
    if session.json {
        let ok = report.faults.is_empty() && unknown.is_none();
        let object = session.object("verify", report.snapshots > 0).with(&report);
        object.with(json!({"depth": word, "ok": ok})).print()?;
    } else if unknown.is_none() {
        let mut text = String::new();
        for fault in &report.faults {
            let _ = writeln!(
                text,
                "{}: {}",
                printable(&ops::in_words(&fault.what)),
                printable(&ops::in_words(&fault.why))
            );
        }
        let _ = writeln!(
            text,
            "{}, {}, {} checked ({word}): {}; {} read in {}",
            // A name with exports that are not merged yet, or an index, has several.
            count(report.snapshots, "manifest", "manifests"),
            count(report.packs, "blob", "blobs"),
            count(report.entries, "entry", "entries"),
            match report.faults.len() {
                0 => "no faults".to_owned(),
                n => count(n as u64, "fault", "faults"),
            },
            bytes(report.bytes_read),
            seconds(elapsed)
        );
        session.say(&text)?;
    }
    if !report.faults.is_empty() {
        let faults = count(report.faults.len() as u64, "fault", "faults");
        return Err(CommandError::new(Kind::Failed, format!("{faults} found"))
            .hint("the next export of a damaged name repairs it, and so does the next push of a damaged tag; `cachectl rm` deletes it")
            .told());
    }
    match unknown {
        Some(name) => Err(nothing_named(session, name).told()),
        None => Ok(0),
    }
}

//! `cachectl inspect`.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    args,
    error::{CommandError, Result},
    json,
    output::{self, bytes, count, printable, short},
    session::Session,
    upkeep::Upkeep,
};
use crate::{
    ops::{inspect, json::rfc3339},
    proto::v1,
};

pub(crate) async fn run(session: &Session, args: &args::Inspect) -> Result<u8> {
    let upkeep = Upkeep::open(session, &[]).await?;
    let request = v1::InspectRequest {
        name: args.name.clone(),
        files: args.files,
    };
    let snapshots = upkeep
        .run(request, async |ctx| {
            inspect::run(ctx, &args.name, args.files).await
        })
        .await?;
    session.reporter.clear();
    if session.json {
        let object = session.object("inspect", !snapshots.is_empty());
        let object = object.with(json!({"snapshots": snapshots}));
        let sums = json::sums(snapshots.iter().map(|s| &s.row));
        object.with(sums).print()?;
    } else if !snapshots.is_empty() {
        output::data(&snapshots.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    if snapshots.is_empty() {
        return Err(nothing_named(session, &args.name).told());
    }
    Ok(0)
}

/// The store has nothing with that name.
pub(crate) fn nothing_named(session: &Session, name: &str) -> CommandError {
    CommandError::failed(format!(
        "nothing at {} is named `{name}`",
        session.store_shown()
    ))
    .hint("`cachectl ls` lists all names")
}

fn text(s: &inspect::Snapshot) -> String {
    let row = &s.row;
    let mut text = format!("{} {}\n", printable(&row.kind), printable(&row.name));
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "  {what:<12} {value}");
    };
    line("tag", &printable(&row.tag));
    line("digest", &row.digest.to_string());
    if let Some(outside) = &s.outside {
        text.push_str(&self::outside(s, outside));
        return text;
    }
    line("scope", &printable(&row.scope));
    if !row.key.is_empty() {
        line("key", &printable(&row.key));
    }
    line("created", rfc3339(row.created).as_deref().unwrap_or("-"));
    line(
        "holds",
        &format!(
            "{}, {}",
            count(row.entries, "entry", "entries"),
            bytes(row.bytes)
        ),
    );
    line(
        "stored",
        &format!(
            "{} in {}",
            bytes(row.stored_bytes),
            count(row.packs as u64, "pack", "packs")
        ),
    );
    if row.pending > 0 {
        line(
            "pending",
            &count(row.pending as u64, "side tag", "side tags"),
        );
    }
    for (what, value) in &s.fingerprint {
        // Flags of `go build` itself are not visible here.
        let value = match (what.as_str(), value.as_str()) {
            ("trimpath", "yes") => "in GOFLAGS".to_owned(),
            ("trimpath", "no") => {
                "not in GOFLAGS (it may have been given to `go build`)".to_owned()
            }
            _ => printable(value),
        };
        line(&printable(what), &value);
    }
    let heading = ["PACK", "STORED", "LIVE", "OBJECTS", "FRAMES", "GENERATION"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(s.packs.iter().map(|p| {
        vec![
            short(&p.digest),
            bytes(p.stored_bytes),
            format!("{}/{}", p.live, p.entries),
            format!("{}/{}", p.objects_live, p.objects),
            p.frames.to_string(),
            p.generation.to_string(),
        ]
    }));
    text.push_str(&output::table(&rows, &[1, 2, 3, 4, 5]));
    for file in s.files.iter().flatten() {
        let _ = writeln!(text, "{:>12}  {}", file.bytes, printable(&file.path));
    }
    text
}

/// The details of a foreign manifest.
fn outside(s: &inspect::Snapshot, outside: &inspect::Outside) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "  {what:<12} {value}");
    };
    line("media type", &printable(&outside.media_type));
    line("pushed", rfc3339(s.row.pushed).as_deref().unwrap_or("-"));
    if let (Some(records), Some(layers)) = (outside.records, outside.layers) {
        line(
            "holds",
            &format!(
                "{}, {}",
                count(records, "record", "records"),
                count(layers, "layer", "layers")
            ),
        );
    }
    // A missing blob is not counted, and has no size.
    let missing = s.packs.len().saturating_sub(s.row.packs);
    let is_missing = |p: &inspect::PackRow| missing > 0 && p.stored_bytes == 0;
    let missing = match missing as u64 {
        0 => String::new(),
        n => format!("; {} missing", count(n, "blob is", "blobs are")),
    };
    line(
        "stored",
        &format!(
            "{} in {}{missing}",
            bytes(s.row.stored_bytes),
            count(s.row.packs as u64, "blob", "blobs")
        ),
    );
    for digest in &outside.manifests {
        let what = match (
            outside.parts.contains(digest),
            outside.referrers.contains(digest),
        ) {
            (true, _) => "part",
            (_, true) => "referrer",
            _ => "manifest",
        };
        line(what, &digest.to_string());
    }
    let mut rows = vec![["BLOB", "STORED", "MEDIA TYPE"].map(str::to_owned).to_vec()];
    rows.extend(s.packs.iter().map(|p| {
        let size = if is_missing(p) {
            "missing".to_owned()
        } else {
            bytes(p.stored_bytes)
        };
        let media_type = p.media_type.as_deref().unwrap_or_default();
        vec![short(&p.digest), size, printable(media_type)]
    }));
    text.push_str(&output::table(&rows, &[1]));
    text
}

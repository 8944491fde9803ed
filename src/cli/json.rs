//! `--json`: the objects of `docs/cli.md`. Fields are added, never renamed or taken away.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::CommandError;
use crate::{
    digest::Digest,
    entry::Time,
    ops::{LeftOut, PhaseTime, copy, du, export::Dropped, inspect, list, prune, remove, verify},
    proto::v1,
};

/// Whole milliseconds.
pub(crate) fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as RFC 3339, in UTC with seconds; `null` for one that this cannot say.
pub(crate) fn time(t: Option<Time>) -> Option<String> {
    let t = t?;
    let since = Duration::from_secs(u64::try_from(t.secs).ok()?);
    // The year 9999 is the last that RFC 3339 knows.
    let at = std::time::UNIX_EPOCH.checked_add(since)?;
    (t.secs < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(at).to_string())
}

/// What every object has of a command that looks after a store or a daemon: nothing is carried, so nothing moves.
pub(crate) fn with_common(
    mut value: Value,
    hit: bool,
    digest: Option<&Digest>,
    (entries, bytes): (u64, u64),
    elapsed: Duration,
) -> Value {
    let common = json!({
        "hit": hit,
        "digest": digest.map(Digest::to_string),
        "entries": entries,
        "bytes": bytes,
        "blobs_moved": 0,
        "bytes_moved": 0,
        "bytes_saved": 0,
        "elapsed_ms": ms(elapsed),
    });
    if let (Value::Object(all), Value::Object(common)) = (&mut value, common) {
        all.extend(common);
    }
    value
}

fn totals<'a>(rows: impl Iterator<Item = &'a list::Row>) -> (u64, u64) {
    rows.fold((0, 0), |(entries, bytes), r| {
        (entries + r.entries, u64::saturating_add(bytes, r.bytes))
    })
}

pub(crate) fn left_out(all: &[LeftOut]) -> Value {
    all.iter()
        .map(|l| json!({"what": l.what, "why": l.why}))
        .collect()
}

/// What limits took out of a cache.
pub(crate) fn dropped(d: &Dropped) -> Value {
    json!({
        "max_size_entries": d.by_size.0,
        "max_size_bytes": d.by_size.1,
        "max_age_entries": d.by_age.0,
        "max_age_bytes": d.by_age.1,
    })
}

pub(crate) fn phases(all: &[PhaseTime]) -> Value {
    all.iter()
        .map(|t| json!({"phase": t.phase.name(), "elapsed_ms": ms(t.elapsed)}))
        .collect()
}

/// A command that failed.
pub(crate) fn error(e: &CommandError) -> Value {
    json!({"error": {
        "message": e.message,
        "causes": e.causes,
        "hints": e.hints,
        "exit_code": e.kind.code(),
    }})
}

fn row(r: &list::Row) -> Value {
    json!({
        "tag": r.tag,
        "repository": r.repository,
        "kind": r.kind,
        "name": r.name,
        "scope": r.scope,
        "key": r.key,
        "digest": r.digest.to_string(),
        "created": time(r.created),
        "pushed": time(r.pushed),
        "entries": r.entries,
        "bytes": r.bytes,
        "packs": r.packs,
        "stored_bytes": r.stored_bytes,
        "pending": r.pending,
    })
}

pub(crate) fn listing(store: &str, r: &list::Report, elapsed: Duration) -> Value {
    let value = json!({
        "command": "ls",
        "store": store,
        "snapshots": r.rows.iter().map(row).collect::<Vec<_>>(),
        "broken": left_out(&r.broken),
    });
    let first = r.rows.first().map(|r| &r.digest);
    with_common(
        value,
        !r.rows.is_empty(),
        first,
        totals(r.rows.iter()),
        elapsed,
    )
}

pub(crate) fn inspection(store: &str, all: &[inspect::Snapshot], elapsed: Duration) -> Value {
    let snapshot = |s: &inspect::Snapshot| {
        let mut value = row(&s.row);
        value["packs"] = s.packs.iter().map(pack).collect();
        value["folded"] = json!(s.folded);
        value["outside"] = s.foreign.as_ref().map_or(Value::Null, outside);
        value["fingerprint"] = s
            .fingerprint
            .iter()
            .map(|(k, v)| (k.clone(), json!(v)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        if let Some(files) = &s.files {
            value["files"] = files
                .iter()
                .map(|(path, size)| json!({"path": path, "bytes": size}))
                .collect();
        }
        value
    };
    let value = json!({
        "command": "inspect",
        "store": store,
        "snapshots": all.iter().map(snapshot).collect::<Vec<_>>(),
    });
    let first = all.first().map(|s| &s.row.digest);
    let sums = totals(all.iter().map(|s| &s.row));
    with_common(value, !all.is_empty(), first, sums, elapsed)
}

fn outside(o: &inspect::Outside) -> Value {
    let texts = |all: &[Digest]| all.iter().map(Digest::to_string).collect::<Vec<_>>();
    json!({
        "media_type": o.media_type,
        "manifests": texts(&o.manifests),
        "parts": texts(&o.parts),
        "referrers": texts(&o.referrers),
        "records": o.records.map(|(records, _)| records),
        "layers": o.records.map(|(_, layers)| layers),
    })
}

fn pack(p: &inspect::PackRow) -> Value {
    json!({
        "digest": p.digest.to_string(),
        "media_type": Some(&p.media_type).filter(|t| !t.is_empty()),
        "stored_bytes": p.size,
        "entries": p.entries,
        "live": p.live,
        "objects_live": p.objects.0,
        "objects": p.objects.1,
        "frames": p.frames,
        "generation": p.generation,
    })
}

pub(crate) fn verification(
    store: &str,
    depth: &str,
    r: &verify::Report,
    ok: bool,
    elapsed: Duration,
) -> Value {
    let value = json!({
        "command": "verify",
        "store": store,
        "depth": depth,
        "ok": ok,
        "snapshots": r.snapshots,
        "packs": r.packs,
        "bytes_read": r.bytes_read,
        "faults": left_out(&r.faults),
    });
    let sums = (r.entries, r.bytes);
    with_common(value, r.snapshots > 0, r.digest.as_ref(), sums, elapsed)
}

/// `by`: who copied, `here` or `daemon`.
pub(crate) fn copied(
    (from, to): (&str, &str),
    by: &str,
    r: &copy::Report,
    elapsed: Duration,
) -> Value {
    json!({
        "command": "copy",
        "from": from,
        "to": to,
        "hit": r.found,
        "digest": null,
        "entries": null,
        "bytes": null,
        "by": by,
        "tags": r.tags,
        "blobs_moved": r.moved.blobs_moved,
        "bytes_moved": r.moved.bytes_moved,
        "bytes_saved": r.moved.bytes_saved,
        "left_out": left_out(&r.left_out),
        "elapsed_ms": ms(elapsed),
    })
}

pub(crate) fn removed(store: &str, r: &remove::Report, dry_run: bool, elapsed: Duration) -> Value {
    let name = |r: &remove::Removed| {
        let name = r.name.as_ref();
        json!({
            "tag": r.tag,
            "repository": r.repository,
            "kind": name.map(|n| &n.kind),
            "name": name.map(|n| &n.name),
            "scope": name.map(|n| &n.scope),
            "key": name.map(|n| &n.key),
        })
    };
    let value = json!({
        "command": "rm",
        "store": store,
        "names": r.names.iter().map(name).collect::<Vec<_>>(),
        "tags": r.tags,
        "dry_run": dry_run,
    });
    with_common(value, !r.tags.is_empty(), None, (0, 0), elapsed)
}

pub(crate) fn pruned(store: &str, r: &prune::Report, dry_run: bool, elapsed: Duration) -> Value {
    let value = json!({
        "command": "prune",
        "store": store,
        "dry_run": dry_run,
        "tags": r.tags,
        "marked": r.marked,
        "blobs": r.blobs,
        "left_out": left_out(&r.left_out),
        "not_swept": r.not_swept,
        "waiting_blobs": r.waiting.blobs,
        "waiting_bytes": r.waiting.bytes,
        "waiting_ms": ms(r.waiting_for),
        "new_blobs": r.new.blobs,
        "new_bytes": r.new.bytes,
        "promised_blobs": r.promised.blobs,
        "promised_bytes": r.promised.bytes,
    });
    let went = !r.tags.is_empty() || r.blobs > 0;
    with_common(value, went, None, (0, r.bytes), elapsed)
}

pub(crate) fn usage(store: &str, r: &du::Report, elapsed: Duration) -> Value {
    let row = |r: &du::Row| {
        json!({
            "tag": r.tag,
            "repository": r.repository,
            "kind": r.kind,
            "name": r.name,
            "scope": r.scope,
            "key": r.key,
            "blobs": r.blobs,
            "stored_bytes": r.bytes,
            "own_bytes": r.own_bytes,
        })
    };
    let value = json!({
        "command": "du",
        "store": store,
        "names": r.rows.iter().map(row).collect::<Vec<_>>(),
        "blobs": r.blobs,
        "stored_bytes": r.bytes,
        "own_bytes": r.own_bytes,
        "store_blobs": r.store.map(|s| s.blobs),
        "store_bytes": r.store.map(|s| s.bytes),
        "broken": left_out(&r.broken),
    });
    with_common(value, !r.rows.is_empty(), None, (0, r.bytes), elapsed)
}

fn queue(q: Option<&v1::Queue>) -> Value {
    let Some(q) = q else { return Value::Null };
    json!({
        "tags": q.tags,
        "blobs": q.blobs,
        "bytes": q.bytes,
        "oldest_ms": q.oldest_seconds.map(|s| s.saturating_mul(1000)),
        "trouble": q.trouble,
    })
}

pub(crate) fn status(store: &str, s: &v1::StatusResponse, elapsed: Duration) -> Value {
    let value = json!({
        "command": "status",
        "store": store,
        "version": s.version,
        "protocol": s.protocol,
        "behind": s.store,
        "uptime_ms": s.uptime_seconds.saturating_mul(1000),
        "listeners": s.listeners,
        "allows_paths": s.allows_paths,
        "queue": queue(s.queue.as_ref()),
    });
    // It answered.
    with_common(value, true, None, (0, 0), elapsed)
}

pub(crate) fn flushed(
    store: &str,
    waited: bool,
    left: Option<&v1::Queue>,
    elapsed: Duration,
) -> Value {
    let value = json!({
        "command": "flush",
        "store": store,
        "waited": waited,
        "queue": queue(left),
    });
    let sent = left.is_none_or(|q| q.tags == 0 && q.blobs == 0);
    with_common(value, sent, None, (0, 0), elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc3339_or_null() {
        let at = |secs| time(Some(Time { secs, nanos: 5 }));
        assert_eq!(at(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(at(253_402_300_799).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(at(253_402_300_800), None);
        assert_eq!(at(i64::MAX), None);
        assert_eq!(at(-1), None);
        assert_eq!(time(None), None);
    }
}

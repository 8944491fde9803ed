//! Options and reports, field by field. Only what a report names in text (digests) can fail to come back.

use std::time::Duration;

use super::{Nonsense, v1};
use crate::{
    digest::Digest,
    entry::Time,
    ops::{
        LeftOut, Moved, copy, du, inspect, list, prune,
        remove::{self, Only, SnapshotName},
        verify,
    },
};

fn digest(text: &str) -> Result<Digest, Nonsense> {
    text.parse()
        .map_err(|_| Nonsense(format!("`{}` is no digest", text.escape_debug())))
}

fn seconds(span: Duration) -> u64 {
    span.as_secs()
}

fn to_wire(all: Vec<LeftOut>) -> Vec<v1::LeftOut> {
    let one = |LeftOut { what, why }| v1::LeftOut { what, why };
    all.into_iter().map(one).collect()
}

fn from_wire(all: Vec<v1::LeftOut>) -> Vec<LeftOut> {
    let one = |v1::LeftOut { what, why }| LeftOut { what, why };
    all.into_iter().map(one).collect()
}

impl From<list::Row> for v1::Row {
    fn from(r: list::Row) -> Self {
        Self {
            tag: r.tag,
            kind: r.kind,
            name: r.name,
            scope: r.scope,
            key: r.key,
            digest: r.digest.to_string(),
            created_seconds: r.created.map(|t| t.secs),
            entries: r.entries,
            bytes: r.bytes,
            packs: r.packs as u64,
            stored_bytes: r.stored_bytes,
            pending: r.pending as u64,
            repository: r.repository,
            pushed_seconds: r.pushed.map(|t| t.secs),
        }
    }
}

impl TryFrom<v1::Row> for list::Row {
    type Error = Nonsense;

    fn try_from(r: v1::Row) -> Result<Self, Nonsense> {
        Ok(Self {
            digest: digest(&r.digest)?,
            tag: r.tag,
            kind: r.kind,
            name: r.name,
            scope: r.scope,
            key: r.key,
            created: r.created_seconds.map(|secs| Time { secs, nanos: 0 }),
            entries: r.entries,
            bytes: r.bytes,
            packs: r.packs as usize,
            stored_bytes: r.stored_bytes,
            pending: r.pending as usize,
            repository: r.repository,
            pushed: r.pushed_seconds.map(|secs| Time { secs, nanos: 0 }),
        })
    }
}

impl From<list::Report> for v1::ListReport {
    fn from(r: list::Report) -> Self {
        Self {
            rows: r.rows.into_iter().map(Into::into).collect(),
            broken: to_wire(r.broken),
        }
    }
}

impl TryFrom<v1::ListReport> for list::Report {
    type Error = Nonsense;

    fn try_from(r: v1::ListReport) -> Result<Self, Nonsense> {
        let rows = r.rows.into_iter().map(TryInto::try_into);
        Ok(Self {
            rows: rows.collect::<Result<_, _>>()?,
            broken: from_wire(r.broken),
        })
    }
}

fn pack(p: &inspect::PackRow) -> v1::Pack {
    v1::Pack {
        digest: p.digest.to_string(),
        stored_bytes: p.stored_bytes,
        entries: p.entries,
        live: p.live,
        objects_live: p.objects_live,
        objects: p.objects,
        frames: p.frames,
        generation: p.generation,
        media_type: p.media_type.clone(),
    }
}

fn pack_row(p: &v1::Pack) -> Result<inspect::PackRow, Nonsense> {
    Ok(inspect::PackRow {
        digest: digest(&p.digest)?,
        stored_bytes: p.stored_bytes,
        entries: p.entries,
        live: p.live,
        objects_live: p.objects_live,
        objects: p.objects,
        frames: p.frames,
        generation: p.generation,
        media_type: p.media_type.clone(),
    })
}

impl From<inspect::Outside> for v1::Outside {
    fn from(o: inspect::Outside) -> Self {
        let texts = |all: Vec<Digest>| all.iter().map(Digest::to_string).collect();
        Self {
            media_type: o.media_type,
            manifests: texts(o.manifests),
            parts: texts(o.parts),
            referrers: texts(o.referrers),
            records: o.records,
            layers: o.layers,
        }
    }
}

impl TryFrom<v1::Outside> for inspect::Outside {
    type Error = Nonsense;

    fn try_from(o: v1::Outside) -> Result<Self, Nonsense> {
        let digests = |all: Vec<String>| all.iter().map(|d| digest(d)).collect::<Result<_, _>>();
        Ok(Self {
            media_type: o.media_type,
            manifests: digests(o.manifests)?,
            parts: digests(o.parts)?,
            referrers: digests(o.referrers)?,
            records: o.records,
            layers: o.layers,
        })
    }
}

impl From<Vec<inspect::Snapshot>> for v1::InspectReport {
    fn from(all: Vec<inspect::Snapshot>) -> Self {
        let mut report = Self::default();
        for (snapshot, s) in (0..).zip(all) {
            let traits = s.fingerprint.into_iter();
            report.snapshots.push(v1::Snapshot {
                row: Some(s.row.into()),
                packs: s.packs.iter().map(pack).collect(),
                folded: s.folded,
                fingerprint: traits
                    .map(|(name, value)| v1::Trait { name, value })
                    .collect(),
                files_listed: s.files.is_some(),
                outside: s.outside.map(Into::into),
            });
            let files = s.files.unwrap_or_default().into_iter();
            report.files.extend(files.map(|file| v1::File {
                snapshot,
                path: file.path,
                bytes: file.bytes,
            }));
        }
        report
    }
}

impl TryFrom<v1::InspectReport> for Vec<inspect::Snapshot> {
    type Error = Nonsense;

    fn try_from(r: v1::InspectReport) -> Result<Self, Nonsense> {
        let mut all = Self::new();
        for s in r.snapshots {
            let row = s
                .row
                .ok_or_else(|| Nonsense("a snapshot has no row".into()))?;
            let packs = s.packs.iter().map(pack_row);
            all.push(inspect::Snapshot {
                row: row.try_into()?,
                packs: packs.collect::<Result<_, _>>()?,
                folded: s.folded,
                fingerprint: s
                    .fingerprint
                    .into_iter()
                    .map(|t| (t.name, t.value))
                    .collect(),
                files: s.files_listed.then(Vec::new),
                outside: s.outside.map(TryInto::try_into).transpose()?,
            });
        }
        for file in r.files {
            let listed = all.get_mut(file.snapshot as usize);
            let files = listed.and_then(|s| s.files.as_mut());
            let files = files.ok_or_else(|| Nonsense("a file belongs to no snapshot".into()))?;
            files.push(inspect::File {
                path: file.path,
                bytes: file.bytes,
            });
        }
        Ok(all)
    }
}

impl From<&remove::Options> for v1::DeleteRequest {
    fn from(o: &remove::Options) -> Self {
        let Only { kind, scope, key } = o.only.clone();
        Self {
            name: o.name.clone(),
            dry_run: o.dry_run,
            scope,
            key,
            kind,
        }
    }
}

impl From<v1::DeleteRequest> for remove::Options {
    fn from(r: v1::DeleteRequest) -> Self {
        Self {
            name: r.name,
            only: Only {
                kind: r.kind,
                scope: r.scope,
                key: r.key,
            },
            dry_run: r.dry_run,
        }
    }
}

impl From<remove::Report> for v1::DeleteReport {
    fn from(r: remove::Report) -> Self {
        let name = |removed: remove::Removed| {
            let [kind, name, scope, key] = removed
                .name
                .map(|n| [n.kind, n.name, n.scope, n.key])
                .unwrap_or_default();
            v1::Deleted {
                tag: removed.tag,
                kind,
                name,
                scope,
                key,
                repository: removed.repository,
            }
        };
        Self {
            tags: r.tags,
            names: r.names.into_iter().map(name).collect(),
        }
    }
}

impl From<v1::DeleteReport> for remove::Report {
    fn from(r: v1::DeleteReport) -> Self {
        let name = |deleted: v1::Deleted| remove::Removed {
            tag: deleted.tag,
            repository: deleted.repository,
            name: (!deleted.kind.is_empty()).then_some(SnapshotName {
                kind: deleted.kind,
                name: deleted.name,
                scope: deleted.scope,
                key: deleted.key,
            }),
        };
        Self {
            tags: r.tags,
            names: r.names.into_iter().map(name).collect(),
        }
    }
}

impl From<&prune::Options> for v1::PruneRequest {
    fn from(o: &prune::Options) -> Self {
        Self {
            max_age_seconds: o.max_age.map(seconds),
            max_size_bytes: o.max_size,
            keep: o.keep.map(|n| n as u64),
            // A release that does not know `now` refuses no grace at all.
            grace_seconds: Some(if o.now { 0 } else { seconds(o.grace) }),
            dry_run: o.dry_run,
            repositories: Vec::new(),
            now: o.now,
        }
    }
}

fn count(blobs: u64, bytes: u64) -> prune::Count {
    prune::Count { blobs, bytes }
}

/// Grace of who names none.
const GRACE: Duration = Duration::from_hours(24);

impl From<v1::PruneRequest> for prune::Options {
    fn from(r: v1::PruneRequest) -> Self {
        Self {
            max_age: r.max_age_seconds.map(Duration::from_secs),
            max_size: r.max_size_bytes,
            keep: r.keep.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            grace: r.grace_seconds.map_or(GRACE, Duration::from_secs),
            now: r.now,
            dry_run: r.dry_run,
        }
    }
}

impl From<prune::Report> for v1::PruneReport {
    fn from(r: prune::Report) -> Self {
        Self {
            tags: r.tags,
            marked: r.marked,
            blobs: r.blobs,
            bytes: r.bytes,
            left_out: to_wire(r.left_out),
            not_swept: r.not_swept,
            sweep_failed: r.sweep_failed,
            waiting_blobs: r.waiting.blobs,
            waiting_bytes: r.waiting.bytes,
            waiting_seconds: seconds(r.waiting_for),
            new_blobs: r.new.blobs,
            new_bytes: r.new.bytes,
            promised_blobs: r.promised.blobs,
            promised_bytes: r.promised.bytes,
        }
    }
}

impl From<v1::PruneReport> for prune::Report {
    fn from(r: v1::PruneReport) -> Self {
        Self {
            tags: r.tags,
            marked: r.marked,
            blobs: r.blobs,
            bytes: r.bytes,
            left_out: from_wire(r.left_out),
            not_swept: r.not_swept,
            sweep_failed: r.sweep_failed,
            waiting: count(r.waiting_blobs, r.waiting_bytes),
            waiting_for: Duration::from_secs(r.waiting_seconds),
            new: count(r.new_blobs, r.new_bytes),
            promised: count(r.promised_blobs, r.promised_bytes),
        }
    }
}

impl From<du::Report> for v1::DiskUsageReport {
    fn from(r: du::Report) -> Self {
        let row = |r: du::Row| v1::Usage {
            tag: r.tag,
            kind: r.kind,
            name: r.name,
            scope: r.scope,
            key: r.key,
            bytes: r.bytes,
            own_bytes: r.own_bytes,
            blobs: r.blobs,
            repository: r.repository,
        };
        Self {
            rows: r.rows.into_iter().map(row).collect(),
            blobs: r.blobs,
            bytes: r.bytes,
            store: r
                .store
                .map(|du::Whole { blobs, bytes }| v1::StoreUsage { blobs, bytes }),
            broken: to_wire(r.broken),
        }
    }
}

impl From<v1::DiskUsageReport> for du::Report {
    fn from(r: v1::DiskUsageReport) -> Self {
        let row = |r: v1::Usage| du::Row {
            tag: r.tag,
            kind: r.kind,
            name: r.name,
            scope: r.scope,
            key: r.key,
            bytes: r.bytes,
            own_bytes: r.own_bytes,
            blobs: r.blobs,
            repository: r.repository,
        };
        Self {
            rows: r.rows.into_iter().map(row).collect(),
            blobs: r.blobs,
            bytes: r.bytes,
            store: r
                .store
                .map(|v1::StoreUsage { blobs, bytes }| du::Whole { blobs, bytes }),
            own_bytes: None,
            broken: from_wire(r.broken),
        }
    }
}

impl From<verify::Depth> for v1::Depth {
    fn from(depth: verify::Depth) -> Self {
        match depth {
            verify::Depth::Structure => Self::Structure,
            verify::Depth::Digests => Self::Digests,
            verify::Depth::Data => Self::Data,
        }
    }
}

/// How deep a request wants to look.
impl TryFrom<&v1::VerifyRequest> for verify::Depth {
    type Error = Nonsense;

    fn try_from(r: &v1::VerifyRequest) -> Result<Self, Nonsense> {
        match v1::Depth::try_from(r.depth) {
            Ok(v1::Depth::Unspecified | v1::Depth::Structure) => Ok(Self::Structure),
            Ok(v1::Depth::Digests) => Ok(Self::Digests),
            Ok(v1::Depth::Data) => Ok(Self::Data),
            // To look less deep than was asked for would be a lie.
            Err(_) => Err(Nonsense(format!("depth {} is not known here", r.depth))),
        }
    }
}

impl From<verify::Report> for v1::VerifyReport {
    fn from(r: verify::Report) -> Self {
        Self {
            snapshots: r.snapshots,
            entries: r.entries,
            packs: r.packs,
            digest: r.digest.map(|d| d.to_string()),
            bytes: r.bytes,
            bytes_read: r.bytes_read,
            faults: to_wire(r.faults),
            damaged: r
                .damaged
                .into_iter()
                .map(|(digest, why)| v1::LeftOut {
                    what: digest.to_string(),
                    why,
                })
                .collect(),
        }
    }
}

impl TryFrom<v1::VerifyReport> for verify::Report {
    type Error = Nonsense;

    fn try_from(r: v1::VerifyReport) -> Result<Self, Nonsense> {
        let damaged = r.damaged.into_iter();
        let damaged = damaged.map(|d| Ok((digest(&d.what)?, d.why)));
        Ok(Self {
            damaged: damaged.collect::<Result<_, _>>()?,
            digest: r.digest.as_deref().map(digest).transpose()?,
            snapshots: r.snapshots,
            entries: r.entries,
            bytes: r.bytes,
            packs: r.packs,
            bytes_read: r.bytes_read,
            faults: from_wire(r.faults),
        })
    }
}

impl From<copy::Report> for v1::CopyReport {
    fn from(r: copy::Report) -> Self {
        Self {
            tags: r.tags,
            found: r.found,
            blobs_moved: r.moved.blobs_moved,
            bytes_moved: r.moved.bytes_moved,
            bytes_saved: r.moved.bytes_saved,
            left_out: to_wire(r.left_out),
        }
    }
}

impl From<v1::CopyReport> for copy::Report {
    fn from(r: v1::CopyReport) -> Self {
        Self {
            tags: r.tags,
            found: r.found,
            moved: Moved {
                blobs_moved: r.blobs_moved,
                bytes_moved: r.bytes_moved,
                bytes_saved: r.bytes_saved,
            },
            left_out: from_wire(r.left_out),
        }
    }
}

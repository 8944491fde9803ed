//! The methods whose answer is a report, and the verbs' options and reports, field by field.

use std::time::Duration;

use super::{
    Nonsense,
    message::methods,
    v1,
    wire::{Wire, wire},
};
use crate::ops::{
    LeftOut, Moved, copy, du, inspect, list,
    prune::{self, Count},
    remove::{self, Only, SnapshotName},
    verify,
};

// "RPC", "verb as errors say it": Request -> Response(module) of WireReport[lists sent in parts] for the verb's report.
methods!(
    "List", "list": ListRequest -> ListResponse(list_response)
        of ListReport[rows, broken] for list::Report;
    "Inspect", "inspect": InspectRequest -> InspectResponse(inspect_response)
        of InspectReport[snapshots, files] for Vec<inspect::Snapshot>;
    "Delete", "remove": DeleteRequest -> DeleteResponse(delete_response)
        of DeleteReport[names, tags] for remove::Report;
    "Prune", "prune": PruneRequest -> PruneResponse(prune_response)
        of PruneReport[tags, left_out] for prune::Report;
    "DiskUsage", "compute disk usage": DiskUsageRequest -> DiskUsageResponse(disk_usage_response)
        of DiskUsageReport[rows, broken] for du::Report;
    "Verify", "verify": VerifyRequest -> VerifyResponse(verify_response)
        of VerifyReport[faults, damaged] for verify::Report;
    "Copy", "copy": CopyRequest -> CopyResponse(copy_response)
        of CopyReport[tags, left_out] for copy::Report;
);

wire!(LeftOut = LeftOut { what, why });

wire!(list::Report = ListReport { rows, broken });
wire!(list::Row = Row {
    tag, repository, kind, name, scope, key, digest, entries, bytes, packs, stored_bytes, pending;
    created as created_seconds, pushed as pushed_seconds
});

wire!(
    inspect::PackRow = Pack {
        digest,
        media_type,
        stored_bytes,
        entries,
        live,
        objects_live,
        objects,
        frames,
        generation
    }
);
wire!(
    inspect::Outside = Outside {
        media_type,
        manifests,
        parts,
        referrers,
        records,
        layers
    }
);

/// Files of all snapshots follow the snapshots, so that a long list of files can be split.
impl Wire<v1::InspectReport> for Vec<inspect::Snapshot> {
    fn into_wire(self) -> v1::InspectReport {
        let mut report = v1::InspectReport::default();
        for (snapshot, s) in (0..).zip(self) {
            report.snapshots.push(v1::Snapshot {
                row: Some(s.row.into_wire()),
                packs: s.packs.into_wire(),
                folded: s.folded,
                fingerprint: s.fingerprint.into_wire(),
                files_listed: s.files.is_some(),
                outside: s.outside.into_wire(),
            });
            let files = s.files.unwrap_or_default().into_iter();
            let of_snapshot = |inspect::File { path, bytes }| v1::File {
                snapshot,
                path,
                bytes,
            };
            report.files.extend(files.map(of_snapshot));
        }
        report
    }

    fn from_wire(wire: v1::InspectReport) -> Result<Self, Nonsense> {
        let mut all = Self::new();
        for s in wire.snapshots {
            let row = s.row.ok_or(Nonsense("a snapshot has no row".into()))?;
            all.push(inspect::Snapshot {
                row: Wire::from_wire(row)?,
                packs: Wire::from_wire(s.packs)?,
                folded: s.folded,
                fingerprint: Wire::from_wire(s.fingerprint)?,
                files: s.files_listed.then(Vec::new),
                outside: Wire::from_wire(s.outside)?,
            });
        }
        for v1::File {
            snapshot,
            path,
            bytes,
        } in wire.files
        {
            let listed = all.get_mut(snapshot as usize);
            let files = listed.and_then(|s| s.files.as_mut());
            let files = files.ok_or(Nonsense("a file belongs to no snapshot".into()))?;
            files.push(inspect::File { path, bytes });
        }
        Ok(all)
    }
}

wire!(remove::Options = DeleteRequest { name, dry_run }
    with only: Only { kind as kind, scope as scope, key as key });
wire!(remove::Report = DeleteReport { names, tags });

/// For a tag that is not a cache's, all four words are empty.
impl Wire<v1::Deleted> for remove::Removed {
    fn into_wire(self) -> v1::Deleted {
        let SnapshotName {
            kind,
            name,
            scope,
            key,
        } = self.name.unwrap_or_default();
        v1::Deleted {
            tag: self.tag,
            kind,
            name,
            scope,
            key,
            repository: self.repository,
        }
    }

    fn from_wire(wire: v1::Deleted) -> Result<Self, Nonsense> {
        let is_cache = !wire.kind.is_empty();
        let name = SnapshotName {
            kind: wire.kind,
            name: wire.name,
            scope: wire.scope,
            key: wire.key,
        };
        Ok(Self {
            tag: wire.tag,
            repository: wire.repository,
            name: is_cache.then_some(name),
        })
    }
}

impl From<&prune::Options> for v1::PruneRequest {
    fn from(o: &prune::Options) -> Self {
        Self {
            max_age_seconds: o.max_age.into_wire(),
            max_size_bytes: o.max_size,
            keep: o.keep.into_wire(),
            // A release that does not know `now` refuses a grace time of zero.
            grace_seconds: Some(if o.now { 0 } else { o.grace.into_wire() }),
            dry_run: o.dry_run,
            repositories: Vec::new(),
            now: o.now,
        }
    }
}

/// Grace time of requests without one.
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

wire!(prune::Report = PruneReport {
        tags, marked, blobs, bytes, left_out, not_swept, sweep_failed;
        waiting_for as waiting_seconds
    }
    with waiting: Count { blobs as waiting_blobs, bytes as waiting_bytes },
        new: Count { blobs as new_blobs, bytes as new_bytes },
        promised: Count { blobs as promised_blobs, bytes as promised_bytes });

wire!(du::Report = DiskUsageReport { rows, blobs, bytes, store, broken } without own_bytes);
wire!(
    du::Row = Usage {
        tag,
        repository,
        kind,
        name,
        scope,
        key,
        blobs,
        bytes,
        own_bytes
    }
);
wire!(du::Whole = StoreUsage { blobs, bytes });

impl Wire<i32> for verify::Depth {
    fn into_wire(self) -> i32 {
        let depth = match self {
            Self::Structure => v1::Depth::Structure,
            Self::Digests => v1::Depth::Digests,
            Self::Data => v1::Depth::Data,
        };
        depth.into()
    }

    fn from_wire(wire: i32) -> Result<Self, Nonsense> {
        match v1::Depth::try_from(wire) {
            Ok(v1::Depth::Unspecified | v1::Depth::Structure) => Ok(Self::Structure),
            Ok(v1::Depth::Digests) => Ok(Self::Digests),
            Ok(v1::Depth::Data) => Ok(Self::Data),
            // Verifying less deeply than requested would give a false result.
            Err(_) => Err(Nonsense(format!("unknown depth {wire}"))),
        }
    }
}

wire!(
    verify::Report = VerifyReport {
        snapshots,
        digest,
        entries,
        bytes,
        packs,
        bytes_read,
        faults,
        damaged
    }
);

wire!(copy::Report = CopyReport { tags, found, left_out }
with moved: Moved {
    blobs_moved as blobs_moved, bytes_moved as bytes_moved, bytes_saved as bytes_saved
});

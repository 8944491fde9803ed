//! Conversions round-trip, and the generated files match the schema.

use std::{fmt::Debug, time::Duration};

use super::{Wire, v1};
use crate::{
    digest::{Digest, Sha256},
    entry::Time,
    ops::{
        LeftOut, Moved, copy, du, inspect, list, prune,
        remove::{self, Only, SnapshotName},
        verify,
    },
};

fn comes_back<W, T: Wire<W> + Clone + PartialEq + Debug>(sent: &T) {
    assert_eq!(T::from_wire(sent.clone().into_wire()).as_ref(), Ok(sent));
}

fn left_out() -> Vec<LeftOut> {
    vec![LeftOut {
        what: "tag x".into(),
        why: "is gone".into(),
    }]
}

fn row(tag: &str) -> list::Row {
    list::Row {
        tag: tag.into(),
        repository: "team/app".into(),
        kind: "dir".into(),
        name: "n/ä".into(),
        scope: "s".into(),
        key: "k".into(),
        digest: Digest::sha256_of(tag.as_bytes()),
        created: Some(Time { secs: -5, nanos: 0 }),
        pushed: Some(Time { secs: 9, nanos: 0 }),
        entries: 1,
        bytes: u64::MAX,
        packs: 3,
        stored_bytes: 4,
        pending: 5,
    }
}

#[test]
fn listings_come_back() {
    let report = list::Report {
        rows: vec![
            row("a"),
            list::Row {
                created: None,
                pushed: None,
                ..row("b")
            },
        ],
        broken: left_out(),
    };
    comes_back::<v1::ListReport, _>(&report);
}

#[test]
fn snapshots_come_back_with_their_own_files_or_none() {
    let file = |path: &str, bytes| inspect::File {
        path: path.into(),
        bytes,
    };
    let snapshot = |tag: &str, files| inspect::Snapshot {
        row: row(tag),
        packs: vec![inspect::PackRow {
            digest: Digest::Sha256(Sha256::of(b"p")),
            media_type: (tag != "a").then(|| tag.repeat(3)),
            stored_bytes: 1,
            entries: 2,
            live: 3,
            objects_live: 4,
            objects: 5,
            frames: 6,
            generation: 7,
        }],
        folded: vec!["side".into()],
        fingerprint: vec![("gate".into(), "go1.27".into())],
        files,
        outside: (tag == "b").then(|| inspect::Outside {
            media_type: "a/b".into(),
            manifests: vec![Digest::sha256_of(b"1"), Digest::sha256_of(b"2")],
            parts: vec![Digest::sha256_of(b"1")],
            referrers: vec![Digest::sha256_of(b"2")],
            records: Some(3),
            layers: Some(4),
        }),
    };
    let all = vec![
        snapshot("a", Some(vec![file("x", 1), file("y", 2)])),
        snapshot("b", None),
        snapshot("c", Some(vec![])),
        snapshot("d", Some(vec![file("z", 3)])),
    ];
    comes_back::<v1::InspectReport, _>(&all);
}

#[test]
fn remove_and_its_options_come_back() {
    let options = remove::Options {
        name: "n".into(),
        only: Only {
            kind: Some("dir".into()),
            scope: Some("s".into()),
            key: Some(String::new()),
        },
        dry_run: true,
    };
    comes_back::<v1::DeleteRequest, _>(&options);
    let removed = |name: Option<SnapshotName>| remove::Removed {
        tag: "f/x:t".into(),
        repository: "f/x".into(),
        name,
    };
    let name = SnapshotName {
        kind: "dir".into(),
        name: "n".into(),
        scope: "s".into(),
        key: String::new(),
    };
    let report = remove::Report {
        names: vec![removed(Some(name)), removed(None)],
        tags: vec!["t".into()],
    };
    comes_back::<v1::DeleteReport, _>(&report);
}

#[test]
fn prune_and_its_options_come_back() {
    for options in [
        prune::Options {
            max_age: Some(Duration::from_secs(7)),
            max_size: Some(8),
            keep: Some(9),
            grace: Duration::ZERO,
            now: true,
            dry_run: true,
        },
        prune::Options {
            max_age: None,
            max_size: None,
            keep: None,
            grace: Duration::from_secs(1),
            now: false,
            dry_run: false,
        },
    ] {
        assert_eq!(
            prune::Options::from(v1::PruneRequest::from(&options)),
            options
        );
    }
    let unsaid = prune::Options::from(v1::PruneRequest::default());
    assert_eq!(unsaid.grace, Duration::from_hours(24));
    let report = prune::Report {
        tags: vec!["t".into()],
        marked: 1,
        blobs: 2,
        bytes: 3,
        left_out: left_out(),
        not_swept: Some("why".into()),
        sweep_failed: true,
        waiting: prune::Count { blobs: 4, bytes: 5 },
        waiting_for: Duration::from_secs(6),
        new: prune::Count { blobs: 7, bytes: 8 },
        promised: prune::Count {
            blobs: 9,
            bytes: 10,
        },
    };
    comes_back::<v1::PruneReport, _>(&report);
}

#[test]
fn other_reports_come_back() {
    let usage = du::Report {
        rows: vec![du::Row {
            tag: "t".into(),
            repository: "r".into(),
            kind: "dir".into(),
            name: "n".into(),
            scope: "s".into(),
            key: String::new(),
            blobs: 1,
            bytes: 2,
            own_bytes: 3,
        }],
        blobs: 4,
        bytes: 5,
        own_bytes: None,
        store: Some(du::Whole { blobs: 6, bytes: 7 }),
        broken: left_out(),
    };
    comes_back::<v1::DiskUsageReport, _>(&usage);
    let found = verify::Report {
        snapshots: 1,
        digest: Some(Digest::sha256_of(b"m")),
        entries: 2,
        bytes: 5,
        packs: 3,
        bytes_read: 4,
        faults: left_out(),
        damaged: vec![(Digest::sha256_of(b"p"), "is missing".into())],
    };
    comes_back::<v1::VerifyReport, _>(&found);
    let copied = copy::Report {
        tags: vec!["t".into()],
        found: true,
        moved: Moved {
            blobs_moved: 1,
            bytes_moved: 2,
            bytes_saved: 3,
        },
        left_out: left_out(),
    };
    comes_back::<v1::CopyReport, _>(&copied);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let row = v1::Row {
        digest: "sha256:12".into(),
        ..v1::Row::default()
    };
    assert!(list::Row::from_wire(row).is_err());
    let stray = v1::InspectReport {
        files: vec![v1::File::default()],
        ..v1::InspectReport::default()
    };
    assert!(<Vec<inspect::Snapshot>>::from_wire(stray).is_err());
    assert!(verify::Depth::from_wire(9).is_err());
    assert_eq!(verify::Depth::from_wire(0), Ok(verify::Depth::Structure));
}

#[test]
fn generated_files_are_those_of_the_schema() {
    let schema = include_bytes!("../../proto/cachectl/v1/control.proto");
    let said = include_str!("control.proto.sha256").trim();
    let is = Digest::sha256_of(schema).hex();
    assert_eq!(is, said, "control.proto was changed: run `make proto`");
}

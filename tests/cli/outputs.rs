//! The objects of `--json`, field by field as `docs/cli.md` lists them, and the commands about a store.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{node_with_tree, run, store, strings, words};
use crate::support::{
    cli::{flag, number},
    node::Node,
};

/// The table of fields below the heading `heading` in docs/cli.md.
fn documented(heading: &str) -> BTreeSet<String> {
    let text = include_str!("../../docs/cli.md");
    let section = text
        .split_once(&format!("### JSON of `{heading}`\n"))
        .unwrap_or_else(|| panic!("docs/cli.md has no section for the JSON of `{heading}`"))
        .1;
    section
        .lines()
        .skip_while(|l| !l.starts_with('|'))
        .take_while(|l| l.starts_with('|'))
        .skip(2)
        .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(|field| field.trim().trim_matches('`').to_owned())
        .collect()
}

/// All fields, those of the first element of a list as `list[].field`.
fn fields(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (name, value) in value.as_object().unwrap() {
        all.insert(name.clone());
        if let Some(first @ Value::Object(_)) = value.as_array().and_then(|a| a.first()) {
            all.extend(fields(first).into_iter().map(|f| format!("{name}[].{f}")));
        }
    }
    all
}

/// Every field is documented, and every documented one is there; those of lists that are empty here cannot be seen.
pub(super) fn same_as_documented(heading: &str, value: &Value) {
    let (said, seen) = (documented(heading), fields(value));
    let unsaid: Vec<_> = seen.difference(&said).collect();
    assert!(unsaid.is_empty(), "{heading}: not documented: {unsaid:?}");
    let missing: Vec<_> = said
        .difference(&seen)
        .filter(|f| {
            !f.contains("[]")
                || seen
                    .iter()
                    .any(|s| s.rsplit_once("[].").map(|x| x.0) == f.rsplit_once("[].").map(|x| x.0))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "{heading}: not in the object: {missing:?}\n{value}"
    );
}

#[test]
fn objects_are_as_documented() {
    let node = node_with_tree();
    let at = format!("--store {}", store(&node));
    let json = |line: &str| words(&node, &format!("{line} {at}")).json();
    same_as_documented("export", &json("export dir tree --name t"));
    same_as_documented("import", &json("import dir copy --name t"));
    same_as_documented("import", &json("import dir copy --name nothing"));
    same_as_documented("ls", &json("ls"));
    same_as_documented("inspect", &json("inspect t --files"));
    same_as_documented("verify", &json("verify t --data"));
    same_as_documented("prune", &json("prune --dry-run"));
    same_as_documented("du", &json("du"));
    same_as_documented("env", &json("env"));
    let to = format!("disk:{}", node.path("second").display());
    same_as_documented(
        "copy",
        &words(&node, &format!("copy {} {to}", store(&node))).json(),
    );
    same_as_documented("rm", &json("rm t --dry-run"));
    let failed = run(&node, &format!("rm nothing --json --budget soon {at}"))
        .code(2)
        .json();
    assert_eq!(fields(&failed), BTreeSet::from(["error".to_owned()]));
    assert_eq!(
        fields(&failed["error"]),
        ["causes", "exit_code", "hints", "message"]
            .map(str::to_owned)
            .into()
    );
}

/// What every object has, so that a script need not know which command it ran.
const COMMON: [&str; 8] = [
    "hit",
    "digest",
    "entries",
    "bytes",
    "blobs_moved",
    "bytes_moved",
    "bytes_saved",
    "elapsed_ms",
];

#[test]
fn every_object_has_the_common_fields() {
    let node = node_with_tree();
    let at = format!("--store {}", store(&node));
    let exported = words(&node, &format!("export dir tree --name t {at}")).json();
    let to = format!("disk:{}", node.path("second").display());
    for (line, hit, known) in [
        (format!("import dir copy --name t {at}"), true, true),
        (format!("ls {at}"), true, true),
        (format!("ls --repository nowhere {at}"), false, false),
        (format!("inspect t {at}"), true, true),
        (format!("verify t --data {at}"), true, true),
        (format!("copy {} {to}", store(&node)), true, false),
        (format!("prune --dry-run {at}"), false, false),
        (format!("rm t --dry-run {at}"), true, false),
        (format!("rm t {at}"), true, false),
        (format!("prune --grace 0 {at}"), true, false),
    ] {
        let report = words(&node, &line).json();
        for field in COMMON {
            assert!(
                report.get(field).is_some(),
                "{line}: no `{field}`: {report}"
            );
        }
        assert_eq!(flag(&report, "hit"), hit, "{line}: {report}");
        if known {
            for field in ["digest", "entries", "bytes"] {
                assert_eq!(report[field], exported[field], "{line}: {report}");
            }
        }
        let moves = ["import", "copy"].iter().any(|w| line.starts_with(w));
        if !moves {
            assert_eq!(number(&report, "bytes_moved"), 0, "{line}: {report}");
        }
    }
}

#[test]
fn the_store_can_be_looked_at_checked_copied_and_emptied() {
    let node = node_with_tree();
    let at = format!("--store {}", store(&node));
    let exported = words(&node, &format!("export dir tree --name t {at}")).json();

    let list = words(&node, &format!("ls {at}")).json();
    assert_eq!(list["snapshots"][0]["name"], "t");
    assert_eq!(list["snapshots"][0]["digest"], exported["digest"]);
    let text = run(&node, &format!("ls {at}")).success().stdout;
    assert!(
        text.starts_with("KIND") && text.lines().count() == 2,
        "{text}"
    );

    let shown = words(&node, &format!("inspect t --files {at}")).json();
    let files: Vec<_> = shown["snapshots"][0]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["path"].as_str().unwrap())
        .collect();
    assert!(files.contains(&"a") && files.contains(&"b"), "{shown}");
    run(&node, &format!("inspect t {at}")).success();

    for depth in ["", "--digests", "--data"] {
        let report = words(&node, &format!("verify t {depth} {at}")).json();
        assert!(
            flag(&report, "ok") && number(&report, "snapshots") == 1,
            "{report}"
        );
    }
    assert!(
        run(&node, &format!("verify {at}"))
            .success()
            .stdout
            .contains("no faults")
    );

    let second = format!("disk:{}", node.path("second").display());
    let copied = words(&node, &format!("copy {} {second}", store(&node))).json();
    assert_eq!(strings(&copied["tags"]).len(), 1);
    let other = Node::new();
    let imported = words(&other, &format!("import dir x --name t --store {second}")).json();
    assert_eq!(imported["digest"], exported["digest"]);

    let said = run(&node, &format!("rm t --dry-run {at}")).success().stdout;
    assert_eq!(said, "would delete dir t (scope default)\n");
    assert_eq!(
        words(&node, &format!("ls {at}")).json()["snapshots"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    run(&node, &format!("rm t {at}")).success();
    assert!(
        words(&node, &format!("ls {at}")).json()["snapshots"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let pruned = words(&node, &format!("prune --grace 0 {at}")).json();
    assert!(
        number(&pruned, "marked") + number(&pruned, "blobs") > 0,
        "{pruned}"
    );
}

#[test]
fn a_damaged_pack_is_found_by_verify() {
    let node = node_with_tree();
    let at = format!("--store {}", store(&node));
    words(&node, &format!("export dir tree --name t {at}")).json();
    let shown = words(&node, &format!("inspect t {at}")).json();
    let pack = shown["snapshots"][0]["packs"][0]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    let path = node.path("store").join("blobs").join(pack);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "our own scratch file"
    )]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let outcome = run(&node, &format!("verify t --data --json {at}")).code(1);
    let report = outcome.json();
    assert!(
        !flag(&report, "ok") && !report["faults"].as_array().unwrap().is_empty(),
        "{report}"
    );
    let outcome = run(&node, &format!("import dir copy --name t {at}")).success();
    assert!(outcome.stderr.contains("miss"), "{outcome}");
    assert!(!node.path("home/copy").exists());
    run(&node, &format!("import dir copy --name t --strict {at}")).code(1);
}

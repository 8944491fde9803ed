//! Format 1 as it was first written: a store that is kept here is read by every later version.
//!
//! `fixtures/format-1` is an OCI layout with one folder in two packs (the second holds segments of a changed big file) and one
//! Go build cache, made by `cargo test --test main -- --ignored write_the_fixture_of_format_1`.

use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::cli::{Cachectl, cachectl, flag};
use crate::support::gocache::GoCache;
use crate::support::node::Node;
use crate::support::tree;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

fn stamp(path: &Path, secs: u64, nanos: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(secs, nanos);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Compresses well, and no part of it is like another.
fn text(lines: usize, changed: Option<usize>) -> String {
    let line = |n| match changed {
        Some(c) if c == n => "here the second export differs\n".to_owned(),
        _ => format!(
            "line {n} of a file that spans several segments, {}\n",
            n * n
        ),
    };
    (0..lines).map(line).collect()
}

/// The folder as the first export saw it, or the second.
fn make(root: &Path, second: bool) {
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("d/e")).unwrap();
    let odd = root.join(std::ffi::OsString::from_vec(b"odd-\xff".to_vec()));
    fs::write(&odd, "not UTF-8").unwrap();
    let big = root.join("d/big");
    fs::write(&big, text(16_000, second.then_some(8000))).unwrap();
    let tool = root.join("d/e/tool");
    fs::write(&tool, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let twin = root.join("d/twin");
    if !second {
        fs::hard_link(&tool, &twin).unwrap();
        symlink("../d/big", root.join("link")).unwrap();
        // The standard library sets no time of a link itself.
        let touched = std::process::Command::new("touch")
            .args(["-h", "-d", "@1700000050"])
            .arg(root.join("link"))
            .status();
        assert!(touched.unwrap().success());
    }
    let sparse = root.join("sparse");
    let holes = File::create(&sparse).unwrap();
    holes.set_len(10 << 20).unwrap();
    holes.write_all_at(b"in the middle", 5 << 20).unwrap();
    let none = root.join("none");
    fs::write(&none, "").unwrap();
    let files = [odd, big, tool, sparse, none];
    for (n, path) in files.iter().enumerate() {
        stamp(path, 1_700_000_000 + n as u64, 123_456_789);
    }
    for folder in ["empty", "d/e", "d"] {
        stamp(&root.join(folder), 1_700_000_100, 1);
    }
}

fn cache() -> GoCache {
    let mut cache = GoCache::default();
    for n in 0..4 {
        cache.compile(&format!("package {n}"), 500 + n * 300);
    }
    cache
}

/// The release of a `go` in the path, and this machine's folders, would be in the fixture, and decide who may read it.
fn without_go(command: Cachectl, node: &Node) -> Cachectl {
    command
        .env("PATH", "/nowhere")
        .env("GOCACHE", node.gocache())
        .env("GOMODCACHE", "/go/pkg/mod")
}

/// Copies the layout, since a store that is written to locks and sweeps its own.
fn copied(node: &Node) -> String {
    let done = std::process::Command::new("cp")
        .arg("-r")
        .args([fixture(), node.path("store")])
        .status();
    assert!(done.unwrap().success());
    format!("oci-layout:{}", node.path("store").display())
}

#[test]
fn a_store_of_format_1_is_read() {
    let node = Node::new();
    let store = copied(&node);
    let cachectl = || cachectl(&node).args(["--store", &store, "--json"]);
    let report = cachectl().args(["verify", "--data"]).json();
    assert!(flag(&report, "ok"), "{report}");

    let target = node.path("target");
    let report = cachectl()
        .args(["import", "dir", "--name", "kept"])
        .arg(&target)
        .json();
    assert!(flag(&report, "hit"), "{report}");
    let wanted = node.path("wanted");
    make(&wanted, false);
    make(&wanted, true);
    tree::assert_same(&tree::read(&target), &tree::read(&wanted), "format 1");
    let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    assert_eq!(inode("d/e/tool"), inode("d/twin"));
    let blocks = fs::metadata(target.join("sparse")).unwrap().blocks();
    assert!(blocks < 1000, "the holes are filled: {blocks} blocks");

    let import = cachectl().args(["import", "gobuild", "--name", "kept"]);
    let report = without_go(import, &node).json();
    assert!(flag(&report, "hit"), "{report}");
    assert!(GoCache::read(&node.gocache()) == cache());
}

/// What is written today is format 1 still: an export over it adds nothing.
#[test]
fn an_unchanged_export_over_format_1_moves_nothing() {
    let node = Node::new();
    let store = copied(&node);
    let tree = node.path("tree");
    make(&tree, false);
    make(&tree, true);
    let report = cachectl(&node)
        .args([
            "--store", &store, "--json", "export", "dir", "--name", "kept",
        ])
        .arg(&tree)
        .json();
    assert_eq!(report["blobs_moved"], 0, "{report}");
    assert!(flag(&report, "unchanged"), "{report}");
}

#[test]
#[ignore = "writes into the checkout: only for a new fixture"]
fn write_the_fixture_of_format_1() {
    let node = Node::new();
    let _ = fs::remove_dir_all(fixture());
    fs::create_dir_all(fixture().parent().unwrap()).unwrap();
    let store = format!("oci-layout:{}", fixture().display());
    let tree = node.path("tree");
    for second in [false, true] {
        make(&tree, second);
        let export = cachectl(&node)
            .args(["--store", &store, "export", "dir", "--name", "kept"])
            .arg(&tree)
            .env("SOURCE_DATE_EPOCH", "1700000200");
        export.run().success();
    }
    cache().write(&node.gocache());
    let export = cachectl(&node)
        .args(["--store", &store, "export", "gobuild", "--name", "kept"])
        .env("SOURCE_DATE_EPOCH", "1700000200");
    without_go(export, &node).run().success();
    fs::remove_dir_all(fixture().join(".cachectl")).unwrap();
    fs::remove_file(fixture().join("index.json.lock")).unwrap();
}

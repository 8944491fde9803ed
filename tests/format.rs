//! Format 2 as it was first written: a store that is kept here is read by every later version.
//!
//! `fixtures/format-2` is an OCI layout with one folder in two packs (the second holds segments of a changed big file), a private
//! folder, and a Go build cache, made by `cargo test --test main -- --ignored write_the_fixture_of_format_2`.
//! `fixtures/format-1` has the first and the last in the format before it, which was never released.

use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::cachectld::Cachectld;
use crate::support::cli::{Cachectl, cachectl, flag};
use crate::support::gocache::GoCache;
use crate::support::node::Node;
use crate::support::servers::http;
use crate::support::tree;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
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
fn copied(node: &Node, name: &str) -> String {
    let done = std::process::Command::new("cp")
        .arg("-r")
        .args([fixture(name), node.path("store")])
        .status();
    assert!(done.unwrap().success());
    format!("oci-layout:{}", node.path("store").display())
}

#[test]
fn a_store_of_format_2_is_read() {
    let node = Node::new();
    let store = copied(&node, "format-2");
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
    tree::assert_same(&tree::read(&target), &tree::read(&wanted), "format 2");
    let inode = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    assert_eq!(inode("d/e/tool"), inode("d/twin"));
    let blocks = fs::metadata(target.join("sparse")).unwrap().blocks();
    assert!(blocks < 1000, "the holes are filled: {blocks} blocks");

    let import = cachectl().args(["import", "gobuild", "--name", "kept"]);
    let report = without_go(import, &node).json();
    assert!(flag(&report, "hit"), "{report}");
    assert!(GoCache::read(&node.gocache()) == cache());
}

/// A snapshot of the earlier format is a miss that says so; the next export stores everything again.
#[test]
fn a_store_of_format_1_is_a_miss_and_the_next_export_heals_it() {
    let node = Node::new();
    let store = copied(&node, "format-1");
    let cachectl = || cachectl(&node).args(["--store", &store, "--json"]);
    let tree = node.path("tree");
    make(&tree, false);
    make(&tree, true);
    cache().write(&node.gocache());
    let target = node.path("target");
    let (name, into) = (["--name", "kept"], target.to_str().unwrap());
    let gobuild = |verb| without_go(cachectl().args([verb, "gobuild"]).args(name), &node);
    let dir = |verb, path| cachectl().args([verb, "dir", path]).args(name);
    for import in [dir("import", into), gobuild("import")] {
        let outcome = import.run().success();
        assert!(!flag(&outcome.json(), "hit"), "{}", outcome.stdout);
        let why = "version 1 of the format, which an earlier cachectl wrote";
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    }
    assert!(!target.exists());
    for (export, entries) in [
        (dir("export", tree.to_str().unwrap()), 10),
        (gobuild("export"), 8),
    ] {
        let report = export.json();
        assert_eq!(report["entries"], entries, "{report}");
        assert_eq!(report["blobs_moved"], 1, "{report}");
    }
    let report = dir("import", into).json();
    assert!(flag(&report, "hit"), "{report}");
    tree::assert_same(&tree::read(&target), &tree::read(&tree), "healed");
    fs::remove_dir_all(node.gocache()).unwrap();
    let report = gobuild("import").json();
    assert!(flag(&report, "hit"), "{report}");
    assert!(GoCache::read(&node.gocache()) == cache());
    let report = cachectl().args(["verify", "--data"]).json();
    assert!(flag(&report, "ok"), "{report}");
}

/// `fixtures/disk-0.1` is a `disk:` store that a command line and a daemon of commit ae42ca7 wrote: a folder in format 1; and in `team/app` an
/// image, its signature, and two pushes of a BuildKit cache. A new signature is recorded in today's form beside the older one.
#[test]
fn a_disk_store_that_an_earlier_daemon_wrote_is_read_and_goes_on() {
    let node = Node::new();
    copied(&node, "disk-0.1");
    let store = format!("disk:{}", node.path("store").display());
    let daemon = Cachectld::over(&store).start();
    let ask = |method: &str, path: &str, body: &[u8]| {
        http(method, daemon.port, &format!("/v2/team/app/{path}"), body).unwrap()
    };
    let (status, cache) = ask("GET", "manifests/cache", b"");
    assert_eq!(status, 200, "{cache}");
    let cache: Value = serde_json::from_str(&cache).unwrap();
    let layers = cache["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2, "{cache}");
    for layer in layers {
        let blob = layer["digest"].as_str().unwrap();
        let (status, text) = ask("GET", &format!("blobs/{blob}"), b"");
        assert!(status == 200 && text.starts_with("layer "), "{blob}");
    }
    let (_, image) = ask("GET", "manifests/image", b"");
    let digest = |text: &str| format!("sha256:{}", const_hex::encode(Sha256::digest(text)));
    let subject = digest(&image);
    let signatures = || {
        let (status, list) = ask("GET", &format!("referrers/{subject}"), b"");
        assert_eq!(status, 200, "{list}");
        let list: Value = serde_json::from_str(&list).unwrap();
        let mut found = Vec::new();
        for signature in list["manifests"].as_array().unwrap() {
            assert_eq!(signature["artifactType"], "application/example.signature");
            found.push(signature["digest"].as_str().unwrap().to_owned());
        }
        found
    };
    let older = signatures();
    assert_eq!(older.len(), 1);
    let (_, signature) = ask("GET", &format!("manifests/{}", older[0]), b"");
    let newer = format!("{signature}\n");
    let (status, said) = ask(
        "PUT",
        &format!("manifests/{}", digest(&newer)),
        newer.as_bytes(),
    );
    assert_eq!(status, 201, "{said}");
    let both = signatures();
    assert!(both.len() == 2 && both.contains(&older[0]) && both.contains(&digest(&newer)));
}

/// What is written today is format 2 still: an export over it adds nothing.
#[test]
fn an_unchanged_export_over_format_2_moves_nothing() {
    let node = Node::new();
    let store = copied(&node, "format-2");
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

/// The `root` of a config.
#[test]
fn the_folders_own_mode_and_time_in_a_store_of_format_2_are_read() {
    let node = Node::new();
    let store = copied(&node, "format-2");
    let import = |target: &Path| {
        let report = cachectl(&node)
            .args([
                "--store", &store, "--json", "import", "dir", "--name", "private",
            ])
            .arg(target)
            .json();
        assert!(flag(&report, "hit"), "{report}");
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let new = node.path("new");
    import(&new);
    assert_eq!(
        (mode(&new), fs::metadata(&new).unwrap().mtime()),
        (0o700, 1_700_000_300)
    );
    assert_eq!(fs::read_to_string(new.join("secret")).unwrap(), "kept");
    // A folder that is there keeps its own.
    let there = node.path("there");
    fs::create_dir(&there).unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
    import(&there);
    assert_eq!(mode(&there), 0o755);
    let report = cachectl(&node)
        .args([
            "--store", &store, "--json", "export", "dir", "--name", "private",
        ])
        .arg(&new)
        .json();
    assert!(flag(&report, "unchanged"), "{report}");
}

#[test]
#[ignore = "writes into the checkout: only for a new fixture"]
fn write_the_fixture_of_format_2() {
    let node = Node::new();
    let fixture = fixture("format-2");
    let _ = fs::remove_dir_all(&fixture);
    fs::create_dir_all(fixture.parent().unwrap()).unwrap();
    let store = format!("oci-layout:{}", fixture.display());
    let export = |what: &[&str]| {
        cachectl(&node)
            .args(["--store", &store, "export"])
            .args(what)
            .env("SOURCE_DATE_EPOCH", "1700000200")
    };
    let tree = node.path("tree");
    for second in [false, true] {
        make(&tree, second);
        let dir = export(&["dir", "--name", "kept"]).arg(&tree);
        dir.run().success();
    }
    let private = node.path("private");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("secret"), "kept").unwrap();
    stamp(&private.join("secret"), 1_700_000_000, 0);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    stamp(&private, 1_700_000_300, 0);
    let dir = export(&["dir", "--name", "private"]).arg(&private);
    dir.run().success();
    cache().write(&node.gocache());
    let gobuild = export(&["gobuild", "--name", "kept"]);
    without_go(gobuild, &node).run().success();
    for own in [".cachectl", "index.json.lock", ".cachectl-folder"] {
        let path = fixture.join(own);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
    }
}

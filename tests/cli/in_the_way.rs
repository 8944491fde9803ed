//! `import dir` where a folder stands in the place of a file or a link of the snapshot.

use std::{fs, os::unix::fs::symlink};

use super::{complaints, run, words};
use crate::support::{cli::Outcome, node::Node, tools};

fn write(node: &Node, path: &str) {
    let path = node.path("home").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "mine").unwrap();
}

/// A snapshot of a file `f`, a link `l` to `a`, and two names of one file, `x` and `y`.
fn node_with_snapshot() -> Node {
    let node = Node::new();
    for name in ["f", "x"] {
        write(&node, &format!("s/{name}"));
    }
    symlink("a", node.path("home/s/l")).unwrap();
    fs::hard_link(node.path("home/s/x"), node.path("home/s/y")).unwrap();
    run(&node, "export dir s --name s").success();
    node
}

fn import(node: &Node, flags: &str) -> Outcome {
    let line = format!("import dir g --name s --require-hit {flags}");
    run(node, &line).success()
}

/// One line says that this is not restored, and why; nothing else is said.
fn is_said(outcome: &Outcome, all: &[(&str, &str)]) {
    let lines = complaints(outcome);
    let [line] = lines[..] else {
        panic!("not one line: {outcome}");
    };
    assert!(line.contains("not restored: "), "{outcome}");
    for (what, why) in all {
        let at = line.find(&format!(" {what}: ")).unwrap_or(line.len());
        assert!(line[at..].contains(why), "{what}: {why}: {outcome}");
    }
}

fn is_link(node: &Node, path: &str) -> bool {
    let path = node.path("home").join(path);
    fs::symlink_metadata(path).unwrap().is_symlink()
}

#[test]
fn a_folder_in_the_way_stays_with_what_it_holds_unless_it_is_to_be_mirrored() {
    let node = node_with_snapshot();
    let there = |path: &str| node.path("home").join(path).exists();
    write(&node, "g/l/k");
    write(&node, "g/x/k");
    write(&node, "g/beside");
    fs::create_dir(node.path("home/g/f")).unwrap();
    for _ in 0..2 {
        let outcome = import(&node, "");
        is_said(
            &outcome,
            &[
                ("l", "is not empty"),
                ("l", "--mirror"),
                ("x", "is not empty"),
                ("y", "hard link to `x`"),
            ],
        );
        assert!(there("g/l/k") && there("g/x/k") && there("g/beside"));
        assert!(!there("g/y"));
        // An empty folder is nothing to lose.
        assert!(node.path("home/g/f").is_file());
    }
    let outputs = node.path("home/outputs");
    let json = words(&node, "import dir g --name s").env("GITHUB_OUTPUT", &outputs);
    let json = json.json();
    assert_eq!(json["left_out"].as_array().unwrap().len(), 3, "{json:#}");
    let said = (&json["hit"], &json["exact"], &json["partial"]);
    assert!(
        said.0 == true && said.1 == false && said.2 == true,
        "{json:#}"
    );
    // What is installed only on a miss is installed: this is not all of it.
    let outputs = fs::read_to_string(outputs).unwrap();
    assert!(outputs.starts_with("cache-hit=false\n"), "{outputs}");
    let refused = run(&node, "import dir g --name s --strict").code(1);
    is_said(&refused, &[("l", "is not empty")]);
    let outcome = import(&node, "--mirror --strict");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
    assert!(is_link(&node, "g/l") && !there("g/beside"));
    assert!(node.path("home/g/x").is_file() && node.path("home/g/y").is_file());
}

#[test]
fn a_folder_in_the_way_that_holds_what_is_excluded_stays_also_in_a_mirror() {
    for mirror in ["", "--mirror"] {
        let node = node_with_snapshot();
        write(&node, "g/l/sub/x.log");
        write(&node, "g/l/k");
        let outcome = import(&node, &format!("--exclude *.log {mirror}"));
        is_said(&outcome, &[("l", "holds `l/sub/x.log`, which is excluded")]);
        assert!(node.path("home/g/l/sub/x.log").exists());
        assert!(node.path("home/g/l/k").exists());
        assert!(node.path("home/g/f").exists());
        // A pattern for folders concerns the folder, not the link.
        let node = node_with_snapshot();
        fs::create_dir_all(node.path("home/g/l")).unwrap();
        let outcome = import(&node, &format!("--exclude l/ {mirror}"));
        is_said(&outcome, &[("l", "the folder in its place is excluded")]);
        assert!(node.path("home/g/l").is_dir());
    }
}

#[test]
fn a_folder_in_the_way_that_is_or_holds_cachectls_own_stays_also_in_a_mirror() {
    for mirror in ["", "--mirror"] {
        for (store, what) in [
            ("g/l/sub/st", "holds `l/sub/st`, which is cachectl's own"),
            ("g/l", "the folder in its place is cachectl's own"),
        ] {
            let node = node_with_snapshot();
            write(&node, "o/f");
            let other = format!("disk:{store}");
            run(&node, &format!("export dir o --name o --store {other}")).success();
            let outcome = import(&node, mirror);
            is_said(&outcome, &[("l", what)]);
            let listed = run(&node, &format!("ls --store {other}")).success();
            assert!(listed.stdout.contains(" o "), "{listed}");
            assert!(node.path("home/g/f").exists());
            assert!(node.path("home/g/y").exists());
        }
    }
}

#[test]
fn a_file_in_the_way_of_a_folder_is_replaced_as_a_file_with_other_content_is() {
    let node = Node::new();
    write(&node, "s/d/f");
    run(&node, "export dir s --name s").success();
    write(&node, "g/d");
    let outcome = import(&node, "");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
    assert!(node.path("home/g/d/f").exists());
}

#[test]
fn what_is_mounted_over_a_file_stays_and_the_rest_is_restored() {
    let node = Node::new();
    for path in [
        "s/f",
        "s/other",
        "s/d/in",
        "s/d/sub/in",
        "g/f",
        "g/d",
        "g/gone",
    ] {
        write(&node, path);
    }
    fs::write(node.path("home/s/other"), "new").unwrap();
    fs::write(node.path("home/g/other"), "old").unwrap();
    fs::write(node.path("home/secret"), "secret").unwrap();
    // As it is to be, but of another time: it is not ours to change.
    for path in ["s/same", "g/same", "same"] {
        fs::write(node.path("home").join(path), "same").unwrap();
    }
    run(&node, "export dir s --name s").success();
    let script = "for f in f d gone; do mount --bind secret g/$f || exit 77; done; \
        touch -d @1000000000 same; mount --bind same g/same || exit 77; \
        for more in '' --mirror; do \
        \"$0\" import dir g --name s --require-hit $more || exit 1; \
        grep -q secret g/f && grep -q secret g/d && grep -q secret g/gone && cat g/other; \
        test $(stat -c %Y same) = 1000000000 || exit 1; done";
    let mut command = node.command("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_cachectl")]);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.code() == Some(77) || said.contains("unshare") {
        return tools::cannot_show("what a file that is a mount point does: no right to mount");
    }
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{shown}{said}");
    assert_eq!(shown.matches("new").count(), 2, "{shown}{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    for line in said.lines() {
        let why = "the file in its place is a mount point";
        let all = format!("not restored: d: {why}; f: {why}");
        assert!(line.ends_with(&all), "{said}");
    }
}

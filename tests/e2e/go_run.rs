//! A program that `go run` linked crosses a store: the second node links nothing, and never runs a damaged one.
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::cli::{Cachectl, cachectl, flag, number};
use crate::support::e2e;
use crate::support::node::Node;
use crate::support::scratch::Scratch;

const SOURCE: &str = r#"package main

import "os"

func main() { os.Stdout.WriteString("hello\n") }
"#;

/// `go run` of one file, without a module; returns how often it called the linker.
fn run(node: &Node, project: &Path) -> usize {
    let mut go = node.go(project);
    let out = go.args(["run", "-x", "hello.go"]).output();
    let out = out.expect("go is on PATH");
    let trace = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}\n{trace}", out.status);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hello\n");
    let links = |line: &&str| line.contains("/link -o ");
    trace.lines().filter(links).count()
}

/// The only program in the node's cache.
fn program(node: &Node) -> PathBuf {
    let shards = fs::read_dir(node.gocache()).expect("a cache");
    let files = shards.filter_map(|shard| fs::read_dir(shard.ok()?.path()).ok());
    let mut programs = files
        .flatten()
        .map(|file| file.expect("a file of the cache").path().join("hello"))
        .filter(|program| program.is_file());
    let program = programs.next().expect("one program");
    assert_eq!(programs.next(), None);
    program
}

/// Other bytes of the same length: all that Go compares.
fn damage(program: &Path) {
    let length = fs::metadata(program).expect("a program").len();
    let length = usize::try_from(length).expect("a small program");
    fs::write(program, vec![0x5a; length]).expect("our own file");
}

#[test]
fn a_program_of_go_run_is_linked_once_and_a_damaged_one_is_never_run() {
    if !e2e() {
        return;
    }
    let project = Scratch::new("go-run");
    fs::write(project.path().join("hello.go"), SOURCE).expect("a new file");
    let (first, second, third) = (Node::new(), Node::new(), Node::new());
    let with = |node: &Node, verb: &str, store: &str| -> Cachectl {
        let store = format!("disk:{}", first.path(store).display());
        cachectl(node)
            .inside(project.path())
            .args([verb, "gobuild", "--name", "run"])
            .args(["--store", &store])
    };
    assert_eq!(run(&first, project.path()), 1);
    assert_eq!(run(&first, project.path()), 0);
    with(&first, "export", "store").run().success();

    let imported = with(&second, "import", "store").json();
    assert!(flag(&imported, "hit"), "{imported}");
    assert_eq!(run(&second, project.path()), 0);
    let linked = fs::read(program(&first)).expect("a program");
    assert_eq!(fs::read(program(&second)).expect("a program"), linked);

    damage(&program(&second));
    let healed = with(&second, "import", "store").json();
    let restored = number(&healed["snapshots"][0], "entries_restored");
    assert_eq!(restored, 1, "{healed}");
    assert_eq!(run(&second, project.path()), 0);

    damage(&program(&first));
    let export = with(&first, "export", "other").json();
    assert_eq!(
        number(&export, "entries") + 2,
        number(&imported, "entries"),
        "all but the program and its action: {export}"
    );
    with(&third, "import", "other").run().success();
    assert_eq!(run(&third, project.path()), 1);
}

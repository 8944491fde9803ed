//! After an edit only what the edit changed travels; after none, nothing does.
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::cli::{cachectl, number};
use crate::support::goproject::GoProject;
use crate::support::node::Node;
use crate::support::stores::{Backend, TestStore};
use crate::support::{e2e, tools::output_of, tools::say};

/// Bytes and time of `tar | zstd -3 -T0` over both caches: what a pipeline without us would upload each time.
fn whole_as_tar(node: &Node) -> (u64, Duration) {
    let began = Instant::now();
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        r#"tar -cf - "$0" "$1" 2>/dev/null | zstd -q -3 -T0 -c | wc -c"#,
    ]);
    let size = output_of(shell.arg(node.gocache()).arg(node.gomodcache()));
    (
        size.trim().parse().expect("wc prints a number"),
        began.elapsed(),
    )
}

#[test]
fn an_edit_moves_only_what_it_changed_and_no_edit_moves_nothing() {
    if !e2e() {
        return;
    }
    let node = Node::new();
    let project = GoProject::oras_source(&node);
    project.download(&node);
    let cold = project.build(&node);
    assert_eq!(cold.compiled, project.packages(&node));

    let store = TestStore::new(Backend::Disk);
    let export = |node: &Node| {
        cachectl(node)
            .inside(project.path())
            .args(["export", "go", "--strict"])
            .store(&store)
            .json()
    };
    let first = export(&node);
    let (whole, whole_time) = whole_as_tar(&node);
    say(&format!(
        "tar | zstd: {whole} bytes in {whole_time:.2?}; first export: {first}"
    ));

    let unchanged: Vec<_> = (0..5).map(|_| export(&node)).collect();
    for report in &unchanged {
        assert_eq!(number(report, "blobs_moved"), 0, "{report}");
        assert_eq!(number(report, "bytes_moved"), 0, "{report}");
        assert_eq!(report["digest"], first["digest"]);
    }
    let best = unchanged
        .iter()
        .map(|report| number(report, "elapsed_ms"))
        .min()
        .expect("five of them");
    let entries = number(&first, "entries");
    say(&format!("unchanged: {best} ms for {entries} entries"));
    // Unoptimised code has no speed to speak of.
    if !cfg!(debug_assertions) {
        let allowed = 100 * entries.max(10_000) / 10_000;
        assert!(
            best <= allowed,
            "{best} ms for {entries} entries, {allowed} allowed"
        );
    }

    for (number_of_edit, what, file) in [
        (1, "main", "cmd/oras/main.go"),
        (2, "a leaf package", "internal/repository/repository.go"),
        (3, "a base package", "internal/docker/mediatype.go"),
    ] {
        project.edit(file, number_of_edit);
        let built = project.build(&node);
        assert!(built.compiled > 0, "the edit of {file} changed nothing");
        let report = export(&node);
        let moved = number(&report, "bytes_moved");
        say(&format!(
            "edit of {what}: {} packages compiled, {moved} bytes = {:.2} % of tar | zstd, {} ms = {:.1} %",
            built.compiled,
            100.0 * moved as f64 / whole as f64,
            number(&report, "elapsed_ms"),
            number(&report, "elapsed_ms") as f64 / 10.0 / whole_time.as_secs_f64(),
        ));
        assert!(moved > 0, "new objects have to travel: {report}");
        if what == "main" {
            assert!(
                moved * 100 <= whole,
                "{moved} bytes are more than 1 % of {whole}"
            );
        }
    }

    // The increments together are still the whole: a new node has it all.
    let other = Node::new();
    cachectl(&other)
        .inside(project.path())
        .args(["import", "go", "--require-hit"])
        .store(&store)
        .run()
        .success();
    assert_eq!(
        project.build_with(&other, &[("GOPROXY", "off")]).compiled,
        0
    );
    project.verify_modules_offline(&other);
}

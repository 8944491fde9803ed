//! Export and import as a user sees them.

use std::fs;

use super::{complaints, node_with_tree, run, store, words};
use crate::support::{
    cli::{flag, number},
    node::Node,
};

#[test]
fn a_folder_goes_and_comes_back() {
    let node = node_with_tree();
    let store = store(&node);
    let exported = words(&node, &format!("export dir tree --name t --store {store}")).json();
    assert!(
        !flag(&exported, "hit") && !flag(&exported, "unchanged"),
        "{exported}"
    );
    assert!(number(&exported, "blobs_moved") > 0, "{exported}");
    assert_eq!(exported["snapshots"][0]["kind"], "dir");

    let again = words(&node, &format!("export dir tree --name t --store {store}")).json();
    assert!(flag(&again, "hit") && flag(&again, "unchanged"), "{again}");
    assert_eq!(
        (number(&again, "blobs_moved"), &again["digest"]),
        (0, &exported["digest"])
    );

    let other = Node::new();
    let imported = words(&other, &format!("import dir copy --name t --store {store}")).json();
    assert!(
        flag(&imported, "hit") && flag(&imported, "exact"),
        "{imported}"
    );
    assert_eq!(imported["digest"], exported["digest"]);
    assert_eq!(imported["entries"], exported["entries"]);
    assert_eq!(
        fs::read_to_string(other.path("home/copy/b")).unwrap(),
        "second"
    );
}

#[test]
fn looking_at_go_does_not_change_its_cache() {
    let node = Node::new();
    let project = node.path("home/app");
    fs::create_dir(&project).unwrap();
    fs::write(
        project.join("go.mod"),
        "module example.invalid/app\n\ngo 1.24\n",
    )
    .unwrap();
    fs::write(project.join("main.go"), "package main\n\nfunc main() {}\n").unwrap();
    let built = node
        .go(&project)
        .args(["build", "-o", "/dev/null", "."])
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let store = store(&node);
    let export = || {
        let command = words(&node, &format!("export go --strict --store {store}"));
        command.inside(&project).json()
    };
    let first = export();
    assert_eq!(first["snapshots"][0]["name"], "example.invalid/app");
    // This project has no modules to cache: no trouble, and no snapshot.
    assert_eq!(first["snapshots"][1]["digest"], serde_json::Value::Null);
    let again = export();
    assert!(
        flag(&again, "unchanged") && number(&again, "blobs_moved") == 0,
        "{again}"
    );
    let import = words(&node, &format!("import go --require-hit --store {store}"));
    let imported = import.inside(&project).json();
    assert!(
        flag(&imported, "hit") && flag(&imported, "exact"),
        "{imported}"
    );
    // Whether `go build` was told to trim paths nobody knows.
    let shown = run(
        &node,
        &format!("inspect example.invalid/app --store {store}"),
    );
    let shown = shown.success().stdout;
    assert!(shown.contains("trimpath     not in GOFLAGS ("), "{shown}");
}

/// Go 1.24 and later keep linked programs in the build cache, which nothing can mend: a warning at each export would be noise.
#[test]
fn programs_of_go_tool_and_go_run_are_left_out_without_a_word() {
    let node = Node::new();
    let project = node.path("home/app");
    fs::create_dir_all(project.join("gen")).unwrap();
    fs::write(
        project.join("go.mod"),
        "module example.invalid/app\n\ngo 1.24\n\ntool example.invalid/app/gen\n",
    )
    .unwrap();
    for (path, word) in [("main.go", "ran"), ("gen/main.go", "generated")] {
        let text = format!("package main\n\nfunc main() {{ println({word:?}) }}\n");
        fs::write(project.join(path), text).unwrap();
    }
    for words in [&["tool", "gen"][..], &["run", "."]] {
        let done = node.go(&project).args(words).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let shards = fs::read_dir(node.gocache()).unwrap().flatten();
    let entries = shards.filter_map(|shard| fs::read_dir(shard.path()).ok());
    let mut entries = entries.flatten().flatten();
    let program =
        entries.find(|e| e.path().is_dir() && e.file_name().to_string_lossy().ends_with("-d"));
    assert!(program.is_some(), "else this shows nothing");
    let export = format!("export go --strict --store {}", store(&node));
    for _ in 0..2 {
        let outcome = words(&node, &format!("{export} --json"))
            .inside(&project)
            .run();
        let outcome = outcome.success();
        assert_eq!(outcome.stderr, "", "{outcome}");
        let report = outcome.json();
        assert_eq!(report["left_out"], serde_json::json!([]), "{report}");
        assert_eq!(report["warnings"], serde_json::json!([]), "{report}");
    }
}

#[test]
fn people_get_a_summary_and_quiet_gets_nothing() {
    let node = node_with_tree();
    let store = store(&node);
    let outcome = run(&node, &format!("export dir tree --name t --store {store}")).success();
    let is_one_line =
        |text: &str, start: &str| text.starts_with(start) && text.lines().count() == 1;
    assert!(
        is_one_line(&outcome.stdout, "export dir t: 2 new: 2 entries, "),
        "{outcome}"
    );
    assert_eq!(outcome.stderr, "", "{outcome}");
    let outcome = run(&node, &format!("import dir copy --name t --store {store}")).success();
    assert!(
        is_one_line(&outcome.stdout, "import dir t: hit: 2 entries, "),
        "{outcome}"
    );
    assert_eq!(outcome.stderr, "", "{outcome}");
    let outcome = run(&node, &format!("import dir c -v --name t --store {store}")).success();
    assert!(outcome.stdout.contains(" fetched (1 blob), "), "{outcome}");
    assert!(
        outcome.stderr.contains("cachectl: dir t: resolve in "),
        "{outcome}"
    );
    let outcome = run(
        &node,
        &format!("import dir copy2 --name t -q --store {store}"),
    )
    .success();
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("", ""),
        "{outcome}"
    );
}

#[test]
fn several_folders_are_stored_one_by_one() {
    let node = node_with_tree();
    let store = store(&node);
    fs::create_dir(node.path("home/gen")).unwrap();
    fs::write(node.path("home/gen/x"), "x").unwrap();
    let both = words(
        &node,
        &format!("export dir tree gen --name app --store {store}"),
    )
    .json();
    let names: Vec<_> = both["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["name"])
        .collect();
    assert_eq!(names, ["app/tree", "app/gen"]);
    words(
        &node,
        &format!("import dir one --name app/gen --require-hit --store {store}"),
    )
    .json();
    assert!(node.path("home/one/x").exists());
    let other = Node::new();
    let both = words(
        &other,
        &format!("import dir tree gen --name app --store {store}"),
    )
    .json();
    assert!(flag(&both, "hit"), "{both}");
    assert!(other.path("home/gen/x").exists() && other.path("home/tree/a").exists());
}

#[test]
fn a_folder_that_is_not_there_does_not_empty_the_name() {
    let node = node_with_tree();
    let store = store(&node);
    words(&node, &format!("export dir tree --name t --store {store}")).json();
    let line = format!("export dir nowhere --name t --store {store}");
    let outcome = run(&node, &line).success();
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(outcome.stderr.contains("not exported"), "{outcome}");
    run(&node, &format!("{line} --strict")).code(1);
    let import = words(&node, &format!("import dir copy --name t --store {store}")).json();
    assert!(
        flag(&import, "hit") && number(&import, "entries") > 0,
        "{import}"
    );
}

#[test]
fn read_only_exports_nothing_and_makes_no_store() {
    let node = node_with_tree();
    let line = format!("export dir tree --name t --strict --store {}", store(&node));
    let report = words(&node, &line).env("CACHECTL_READ_ONLY", "true").json();
    assert_eq!(
        report["snapshots"][0]["miss"], "--read-only is set",
        "{report}"
    );
    assert!(!node.path("store").exists());
}

#[test]
fn outputs_reach_github() {
    let node = node_with_tree();
    let store = store(&node);
    let outputs = |line: &str| {
        let file = node.path("home/out");
        let _ = fs::remove_file(&file);
        words(&node, &format!("{line} --store {store}"))
            .env("GITHUB_OUTPUT", &file)
            .run()
            .success();
        fs::read_to_string(file).unwrap()
    };
    assert_eq!(
        outputs("import dir copy --name t --key k"),
        "cache-hit=false\ncache-matched-key=\ndigest=\n"
    );
    let exported = outputs("export dir tree --name t --key k");
    assert!(
        exported.starts_with("digest=sha256:") && exported.lines().count() == 1,
        "{exported}"
    );
    assert_eq!(
        outputs("import dir copy --name t --key k"),
        format!("cache-hit=true\ncache-matched-key=k\n{exported}")
    );
    // Found by a prefix only: what depends on the key still has to run.
    let prefix = outputs("import dir other --name t --key k2 --restore-key k");
    assert_eq!(
        prefix,
        format!("cache-hit=false\ncache-matched-key=k\n{exported}")
    );
    let line = format!("import dir third --name t --key k2 --restore-key k --store {store}");
    let said = run(&node, &line).success().stdout;
    assert!(
        said.starts_with("import dir t: restored from key k: 2 entries"),
        "{said}"
    );
}

#[test]
fn outputs_that_cannot_be_written_fail_no_build() {
    let node = node_with_tree();
    let outcome = words(
        &node,
        &format!("export dir tree --name t --store {}", store(&node)),
    )
    .env("GITHUB_OUTPUT", "/nonexistent/out")
    .run()
    .success();
    assert!(outcome.stderr.contains("$GITHUB_OUTPUT"), "{outcome}");
}

#[test]
fn the_moment_can_be_set() {
    let (node, other) = (node_with_tree(), node_with_tree());
    // All but the time of publication, which is the store's.
    let made = |node: &Node| {
        let line = format!("export dir tree --name t --flatten --store {}", store(node));
        words(node, &line)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .run()
            .success();
        let shown = words(node, &format!("inspect t --store {}", store(node))).json();
        let snapshot = &shown["snapshots"][0];
        let packs = snapshot["packs"].as_array().unwrap();
        assert_eq!(packs.len(), 1, "{shown}");
        (snapshot["created"].clone(), packs.clone())
    };
    for n in [&node, &other] {
        for file in ["a", "b", "."] {
            let path = n.path("home/tree").join(file);
            fs::File::open(path)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(5))
                .unwrap();
        }
    }
    assert_eq!(made(&node), made(&other));
    assert_eq!(made(&node).0, "2023-11-14T22:13:20Z");
}

#[test]
fn outputs_never_wait_for_a_reader() {
    let node = node_with_tree();
    let pipe = node.path("home/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let line = format!("export dir tree --name t --store {}", store(&node));
    let mut running = words(&node, &line).env("GITHUB_OUTPUT", &pipe).start();
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(2);
    while !running.has_ended() {
        if std::time::Instant::now() > deadline {
            running.kill();
            panic!("it waits for a reader of $GITHUB_OUTPUT");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let outcome = running.wait().success();
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(outcome.stderr.contains("$GITHUB_OUTPUT"), "{outcome}");
    // With one, it gets them.
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
    };
    let held = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let outcome = words(&node, &line)
        .env("GITHUB_OUTPUT", &pipe)
        .run()
        .success();
    drop(held);
    assert_eq!(outcome.stderr, "", "{outcome}");
    assert!(reader.join().unwrap().starts_with("digest=sha256:"));
}

#[test]
fn what_is_left_out_is_a_warning() {
    let node = node_with_tree();
    for name in ["p", "q"] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            node.path("home/tree").join(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
    }
    let line = format!(
        "export dir tree --name t -q --json --store {}",
        store(&node)
    );
    let outcome = run(&node, &line).success();
    let lines = complaints(&outcome);
    assert_eq!(lines.len(), 1, "{outcome}");
    assert!(
        lines[0].starts_with("cachectl: warning: dir t: 2 items left out: p: "),
        "{outcome}"
    );
    let warnings = super::strings(&outcome.json()["warnings"])
        .into_iter()
        .map(|w| format!("cachectl: warning: {w}"))
        .collect::<Vec<_>>();
    assert_eq!(warnings, lines, "{outcome}");
}

#[test]
fn a_merging_export_counts_what_the_digest_stands_for() {
    let node = node_with_tree();
    let store = store(&node);
    words(&node, &format!("export dir tree --name t --store {store}")).json();
    fs::create_dir(node.path("home/more")).unwrap();
    fs::write(node.path("home/more/c"), "third!").unwrap();
    let line = format!("export dir more --name t --merge --store {store}");
    for _ in 0..2 {
        let merged = words(&node, &line).json();
        let list = words(&node, &format!("ls --store {store}")).json();
        let listed = &list["snapshots"][0];
        assert_eq!(merged["digest"], listed["digest"], "{merged}");
        assert_eq!(merged["entries"], listed["entries"], "{merged}");
        assert_eq!(merged["bytes"], listed["bytes"], "{merged}");
        assert_eq!(number(&merged, "bytes"), 17, "{merged}");
    }
}

#[test]
fn a_folder_above_the_limit_is_trouble_and_not_published() {
    let node = node_with_tree();
    let at = store(&node);
    let noise: Vec<u8> = (0..60_000_u32)
        .flat_map(|n| {
            n.wrapping_mul(0x9e37_79b9)
                .rotate_left(n % 31)
                .to_le_bytes()
        })
        .collect();
    fs::write(node.path("home/tree/big"), noise).unwrap();
    let line = format!("export dir tree --name t --max-size 20kB --store {at}");
    let outcome = run(&node, &line).success();
    let lines = complaints(&outcome);
    assert_eq!(lines.len(), 1, "{outcome}");
    assert!(lines[0].contains("--max-size"), "{outcome}");
    run(&node, &format!("{line} --strict")).code(1);
    let list = words(&node, &format!("ls --store {at}")).json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 0, "{list}");
    run(
        &node,
        &format!("export dir tree --name t --max-size 2MB --strict --store {at}"),
    )
    .success();
}

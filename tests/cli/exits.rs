//! Exit codes, and what is said with them.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{complaints, node_with_tree, run, store, words};
use crate::support::node::Node;

/// A store that cannot be: below a file.
const BROKEN: &str = "--store disk:/proc/version/store";

#[test]
fn trouble_with_the_store_is_one_line_and_exit_0() {
    let node = node_with_tree();
    for (verb, trouble) in [("import", "miss"), ("export", "not exported")] {
        let outcome = run(&node, &format!("{verb} dir tree --name t {BROKEN}")).success();
        assert_eq!(outcome.stdout, "", "{outcome}");
        let lines = complaints(&outcome);
        assert_eq!(lines.len(), 1, "{outcome}");
        // The store is named as it was typed.
        let says = format!("cachectl: warning: {trouble}: cannot open disk:/proc/version/store: ");
        assert!(lines[0].starts_with(&says), "{outcome}");
        // An export does not continue.
        let continues = lines[0].ends_with("; continuing without the cache");
        assert_eq!(continues, verb == "import", "{outcome}");
    }
}

#[test]
fn strict_makes_trouble_an_error() {
    let node = node_with_tree();
    for verb in ["import", "export"] {
        let outcome = run(
            &node,
            &format!("{verb} dir tree --name t --strict {BROKEN}"),
        )
        .code(1);
        assert!(outcome.stderr.starts_with("error: "), "{outcome}");
    }
    // The flag wins over the variable.
    words(
        &node,
        &format!("import dir tree --name t --strict=false {BROKEN}"),
    )
    .env("CACHECTL_STRICT", "1")
    .run()
    .success();
}

#[test]
fn require_hit_makes_a_miss_exit_3() {
    let node = node_with_tree();
    let good = store(&node);
    let line = format!("import dir tree --name t --store {good}");
    let outcome = run(&node, &line).success();
    assert!(outcome.stderr.starts_with("cachectl: miss: "), "{outcome}");
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    let outcome = run(&node, &format!("{line} --require-hit")).code(3);
    assert!(outcome.stderr.starts_with("error: miss: "), "{outcome}");
    run(
        &node,
        &format!("import dir tree --name t --require-hit {BROKEN}"),
    )
    .code(3);
    run(
        &node,
        &format!("import dir tree --name t --require-hit --strict {BROKEN}"),
    )
    .code(1);
}

#[test]
fn usage_errors_are_2_whatever_the_mode() {
    let node = node_with_tree();
    for (line, says) in [
        ("export dir tree", "needs a name"),
        ("export dir --name t", "which folder"),
        ("export go tree", "only `dir` takes paths"),
        ("export go --merge", "--merge applies only to folders"),
        (
            "export dir tree --name t --merge --replace",
            "give only one of them",
        ),
        ("export gobuild --name n --exclude x", "apply only to `dir`"),
        (
            "export dir tree ../home/tree --name t",
            "two folders would be stored as `t/tree`",
        ),
        ("import go --digest sha256:00", "one snapshot"),
        ("import dir tree --name t --digest nonsense", "--digest"),
        ("import dir tree --name t --store ftp://x/y", "ftp"),
        ("import dir tree --name t --store /tmp/x", "disk:/tmp/x"),
        (
            "import dir tree --name t --budget soon",
            "`budget` cannot be `soon` (--budget)",
        ),
        ("copy disk:/a disk:/a", "same store"),
        ("rm t --read-only", "--read-only"),
        ("man nonsense", "unknown command `nonsense`"),
        ("export", "SOURCE"),
        ("exprot go", "export"),
        ("export dri", "dir"),
    ] {
        let outcome = run(&node, line).code(2);
        assert!(outcome.stderr.contains(says), "{line}: {outcome}");
        assert!(outcome.stderr.starts_with("error: "), "{line}: {outcome}");
    }
}

#[test]
fn help_and_version_are_0() {
    let node = Node::new();
    for line in ["--help", "-h", "export --help", "--version", "help prune"] {
        let outcome = run(&node, line).success();
        assert!(
            !outcome.stdout.is_empty() && outcome.stderr.is_empty(),
            "{outcome}"
        );
    }
    let help = run(&node, "export --help").stdout;
    assert!(help.contains("cachectl export dir"), "{help}");
}

#[test]
fn commands_that_are_no_step_of_a_build_fail_with_1() {
    let node = node_with_tree();
    for line in ["ls", "inspect t", "verify", "rm t", "prune", "du"] {
        let outcome = run(&node, &format!("{line} {BROKEN}")).code(1);
        assert!(outcome.stderr.starts_with("error: "), "{line}: {outcome}");
    }
    let good = store(&node);
    for line in ["ls", "verify", "prune", "inspect t", "rm t"] {
        let outcome = run(&node, &format!("{line} --store {good}")).code(1);
        assert!(
            outcome.stderr.contains("there is no store at"),
            "{line}: {outcome}"
        );
        assert!(!node.path("store").exists(), "{line} made it");
    }
    run(
        &node,
        &format!("export dir tree --name other --store {good}"),
    )
    .success();
    let elsewhere = node.path("elsewhere");
    let copy = format!("copy {good} disk:{} --name t", elsewhere.display());
    for line in ["inspect t", "verify t", "rm t", &copy] {
        let outcome = run(&node, &format!("{line} --store {good}")).code(1);
        assert!(outcome.stderr.contains("is named `t`"), "{line}: {outcome}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let node = Node::new();
    for line in ["completions bash", "env", "env --json", "man", "--help"] {
        let mut child = node
            .command("sh")
            .args([
                "-c",
                "exec \"$0\" $1 2>err",
                env!("CARGO_BIN_EXE_cachectl"),
                line,
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{line}");
        assert_eq!(
            std::fs::read_to_string(node.path("home/err")).unwrap(),
            "",
            "{line}"
        );
    }
}

#[test]
fn a_full_disk_under_standard_output_is_an_error_but_not_of_a_build() {
    let node = node_with_tree();
    for (line, code) in [
        ("env", 1),
        ("export dir tree --name t", 0),
        ("import dir tree --name t", 0),
        ("import dir tree --name t --strict", 1),
    ] {
        let status = node
            .command(env!("CARGO_BIN_EXE_cachectl"))
            .args(line.split(' '))
            .stdout(
                std::fs::OpenOptions::new()
                    .write(true)
                    .open("/dev/full")
                    .unwrap(),
            )
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{line}");
    }
}

/// A server that takes connections and never says a word.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("oci://{}/x", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn a_signal_ends_a_run_at_once() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let node = Node::new();
        let (listener, url) = silent_server();
        // Without the signal it would end after minutes, and otherwise.
        let line = format!("import dir x --name t --store {url} --stall 1h --budget 5m");
        let running = words(&node, &line).start();
        // It waits for an answer now.
        let _held = listener.accept().unwrap();
        let pid = Pid::from_raw(running.process_id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        let outcome = running.wait().code(code);
        assert!(outcome.stderr.contains("interrupted"), "{outcome}");
    }
}

#[test]
fn a_spent_budget_is_trouble_like_other() {
    let node = Node::new();
    let (listener, url) = silent_server();
    // Nothing else ends it.
    let line = format!("import dir x --name t --budget 1s --stall 1h --store {url}");
    let outcome = run(&node, &line).success();
    assert!(outcome.stderr.contains("time budget"), "{outcome}");
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    run(&node, &format!("{line} --strict")).code(1);
    drop(listener);
}

#[test]
fn a_spent_budget_says_what_the_store_answered() {
    let node = node_with_tree();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    // Nobody listens there any more.
    drop(listener);
    for line in [
        "import dir tree --name t",
        "export dir tree --name t",
        "env --check",
        "ls",
    ] {
        let line = format!("{line} --budget 2s --store oci://{at}/c");
        let outcome = run(&node, &line);
        let said = &outcome.stderr;
        assert!(said.contains("Connection refused"), "{line}: {outcome}");
        assert!(!said.contains("--max-size"), "{line}: {outcome}");
        assert!(!said.contains("--retry-for"), "{line}: {outcome}");
    }
}

#[test]
fn standard_error_that_is_closed_does_no_harm() {
    let node = node_with_tree();
    let status: std::process::ExitStatus = Command::new("sh")
        .args([
            "-c",
            "exec \"$0\" import dir x --name t $1 2>&-",
            env!("CARGO_BIN_EXE_cachectl"),
            BROKEN,
        ])
        .current_dir(node.path("home"))
        .env("HOME", node.path("home"))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

/// A store on the node, with the folder `tree` as `t`, and the digests of its manifest and its pack as paths below `blobs`.
fn with_an_export(node: &Node) -> (String, String, String) {
    let at = store(node);
    let exported = words(node, &format!("export dir tree --name t --store {at}")).json();
    let shown = words(node, &format!("inspect t --store {at}")).json();
    let path = |digest: &serde_json::Value| digest.as_str().unwrap().replace(':', "/");
    let pack = path(&shown["snapshots"][0]["packs"][0]["digest"]);
    (at, path(&exported["digest"]), pack)
}

#[test]
fn a_miss_because_something_is_lost_or_damaged_is_trouble() {
    type Harm = fn(&std::path::Path, &str, &str);
    let harms: [(&str, Harm); 6] = [
        ("the pack is gone", |s, _, pack| {
            std::fs::remove_file(s.join("blobs").join(pack)).unwrap();
        }),
        ("the pack is cut off", |s, _, pack| {
            let path = s.join("blobs").join(pack);
            let half = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &half[..half.len() / 2]).unwrap();
        }),
        ("the manifest is gone", |s, manifest, _| {
            std::fs::remove_file(s.join("blobs").join(manifest)).unwrap();
        }),
        ("the manifest is damaged", |s, manifest, _| {
            let path = s.join("blobs").join(manifest);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[20] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }),
        ("the tag is empty", |s, _, _| {
            let tags = s.join("r/cachectl/tags");
            for tag in std::fs::read_dir(tags).unwrap() {
                let path = tag.unwrap().path();
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, "").unwrap();
            }
        }),
        ("all blobs are gone", |s, _, _| {
            std::fs::remove_dir_all(s.join("blobs")).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let node = node_with_tree();
        let (at, manifest, pack) = with_an_export(&node);
        harm(&node.path("store"), &manifest, &pack);
        let line = format!("import dir o --name t --store {at}");
        let outcome = run(&node, &format!("{line} -q --json")).success();
        let lines = complaints(&outcome);
        assert_eq!(lines.len(), 1, "{what}: {outcome}");
        assert!(
            lines[0].starts_with("cachectl: warning: miss: "),
            "{what}: {outcome}"
        );
        assert!(outcome.json()["trouble"].is_string(), "{what}: {outcome}");
        let strict = run(&node, &format!("{line} --strict")).code(1);
        assert!(strict.stderr.starts_with("error: "), "{what}: {strict}");
    }
    // Nothing stored is no trouble.
    let node = node_with_tree();
    let (at, ..) = with_an_export(&node);
    let line = format!("import dir o --name other --strict -q --json --store {at}");
    let outcome = run(&node, &line).success();
    assert_eq!(outcome.stderr, "", "{outcome}");
    assert_eq!(
        outcome.json()["trouble"],
        serde_json::Value::Null,
        "{outcome}"
    );
}

#[test]
fn of_several_folders_one_that_is_not_stored_is_a_miss() {
    let node = node_with_tree();
    let at = store(&node);
    run(
        &node,
        &format!("export dir tree --name app/tree --store {at}"),
    )
    .success();
    let out = node.path("home/outputs");
    let line = format!("import dir q/tree q/gen --name app --store {at} --json");
    let outcome = words(&node, &line)
        .env("GITHUB_OUTPUT", &out)
        .run()
        .success();
    let report = outcome.json();
    assert_eq!(
        (&report["hit"], &report["exact"], &report["partial"]),
        (&false.into(), &false.into(), &true.into()),
        "{outcome}"
    );
    let miss = report["miss"].as_str().unwrap_or_default();
    assert!(miss.contains("`app/gen`"), "{outcome}");
    assert!(outcome.stderr.contains("cachectl: miss: "), "{outcome}");
    let outputs = std::fs::read_to_string(&out).unwrap();
    assert!(outputs.starts_with("cache-hit=false\n"), "{outputs}");
    run(&node, &format!("{line} --require-hit")).code(3);
}

#[test]
fn an_unknown_name_is_not_well() {
    let node = node_with_tree();
    let (at, ..) = with_an_export(&node);
    let outcome = run(&node, &format!("verify nothing --store {at}")).code(1);
    assert!(!outcome.stdout.contains("no faults"), "{outcome}");
    let outcome = run(&node, &format!("verify nothing --json --store {at}")).code(1);
    assert_eq!(outcome.json()["ok"], false, "{outcome}");
}

#[test]
fn a_wrong_command_line_is_an_object_too() {
    let node = node_with_tree();
    for line in [
        "export dri tree --json",
        "--json ls --nonsense",
        "export --json dir tree --name t --jobs",
    ] {
        let outcome = run(&node, line).code(2);
        let error = &outcome.json()["error"];
        assert_eq!(error["exit_code"], 2, "{line}: {outcome}");
        assert!(error["message"].is_string(), "{line}: {outcome}");
        assert!(outcome.stderr.starts_with("error: "), "{line}: {outcome}");
    }
    // Asked for help, it gives help; behind `--` it is a path.
    let help = run(&node, "export --json --help").success();
    assert!(help.stdout.contains("Usage"), "{help}");
    let plain = run(&node, "export dri -- --json").code(2);
    assert_eq!(plain.stdout, "", "{plain}");
}

#[test]
fn an_import_that_is_ended_leaves_no_staging_folder() {
    const MANY: usize = 2000;
    let node = node_with_tree();
    let at = store(&node);
    let mut rng = fastrand::Rng::with_seed(7);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..))
        .take(8_000_000)
        .collect();
    // The small ones come first and at once: so many that they are not removed in no time.
    for n in 0..MANY {
        std::fs::write(node.path(&format!("home/tree/f{n}")), "small").unwrap();
    }
    std::fs::write(node.path("home/tree/z-big"), noise).unwrap();
    run(&node, &format!("export dir tree --name t --store {at}")).success();
    let left = |node: &Node| -> Vec<std::path::PathBuf> {
        let all = std::fs::read_dir(node.path("home/there")).unwrap();
        all.map(|f| f.unwrap().path()).collect()
    };
    std::fs::create_dir(node.path("home/there")).unwrap();
    let line = format!("import dir there/copy --name t --bandwidth 500kB --store {at}");
    let mut running = words(&node, &line).start();
    let staged = |folder: &std::path::PathBuf| {
        std::fs::read_dir(folder.join("new")).map_or(0, Iterator::count)
    };
    while left(&node).iter().map(staged).sum::<usize>() < MANY {
        assert!(!running.has_ended(), "nothing is staged");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = Pid::from_raw(running.process_id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    // It was told long before it would have been done, which is another exit code.
    let outcome = running.wait().code(143);
    assert_eq!(left(&node), Vec::<std::path::PathBuf>::new(), "{outcome}");
}

#[test]
fn what_may_be_a_secret_in_a_stores_url_is_not_shown() {
    let node = node_with_tree();
    for url in [
        "s3://KEY:hunter2@bucket/x",
        "s3://KEY:hun/hunter2@bucket",
        "KEY:hunter2@bucket",
        "hunter2",
    ] {
        for line in ["ls", "env", "export dir tree --name t"] {
            let outcome = words(&node, line).env("CACHECTL_STORE", url).run();
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(!said.contains("hunter2"), "{url} {line}: {said}");
        }
    }
}

/// A name from elsewhere is no command to the CI system whose log it gets into.
#[test]
fn names_in_the_log_of_a_job_are_no_commands() {
    let node = node_with_tree();
    let store = store(&node);
    let name = "##vso[task.setvariable variable=PWN]yes";
    let export = |name: &str| {
        let line = format!("export dir tree --store {store} --name");
        words(&node, &line).arg(name).run().success()
    };
    export(name);
    let look = |line: &str, mark: Option<&str>| {
        let mut command = words(&node, &format!("{line} --store {store}"));
        if let Some(mark) = mark {
            command = command.env(mark, "true");
        }
        command.run().success().stdout
    };
    assert!(
        look("ls", None).contains("##vso["),
        "else this shows nothing"
    );
    for mark in ["CI", "TF_BUILD"] {
        let text = look("ls", Some(mark));
        assert!(text.contains("# #vso[") && !text.contains("##"), "{text}");
        let json = look("ls --json", Some(mark));
        assert!(!json.contains("##"), "{json}");
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(report["snapshots"][0]["name"], name);
    }
}

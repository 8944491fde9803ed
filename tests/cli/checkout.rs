//! What the author of a pull request can do by what is checked out, and by how the job was started: not write somebody else's
//! scope, and not choose where caches and credentials go.

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use super::{complaints, node_with_tree, run, store, strings, words};
use crate::support::{
    cli::{Cachectl, Outcome},
    node::Node,
};

/// A job of GitHub Actions for pull request 7.
const PULL_REQUEST: [(&str, &str); 5] = [
    ("CI", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_EVENT_NAME", "pull_request"),
    ("GITHUB_REF", "refs/pull/7/merge"),
    ("GITHUB_BASE_REF", "main"),
];

fn with(command: Cachectl, vars: &[(&str, &str)]) -> Cachectl {
    vars.iter().fold(command, |c, (k, v)| c.env(k, v))
}

/// Writes what is checked out in the working directory.
fn checked_out(node: &Node, text: &str) {
    fs::write(node.path("home/cachectl.toml"), text).unwrap();
}

/// The scopes that something is stored in.
fn stored_scopes(node: &Node) -> Vec<String> {
    let report = words(node, &format!("ls --store {}", store(node))).json();
    let rows = report["snapshots"].as_array().unwrap();
    rows.iter()
        .map(|r| r["scope"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_pull_requests_settings_file_does_not_choose_the_scope() {
    let node = node_with_tree();
    checked_out(
        &node,
        "scope = \"default\"\nname = \"t\"\nexclude = [\"b\"]\n",
    );
    let job = |line: &str| {
        let command = words(&node, line).env("CACHECTL_STORE", store(&node));
        with(command, &PULL_REQUEST)
    };
    let outcome = job("export dir tree").run().success();
    assert_eq!(stored_scopes(&node), ["pr-7"]);
    // Said once, with the remedy.
    let lines = complaints(&outcome);
    assert_eq!(lines.len(), 1, "{outcome}");
    for part in [
        "warning: `scope` in ",
        "cachectl.toml is ignored",
        "CACHECTL_CONFIG=",
        "CACHECTL_TRUST_CHECKOUT=1",
    ] {
        assert!(lines[0].contains(part), "{outcome}");
    }
    // What it may say counts: the name, and what is left out.
    let report = words(
        &node,
        &format!("inspect t --files --store {}", store(&node)),
    )
    .json();
    assert_eq!(report["snapshots"][0]["entries"], 1, "{report}");
    // Whoever named the file meant it.
    job("export dir tree --config cachectl.toml")
        .run()
        .success();
    assert_eq!(stored_scopes(&node), ["default", "pr-7"]);
}

#[test]
fn a_pull_requests_settings_file_does_not_choose_where_credentials_go() {
    let node = node_with_tree();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for _ in listener.incoming() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    // The way to AWS leads to a proxy that is not there.
    let job = || {
        let command = words(&node, "import dir tree --name t")
            .env("CACHECTL_STORE", "s3://bucket?region=r")
            .env("CACHECTL_RETRY_FOR", "0")
            .env("HTTPS_PROXY", "http://127.0.0.1:1")
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("AWS_ACCESS_KEY_ID", "AKIA0")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        with(command, &PULL_REQUEST)
    };
    checked_out(
        &node,
        &format!("daemon = \"http://{address}\"\n[s3]\nendpoint = \"http://{address}\"\n"),
    );
    let outcome = job().run().success();
    assert!(
        outcome.stderr.contains("`daemon`, `s3.endpoint` in "),
        "{outcome}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // The trap works: a file that is trusted sends them there.
    job().env("CACHECTL_TRUST_CHECKOUT", "1").run().success();
    assert!(asked.load(Ordering::SeqCst) > 0);
}

#[test]
fn without_a_store_that_counts_nothing_is_exported_or_imported() {
    let node = node_with_tree();
    let other = node.path("other");
    checked_out(
        &node,
        &format!(
            "store = \"disk:{}\"\nscope = \"default\"\n",
            other.display()
        ),
    );
    let ended = |outcome: Outcome, code: i32| {
        let outcome = outcome.code(code);
        assert!(
            outcome
                .stderr
                .contains("no store is set: `store`, `scope` in "),
            "{outcome}"
        );
        assert!(
            outcome.stderr.contains("CACHECTL_TRUST_CHECKOUT=1"),
            "{outcome}"
        );
        assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
        outcome
    };
    for verb in ["export", "import"] {
        let line = format!("{verb} dir tree --name t");
        let outcome = ended(run(&node, &line), 0);
        assert!(
            outcome.stderr.starts_with("cachectl: warning: "),
            "{outcome}"
        );
        let outcome = ended(run(&node, &format!("{line} --strict")), 1);
        assert!(outcome.stderr.starts_with("error: "), "{outcome}");
        // Nor does a home matter, which the default store would need.
        let command = words(&node, &line)
            .env("HOME", "")
            .env("XDG_CACHE_HOME", "");
        ended(command.run(), 0);
        let report = ended(words(&node, &format!("{line} --json")).run(), 0).json();
        assert_eq!(report["store"], Value::Null, "{report}");
    }
    run(&node, "import dir tree --name t --require-hit").code(3);
    // To look at, or prune, a store that nobody meant would be worse than an error.
    for line in [
        "ls",
        "inspect t",
        "verify",
        "rm t",
        "prune",
        "du",
        "status",
        "flush",
        "buildx-setup",
    ] {
        ended(run(&node, line), 1);
    }
    assert!(!other.exists() && !node.path("home/.cache/cachectl").exists());
    run(
        &node,
        &format!("export dir tree --name t --store {}", store(&node)),
    )
    .success();
    // Both sides of a copy are named.
    let copy = format!("copy {} disk:{}", store(&node), node.path("copy").display());
    let outcome = run(&node, &copy).success();
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    let trusted = words(&node, "export dir tree --name t").env("CACHECTL_TRUST_CHECKOUT", "1");
    assert_eq!(trusted.run().success().stderr, "");
    assert!(other.exists());
}

#[test]
fn env_shows_what_is_ignored_and_where_it_stands() {
    let node = Node::new();
    checked_out(
        &node,
        "jobs = 3\nstore = \"disk:/x\"\n\n[s3]\nacl = \"private\"\n",
    );
    let report = words(&node, "env").json();
    let ignored = report["ignored"].as_array().unwrap();
    let keys: Vec<&str> = ignored.iter().map(|i| i["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["store", "s3.acl"]);
    assert!(
        ignored[0]["origin"]
            .as_str()
            .unwrap()
            .ends_with("cachectl.toml:2"),
        "{report}"
    );
    assert_eq!(
        (&report["store"], &report["jobs"]),
        (&Value::Null, &json!(3))
    );
    let settings = report["settings"].as_array().unwrap();
    assert_eq!(settings[0]["value"], "none", "{report}");
    let outcome = run(&node, "env").success();
    assert_eq!(outcome.stderr, "", "{outcome}");
    for part in ["ignored      `store`, `s3.acl` in ", "store        none\n"] {
        assert!(outcome.stdout.contains(part), "{outcome}");
    }
    // The user's own file is read below it.
    let own = node.path("home/.config/cachectl/cachectl.toml");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "store = \"disk:/own\"\njobs = 2\n").unwrap();
    let report = words(&node, "env").json();
    assert_eq!(
        (&report["store"], &report["jobs"]),
        (&json!("disk:/own"), &json!(3))
    );
    let files = strings(&report["config_files"]);
    assert!(
        files[0].ends_with("home/cachectl.toml") && files[1] == own.to_str().unwrap(),
        "{report}"
    );
}

/// What a job says that runs on the default branch's ref for `event`.
fn on_base(node: &Node, verb: &str, event: &str, document: &Value) -> Outcome {
    let path = node.path("event.json");
    fs::write(&path, document.to_string()).unwrap();
    words(node, &format!("{verb} dir tree --name t"))
        .env("CACHECTL_STORE", store(node))
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_EVENT_NAME", event)
        .env("GITHUB_REF", "refs/heads/main")
        .env("GITHUB_EVENT_PATH", &path)
        .run()
        .success()
}

#[test]
fn a_request_that_runs_on_the_base_ref_writes_its_own_scope() {
    let node = node_with_tree();
    let event = json!({
        "repository": {"default_branch": "main"},
        "issue": {"number": 7, "pull_request": {"url": "u"}}
    });
    let export = on_base(&node, "export", "issue_comment", &event);
    assert_eq!(export.stderr, "", "{export}");
    assert_eq!(stored_scopes(&node), ["pr-7"]);
}

#[test]
fn a_request_of_which_the_number_is_unknown_reads_the_base_and_writes_nothing() {
    let node = node_with_tree();
    let main = words(&node, "export dir tree --name t").env("CACHECTL_STORE", store(&node));
    main.run().success();
    let stored = || {
        let report = words(&node, &format!("ls --store {}", store(&node))).json();
        let rows = report["snapshots"].as_array().unwrap();
        let of = |r: &Value| (r["scope"].to_string(), r["digest"].to_string());
        rows.iter().map(of).collect::<Vec<_>>()
    };
    let before = stored();
    let fork = json!({
        "repository": {"default_branch": "main", "full_name": "o/r"},
        "workflow_run": {
            "event": "pull_request",
            "head_branch": "main",
            "head_repository": {"full_name": "stranger/r"},
            "pull_requests": []
        }
    });
    let import = on_base(&node, "import", "workflow_run", &fork);
    assert!(import.stdout.contains("hit"), "{import}");
    fs::write(node.path("home/tree/a"), "poison").unwrap();
    let export = on_base(&node, "export", "workflow_run", &fork);
    // Said once a job, where it matters.
    assert_eq!(complaints(&import).len(), 0, "{import}");
    assert_eq!(complaints(&export).len(), 1, "{export}");
    assert!(export.stderr.contains("of unknown number"), "{export}");
    assert!(export.stderr.contains("CACHECTL_SCOPE"), "{export}");
    assert!(
        export
            .stdout
            .contains("not exported: the scope to write is unknown"),
        "{export}"
    );
    assert_eq!(stored(), before);
    // Whoever decides is believed, and not warned.
    let chosen = words(&node, "export dir tree --name t --scope pr-9")
        .env("CACHECTL_STORE", store(&node))
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_EVENT_NAME", "workflow_run");
    assert_eq!(chosen.run().success().stderr, "");
    assert_eq!(stored_scopes(&node), ["default", "pr-9"]);
}

#[test]
fn an_unknown_ci_system_is_warned_of_once_and_writes_no_default_for_a_request() {
    let node = node_with_tree();
    let export = |vars: &[(&str, &str)]| {
        let command = words(&node, "export dir tree --name t").env("CACHECTL_STORE", store(&node));
        with(command, vars).run().success()
    };
    let outcome = export(&[("CI", "true"), ("BITBUCKET_PR_ID", "7")]);
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(
        outcome
            .stderr
            .contains("$BITBUCKET_PR_ID indicates a pull request"),
        "{outcome}"
    );
    assert!(!node.path("store").exists());
    let outcome = export(&[("CI", "true")]);
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(
        outcome.stderr.contains("does not know this CI system"),
        "{outcome}"
    );
    assert_eq!(stored_scopes(&node), ["default"]);
    for quiet in [("CACHECTL_SCOPE", "default"), ("CACHECTL_READ_ONLY", "1")] {
        assert_eq!(export(&[("CI", "true"), quiet]).stderr, "");
    }
}

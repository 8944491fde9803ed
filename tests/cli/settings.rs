//! Where settings come from, and what is refused.

use std::fs;

use serde_json::Value;

use super::{run, strings, words};
use crate::support::node::Node;

fn setting<'a>(report: &'a Value, key: &str) -> (&'a str, &'a str) {
    let all = report["settings"].as_array().unwrap();
    let row = all
        .iter()
        .find(|r| r["key"] == key)
        .unwrap_or_else(|| panic!("no {key}"));
    (
        row["value"].as_str().unwrap(),
        row["origin"].as_str().unwrap(),
    )
}

#[test]
fn flags_win_over_environment_over_file_and_env_says_so() {
    let node = Node::new();
    fs::write(
        node.path("home/c.toml"),
        "store = \"disk:/from/file\"\nscope = \"f\"\njobs = 2\n\n[s3]\nregion = \"eu\"\n",
    )
    .unwrap();
    let report = words(&node, "env --config c.toml --store disk:/from/flag")
        .env("CACHECTL_STORE", "disk:/from/env")
        .env("CACHECTL_SCOPE", "e")
        .json();
    assert_eq!(setting(&report, "store"), ("disk:/from/flag", "--store"));
    assert_eq!(setting(&report, "scope"), ("e", "$CACHECTL_SCOPE"));
    let (jobs, origin) = setting(&report, "jobs");
    assert!(jobs == "2" && origin.ends_with("c.toml:3"), "{report}");
    assert!(setting(&report, "s3.region").1.ends_with("c.toml:6"));
    assert_eq!(setting(&report, "bandwidth").1, "default");
    assert_eq!(report["store"], "disk:/from/flag");
    let text = run(&node, "env --config c.toml").success().stdout;
    assert!(text.contains("c.toml:1)"), "{text}");
}

#[test]
fn the_file_is_looked_for_in_order() {
    let node = Node::new();
    let at = |path: &str, key: &str| {
        let path = node.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("key = \"{key}\"\n")).unwrap();
    };
    let key = |line: &str, config: &str| {
        words(&node, line).env("CACHECTL_CONFIG", config).json()["key"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    at("home/.config/cachectl/cachectl.toml", "user");
    assert_eq!(key("env", ""), "user");
    at("home/cachectl.toml", "here");
    assert_eq!(key("env", ""), "here");
    at("home/variable.toml", "variable");
    assert_eq!(key("env", "variable.toml"), "variable");
    at("home/flag.toml", "flag");
    assert_eq!(key("env --config flag.toml", "variable.toml"), "flag");
    let outcome = run(&node, "env --config nowhere.toml").code(2);
    assert!(
        outcome
            .stderr
            .contains("nowhere.toml does not exist (--config)"),
        "{outcome}"
    );
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let node = Node::new();
    let outcome = words(&node, "import go")
        .env("CACHECTL_STOER", "disk:/x")
        .run()
        .code(2);
    assert!(
        outcome
            .stderr
            .contains("hint: did you mean `CACHECTL_STORE`?"),
        "{outcome}"
    );
    fs::write(node.path("home/cachectl.toml"), "\n[prune]\nkeeep = 3\n").unwrap();
    let outcome = run(&node, "import go").code(2);
    assert!(
        outcome
            .stderr
            .contains("cachectl.toml:3: unknown key `prune.keeep`"),
        "{outcome}"
    );
    assert!(
        outcome.stderr.contains("did you mean `prune.keep`?"),
        "{outcome}"
    );
    let outcome = run(&node, "ls --json").code(2);
    assert_eq!(outcome.json()["error"]["exit_code"], 2, "{outcome}");
    // Packagers run these two wherever they are.
    run(&node, "completions zsh").success();
    run(&node, "man export").success();
}

#[test]
fn kubernetes_service_links_do_not_end_builds() {
    let node = Node::new();
    words(&node, "env")
        .env("CACHECTL_SERVICE_HOST", "10.0.0.1")
        .env("CACHECTL_PORT", "tcp://10.0.0.1:5000")
        .env("CACHECTL_PORT_5000_TCP_ADDR", "10.0.0.1")
        .run()
        .success();
}

#[test]
fn secrets_are_never_shown() {
    let node = Node::new();
    for line in ["env", "env --json", "env -vvv", "ls", "ls --json"] {
        let outcome = words(&node, line)
            .env("CACHECTL_STORE", "oci://bob:hunter2@127.0.0.1:1/x")
            .env("CACHECTL_REGISTRY_USERNAME", "bob")
            .env("CACHECTL_REGISTRY_PASSWORD", "hunter2")
            .run();
        assert!(
            !outcome.stdout.contains("hunter2") && !outcome.stderr.contains("hunter2"),
            "{outcome}"
        );
    }
}

#[test]
fn no_spelling_of_a_credential_shows_wherever_a_url_is_written() {
    let node = Node::new();
    for url in [
        "s3://AK:hunter2@bucket/x",
        "S3://AK:hunter2@bucket/x",
        "s3://AK%3Ahunter2%40bucket",
        "s3://AK%253Ahunter2%2540bucket",
        "s3://AK%3Ahun/hunter2%40bucket/x",
        "s3://AK%3Ahunter2/x",
        "s3://bucket?hunter2!&hunter2!",
        "s3://bucket?sse=AK:hunter2@x",
        "s3://bucket?endpoint=http%3A%2F%2FAK%3Ahunter2%40h",
        "oci://AK:hunter2@127.0.0.1:1/x",
        "oci://AK%3Ahunter2%40127.0.0.1:1/x",
        "cachectld+http://AK:hunter2@h:1",
        "cachectld+http://AK%3Ahunter2%40h:1",
    ] {
        let file = node.path("secret.toml");
        std::fs::write(&file, format!("store = \"{url}\"\nmax_size = \"{url}\"\n")).unwrap();
        let file = format!("--config {}", file.display());
        for line in ["ls", "ls --json", "env --json", "env -vv"] {
            for outcome in [
                words(&node, line).env("CACHECTL_STORE", url).run(),
                words(&node, &format!("{line} --store {url}")).run(),
                words(&node, &format!("{line} {file}")).run(),
                words(&node, line).env("CACHECTL_MAX_SIZE", url).run(),
                words(&node, line).env("CACHECTL_DAEMON", url).run(),
                words(&node, line).env("CACHECTL_S3_ENDPOINT", url).run(),
            ] {
                let said = format!("{}{}", outcome.stdout, outcome.stderr);
                let decoded = said.replace("hun/", "");
                assert!(!decoded.contains("hunter2"), "{url}: {outcome}");
            }
        }
    }
}

#[test]
fn scopes_follow_the_ci_system_unless_set() {
    let node = Node::new();
    let scopes = |line: &str, vars: &[(&str, &str)]| {
        let command = vars
            .iter()
            .fold(words(&node, line), |c, (k, v)| c.env(k, v));
        let report = command.json();
        strings(&report["scopes"]).join(" ")
    };
    assert_eq!(scopes("env", &[]), "default");
    let merge_request = [
        ("GITLAB_CI", "true"),
        ("CI_MERGE_REQUEST_IID", "7"),
        ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "stable"),
        ("CI_DEFAULT_BRANCH", "main"),
    ];
    assert_eq!(scopes("env", &merge_request), "pr-7 stable default");
    assert_eq!(
        scopes("env --scope mine", &merge_request),
        "mine stable default"
    );
}

#[test]
fn the_local_store_on_ci_is_warned_of_once_and_only_there() {
    let node = super::node_with_tree();
    let import = |vars: &[(&str, &str)]| {
        let command = words(&node, "import dir tree --name t -q");
        vars.iter()
            .fold(command, |c, (k, v)| c.env(k, v))
            .run()
            .success()
            .stderr
    };
    let branch = [("GITLAB_CI", "true"), ("CI_COMMIT_BRANCH", "main")];
    let warned = import(&branch);
    assert_eq!(warned.lines().count(), 1, "{warned}");
    assert!(warned.contains("is lost with the node"), "{warned}");
    assert_eq!(import(&[]), "");
    assert_eq!(import(&[("CI", "false")]), "");
    let store = super::store(&node);
    assert_eq!(
        import(&[branch[0], branch[1], ("CACHECTL_STORE", &store)]),
        ""
    );
}

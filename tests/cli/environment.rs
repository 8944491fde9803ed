//! What a CI system's environment supplies: values with a line end behind them, values for other programs, and none at all.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{complaints, node_with_tree, run, store, words};
use crate::support::{
    cli::{Cachectl, Outcome},
    node::Node,
};

/// A store that is not there, and how to get to know that at once.
const NOWHERE: &str = "s3://bucket/ci?region=us-east-1&endpoint=http://127.0.0.1:1";
const IMPORT: &str = "import dir tree --name t --retry-for 0";

/// With keys of S3, and nobody asked for others.
fn with_keys(run: Cachectl) -> Cachectl {
    run.env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// One warning, no more, and exit code 0; with `--strict` 1. The warning.
fn is_a_warning(node: &Node, with: impl Fn(Cachectl) -> Cachectl) -> String {
    let outcome = with(words(node, IMPORT)).run().success();
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(
        outcome.stderr.starts_with("cachectl: warning: miss: "),
        "{outcome}"
    );
    with(words(node, &format!("{IMPORT} --strict")))
        .run()
        .code(1);
    outcome.stderr
}

fn says(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {outcome}");
    }
}

#[test]
fn variables_of_other_programs_end_no_build() {
    let node = node_with_tree();
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "id\n"),
        ("AWS_SECRET_ACCESS_KEY", "secret\r\n"),
        ("AWS_SESSION_TOKEN", "token\n"),
        ("AWS_RETRY_MODE", "legacy"),
        ("AWS_RETRY_MODE", ""),
        ("AWS_MAX_ATTEMPTS", ""),
        ("AWS_MAX_ATTEMPTS", "0"),
        ("AWS_MAX_ATTEMPTS", "3\n"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("TOKIO_WORKER_THREADS", "abc"),
        ("TOKIO_WORKER_THREADS", "0"),
    ] {
        let said = is_a_warning(&node, |run| {
            with_keys(run)
                .env("CACHECTL_STORE", NOWHERE)
                .env(name, value)
        });
        // It got as far as the server that is not there.
        assert!(said.contains("127.0.0.1:1"), "{name}={value:?}: {said}");
        assert!(!said.contains("configure"), "{name}={value:?}: {said}");
    }
}

#[test]
fn what_the_sdk_finds_in_the_environment_is_a_miss_that_names_the_variable() {
    let node = node_with_tree();
    for (name, value, says) in [
        ("AWS_REGION", "us east", "AWS_REGION"),
        ("AWS_REGION", "", "AWS_REGION"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:1", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1\n", "white space"),
        ("AWS_ENDPOINT_URL_S3", "https://", "AWS_ENDPOINT_URL_S3"),
        (
            "AWS_ENDPOINT_URL_S3",
            " http://me:hunter2@127.0.0.1:1",
            "AWS_ENDPOINT_URL_S3",
        ),
        (
            "AWS_ENDPOINT_URL_S3",
            "http://me:hunter2@127.0.0.1:1",
            "endpoint=127.0.0.1:1",
        ),
        (
            "AWS_USE_DUALSTACK_ENDPOINT",
            "true",
            "AWS_USE_DUALSTACK_ENDPOINT",
        ),
        ("AWS_USE_FIPS_ENDPOINT", "true", "AWS_USE_FIPS_ENDPOINT"),
        ("AWS_ACCESS_KEY_ID", "i\u{1}d", "AWS_ACCESS_KEY_ID"),
        // Trimmed, it is right.
        ("AWS_REGION", "us-east-1\n", "127.0.0.1:1"),
    ] {
        let said = is_a_warning(&node, |run| {
            with_keys(run)
                .env("CACHECTL_STORE", "s3://bucket/ci")
                .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
                .env("AWS_REGION", "us-east-1")
                .env(name, value)
        });
        assert!(said.contains(says), "{name}={value:?}: {said}");
        assert!(!said.contains("hunter2"), "{name}: {said}");
    }
    // What a flag or the URL says is wrong for everybody.
    let outcome = with_keys(words(&node, IMPORT))
        .env("AWS_REGION", "us-east-1")
        .args(["--store", "s3://bucket/ci?region=us%20east"])
        .run()
        .code(2);
    says(&outcome, &["Invalid region"]);
}

#[test]
fn a_secret_that_a_ci_job_is_not_given_is_a_miss() {
    let node = node_with_tree();
    for (flag, variable, url, part) in [
        (
            "--store",
            "CACHECTL_STORE",
            "s3:///ci?region=us-east-1",
            "the bucket",
        ),
        (
            "--store",
            "CACHECTL_STORE",
            "s3:///ci?region=",
            "the bucket and `region`",
        ),
        (
            "--store",
            "CACHECTL_STORE",
            "s3://bucket/ci?region=",
            "`region`",
        ),
        (
            "--store",
            "CACHECTL_STORE",
            "s3://-ci",
            "the start or end of the bucket",
        ),
        (
            "--store",
            "CACHECTL_STORE",
            "s3://bucket?endpoint=https://",
            "the host of `endpoint`",
        ),
        (
            "--store",
            "CACHECTL_STORE",
            "oci://ghcr.io//cache",
            "a part of the repository",
        ),
        (
            "--store",
            "CACHECTL_STORE",
            "oci://ghcr.io/",
            "the repository",
        ),
        ("--store", "CACHECTL_STORE", "oci:///team/cache", "the host"),
        ("--store", "CACHECTL_STORE", "disk:", "its path"),
        ("--daemon", "CACHECTL_DAEMON", "http://:5999", "the host"),
    ] {
        let said = is_a_warning(&node, |run| run.env("CI", "true").env(variable, url));
        says_which(&said, &format!("(${variable})"), part);
        let said = is_a_warning(&node, |run| run.env("CI", "true").args([flag, url]));
        says_which(&said, &format!("({flag})"), part);
        // Elsewhere somebody wrote it so.
        let outcome = words(&node, IMPORT).env(variable, url).run().code(2);
        says(&outcome, &[&format!("(${variable})")]);
        let outcome = words(&node, IMPORT).args([flag, url]).run().code(2);
        says(&outcome, &[&format!("({flag})")]);
    }
    for flag in ["--store", "--daemon"] {
        let said = is_a_warning(&node, |run| run.env("CI", "true").args([flag, ""]));
        says_which(&said, &format!("({flag})"), "the store's URL");
        let outcome = words(&node, IMPORT).args([flag, ""]).run().code(2);
        says(&outcome, &["it is empty", flag]);
    }
}

fn says_which(said: &str, origin: &str, part: &str) {
    for word in [origin, &format!("{part} is empty"), "jobs of forks"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_missing_half_of_what_a_ci_job_is_given_is_a_miss() {
    let node = node_with_tree();
    for (pairs, says) in [
        (
            [
                ("CACHECTL_STORE", "oci://127.0.0.1:1/x"),
                ("CACHECTL_REGISTRY_PASSWORD", "hunter2"),
            ],
            "($CACHECTL_REGISTRY_PASSWORD)",
        ),
        (
            [
                ("CACHECTL_STORE", "s3://bucket/ci?region=us-east-1"),
                ("CACHECTL_S3_ENDPOINT", "https://"),
            ],
            "($CACHECTL_S3_ENDPOINT)",
        ),
    ] {
        let with = |run: Cachectl| pairs.iter().fold(run, |run, (k, v)| run.env(k, v));
        let said = is_a_warning(&node, |run| with(run).env("CI", "true"));
        assert!(
            said.contains(says) && said.contains("jobs of forks"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
        with(words(&node, IMPORT)).run().code(2);
    }
    // Of a pair of S3 it is trouble anywhere.
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        let said = is_a_warning(&node, |run| {
            with_keys(run).env("CACHECTL_STORE", NOWHERE).env(name, "")
        });
        assert!(said.contains("(not both set)"), "{name}: {said}");
    }
}

#[test]
fn other_mistakes_of_a_url_are_errors_in_ci_as_well() {
    let node = node_with_tree();
    for url in [
        "s3://bucket?regoin=x",
        "s3://bucket/ci/?regoin=",
        "s3:///ci?path_style=maybe",
        "oci://ghcr.io//cache:latest",
        "bucket/",
    ] {
        for (flags, variable) in [(&["--store", url][..], ""), (&[], url)] {
            words(&node, IMPORT)
                .env("CI", "true")
                .env("CACHECTL_STORE", variable)
                .args(flags)
                .run()
                .code(2);
        }
    }
}

#[test]
fn white_space_around_our_variables_does_not_count() {
    let node = node_with_tree();
    let url = store(&node);
    run(
        &node,
        &format!("export dir tree --name t --key k --store {url}"),
    )
    .success();
    words(&node, "import dir tree --require-hit")
        .env("CACHECTL_STORE", format!(" {url}\r\n"))
        .env("CACHECTL_NAME", "t\n")
        .env("CACHECTL_KEY", "\tk\n")
        .env("CACHECTL_SCOPE", "\n")
        .env("CACHECTL_TRUST_CHECKOUT", "1\n")
        .run()
        .success();
    for (value, why) in [
        ("\"disk:/x\"", "quotation marks"),
        ("$STORE", "was not replaced"),
        ("S3://b", "lower case"),
    ] {
        let outcome = words(&node, IMPORT)
            .env("CACHECTL_STORE", value)
            .run()
            .code(2);
        says(&outcome, &["($CACHECTL_STORE)", why]);
    }
}

#[test]
fn a_machine_without_ca_certificates_lacks_only_https() {
    let node = node_with_tree();
    let bare = |run: Cachectl| {
        run.env("SSL_CERT_FILE", "/nonexistent/ca.pem")
            .env("SSL_CERT_DIR", "/nonexistent")
    };
    let said = is_a_warning(&node, |run| {
        bare(run).env("CACHECTL_DAEMON", node.path("none.sock"))
    });
    assert!(said.contains("whether the daemon runs"), "{said}");
    let said = is_a_warning(&node, |run| {
        bare(run).env("CACHECTL_STORE", "oci://127.0.0.1:1/x")
    });
    assert!(said.contains("cannot connect"), "{said}");
}

#[test]
fn settings_that_nobody_may_look_for_count_as_none_with_a_warning() {
    let node = node_with_tree();
    let locked = node.path("locked");
    fs::create_dir_all(locked.join("cachectl")).unwrap();
    fs::write(locked.join("cachectl/cachectl.toml"), "nonsense").unwrap();
    let mode = |mode| fs::set_permissions(&locked, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    for line in [IMPORT, "import dir tree --name t --strict"] {
        let line = format!("{line} --store disk:/nonexistent/store");
        let outcome = words(&node, &line)
            .env("XDG_CONFIG_HOME", &locked)
            .unprivileged()
            .run()
            .success();
        says(
            &outcome,
            &[
                "cannot look for settings in ",
                "/locked/cachectl/cachectl.toml",
            ],
        );
    }
    mode(0o755);
}

#[test]
fn settings_that_cannot_be_read_are_a_miss_unless_somebody_named_the_file() {
    let node = node_with_tree();
    run(&node, "export dir tree --name t").success();
    fs::create_dir(node.path("home/cachectl.toml")).unwrap();
    let said = is_a_warning(&node, |run| run);
    assert!(said.contains("cannot read the settings in "), "{said}");
    let outcome = run(&node, "export dir tree --name t").success();
    says(&outcome, &["not exported: cannot read the settings in "]);
    run(&node, "export dir tree --name t --strict").code(1);
    for line in ["ls", "copy disk:a disk:b"] {
        run(&node, line).code(1);
    }
    assert!(!node.path("home/b").exists());
    let outcome = run(&node, "env").success();
    says(&outcome, &["cannot read the settings in "]);
    run(&node, &format!("{IMPORT} --config cachectl.toml")).code(2);
    fs::remove_dir(node.path("home/cachectl.toml")).unwrap();
    std::os::unix::fs::symlink("cachectl.toml", node.path("home/cachectl.toml")).unwrap();
    is_a_warning(&node, |run| run);
}

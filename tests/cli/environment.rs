//! What a CI system's environment supplies: values with a line end behind them, values for other programs, and none at all.

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
    for url in [
        "s3:///ci?region=us-east-1",
        "s3://bucket/ci?region=",
        "oci://ghcr.io//cache",
        "oci:///team/cache",
    ] {
        let said = is_a_warning(&node, |run| {
            run.env("CI", "true").env("CACHECTL_STORE", url)
        });
        assert!(said.contains("($CACHECTL_STORE)"), "{url}: {said}");
        assert!(said.contains("secrets are empty"), "{url}: {said}");
        // Elsewhere, and where it was given as a flag, somebody wrote it so.
        let outcome = words(&node, IMPORT)
            .env("CACHECTL_STORE", url)
            .run()
            .code(2);
        says(&outcome, &["($CACHECTL_STORE)"]);
        let flag = words(&node, IMPORT)
            .env("CI", "true")
            .args(["--store", url]);
        says(&flag.run().code(2), &["(--store)"]);
    }
    let said = is_a_warning(&node, |run| {
        run.env("CI", "true")
            .env("CACHECTL_STORE", "oci://127.0.0.1:1/x")
            .env("CACHECTL_REGISTRY_PASSWORD", "hunter2")
    });
    assert!(said.contains("($CACHECTL_REGISTRY_PASSWORD)"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let said = is_a_warning(&node, |run| {
        run.env("CI", "true").env("CACHECTL_DAEMON", "http://:5999")
    });
    assert!(said.contains("($CACHECTL_DAEMON)"), "{said}");
    // Other mistakes are the same everywhere.
    words(&node, IMPORT)
        .env("CI", "true")
        .env("CACHECTL_STORE", "s3://bucket?regoin=x")
        .run()
        .code(2);
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

//! Whose credentials a bucket refused, and why there were none, as the command line says it.

use std::fs;

use axum::http::StatusCode;

use super::fake_s3::{self as fake, FakeS3};
use crate::support::{
    cli::{Outcome, cachectl},
    node::Node,
};

const SECRET: &str = "secret-of-nobody";

/// A node whose profiles `default` and `team` have a key each.
fn node_with_profiles() -> Node {
    let node = Node::new();
    let profile = |name: &str, id: &str| {
        format!("[{name}]\naws_access_key_id = {id}\naws_secret_access_key = {SECRET}\n")
    };
    fs::create_dir(node.path("home/.aws")).unwrap();
    let all = profile("default", "AKIAPROFILEDEFAULT") + &profile("team", "AKIAPROFILEOFATEAM");
    fs::write(node.path("home/.aws/credentials"), all).unwrap();
    node
}

fn list(node: &Node, url: &str, env: &[(&str, &str)]) -> Outcome {
    let command = cachectl(node).args(["ls", "--store", url]);
    let command = env
        .iter()
        .fold(command, |c, (name, value)| c.env(name, value));
    command.env("AWS_EC2_METADATA_DISABLED", "true").run()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_key_was_sent_and_where_it_comes_from() {
    let server = FakeS3::start(|asked, _, _| {
        if asked.key != "creds" {
            return Some(fake::error(StatusCode::FORBIDDEN, "AccessDenied"));
        }
        let doc = serde_json::json!({"AccessKeyId": "ASIAOFTHECONTAINER", "SecretAccessKey": SECRET,
            "Token": "t", "Expiration": "2099-01-01T00:00:00Z"});
        let json = [("content-type", "application/json")];
        Some(fake::build(200, &json, doc.to_string()))
    })
    .await;
    let url = server.url("").replace("&anonymous=true", "");
    let (_, endpoint) = url.split_once("endpoint=").unwrap();
    let creds = format!("{endpoint}/bucket/creds");
    let (with, without) = (node_with_profiles(), Node::new());
    let own = [
        ("AWS_ACCESS_KEY_ID", "AKIAOFTHEVARIABLE"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*creds)];
    for (node, env, want) in [
        (&with, &[][..], "`…AULT` from the AWS profile"),
        (
            &with,
            &[("AWS_PROFILE", "team")],
            "`…TEAM` from the AWS profile",
        ),
        // Half of a pair is passed over.
        (&with, &own[..1], "`…AULT` from the AWS profile"),
        (&with, &own, "`…ABLE` from AWS_ACCESS_KEY_ID"),
        (
            &without,
            &container,
            "`…INER` from the container's credentials",
        ),
    ] {
        let outcome = list(node, &url, env).code(1);
        let want = format!(
            "answered 403 AccessDenied: as the test wants; it was sent with access key {want}; allow"
        );
        assert!(outcome.stderr.contains(&want), "{want}: {outcome}");
        let shown = outcome.stderr.clone() + &outcome.stdout;
        assert!(
            !shown.contains("AKIA") && !shown.contains(SECRET),
            "{outcome}"
        );
    }
    let outcome = list(&with, &server.url(""), &[]).code(1);
    assert!(
        outcome.stderr.contains("it was sent without credentials"),
        "{outcome}"
    );
}

#[test]
fn where_there_are_no_credentials_each_place_that_was_looked_at_is_named() {
    let url = "s3://bucket/p?region=r&endpoint=http://127.0.0.1:9";
    for (node, profile) in [
        (Node::new(), "none"),
        (node_with_profiles(), "profile `nope` was not defined"),
    ] {
        let outcome = list(&node, url, &[("AWS_PROFILE", "nope")]);
        let outcome = outcome.code(1);
        for want in [
            "no credentials: none found in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (not both set), ",
            &format!("the AWS profile ({profile}"),
            "a web identity ($AWS_WEB_IDENTITY_TOKEN_FILE was not set)",
            "hint: give AWS credentials",
        ] {
            assert!(outcome.stderr.contains(want), "{want}: {outcome}");
        }
    }
}

//! Events of GitHub that build a request with the default branch's ref and rights.

use serde_json::{Value, json};

use super::tests::{scopes, scopes_with};

#[test]
fn github_head_ref_is_the_strangers_choice_and_never_a_number() {
    for head in ["7", "main", "refs/pull/7/head"] {
        let job = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "pull_request_target"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_BASE_REF", "rel"),
            ("GITHUB_HEAD_REF", head),
        ];
        assert_eq!(scopes(&job), "- rel default", "{head}");
        // It alone shows that there is a request.
        let few = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_HEAD_REF", head),
        ];
        assert_eq!(scopes(&few), "- default", "{head}");
    }
    let odd = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REF", "refs/pull/../heads/main"),
    ];
    assert_eq!(scopes(&odd), "- default");
}

/// Scopes of a job of GitHub Actions with the default branch's ref.
fn at_main(event: &str, document: Option<&Value>) -> String {
    let job = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_EVENT_NAME", event),
        ("GITHUB_REF", "refs/heads/main"),
    ];
    scopes_with(&job, document, None)
}

#[test]
fn a_comment_on_a_pull_request_builds_that_request() {
    let on_request = json!({
        "repository": {"default_branch": "main"},
        "issue": {"number": 7, "pull_request": {"url": "u"}}
    });
    assert_eq!(at_main("issue_comment", Some(&on_request)), "pr-7 default");
    // A stranger's text, which may name a request.
    let on_issue = json!({"repository": {"default_branch": "main"}, "issue": {"number": 7}});
    assert_eq!(at_main("issue_comment", Some(&on_issue)), "- default");
    let at_forgejo = json!({"is_pull": true, "issue": {"number": 7, "pull_request": null}});
    assert_eq!(at_main("issue_comment", Some(&at_forgejo)), "pr-7 default");
    assert_eq!(at_main("issue_comment", None), "- default");
}

#[test]
fn only_events_that_build_their_ref_write_its_scope() {
    let main = json!({"repository": {"default_branch": "main"}});
    for document in [None, Some(&main)] {
        for event in [
            "create",
            "push",
            "Push",
            "release",
            "schedule",
            "workflow_dispatch",
        ] {
            assert_eq!(at_main(event, document), "default", "{event}");
        }
        // docs.github.com, "Events that trigger workflows": all of them, with the default branch's ref or a deployment's.
        for event in [
            "branch_protection_rule",
            "delete",
            "deployment",
            "deployment_status",
            "discussion",
            "discussion_comment",
            "DISCUSSION_COMMENT",
            "dynamic",
            "fork",
            "gollum",
            "image_version",
            "issues",
            "Issue_Comment",
            "label",
            "milestone",
            "page_build",
            "public",
            "Pull_Request_Target",
            "registry_package",
            "watch",
            "WORKFLOW_RUN",
            "an event to come",
            "",
        ] {
            assert_eq!(at_main(event, document), "- default", "{event}");
        }
    }
    // A container that was given only the ref.
    let few = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REF", "refs/heads/main"),
    ];
    assert_eq!(scopes(&few), "- default");
    // A dispatch whose payload is not known.
    assert_eq!(at_main("repository_dispatch", None), "- default");
    assert_eq!(at_main("repository_dispatch", Some(&main)), "default");
}

fn run(event: &str, branch: &str, from: &str, requests: &Value) -> Value {
    json!({
        "repository": {"id": 1, "full_name": "o/r", "default_branch": "main"},
        "workflow_run": {
            "event": event,
            "head_branch": branch,
            "head_repository": {"full_name": from},
            "pull_requests": requests,
        }
    })
}

#[test]
fn a_workflow_run_builds_what_the_run_before_it_did() {
    let of = |event, branch, from, requests| {
        at_main("workflow_run", Some(&run(event, branch, from, &requests)))
    };
    let seven = json!([{"number": 7, "base": {"ref": "rel", "repo": {"id": 1}}}]);
    assert_eq!(
        of("pull_request", "x", "o/r", seven.clone()),
        "pr-7 rel default"
    );
    // For a fork's request the list is empty, and the branch may have any name.
    assert_eq!(of("pull_request", "main", "fork/r", json!([])), "- default");
    assert_eq!(of("push", "main", "fork/r", json!([])), "- default");
    assert_eq!(
        of("pull_request_target", "main", "o/r", json!([])),
        "- default"
    );
    // A chain of runs hides its origin.
    assert_eq!(of("workflow_run", "main", "o/r", json!([])), "- default");
    assert_eq!(of("issue_comment", "main", "o/r", json!([])), "- default");
    let two = json!([{"number": 7}, {"number": 8}]);
    assert_eq!(of("pull_request", "x", "o/r", two), "- default");
    let elsewhere = json!([{"number": 7, "base": {"repo": {"id": 2}}}]);
    assert_eq!(of("pull_request", "x", "o/r", elsewhere), "- default");
    assert_eq!(of("push", "main", "o/r", json!([])), "default");
    assert_eq!(of("push", "x", "o/r", seven), "x default");
    assert_eq!(of("schedule", "main", "o/r", json!([])), "default");
    assert_eq!(at_main("workflow_run", None), "- default");
    assert_eq!(at_main("workflow_run", Some(&json!({}))), "- default");
}

#[test]
fn checks_statuses_and_dispatches_of_a_request_do_not_write_the_base() {
    let repository = json!({"id": 1, "default_branch": "main"});
    let seven = json!([{"number": 7, "base": {"ref": "main"}}]);
    let suite = |branch: Option<&str>, requests: &Value| json!({"repository": repository, "check_suite": {"head_branch": branch, "pull_requests": requests}});
    let none = json!([]);
    assert_eq!(
        at_main("check_suite", Some(&suite(Some("x"), &seven))),
        "pr-7 default"
    );
    assert_eq!(
        at_main("check_suite", Some(&suite(Some("x"), &none))),
        "x default"
    );
    assert_eq!(
        at_main("check_suite", Some(&suite(Some("main"), &none))),
        "default"
    );
    assert_eq!(
        at_main("check_suite", Some(&suite(None, &none))),
        "- default"
    );
    let check = |branch: Option<&str>, requests: &Value| {
        json!({"repository": repository, "check_run": {
            "pull_requests": [],
            "check_suite": {"head_branch": branch, "pull_requests": requests}
        }})
    };
    assert_eq!(
        at_main("check_run", Some(&check(Some("x"), &seven))),
        "pr-7 default"
    );
    assert_eq!(at_main("check_run", Some(&check(None, &none))), "- default");
    assert_eq!(at_main("check_run", None), "- default");

    let status = |branches: &[&str]| {
        let all: Vec<Value> = branches.iter().map(|b| json!({"name": b})).collect();
        json!({"repository": repository, "branches": all})
    };
    assert_eq!(at_main("status", Some(&status(&["x", "main"]))), "default");
    assert_eq!(at_main("status", Some(&status(&["x"]))), "x default");
    assert_eq!(at_main("status", Some(&status(&["x", "y"]))), "- default");
    assert_eq!(at_main("status", Some(&status(&[]))), "- default");

    let dispatch = |payload: Value| json!({"repository": repository, "client_payload": payload});
    let of_request = dispatch(json!({"pull_request": {"number": 7, "base": {"ref": "rel"}}}));
    assert_eq!(
        at_main("repository_dispatch", Some(&of_request)),
        "pr-7 rel default"
    );
    let other = dispatch(json!({"version": "1"}));
    assert_eq!(at_main("repository_dispatch", Some(&other)), "default");
}

use serde_json::json;

use super::*;

pub(super) fn ci(pairs: &[(&str, &str)]) -> Ci {
    detect(&pairs.iter().copied().collect(), None, None)
}

/// Scope that is written, `-` for none, and the others that are read. Anything uncertain is reported.
pub(super) fn scopes_with(
    pairs: &[(&str, &str)],
    event: Option<&Value>,
    default: Option<&str>,
) -> String {
    let env: Env = pairs.iter().copied().collect();
    let ci = detect(&env, event, default);
    assert!(ci.scope.is_some() || ci.doubt.is_some(), "{ci:?}");
    let mut all = vec![ci.scope.unwrap_or_else(|| "-".to_owned())];
    all.extend(ci.fallbacks);
    all.join(" ")
}

pub(super) fn scopes(pairs: &[(&str, &str)]) -> String {
    scopes_with(pairs, None, None)
}

#[test]
fn outside_ci_the_scope_is_default_whatever_git_says() {
    assert_eq!(
        scopes(&[("GIT_BRANCH", "feature"), ("BRANCH_NAME", "x")]),
        "default"
    );
    assert_eq!(scopes(&[("CI", "true")]), "default");
    assert_eq!(ci(&[]).doubt, None);
}

#[test]
fn github_pull_request_reads_its_target_then_default() {
    let of = |base| {
        scopes(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "pull_request"),
            ("GITHUB_REF", "refs/pull/7/merge"),
            ("GITHUB_HEAD_REF", "feature"),
            ("GITHUB_BASE_REF", base),
        ])
    };
    assert_eq!(of("main"), "pr-7 default");
    assert_eq!(of("release-1"), "pr-7 release-1 default");
}

#[test]
fn github_pull_request_target_never_writes_the_target_scope() {
    let base = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_EVENT_NAME", "pull_request_target"),
        ("GITHUB_REF", "refs/heads/main"),
        ("GITHUB_BASE_REF", "main"),
    ];
    let event = serde_json::json!({"number": 7});
    assert_eq!(scopes_with(&base, Some(&event), None), "pr-7 default");
    assert_eq!(scopes(&base), "- default");
    let event =
        json!({"action": "submitted", "pull_request": {"number": 8, "base": {"ref": "rel"}}});
    assert_eq!(
        scopes_with(
            &[
                ("GITHUB_ACTIONS", "true"),
                ("GITHUB_EVENT_NAME", "pull_request_review"),
                ("GITHUB_REF", "refs/heads/main"),
            ],
            Some(&event),
            None
        ),
        "pr-8 rel default"
    );
}

#[test]
fn github_event_names_the_default_branch() {
    let base = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_EVENT_NAME", "push"),
        ("GITHUB_REF", "refs/heads/trunk"),
    ];
    let event = serde_json::json!({"repository": {"default_branch": "trunk"}});
    assert_eq!(scopes_with(&base, Some(&event), None), "default");
    assert_eq!(scopes(&base), "trunk default");
    assert_eq!(scopes_with(&base, None, Some("trunk")), "default");
    assert_eq!(
        scopes_with(&base, Some(&event), Some("main")),
        "trunk default"
    );
}

#[test]
fn github_tags_and_merge_queues_have_scopes_of_their_own() {
    let of = |event, reference| {
        scopes(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", event),
            ("GITHUB_REF", reference),
        ])
    };
    assert_eq!(of("push", "refs/tags/v1.2"), "tag-v1.2 default");
    assert_eq!(
        of("merge_group", "refs/heads/gh-readonly-queue/rel/1/pr-7-abc"),
        "gh-readonly-queue/rel/1/pr-7-abc rel/1 default"
    );
}

#[test]
fn a_branch_named_like_another_scope_does_not_get_it() {
    let of = |branch| {
        scopes(&[
            ("GITLAB_CI", "true"),
            ("CI_DEFAULT_BRANCH", "main"),
            ("CI_COMMIT_BRANCH", branch),
        ])
    };
    assert_eq!(of("main"), "default");
    assert_eq!(of("feature/x"), "feature/x default");
    assert_eq!(of("pr-7"), "branch-pr-7 default");
    assert_eq!(of("tag-v1"), "branch-tag-v1 default");
    assert_eq!(of("branch-pr-7"), "branch-branch-pr-7 default");
    assert_eq!(of("default"), "branch-default default");
    // A pull request against such a branch does not read the other request either.
    assert_eq!(
        scopes(&[
            ("GITLAB_CI", "true"),
            ("CI_MERGE_REQUEST_IID", "9"),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "pr-7"),
        ]),
        "pr-9 branch-pr-7 default"
    );
}

#[test]
fn where_the_default_branch_is_unknown_main_and_master_are() {
    let of = |branch| scopes(&[("CIRCLECI", "true"), ("CIRCLE_BRANCH", branch)]);
    assert_eq!(of("main"), "default");
    assert_eq!(of("master"), "default");
    assert_eq!(of("develop"), "develop default");
    // If it is known, a `master` beside it is an ordinary branch.
    assert_eq!(
        scopes(&[
            ("GITLAB_CI", "true"),
            ("CI_DEFAULT_BRANCH", "main"),
            ("CI_COMMIT_BRANCH", "master")
        ]),
        "master default"
    );
}

#[test]
fn gitlab_merge_request_and_tag() {
    assert_eq!(
        scopes(&[
            ("GITLAB_CI", "true"),
            ("CI_DEFAULT_BRANCH", "main"),
            ("CI_MERGE_REQUEST_IID", "12"),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "stable"),
        ]),
        "pr-12 stable default"
    );
    assert_eq!(
        scopes(&[("GITLAB_CI", "true"), ("CI_COMMIT_TAG", "v1")]),
        "tag-v1 default"
    );
}

#[test]
fn what_stands_in_the_place_of_a_branch_is_no_scope() {
    let jenkins = ("JENKINS_URL", "http://j/");
    for said in [
        "detached",
        "HEAD",
        "origin/HEAD",
        "refs/remotes/origin/HEAD",
        "refs/heads/",
        "(no branch)",
    ] {
        assert_eq!(
            scopes(&[jenkins, ("GIT_BRANCH", said)]),
            "- default",
            "{said}"
        );
    }
    // A branch may have this name.
    assert_eq!(
        scopes(&[jenkins, ("GIT_BRANCH", "origin/detached")]),
        "detached default"
    );
    for said in ["HEAD", "(HEAD detached at 4f1c2d3)"] {
        let gitlab = [("GITLAB_CI", "true"), ("CI_COMMIT_BRANCH", said)];
        assert_eq!(scopes(&gitlab), "- default", "{said}");
        let buildkite = [
            ("BUILDKITE", "true"),
            ("BUILDKITE_PULL_REQUEST", "false"),
            ("BUILDKITE_BRANCH", said),
        ];
        assert_eq!(scopes(&buildkite), "- default", "{said}");
        let circle = [("CIRCLECI", "true"), ("CIRCLE_BRANCH", said)];
        assert_eq!(scopes(&circle), "- default", "{said}");
    }
    for said in ["refs/heads/", "refs/heads/HEAD", "refs/tags/"] {
        let azure = [("TF_BUILD", "True"), ("BUILD_SOURCEBRANCH", said)];
        assert_eq!(scopes(&azure), "- default", "{said}");
        let github = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_REF", said),
        ];
        assert_eq!(scopes(&github), "- default", "{said}");
    }
}

#[test]
fn jenkins_change_branch_and_primary() {
    let mark = ("JENKINS_URL", "http://j/");
    assert_eq!(
        scopes(&[
            mark,
            ("CHANGE_ID", "3"),
            ("CHANGE_TARGET", "dev"),
            ("BRANCH_NAME", "PR-3")
        ]),
        "pr-3 dev default"
    );
    assert_eq!(
        scopes(&[
            mark,
            ("BRANCH_NAME", "trunk"),
            ("BRANCH_IS_PRIMARY", "true")
        ]),
        "default"
    );
    assert_eq!(scopes(&[mark, ("BRANCH_NAME", "trunk")]), "trunk default");
    for branch in [
        "dev",
        "origin/dev",
        "upstream/dev",
        "refs/remotes/origin/dev",
        "refs/remotes/fork/dev",
        "refs/heads/dev",
        "refs/remotes/origin/refs/heads/dev",
    ] {
        assert_eq!(
            scopes(&[mark, ("GIT_BRANCH", branch)]),
            "dev default",
            "{branch}"
        );
    }
    for branch in [
        "origin/main",
        "refs/remotes/upstream/main",
        "refs/heads/main",
    ] {
        assert_eq!(
            scopes(&[mark, ("GIT_BRANCH", branch)]),
            "default",
            "{branch}"
        );
    }
    // Only the name of its remote is removed from a branch.
    assert_eq!(
        scopes(&[mark, ("GIT_BRANCH", "origin/feature/x")]),
        "feature/x default"
    );
    for branch in [
        "origin/pr/7/merge",
        "refs/remotes/origin/pr/7/head",
        "origin/pull/7/head",
        "refs/pull/7/merge",
    ] {
        assert_eq!(
            scopes(&[mark, ("GIT_BRANCH", branch)]),
            "pr-7 default",
            "{branch}"
        );
    }
}

#[test]
fn buildkite_says_false_where_there_is_no_pull_request() {
    let mark = ("BUILDKITE", "true");
    let default = ("BUILDKITE_PIPELINE_DEFAULT_BRANCH", "trunk");
    assert_eq!(
        scopes(&[
            mark,
            default,
            ("BUILDKITE_PULL_REQUEST", "false"),
            ("BUILDKITE_BRANCH", "trunk")
        ]),
        "default"
    );
    assert_eq!(
        scopes(&[
            mark,
            default,
            ("BUILDKITE_PULL_REQUEST", "5"),
            ("BUILDKITE_PULL_REQUEST_BASE_BRANCH", "trunk")
        ]),
        "pr-5 default"
    );
}

#[test]
fn circle_pull_requests_by_number_url_and_branch() {
    let mark = ("CIRCLECI", "true");
    assert_eq!(
        scopes(&[mark, ("CIRCLE_PR_NUMBER", "8"), ("CIRCLE_BRANCH", "pull/8")]),
        "pr-8 default"
    );
    assert_eq!(
        scopes(&[
            mark,
            ("CIRCLE_PULL_REQUEST", "https://github.com/o/r/pull/8"),
            ("CIRCLE_BRANCH", "x")
        ]),
        "pr-8 default"
    );
    for branch in ["pull/8", "pull/8/head"] {
        assert_eq!(scopes(&[mark, ("CIRCLE_BRANCH", branch)]), "pr-8 default");
        let both = [mark, ("CIRCLE_PR_NUMBER", "8"), ("CIRCLE_BRANCH", branch)];
        assert_eq!(scopes(&both), "pr-8 default");
    }
}

#[test]
fn drone_and_woodpecker() {
    assert_eq!(
        scopes(&[
            ("DRONE", "true"),
            ("DRONE_PULL_REQUEST", "4"),
            ("DRONE_TARGET_BRANCH", "dev"),
            ("DRONE_REPO_BRANCH", "main")
        ]),
        "pr-4 dev default"
    );
    assert_eq!(
        scopes(&[
            ("DRONE", "true"),
            ("DRONE_BUILD_EVENT", "push"),
            ("DRONE_BRANCH", "trunk"),
            ("DRONE_REPO_BRANCH", "trunk")
        ]),
        "default"
    );
    let wood = ("CI_PIPELINE_FORGE_URL", "https://f/");
    assert_eq!(
        scopes(&[
            wood,
            ("CI_COMMIT_PULL_REQUEST", "4"),
            ("CI_COMMIT_TARGET_BRANCH", "main"),
            ("CI_COMMIT_BRANCH", "main")
        ]),
        "pr-4 default"
    );
    let pushed = [
        wood,
        ("CI_PIPELINE_EVENT", "push"),
        ("CI_COMMIT_BRANCH", "x"),
    ];
    assert_eq!(scopes(&pushed), "x default");
}

#[test]
fn azure_refs_are_made_bare() {
    let mark = ("TF_BUILD", "True");
    assert_eq!(
        scopes(&[
            mark,
            ("SYSTEM_PULLREQUEST_PULLREQUESTID", "6"),
            ("SYSTEM_PULLREQUEST_TARGETBRANCH", "refs/heads/dev")
        ]),
        "pr-6 dev default"
    );
    assert_eq!(
        scopes(&[mark, ("BUILD_SOURCEBRANCH", "refs/heads/main")]),
        "default"
    );
    assert_eq!(
        scopes(&[mark, ("BUILD_SOURCEBRANCH", "refs/tags/v1")]),
        "tag-v1 default"
    );
    assert_eq!(
        scopes(&[mark, ("BUILD_SOURCEBRANCH", "refs/pull/6/merge")]),
        "pr-6 default"
    );
}

#[test]
fn an_azure_run_that_a_resource_started_writes_only_the_branch_that_it_follows() {
    let run = |category, source, own| {
        scopes(&[
            ("TF_BUILD", "True"),
            ("BUILD_REASON", "ResourceTrigger"),
            ("RESOURCES_TRIGGERINGCATEGORY", category),
            ("RESOURCES_TRIGGERINGALIAS", "libs"),
            ("RESOURCES_PIPELINE_LIBS_SOURCEBRANCH", source),
            ("BUILD_SOURCEBRANCH", own),
        ])
    };
    let (main, dev) = ("refs/heads/main", "refs/heads/dev");
    assert_eq!(run("pipeline", main, main), "default");
    assert_eq!(run("pipeline", dev, dev), "dev default");
    // Of another repository, or of an unknown one.
    for (category, source) in [
        ("pipeline", dev),
        ("pipeline", "refs/pull/7/merge"),
        ("pipeline", ""),
        ("container", ""),
        ("webhook", main),
        ("", main),
    ] {
        assert_eq!(
            run(category, source, main),
            "- default",
            "{category} {source}"
        );
    }
}

use serde_json::json;

use super::*;

pub(super) fn ci(pairs: &[(&str, &str)]) -> Ci {
    detect(&pairs.iter().copied().collect(), None, None)
}

/// Scope that is written, `-` for none, and those that are read besides. Whatever is not certain is said.
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
    // Where it is known, a `master` beside it is a branch like others.
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
    assert_eq!(scopes(&[mark, ("GIT_BRANCH", "origin/dev")]), "dev default");
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
fn a_system_that_always_tells_and_here_does_not_is_not_believed_to_build_the_base() {
    for mark in [
        "GITHUB_ACTIONS",
        "GITLAB_CI",
        "CI_PIPELINE_FORGE_URL",
        "DRONE",
        "BUILDKITE",
        "CIRCLECI",
        "TF_BUILD",
    ] {
        assert_eq!(scopes(&[(mark, "true")]), "- default", "{mark}");
    }
    // A plain job of Jenkins has no branch.
    let jenkins = ("JENKINS_URL", "http://j/");
    assert_eq!(scopes(&[jenkins]), "default");
    assert!(ci(&[jenkins]).doubt.unwrap().contains("CACHECTL_SCOPE"));
    assert_eq!(scopes(&[jenkins, ("PULL_REQUEST", "7")]), "- default");
}

#[test]
fn a_job_that_was_started_in_an_unknown_way_writes_nothing() {
    for (mark, how, known, branch) in [
        (
            "GITLAB_CI",
            "CI_PIPELINE_SOURCE",
            "push",
            "CI_COMMIT_BRANCH",
        ),
        ("DRONE", "DRONE_BUILD_EVENT", "promote", "DRONE_BRANCH"),
        (
            "CI_PIPELINE_FORGE_URL",
            "CI_PIPELINE_EVENT",
            "cron",
            "CI_COMMIT_BRANCH",
        ),
        (
            "TF_BUILD",
            "BUILD_REASON",
            "IndividualCI",
            "BUILD_SOURCEBRANCH",
        ),
        (
            "BUILDKITE",
            "BUILDKITE_PULL_REQUEST",
            "false",
            "BUILDKITE_BRANCH",
        ),
    ] {
        let job = |how: Option<(&'static str, &'static str)>| {
            let mut pairs = vec![(mark, "true"), (branch, "main")];
            pairs.extend(how);
            scopes(&pairs)
        };
        assert_eq!(job(Some((how, known))), "default", "{mark}");
        for unknown in [
            "brand_new",
            "Merge_Request_Event",
            "PULL_REQUEST",
            "pullrequest",
        ] {
            assert_eq!(job(Some((how, unknown))), "- default", "{mark} {unknown}");
        }
        // There the branch alone may be that of a request, or its target.
        if !matches!(mark, "GITLAB_CI" | "TF_BUILD") {
            assert_eq!(job(None), "- default", "{mark}");
        }
    }
    assert_eq!(
        scopes(&[
            ("TF_BUILD", "1"),
            ("BUILD_REASON", "BuildCompletion"),
            ("BUILD_SOURCEBRANCH", "refs/heads/main")
        ]),
        "- default"
    );
}

#[test]
fn a_request_without_a_number_writes_nothing_in_any_system() {
    let cases: [&[(&str, &str)]; 9] = [
        &[
            ("GITLAB_CI", "1"),
            ("CI_PIPELINE_SOURCE", "merge_request_event"),
            ("CI_COMMIT_BRANCH", "main"),
        ],
        &[
            ("GITLAB_CI", "1"),
            ("CI_PIPELINE_SOURCE", "external_pull_request_event"),
            ("CI_COMMIT_BRANCH", "main"),
        ],
        &[
            ("CI_PIPELINE_FORGE_URL", "u"),
            ("CI_PIPELINE_EVENT", "pull_request_closed"),
            ("CI_COMMIT_BRANCH", "main"),
        ],
        &[
            ("DRONE", "true"),
            ("DRONE_BUILD_EVENT", "pull_request"),
            ("DRONE_BRANCH", "main"),
        ],
        &[
            ("BUILDKITE", "true"),
            ("BUILDKITE_PULL_REQUEST", "x"),
            ("BUILDKITE_BRANCH", "main"),
        ],
        &[
            ("CIRCLECI", "true"),
            ("CIRCLE_PULL_REQUEST", "https://h/pull/x"),
            ("CIRCLE_BRANCH", "main"),
        ],
        &[
            ("TF_BUILD", "True"),
            ("BUILD_REASON", "PullRequest"),
            ("BUILD_SOURCEBRANCH", "refs/heads/main"),
        ],
        &[
            ("TF_BUILD", "True"),
            ("BUILD_SOURCEBRANCH", "refs/heads/main"),
            ("RESOURCES_PIPELINE_CI_SOURCEBRANCH", "refs/pull/7/merge"),
        ],
        &[
            ("JENKINS_URL", "u"),
            ("ghprbPullId", "x"),
            ("GIT_BRANCH", "origin/main"),
        ],
    ];
    for case in cases {
        assert_eq!(scopes(case), "- default", "{case:?}");
    }
    // A pipeline that another one's branch build has started is what it says.
    assert_eq!(
        scopes(&[
            ("TF_BUILD", "True"),
            ("BUILD_SOURCEBRANCH", "refs/heads/main"),
            ("RESOURCES_PIPELINE_CI_SOURCEBRANCH", "refs/heads/main"),
        ]),
        "default"
    );
}

#[test]
fn a_deployment_of_a_requests_build_is_that_requests() {
    assert_eq!(
        scopes(&[
            ("DRONE", "true"),
            ("DRONE_BUILD_EVENT", "promote"),
            ("DRONE_COMMIT_REF", "refs/pull/7/head"),
            ("DRONE_BRANCH", "main"),
        ]),
        "pr-7 default"
    );
    assert_eq!(
        scopes(&[
            ("CI_PIPELINE_FORGE_URL", "u"),
            ("CI_PIPELINE_EVENT", "deployment"),
            ("CI_COMMIT_REF", "refs/pull/7/head"),
            ("CI_COMMIT_BRANCH", "main"),
        ]),
        "pr-7 default"
    );
    assert_eq!(
        scopes(&[
            ("GITLAB_CI", "1"),
            ("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/7/head"),
            ("CI_COMMIT_BRANCH", "main"),
        ]),
        "pr-7 default"
    );
}

#[test]
fn jenkins_plugins_build_requests_on_the_targets_branch() {
    let mark = ("JENKINS_URL", "http://j/");
    let at_main = ("GIT_BRANCH", "origin/main");
    for (id, target) in [
        ("ghprbPullId", "ghprbTargetBranch"),
        ("gitlabMergeRequestIid", "gitlabTargetBranch"),
        ("GERRIT_CHANGE_NUMBER", "GERRIT_BRANCH"),
    ] {
        let scopes = scopes(&[mark, at_main, (id, "7"), (target, "dev")]);
        assert_eq!(scopes, "pr-7 dev default", "{id}");
    }
    assert_eq!(
        scopes(&[mark, at_main, ("BITBUCKET_PULL_REQUEST_ID", "7")]),
        "pr-7 default"
    );
    let merged = [
        mark,
        at_main,
        ("GERRIT_CHANGE_NUMBER", "7"),
        ("GERRIT_EVENT_TYPE", "change-merged"),
    ];
    assert_eq!(scopes(&merged), "default");
    // The GitLab plugin sets the target for pushes too.
    assert_eq!(
        scopes(&[mark, at_main, ("gitlabTargetBranch", "main")]),
        "default"
    );
}

#[test]
fn an_unknown_system_is_warned_of_and_writes_nothing_while_a_pull_request_is_likely() {
    let ci_on = ("CI", "true");
    let plain = ci(&[ci_on]);
    assert_eq!(plain.scope.as_deref(), Some("default"));
    assert!(
        plain
            .doubt
            .unwrap()
            .contains("does not know this CI system")
    );
    for (name, value) in [
        ("BITBUCKET_PR_ID", "7"),
        ("TRAVIS_PULL_REQUEST", "7"),
        ("APPVEYOR_PULL_REQUEST_NUMBER", "7"),
        ("CIRRUS_PR", "7"),
        ("ghprbPullId", "7"),
        ("gitlabMergeRequestIid", "7"),
        ("CHANGE_ID", "7"),
        ("SYSTEM_PULLREQUEST_PULLREQUESTID", "7"),
        ("BUILDKITE_PULL_REQUEST", "7"),
        ("DRONE_PULL_REQUEST", "7"),
        ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"),
        ("CODEBUILD_SOURCE_VERSION", "pr/7"),
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_EVENT_NAME", "pull_request_target"),
        ("GITHUB_EVENT_NAME", "Discussion_Comment"),
        ("CI_PIPELINE_SOURCE", "merge_request_event"),
        ("CI_PIPELINE_SOURCE", "Merge_Request_Event"),
    ] {
        for pairs in [&[ci_on, (name, value)][..], &[(name, value)]] {
            let ci = ci(pairs);
            assert_eq!((ci.scope, ci.because.as_slice()), (None, &[name][..]));
            assert!(ci.doubt.unwrap().contains(&format!("${name}")), "{name}");
            assert_eq!(ci.fallbacks, ["default"]);
        }
    }
    for (name, value) in [
        ("TRAVIS_PULL_REQUEST", "false"),
        ("BUILDKITE_PULL_REQUEST", "false"),
        ("CODEBUILD_WEBHOOK_EVENT", "PUSH"),
        ("GITHUB_REF", "refs/heads/x"),
    ] {
        assert_eq!(scopes(&[ci_on, (name, value)]), "default", "{name}");
    }
}

#[test]
fn a_mark_that_is_false_is_no_mark() {
    let off = ("GITHUB_ACTIONS", "false");
    assert_eq!(ci(&[off]).system, None);
    assert_eq!(ci(&[off]).doubt, None);
    let other = ci(&[off, ("GITLAB_CI", "true"), ("CI_COMMIT_BRANCH", "x")]);
    assert_eq!(other.system, Some("GitLab CI"));
    // A false mark does not make the variables of a request disappear.
    let request = [
        off,
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_HEAD_REF", "x"),
    ];
    assert_eq!(scopes(&request), "- default");
}

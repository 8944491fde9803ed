//! Jobs that may or may not build a pull request.

use super::tests::{ci, scopes};

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
        // There the branch alone may be a request's, or its target.
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
    let cases: [&[(&str, &str)]; 10] = [
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
            ("CIRCLECI", "true"),
            ("CIRCLE_PR_USERNAME", "stranger"),
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
    // A pipeline started by another one's branch build builds what it reports.
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
    // A CI system's mark set to `false` does not hide a request's variables.
    let request = [
        off,
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_HEAD_REF", "x"),
    ];
    assert_eq!(scopes(&request), "- default");
}

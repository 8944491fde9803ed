//! Signs that a job builds a pull request, for unknown CI systems: any sign is enough to write nothing.

use super::github;
use crate::config::Env;

/// Variables that are set, and not `false` or `0`, when a pull request is built. Sources: each system's own reference, and the list of
/// watson/ci-info (`vendors.json`).
const SET: &[&str] = &[
    "AGOLA_PULL_REQUEST_ID",
    "APPVEYOR_PULL_REQUEST_NUMBER",
    "BITBUCKET_PR_ID",
    "BITBUCKET_PULL_REQUEST_ID",
    "BITRISE_PULL_REQUEST",
    "BUDDY_EXECUTION_PULL_REQUEST_ID",
    "BUILDKITE_PULL_REQUEST",
    "CF_PULL_REQUEST_NUMBER",
    "CHANGE_ID",
    "CIRCLE_PR_NUMBER",
    "CIRCLE_PULL_REQUEST",
    "CIRRUS_PR",
    "CI_COMMIT_PULL_REQUEST",
    "CI_EXTERNAL_PULL_REQUEST_IID",
    "CI_MERGE_REQUEST_IID",
    "CI_PULL_REQUEST",
    "CI_PULL_REQUEST_NUMBER",
    "CM_PULL_REQUEST",
    "DRONE_PULL_REQUEST",
    "GERRIT_CHANGE_NUMBER",
    "GITHUB_BASE_REF",
    "GITHUB_HEAD_REF",
    "HEROKU_PR_NUMBER",
    "IS_PULL_REQUEST",
    "LAYERCI_PULL_REQUEST",
    "NEVERCODE_PULL_REQUEST",
    "PULL_NUMBER",
    "PULL_REQUEST",
    "PULL_REQUEST_NUMBER",
    "SD_PULL_REQUEST",
    "SEMAPHORE_GIT_PR_NUMBER",
    "SYSTEM_PULLREQUEST_PULLREQUESTID",
    "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER",
    "SYSTEM_PULLREQUEST_SOURCEBRANCH",
    "SYSTEM_PULLREQUEST_TARGETBRANCH",
    "TDDIUM_PR_ID",
    "TRAVIS_PULL_REQUEST",
    "VELA_PULL_REQUEST",
    "VERCEL_GIT_PULL_REQUEST_ID",
    "ghprbPullId",
    "gitlabMergeRequestIid",
];

/// Variables whose value has this prefix when a pull request is built.
const STARTS: &[(&str, &str)] = &[
    ("BUILD_REASON", "PullRequest"),
    ("CI_PIPELINE_EVENT", "pull_request"),
    ("CI_PIPELINE_SOURCE", "merge_request"),
    ("CODEBUILD_SOURCE_VERSION", "pr/"),
    ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST"),
    ("CODEBUILD_WEBHOOK_TRIGGER", "pr/"),
    ("DRONE_BUILD_EVENT", "pull_request"),
    ("GITHUB_REF", "refs/pull/"),
];

/// The variable that indicates a pull request.
pub(super) fn request(env: &Env) -> Option<&'static str> {
    let set = SET.iter().copied().find(|name| env.is_on(name));
    set.or_else(|| {
        let says = |name, start: &str| {
            let head = env.get(name).and_then(|v| v.get(..start.len()));
            head.is_some_and(|head| head.eq_ignore_ascii_case(start))
        };
        let found = STARTS.iter().find(|(name, start)| says(name, start));
        found.map(|(name, _)| *name)
    })
    .or_else(|| {
        let event = env.get("GITHUB_EVENT_NAME")?.to_ascii_lowercase();
        (!github::builds_its_ref(&event)).then_some("GITHUB_EVENT_NAME")
    })
}

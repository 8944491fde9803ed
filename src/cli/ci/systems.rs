//! The known CI systems, and how each reports what a job builds.

use super::{Building, Reader, Request, github, request_ref};
use crate::config::Env;

/// How to query one CI system.
pub(super) struct System {
    pub(super) name: &'static str,
    /// The variable that is set there and nowhere else; `false` means that it is not.
    pub(super) mark: &'static str,
    pub(super) find: fn(&mut Reader<'_>) -> Option<Building>,
    /// Variables of the default branch's name.
    pub(super) default_branch: &'static [&'static str],
    /// Every job is told what it builds: if that is not found, not all of its variables were passed to this process.
    pub(super) always_tells: bool,
}

// Woodpecker comes before Drone, whose variables it once set too; both before those that only set CI.
const SYSTEMS: &[System] = &[
    // docs.github.com, "Variables reference": default environment variables
    System {
        name: "GitHub Actions",
        mark: "GITHUB_ACTIONS",
        find: github::find,
        default_branch: &[],
        always_tells: true,
    },
    // docs.gitlab.com, "Predefined CI/CD variables"
    System {
        name: "GitLab CI",
        mark: "GITLAB_CI",
        find: gitlab,
        default_branch: &["CI_DEFAULT_BRANCH"],
        always_tells: true,
    },
    // woodpecker-ci.org, "Environment variables"
    System {
        name: "Woodpecker",
        mark: "CI_PIPELINE_FORGE_URL",
        find: woodpecker,
        default_branch: &["CI_REPO_DEFAULT_BRANCH"],
        always_tells: true,
    },
    // docs.drone.io, "Environment Reference"
    System {
        name: "Drone",
        mark: "DRONE",
        find: drone,
        default_branch: &["DRONE_REPO_BRANCH"],
        always_tells: true,
    },
    // buildkite.com/docs, "Environment variables"
    System {
        name: "Buildkite",
        mark: "BUILDKITE",
        find: buildkite,
        default_branch: &["BUILDKITE_PIPELINE_DEFAULT_BRANCH"],
        always_tells: true,
    },
    // circleci.com/docs, "Project values and variables": built-in environment variables
    System {
        name: "CircleCI",
        mark: "CIRCLECI",
        find: circle,
        default_branch: &[],
        always_tells: true,
    },
    // learn.microsoft.com, Azure Pipelines, "Predefined variables"
    System {
        name: "Azure Pipelines",
        mark: "TF_BUILD",
        find: azure,
        default_branch: &[],
        always_tells: true,
    },
    // Jenkins: Pipeline and Branch API plugins, `/pipeline-syntax/globals#env`
    System {
        name: "Jenkins",
        mark: "JENKINS_URL",
        find: jenkins,
        default_branch: &[],
        // A job need not check anything out with git.
        always_tells: false,
    },
];

/// The system whose job this is.
pub(super) fn find(env: &Env) -> Option<&'static System> {
    SYSTEMS.iter().find(|s| env.is_on(s.mark))
}

fn bare(reference: &str) -> String {
    reference
        .strip_prefix("refs/heads/")
        .unwrap_or(reference)
        .to_owned()
}

fn tag_or_branch(r: &mut Reader<'_>, tag: &'static str, branch: &'static str) -> Option<Building> {
    r.get(tag)
        .map(Building::Tag)
        .or_else(|| r.get(branch).map(Building::Branch))
}

fn gitlab(r: &mut Reader<'_>) -> Option<Building> {
    let request = r
        .request(&["CI_MERGE_REQUEST_IID", "CI_EXTERNAL_PULL_REQUEST_IID"])
        .or_else(|| r.request_ref("CI_MERGE_REQUEST_REF_PATH"))
        .or_else(|| {
            r.request_unless(
                "CI_PIPELINE_SOURCE",
                &[
                    "api",
                    "chat",
                    "ondemand_dast_scan",
                    "ondemand_dast_validation",
                    "parent_pipeline",
                    "pipeline",
                    "push",
                    "schedule",
                    "security_orchestration_policy",
                    "trigger",
                    "web",
                    "webide",
                ],
            )
        });
    if let Some(request) = request {
        let target = r
            .get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
            .or_else(|| r.get("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME"));
        return Some(request.building(target));
    }
    tag_or_branch(r, "CI_COMMIT_TAG", "CI_COMMIT_BRANCH")
}

fn woodpecker(r: &mut Reader<'_>) -> Option<Building> {
    // A deployment of a pull request's pipeline has its ref, and the target as its branch.
    let request = r
        .request(&["CI_COMMIT_PULL_REQUEST"])
        .or_else(|| r.request_ref("CI_COMMIT_REF"))
        .or_else(|| {
            let known = ["cron", "deployment", "manual", "push", "release", "tag"];
            r.request_unless("CI_PIPELINE_EVENT", &known)
        });
    if let Some(request) = request {
        let target = r.get("CI_COMMIT_TARGET_BRANCH");
        return Some(request.building(target));
    }
    // The branch of a request is its target, so it proves nothing by itself.
    r.get("CI_PIPELINE_EVENT")?;
    tag_or_branch(r, "CI_COMMIT_TAG", "CI_COMMIT_BRANCH")
}

fn drone(r: &mut Reader<'_>) -> Option<Building> {
    // A promotion of a pull request's build has its ref, and the target as its branch.
    let request = r
        .request(&["DRONE_PULL_REQUEST"])
        .or_else(|| r.request_ref("DRONE_COMMIT_REF"))
        .or_else(|| {
            let known = ["cron", "custom", "promote", "push", "rollback", "tag"];
            r.request_unless("DRONE_BUILD_EVENT", &known)
        });
    if let Some(request) = request {
        let target = r.get("DRONE_TARGET_BRANCH");
        return Some(request.building(target));
    }
    // As with Woodpecker.
    r.get("DRONE_BUILD_EVENT")?;
    tag_or_branch(r, "DRONE_TAG", "DRONE_BRANCH")
}

fn buildkite(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(request) = r.request(&["BUILDKITE_PULL_REQUEST"]) {
        let target = r.get("BUILDKITE_PULL_REQUEST_BASE_BRANCH");
        return Some(request.building(target));
    }
    // The branch of a fork's request may be called `main`; every job is told whether it builds a request.
    r.get("BUILDKITE_PULL_REQUEST")?;
    tag_or_branch(r, "BUILDKITE_TAG", "BUILDKITE_BRANCH")
}

fn circle(r: &mut Reader<'_>) -> Option<Building> {
    // CIRCLE_PR_NUMBER only on forks; CIRCLE_PULL_REQUEST is a URL that ends in the number.
    let request = r.request(&["CIRCLE_PR_NUMBER"]).or_else(|| {
        let url = r.get("CIRCLE_PULL_REQUEST")?;
        let last = url.rsplit('/').next().unwrap_or_default();
        Some(Request(super::number(last)))
    });
    // Only builds of a fork's request get the fork's owner.
    let fork = r
        .get("CIRCLE_PR_USERNAME")
        .or_else(|| r.get("CIRCLE_PR_REPONAME"));
    let request = request.or(fork.map(|_| Request(None)));
    if let Some(request) = request {
        return Some(request.building(None));
    }
    if let Some(tag) = r.get("CIRCLE_TAG") {
        return Some(Building::Tag(tag));
    }
    let branch = r.get("CIRCLE_BRANCH")?;
    // A fork's pull request is built as branch `pull/7` or `pull/7/head`.
    Some(match request_branch(&branch) {
        Some(request) => request.building(None),
        None => Building::Branch(branch),
    })
}

fn azure(r: &mut Reader<'_>) -> Option<Building> {
    let request = r
        .request(&[
            "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER",
            "SYSTEM_PULLREQUEST_PULLREQUESTID",
        ])
        .or_else(|| r.request_ref("BUILD_SOURCEBRANCH"))
        .or_else(|| azure_trigger(r))
        .or_else(|| {
            // `BuildCompletion` does not tell what the other build built.
            let known = ["BatchedCI", "IndividualCI", "Manual", "Schedule"];
            let request = r.request_unless("BUILD_REASON", &known)?;
            (!azure_follows(r)).then_some(request)
        });
    if let Some(request) = request {
        let target = r.get("SYSTEM_PULLREQUEST_TARGETBRANCH").map(|b| bare(&b));
        return Some(request.building(target));
    }
    let reference = r.get("BUILD_SOURCEBRANCH")?;
    Some(match reference.strip_prefix("refs/tags/") {
        Some(tag) => Building::Tag(tag.to_owned()),
        None => Building::Branch(bare(&reference)),
    })
}

/// A pipeline started by another pipeline's run runs at its own branch, and may build what a pull request made there
/// (`resources.pipeline.<alias>.sourceBranch`). The number may belong to another repository.
fn azure_trigger(r: &mut Reader<'_>) -> Option<Request> {
    let names = r.env.names_with("RESOURCES_PIPELINE_");
    let mut names = names.filter_map(|name| name.to_str());
    let found = names.any(|name| {
        let branch = r.env.get(name).filter(|_| name.ends_with("_SOURCEBRANCH"));
        branch.and_then(request_ref).is_some()
    });
    if !found {
        return None;
    }
    r.because.push("RESOURCES_PIPELINE_*_SOURCEBRANCH");
    Some(Request::UNKNOWN)
}

/// Returns true if this run was started by a resource that reports its branch, and that branch is this run's own: a pipeline of the same
/// repository, whose branch and commit the run then follows (learn.microsoft.com, "Resources in YAML pipelines"). Container images,
/// packages, webhooks and other CI systems' builds start a run at the default branch, regardless of who made them.
fn azure_follows(r: &mut Reader<'_>) -> bool {
    let is = |name: &str, value: &str| {
        let said = r.env.get(name);
        said.is_some_and(|said| said.eq_ignore_ascii_case(value))
    };
    if !is("BUILD_REASON", "ResourceTrigger") || !is("RESOURCES_TRIGGERINGCATEGORY", "pipeline") {
        return false;
    }
    let alias = r.env.get("RESOURCES_TRIGGERINGALIAS").unwrap_or_default();
    let branch = format!(
        "RESOURCES_PIPELINE_{}_SOURCEBRANCH",
        alias.to_ascii_uppercase()
    );
    let branch = r.env.get(&branch);
    branch.is_some() && branch == r.env.get("BUILD_SOURCEBRANCH")
}

fn jenkins(r: &mut Reader<'_>) -> Option<Building> {
    // Branch API plugin; the id is the code host's, in any form.
    if r.env.is_on("CHANGE_ID")
        && let Some(id) = r.get("CHANGE_ID")
    {
        let target = r.get("CHANGE_TARGET");
        return Some(Request(Some(id)).building(target));
    }
    // Plugins whose jobs have the target as their git branch: GitHub pull request builder, GitLab, Bitbucket, Gerrit.
    if let Some(request) = r.request(&["ghprbPullId"]) {
        let target = r.get("ghprbTargetBranch");
        return Some(request.building(target));
    }
    if let Some(request) = r.request(&["gitlabMergeRequestIid"]) {
        let target = r.get("gitlabTargetBranch");
        return Some(request.building(target));
    }
    if let Some(request) = r.request(&["BITBUCKET_PULL_REQUEST_ID"]) {
        return Some(request.building(None));
    }
    // A merged change is in its branch.
    let is_merged = r.env.get("GERRIT_EVENT_TYPE") == Some("change-merged");
    if !is_merged && let Some(request) = r.request(&["GERRIT_CHANGE_NUMBER"]) {
        let target = r.get("GERRIT_BRANCH");
        return Some(request.building(target));
    }
    if let Some(tag) = r.get("TAG_NAME") {
        return Some(Building::Tag(tag));
    }
    r.is_default = r.env.is_on("BRANCH_IS_PRIMARY") && r.get("BRANCH_IS_PRIMARY").is_some();
    // Without multibranch only the git plugin reports it.
    r.get("BRANCH_NAME").map(Building::Branch).or_else(|| {
        let said = r.get("GIT_BRANCH")?;
        // The git plugin's value for a commit that was requested directly; a branch of that name has its remote's name.
        if said == "detached" {
            return Some(Request::UNKNOWN.building(None));
        }
        let branch = without_remote(&said);
        Some(match request_branch(&branch) {
            Some(request) => request.building(None),
            None => Building::Branch(branch),
        })
    })
}

/// The branch in the git plugin's value: `origin/main`, `refs/remotes/origin/main`, `refs/heads/main`.
fn without_remote(branch: &str) -> String {
    let local = match branch.strip_prefix("refs/remotes/") {
        // With any name of the remote.
        Some(remote) => remote.split_once('/').map_or(remote, |(_, local)| local),
        // A branch may contain a slash too, so only the usual names of remotes count as one.
        None => ["origin/", "upstream/"]
            .iter()
            .find_map(|remote| branch.strip_prefix(remote))
            .unwrap_or(branch),
    };
    bare(local)
}

/// The pull request that a branch stands for: `pull/7/head` and the like, or `pr/7/merge`, as the GitHub pull request builder's
/// documentation has them fetched.
fn request_branch(branch: &str) -> Option<Request> {
    let builders = branch.strip_prefix("pr/").and_then(|rest| {
        let (id, kind) = rest.split_once('/')?;
        let found = super::number(id).filter(|_| matches!(kind, "head" | "merge"));
        found.map(|id| Request(Some(id)))
    });
    let bare = branch.strip_prefix("refs/").unwrap_or(branch);
    builders.or_else(|| request_ref(&format!("refs/{bare}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_system_counts_as_ci() {
        for system in SYSTEMS {
            let on: Env = [(system.mark, "true")].into_iter().collect();
            assert!(on.is_ci(), "{}", system.name);
            let off: Env = [(system.mark, "false")].into_iter().collect();
            assert!(!off.is_ci() && find(&off).is_none(), "{}", system.name);
        }
    }
}

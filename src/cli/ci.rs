//! Which scope a CI job writes, and which it may read, from the variables of its CI system.
//!
//! Trust flows down only (design §7): a pull request reads its own scope, its target branch's and `default`; a branch
//! its own and `default`; nothing reads a pull request's scope but that pull request. Outside CI the scope is `default`,
//! and the branch that git has checked out is not consulted.

use serde_json::Value;

use crate::config::Env;

/// The scope that everybody may read: the default branch's, and where there is no CI.
pub(crate) const DEFAULT: &str = "default";

/// What the job builds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Building {
    /// A pull or merge request, by its number, and the branch it goes to.
    Request {
        number: String,
        target: Option<String>,
    },
    /// A branch.
    Branch(String),
    /// A tag.
    Tag(String),
}

/// What was found out about the CI system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ci {
    /// Its name for people; `None` outside CI, and for one that we do not know.
    pub(crate) system: Option<&'static str>,
    /// Scope that the job writes, and reads first.
    pub(crate) scope: String,
    /// Scopes that it may read besides, in order.
    pub(crate) fallbacks: Vec<String>,
    /// The variables that said so.
    pub(crate) because: Vec<&'static str>,
}

/// How one CI system says what we ask.
struct System {
    name: &'static str,
    /// The variable that is set there and nowhere else.
    mark: &'static str,
    find: fn(&mut Reader<'_>) -> Option<Building>,
    /// Variables of the default branch's name.
    default_branch: &'static [&'static str],
}

// Woodpecker comes before Drone, whose variables it once set too; both before those that only set CI.
const SYSTEMS: &[System] = &[
    // docs.github.com, "Variables reference": default environment variables
    System {
        name: "GitHub Actions",
        mark: "GITHUB_ACTIONS",
        find: github,
        default_branch: &[],
    },
    // docs.gitlab.com, "Predefined CI/CD variables"
    System {
        name: "GitLab CI",
        mark: "GITLAB_CI",
        find: gitlab,
        default_branch: &["CI_DEFAULT_BRANCH"],
    },
    // woodpecker-ci.org, "Environment variables"
    System {
        name: "Woodpecker",
        mark: "CI_PIPELINE_FORGE_URL",
        find: woodpecker,
        default_branch: &["CI_REPO_DEFAULT_BRANCH"],
    },
    // docs.drone.io, "Environment Reference"
    System {
        name: "Drone",
        mark: "DRONE",
        find: drone,
        default_branch: &["DRONE_REPO_BRANCH"],
    },
    // buildkite.com/docs, "Environment variables"
    System {
        name: "Buildkite",
        mark: "BUILDKITE",
        find: buildkite,
        default_branch: &["BUILDKITE_PIPELINE_DEFAULT_BRANCH"],
    },
    // circleci.com/docs, "Project values and variables": built-in environment variables
    System {
        name: "CircleCI",
        mark: "CIRCLECI",
        find: circle,
        default_branch: &[],
    },
    // learn.microsoft.com, Azure Pipelines, "Predefined variables"
    System {
        name: "Azure Pipelines",
        mark: "TF_BUILD",
        find: azure,
        default_branch: &[],
    },
    // Jenkins: Pipeline and Branch API plugins, `/pipeline-syntax/globals#env`
    System {
        name: "Jenkins",
        mark: "JENKINS_URL",
        find: jenkins,
        default_branch: &[],
    },
];

/// Reads variables and notes which answered.
struct Reader<'a> {
    env: &'a Env,
    /// The event's document, where GitHub names one.
    event: Option<&'a Value>,
    because: Vec<&'static str>,
    /// The system itself says that this branch is the default one.
    is_default: bool,
    default_branch: Option<String>,
}

impl Reader<'_> {
    fn get(&mut self, name: &'static str) -> Option<String> {
        let value = self.env.get(name)?.to_owned();
        self.because.push(name);
        Some(value)
    }

    /// A pull request's number; what is not one, as Buildkite's `false`, is none.
    fn number(&mut self, name: &'static str) -> Option<String> {
        self.env
            .get(name)
            .filter(|v| v.bytes().all(|b| b.is_ascii_digit()))?;
        self.get(name)
    }
}

/// Whether the run is in some CI at all.
pub(crate) fn is_ci(env: &Env) -> bool {
    env.is_on("CI") || SYSTEMS.iter().any(|s| env.os(s.mark).is_some())
}

/// Finds the scopes. `event` is the document that `$GITHUB_EVENT_PATH` names; `default_branch` overrides what is detected.
pub(crate) fn detect(env: &Env, event: Option<&Value>, default_branch: Option<&str>) -> Ci {
    let system = SYSTEMS.iter().find(|s| env.os(s.mark).is_some());
    let Some(system) = system else {
        return Ci {
            system: None,
            scope: DEFAULT.to_owned(),
            fallbacks: Vec::new(),
            because: Vec::new(),
        };
    };
    let mut reader = Reader {
        env,
        event,
        because: vec![system.mark],
        is_default: false,
        default_branch: None,
    };
    let building = (system.find)(&mut reader);
    let default_branch = default_branch.map(str::to_owned).or_else(|| {
        let said = system.default_branch.iter().find_map(|v| reader.get(v));
        said.or(reader.default_branch.take())
    });
    let is_default = |branch: &str| match &default_branch {
        Some(default) => branch == default,
        None => matches!(branch, "main" | "master"),
    };
    let branch_scope = |branch: &str| {
        if is_default(branch) {
            DEFAULT.to_owned()
        } else {
            branch_scope(branch)
        }
    };
    let (scope, target) = match &building {
        None => (DEFAULT.to_owned(), None),
        Some(Building::Branch(_)) if reader.is_default => (DEFAULT.to_owned(), None),
        Some(Building::Branch(branch)) => (branch_scope(branch), queue_target(branch)),
        Some(Building::Tag(tag)) => (format!("tag-{tag}"), None),
        Some(Building::Request { number, target }) => (format!("pr-{number}"), target.as_deref()),
    };
    let mut fallbacks: Vec<String> = target.map(branch_scope).into_iter().collect();
    fallbacks.push(DEFAULT.to_owned());
    fallbacks.retain(|s| *s != scope);
    fallbacks.dedup();
    Ci {
        system: Some(system.name),
        scope,
        fallbacks,
        because: reader.because,
    }
}

/// A branch's scope; one that is named like the scope of something else must not read or write that.
fn branch_scope(branch: &str) -> String {
    let taken = branch == DEFAULT
        || ["pr-", "tag-", "branch-"]
            .iter()
            .any(|p| branch.starts_with(p));
    if taken {
        format!("branch-{branch}")
    } else {
        branch.to_owned()
    }
}

/// The branch that a merge queue's branch goes to: `gh-readonly-queue/main/pr-7-<sha>`.
fn queue_target(branch: &str) -> Option<&str> {
    let (target, _) = branch
        .strip_prefix("gh-readonly-queue/")?
        .rsplit_once('/')?;
    Some(target)
}

fn bare(reference: &str) -> String {
    reference
        .strip_prefix("refs/heads/")
        .unwrap_or(reference)
        .to_owned()
}

fn github(r: &mut Reader<'_>) -> Option<Building> {
    let pointer = |r: &Reader<'_>, path| r.event.and_then(|e| e.pointer(path)).cloned();
    if let Some(Value::String(branch)) = pointer(r, "/repository/default_branch") {
        r.default_branch = Some(branch);
        r.because.push("GITHUB_EVENT_PATH");
    }
    let reference = r.get("GITHUB_REF").unwrap_or_default();
    let event = r.get("GITHUB_EVENT_NAME").unwrap_or_default();
    // Any of these says so: a container that was given only some of them must not write into the branch's scope.
    let base = r.get("GITHUB_BASE_REF").filter(|b| !b.is_empty());
    if event.starts_with("pull_request") || reference.starts_with("refs/pull/") || base.is_some() {
        // `pull_request_target` runs with the target's rights and its ref, but builds what a stranger wrote.
        let number = reference
            .strip_prefix("refs/pull/")
            .and_then(|rest| rest.split('/').next())
            .map(str::to_owned)
            .or_else(|| pointer(r, "/number")?.as_u64().map(|n| n.to_string()))
            .or_else(|| r.get("GITHUB_HEAD_REF"))
            .unwrap_or_else(|| "unknown".to_owned());
        return Some(Building::Request {
            number,
            target: base,
        });
    }
    if let Some(tag) = reference.strip_prefix("refs/tags/") {
        return Some(Building::Tag(tag.to_owned()));
    }
    reference
        .strip_prefix("refs/heads/")
        .map(|b| Building::Branch(b.to_owned()))
}

fn gitlab(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(number) = r
        .number("CI_MERGE_REQUEST_IID")
        .or_else(|| r.number("CI_EXTERNAL_PULL_REQUEST_IID"))
    {
        let target = r
            .get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
            .or_else(|| r.get("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME"));
        return Some(Building::Request { number, target });
    }
    r.get("CI_COMMIT_TAG")
        .map(Building::Tag)
        .or_else(|| r.get("CI_COMMIT_BRANCH").map(Building::Branch))
}

fn woodpecker(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(number) = r.number("CI_COMMIT_PULL_REQUEST") {
        let target = r.get("CI_COMMIT_TARGET_BRANCH");
        return Some(Building::Request { number, target });
    }
    r.get("CI_COMMIT_TAG")
        .map(Building::Tag)
        .or_else(|| r.get("CI_COMMIT_BRANCH").map(Building::Branch))
}

fn drone(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(number) = r.number("DRONE_PULL_REQUEST") {
        let target = r.get("DRONE_TARGET_BRANCH");
        return Some(Building::Request { number, target });
    }
    r.get("DRONE_TAG")
        .map(Building::Tag)
        .or_else(|| r.get("DRONE_BRANCH").map(Building::Branch))
}

fn buildkite(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(number) = r.number("BUILDKITE_PULL_REQUEST") {
        let target = r.get("BUILDKITE_PULL_REQUEST_BASE_BRANCH");
        return Some(Building::Request { number, target });
    }
    r.get("BUILDKITE_TAG")
        .map(Building::Tag)
        .or_else(|| r.get("BUILDKITE_BRANCH").map(Building::Branch))
}

fn circle(r: &mut Reader<'_>) -> Option<Building> {
    // CIRCLE_PR_NUMBER only on forks; CIRCLE_PULL_REQUEST is a URL that ends in the number.
    let number = r.number("CIRCLE_PR_NUMBER").or_else(|| {
        let url = r.get("CIRCLE_PULL_REQUEST")?;
        let number = url.rsplit('/').next()?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| number.to_owned())
    });
    if let Some(number) = number {
        return Some(Building::Request {
            number,
            target: None,
        });
    }
    if let Some(tag) = r.get("CIRCLE_TAG") {
        return Some(Building::Tag(tag));
    }
    let branch = r.get("CIRCLE_BRANCH")?;
    // A fork's pull request is built as branch `pull/7`.
    Some(match branch.strip_prefix("pull/") {
        Some(number) => Building::Request {
            number: number.to_owned(),
            target: None,
        },
        None => Building::Branch(branch),
    })
}

fn azure(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(number) = r
        .number("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER")
        .or_else(|| r.number("SYSTEM_PULLREQUEST_PULLREQUESTID"))
    {
        let target = r.get("SYSTEM_PULLREQUEST_TARGETBRANCH").map(|b| bare(&b));
        return Some(Building::Request { number, target });
    }
    let reference = r.get("BUILD_SOURCEBRANCH")?;
    if let Some(rest) = reference.strip_prefix("refs/pull/") {
        let number = rest.split('/').next().unwrap_or(rest).to_owned();
        return Some(Building::Request {
            number,
            target: None,
        });
    }
    Some(match reference.strip_prefix("refs/tags/") {
        Some(tag) => Building::Tag(tag.to_owned()),
        None => Building::Branch(bare(&reference)),
    })
}

fn jenkins(r: &mut Reader<'_>) -> Option<Building> {
    if let Some(number) = r.get("CHANGE_ID") {
        let target = r.get("CHANGE_TARGET");
        return Some(Building::Request { number, target });
    }
    if let Some(tag) = r.get("TAG_NAME") {
        return Some(Building::Tag(tag));
    }
    r.is_default = r.env.is_on("BRANCH_IS_PRIMARY") && r.get("BRANCH_IS_PRIMARY").is_some();
    // Without multibranch only the git plugin tells: `origin/main`.
    r.get("BRANCH_NAME").map(Building::Branch).or_else(|| {
        let branch = r.get("GIT_BRANCH")?;
        let bare = branch.strip_prefix("origin/").unwrap_or(&branch);
        Some(Building::Branch(bare.to_owned()))
    })
}

#[cfg(test)]
#[path = "ci_tests.rs"]
mod tests;

//! Determines the scope that a CI job writes, and those it may read, from the variables of its CI system.
//!
//! Trust flows down only: a pull request reads its own scope, its target branch's and `default`; a branch
//! its own and `default`; nothing reads a pull request's scope but that pull request. Outside CI the scope is `default`,
//! and the branch that git has checked out is not consulted.
//!
//! A job that may run the code of a pull request with unknown number writes nothing: a guess could be the scope of someone with more trust.
//! This is a convention of honest clients, not a guard: anyone who may push to the store can write any scope.

mod github;
mod signs;
mod systems;

use serde_json::Value;

use crate::config::Env;
use systems::System;

/// The scope that everyone may read: that of the default branch, and of runs outside CI.
pub(crate) const DEFAULT: &str = "default";

/// What to do about a scope that could not be determined.
const REMEDY: &str = "set CACHECTL_SCOPE to choose one, such as `pr-7`";

/// What the job builds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Building {
    /// A pull or merge request, or possibly one, and its target branch. No number: no trustworthy source has it.
    Request {
        number: Option<String>,
        target: Option<String>,
    },
    Branch(String),
    Tag(String),
}

impl Building {
    /// A job that was given only a commit may build a request: what its system reports in place of a branch is not a branch, and all such
    /// jobs would share a scope of that name.
    fn or_unknown(self) -> Self {
        match &self {
            // No branch has a space in it: `(no branch)`, `(HEAD detached at 4f1c2d3)`.
            Self::Branch(name) if matches!(name.as_str(), "" | "HEAD") || name.contains(' ') => {
                Request::UNKNOWN.building(None)
            }
            Self::Tag(name) if name.is_empty() => Request::UNKNOWN.building(None),
            _ => self,
        }
    }
}

/// What was detected about the CI system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ci {
    /// Its display name; `None` outside CI, and for an unknown system.
    pub(crate) system: Option<&'static str>,
    /// Scope that the job writes, and reads first; `None`: it must not write.
    pub(crate) scope: Option<String>,
    /// Further scopes that it may read, in order.
    pub(crate) fallbacks: Vec<String>,
    /// The variables that determined this.
    pub(crate) because: Vec<&'static str>,
    /// What is uncertain about this, and what to do, in one line.
    pub(crate) doubt: Option<String>,
}

/// Reads variables and records which ones were used.
struct Reader<'a> {
    env: &'a Env,
    /// The event's document, if GitHub provides one.
    event: Option<&'a Value>,
    because: Vec<&'static str>,
    /// The system itself reports this branch as the default one.
    is_default: bool,
    default_branch: Option<String>,
}

impl Reader<'_> {
    fn get(&mut self, name: &'static str) -> Option<String> {
        let value = self.env.get(name)?.to_owned();
        if !self.because.contains(&name) {
            self.because.push(name);
        }
        Some(value)
    }

    /// The pull request in one of these variables; `false`, as Buildkite writes it, means none.
    fn request(&mut self, names: &[&'static str]) -> Option<Request> {
        let on = names.iter().filter(|name| self.env.is_on(name));
        let said: Vec<_> = on.copied().collect();
        let values = said.into_iter().filter_map(|name| self.get(name));
        values
            .map(|value| Request(number(&value)))
            .reduce(Request::or)
    }

    /// A pull request without a number, if the variable has none of these values: a job with an unknown trigger may build a request.
    fn request_unless(&mut self, name: &'static str, known: &[&str]) -> Option<Request> {
        let said = self.get(name)?;
        let is_known = known.iter().any(|known| known.eq_ignore_ascii_case(&said));
        (!is_known).then_some(Request::UNKNOWN)
    }

    /// The pull request whose ref the variable holds.
    fn request_ref(&mut self, name: &'static str) -> Option<Request> {
        let found = request_ref(self.env.get(name)?)?;
        self.get(name);
        Some(found)
    }
}

/// A pull request, with its number if known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request(Option<String>);

impl Request {
    const UNKNOWN: Self = Self(None);

    /// This one, or the other if only the other has a number.
    fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    /// What a job for this pull request builds.
    fn building(self, target: Option<String>) -> Building {
        let number = self.0;
        Building::Request { number, target }
    }
}

/// Parses a number. Only for values that CI systems write: a name that a stranger chose must not pass for a number.
fn number(text: &str) -> Option<String> {
    let is_number = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.to_owned())
}

/// The pull request of a ref: `refs/pull/7/merge` (GitHub, Gitea), `refs/merge-requests/7/head` (GitLab),
/// `refs/pull-requests/7/from` (Bitbucket).
fn request_ref(reference: &str) -> Option<Request> {
    let rest = ["refs/pull/", "refs/merge-requests/", "refs/pull-requests/"]
        .iter()
        .find_map(|prefix| reference.strip_prefix(prefix))?;
    Some(Request(number(rest.split('/').next().unwrap_or(rest))))
}

/// Finds the scopes. `event` is the document that `$GITHUB_EVENT_PATH` names; `default_branch` overrides the detected one.
pub(crate) fn detect(env: &Env, event: Option<&Value>, default_branch: Option<&str>) -> Ci {
    let Some(system) = systems::find(env) else {
        return unknown_system(env);
    };
    let mut reader = Reader {
        env,
        event,
        because: vec![system.mark],
        is_default: false,
        default_branch: None,
    };
    let building = (system.find)(&mut reader).map(Building::or_unknown);
    let default_branch = default_branch.map(str::to_owned).or_else(|| {
        let said = system.default_branch.iter().find_map(|v| reader.get(v));
        said.or(reader.default_branch.take())
    });
    let Some(building) = building else {
        return untold(system, env, reader.because);
    };
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
        Building::Branch(_) if reader.is_default => (Some(DEFAULT.to_owned()), None),
        Building::Branch(branch) => (Some(branch_scope(branch)), queue_target(branch)),
        Building::Tag(tag) => (Some(format!("tag-{tag}")), None),
        Building::Request { number, target } => (
            number.as_ref().map(|n| format!("pr-{n}")),
            target.as_deref(),
        ),
    };
    let mut fallbacks: Vec<String> = target.map(branch_scope).into_iter().collect();
    fallbacks.push(DEFAULT.to_owned());
    fallbacks.retain(|s| Some(s) != scope.as_ref());
    fallbacks.dedup();
    let because = reader.because;
    let doubt = scope.is_none().then(|| {
        let variables: Vec<String> = because.iter().map(|v| format!("${v}")).collect();
        format!(
            "this job may run the code of a pull request of unknown number ({}): it only reads scope {} and exports nothing; {REMEDY}",
            variables.join(" "),
            fallbacks.join(", then ")
        )
    });
    Ci {
        system: Some(system.name),
        scope,
        fallbacks,
        because,
        doubt,
    }
}

/// The result for a known system that does not report what the job builds.
fn untold(system: &System, env: &Env, because: Vec<&'static str>) -> Ci {
    let name = system.name;
    let sign = signs::request(env);
    let may_write = !system.always_tells && sign.is_none();
    let doubt = if may_write {
        format!(
            "{name} does not report which branch this job builds: it reads and writes scope {DEFAULT}; {REMEDY}"
        )
    } else {
        format!(
            "the variables of {name} that say what this job builds are missing, and it may be a pull request: the job only reads scope {DEFAULT} and exports nothing; pass the CI system's variables on, or {REMEDY}"
        )
    };
    Ci {
        system: Some(name),
        scope: may_write.then(|| DEFAULT.to_owned()),
        fallbacks: fallbacks_of_default(may_write),
        because: because.into_iter().chain(sign).collect(),
        doubt: Some(doubt),
    }
}

/// The result for an unknown system, or none at all.
fn unknown_system(env: &Env) -> Ci {
    let sign = signs::request(env);
    let doubt = match sign {
        Some(sign) => Some(format!(
            "${sign} indicates a pull request, but cachectl does not know this CI system: this job only reads scope {DEFAULT} and exports nothing; {REMEDY}"
        )),
        None if env.is_ci() => Some(format!(
            "cachectl does not know this CI system and cannot recognize pull requests: this job writes scope {DEFAULT}; in jobs that build pull requests set CACHECTL_SCOPE, such as `pr-7`, or CACHECTL_READ_ONLY=1"
        )),
        None => None,
    };
    Ci {
        system: None,
        scope: sign.is_none().then(|| DEFAULT.to_owned()),
        fallbacks: fallbacks_of_default(sign.is_none()),
        because: sign.into_iter().collect(),
        doubt,
    }
}

/// Further scopes to read, if the written scope is `default` or none.
fn fallbacks_of_default(is_written: bool) -> Vec<String> {
    let read = (!is_written).then(|| DEFAULT.to_owned());
    read.into_iter().collect()
}

/// A branch's scope; a branch named like another kind of scope must not read or write that scope.
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

/// The target of a merge queue's branch: `gh-readonly-queue/main/pr-7-<sha>`.
fn queue_target(branch: &str) -> Option<&str> {
    let (target, _) = branch
        .strip_prefix("gh-readonly-queue/")?
        .rsplit_once('/')?;
    Some(target)
}

#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod github_tests;
#[cfg(test)]
mod tests;

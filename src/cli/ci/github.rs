//! What a GitHub Actions job builds: most events run with the default branch's ref although they may build a pull request.
//!
//! Source: docs.github.com, "Events that trigger workflows" (`GITHUB_REF` of each) and "Webhook events and payloads".

use serde_json::Value;

use super::{Building, Reader, Request, request_ref};

/// Events that build their own ref or branch. All others, including future ones, have the default branch's ref (or a deployment's) and may
/// build a request: a comment, a label or a discussion can tell a workflow's scripts what to check out.
const BUILDS_ITS_REF: [&str; 6] = [
    "create",
    "merge_group",
    "push",
    "release",
    "schedule",
    "workflow_dispatch",
];

/// Returns true if an event, in lower case, builds its own ref.
pub(super) fn builds_its_ref(event: &str) -> bool {
    BUILDS_ITS_REF.contains(&event)
}

pub(super) fn find(r: &mut Reader<'_>) -> Option<Building> {
    let document = r.event;
    if let Some(branch) = document.and_then(|d| text(d, "/repository/default_branch")) {
        r.default_branch = Some(branch.to_owned());
        r.because.push("GITHUB_EVENT_PATH");
    }
    let reference = r.get("GITHUB_REF").unwrap_or_default();
    let event = r.get("GITHUB_EVENT_NAME").map(|e| e.to_ascii_lowercase());
    // Any of these is enough: a container that was given only some of them must not write into the branch's scope.
    let base = r.get("GITHUB_BASE_REF");
    let by_ref = request_ref(&reference);
    // A stranger chose the head's name: it shows that there is a request, never which one.
    let is_request = event
        .as_ref()
        .is_some_and(|e| e.starts_with("pull_request"))
        || r.env.get("GITHUB_HEAD_REF").is_some();
    if is_request || by_ref.is_some() || base.is_some() {
        // `pull_request_target` runs with the target's rights and its ref, but builds what a stranger wrote.
        let by_document = document.map(|d| {
            let paths = ["/number", "/pull_request/number", "/issue/number"];
            Request(paths.iter().find_map(|path| number(d, path)))
        });
        let request = by_ref
            .unwrap_or(Request::UNKNOWN)
            .or(by_document.unwrap_or(Request::UNKNOWN));
        let told = document.and_then(|d| text(d, "/pull_request/base/ref"));
        return Some(request.building(base.or(told.map(str::to_owned))));
    }
    if let Some(building) = by_event(&event?, document, r.default_branch.as_deref()) {
        return Some(building);
    }
    if let Some(tag) = reference.strip_prefix("refs/tags/") {
        return Some(Building::Tag(tag.to_owned()));
    }
    reference
        .strip_prefix("refs/heads/")
        .map(|b| Building::Branch(b.to_owned()))
}

/// What an event builds; `None`: it builds its ref.
fn by_event(event: &str, document: Option<&Value>, default: Option<&str>) -> Option<Building> {
    if builds_its_ref(event) {
        return None;
    }
    let unknown = Some(Request::UNKNOWN.building(None));
    // Without the document, the subject of an event is unknown.
    let Some(document) = document else {
        return unknown;
    };
    match event {
        "issue_comment" => {
            // `is_pull`: Gitea and Forgejo.
            let of_request = document
                .pointer("/issue/pull_request")
                .is_some_and(|v| !v.is_null())
                || document.pointer("/is_pull").and_then(Value::as_bool) == Some(true);
            let number = number(document, "/issue/number").filter(|_| of_request);
            Some(Request(number).building(None))
        }
        "workflow_run" => Some(workflow_run(document)),
        "check_run" => Some(check(document, "/check_run", "/check_run/check_suite")),
        "check_suite" => Some(check(document, "/check_suite", "/check_suite")),
        "status" => Some(status(document, default)),
        // A comment used as a command (`/test`) is passed on this way, with the request.
        "repository_dispatch" => {
            let request = document.pointer("/client_payload/pull_request")?;
            let target = text(request, "/base/ref").map(str::to_owned);
            Some(Request(number(request, "/number")).building(target))
        }
        _ => unknown,
    }
}

/// It runs after another run has ended, with the default branch's ref and rights, and usually builds the same as that run.
fn workflow_run(document: &Value) -> Building {
    let run = |path: &str| text(document, &format!("/workflow_run{path}"));
    let own = text(document, "/repository/full_name");
    let is_own = own.is_some() && run("/head_repository/full_name") == own;
    let event = run("/event").unwrap_or_default();
    match run("/head_branch") {
        Some(branch) if is_own && builds_its_ref(event) => Building::Branch(branch.to_owned()),
        // For a fork's request the list is empty.
        _ => requests(document, "/workflow_run").unwrap_or_else(|| Request::UNKNOWN.building(None)),
    }
}

/// A check may belong to any commit. "Pushes to a branch in a forked repository are not detected and return an empty pull_requests array
/// and a null value for head_branch" (REST API, check suites).
fn check(document: &Value, check: &str, suite: &str) -> Building {
    requests(document, check)
        .or_else(|| requests(document, suite))
        .or_else(|| {
            let branch = text(document, &format!("{suite}/head_branch"))?;
            Some(Building::Branch(branch.to_owned()))
        })
        .unwrap_or_else(|| Request::UNKNOWN.building(None))
}

/// A status may belong to any commit too; the document names the branches that contain it.
fn status(document: &Value, default: Option<&str>) -> Building {
    let all = document.pointer("/branches").and_then(Value::as_array);
    let names: Vec<&str> = all
        .into_iter()
        .flatten()
        .filter_map(|b| text(b, "/name"))
        .collect();
    match (default, names.as_slice()) {
        (Some(default), names) if names.contains(&default) => Building::Branch(default.to_owned()),
        (_, [one]) => Building::Branch((*one).to_owned()),
        _ => Request::UNKNOWN.building(None),
    }
}

/// The request in a `pull_requests` list, if it is the only one and of this repository; otherwise one without a number; `None` if the list
/// is empty.
fn requests(document: &Value, place: &str) -> Option<Building> {
    let path = format!("{place}/pull_requests");
    let all = document.pointer(&path).and_then(Value::as_array)?;
    let [one] = all.as_slice() else {
        return (!all.is_empty()).then(|| Request::UNKNOWN.building(None));
    };
    let id = |v: &Value, path| v.pointer(path).and_then(Value::as_u64);
    let (base, own) = (id(one, "/base/repo/id"), id(document, "/repository/id"));
    if base.is_some() && base != own {
        return Some(Request::UNKNOWN.building(None));
    }
    let target = text(one, "/base/ref").map(str::to_owned);
    Some(Request(number(one, "/number")).building(target))
}

fn text<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    document.pointer(path).and_then(Value::as_str)
}

fn number(document: &Value, path: &str) -> Option<String> {
    let number = document.pointer(path).and_then(Value::as_u64);
    number.map(|n| n.to_string())
}

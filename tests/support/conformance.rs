//! The OCI conformance suite, and what it found.
//!
//! Source: opencontainers/distribution-spec `conformance/`. Its exit code proves little: skips do not count, and a wrong
//! setting ends with 0 and no results. So the counts are read from its `junit.xml`, and every row of `results.yaml`.
use std::fs;
use std::process::Command;

use super::cachectld::Access;
use super::door::Door;
use super::scratch::Scratch;
use super::servers::Registry;
use super::tools;

/// Which rules a registry is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Version 1.1 of the specification.
    V1_1,
    /// What its main branch asks for, and manifests whose parts were never pushed.
    Newest,
}

impl Rules {
    pub(crate) const ALL: [Self; 2] = [Self::V1_1, Self::Newest];

    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::V1_1 => &[("OCI_VERSION", "1.1")],
            Self::Newest => &[("OCI_VERSION", "dev"), ("OCI_DATA_SPARSE", "true")],
        }
    }
}

/// How the checks of one run ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) pass: usize,
    pub(crate) fail: usize,
    pub(crate) error: usize,
    pub(crate) skip: usize,
    pub(crate) disabled: usize,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) counts: Counts,
    /// Rows of the report, as `Blob get range`, that are neither `Pass` nor `Disabled`, with what they are.
    pub(crate) rows: Vec<String>,
    /// How many rows the report has.
    pub(crate) row_count: usize,
    /// The checks that did not pass, and why.
    pub(crate) complaints: String,
}

/// Runs the suite against the registry on this loopback port.
pub(crate) fn run(port: u16, rules: Rules, login: bool) -> Results {
    run_with(port, rules, login, &[])
}

fn run_with(port: u16, rules: Rules, login: bool, more: &[(&str, &str)]) -> Results {
    let dir = Scratch::new("conformance");
    let mut command = Command::new(tools::built("conformance"));
    command.current_dir(dir.path());
    command.env("OCI_REGISTRY", format!("127.0.0.1:{port}"));
    command.env("OCI_TLS", "disabled");
    command.env("OCI_RESULTS_DIR", dir.path());
    command.envs(rules.settings().iter().chain(more).copied());
    if login {
        command.env("OCI_USERNAME", Registry::USER);
        command.env("OCI_PASSWORD", Registry::PASSWORD);
    }
    let out = command.output().expect("the suite starts");
    let said = String::from_utf8_lossy(&out.stdout);
    let read = |name: &str| {
        fs::read_to_string(dir.path().join(name)).unwrap_or_else(|error| {
            let stderr = String::from_utf8_lossy(&out.stderr);
            panic!("the suite left no {name} ({error})\n{stderr}")
        })
    };
    let (rows, row_count) = rows(&read("results.yaml"));
    Results {
        counts: counts(&read("junit.xml")),
        rows,
        row_count,
        complaints: complaints(&said),
    }
}

/// [`run`] with what the door asks for. A tenant may name nothing that is not there; whoever else pushes images whose parts were never
/// pushed needs a daemon that is set to accept them.
pub(crate) fn run_at(door: &mut Door, rules: Rules) -> Results {
    if rules == Rules::Newest && door.access != Access::Tenant {
        door.accept_incomplete_images();
    }
    let whole: &[_] = match door.access {
        Access::Tenant => &[("OCI_DATA_SPARSE", "false")],
        Access::Anonymous | Access::Basic | Access::Token => &[],
    };
    run_with(door.port, rules, door.access != Access::Anonymous, whole)
}

/// The attributes of `<testsuites …>`; one that is 0 is not written.
fn counts(junit: &str) -> Counts {
    let head = junit.split_once('>').map_or("", |(head, _)| head);
    let number = |name: &str| {
        let value = head.split_once(&format!(" {name}=\""));
        let value = value.and_then(|(_, rest)| rest.split_once('"'));
        value.map_or(0, |(value, _)| value.parse().expect("a count"))
    };
    let [all, fail, error, skip, disabled] =
        ["tests", "failures", "errors", "skipped", "disabled"].map(number);
    Counts {
        pass: all - fail - error - skip - disabled,
        fail,
        error,
        skip,
        disabled,
    }
}

/// The lines `  <row>: <status>` below the top-level keys `apis` and `data`.
fn rows(results: &str) -> (Vec<String>, usize) {
    let mut inside = false;
    let (mut bad, mut count) = (Vec::new(), 0);
    for line in results.lines() {
        if !line.starts_with(' ') {
            inside = matches!(line, "apis:" | "data:");
        } else if inside {
            count += 1;
            if !line.ends_with(": Pass") && !line.ends_with(": Disabled") {
                bad.push(line.trim().to_owned());
            }
        }
    }
    (bad, count)
}

/// The lines of the report about checks that did not pass, with the reasons below them.
fn complaints(report: &str) -> String {
    let report = report.split("\nConfiguration:").next().unwrap_or(report);
    let (mut kept, mut keep) = (Vec::new(), false);
    for line in report.lines() {
        let is_check = line.trim_start().starts_with("OCI Conformance Test");
        if is_check {
            keep = !line.ends_with(": Pass") && !line.ends_with(": Disabled");
        }
        if keep {
            kept.push(line);
        }
    }
    kept.join("\n")
}

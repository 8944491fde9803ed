//! The flags of every command: each is in a table here, and what it does is seen in each command that it concerns.

use std::{collections::BTreeSet, net::TcpListener};

use super::{
    flags::{flags_in, is_a_test},
    node_with_tree, run, words,
};
use crate::support::{cli::Outcome, node::Node};

/// A line of each command that has to do with a store; `{store}` is where.
const WITH_A_STORE: [&str; 10] = [
    "export dir tree --name m --store {store}",
    "import dir y --name n --store {store}",
    "ls --store {store}",
    "inspect n --store {store}",
    "verify --store {store}",
    "copy {store} disk:copied",
    "prune --max-age 1d --store {store}",
    "du --store {store}",
    "env --check --store {store}",
    // The last one: the others need it.
    "rm n --store {store}",
];

/// Of those the ones that ask a daemon that is set; `copy` names its stores itself, and only lets the daemon copy.
const WITH_A_DAEMON: [&str; 11] = [
    "export dir tree --name m",
    "import dir y --name n",
    "ls",
    "inspect n",
    "verify",
    "prune --max-age 1d",
    "du",
    "env --check",
    "rm n",
    "status",
    "flush",
];

/// Commands that only print a text, or what a builder needs.
const WITHOUT: [&str; 4] = ["completions", "man", "help", "buildx-setup"];

/// How a flag is shown to be obeyed.
enum Shown {
    /// Here, in each command.
    Here(fn()),
    /// What it does cannot be seen from outside; that each command reads it can: it refuses this value. The test of the effect.
    Read(&'static str, &'static str),
    /// It changes what is said and no more: the tests that show it.
    Elsewhere(&'static str),
}

use Shown::{Elsewhere, Here, Read};

const TABLE: [(&str, Shown); 15] = [
    ("store", Here(store_and_ca_bundle)),
    ("ca-bundle", Here(store_and_ca_bundle)),
    ("daemon", Here(daemon)),
    ("config", Here(config)),
    ("json", Here(json)),
    ("quiet", Here(quiet)),
    ("read-only", Here(read_only)),
    ("budget", Here(budget)),
    ("stall", Here(stall_and_connect_timeout)),
    ("connect-timeout", Here(stall_and_connect_timeout)),
    ("retry-for", Here(retry_for)),
    (
        "verbose",
        Elsewhere("a_log_has_one_line_a_cache_and_details_have_the_phases"),
    ),
    ("jobs", Read("0", "every_flag_reaches_its_key")),
    (
        "concurrency",
        Read(
            "0",
            "no_more_than_allowed_run_at_once_and_a_stream_holds_its_place",
        ),
    ),
    (
        "bandwidth",
        Read("1", "bandwidth_holds_over_all_transfers_of_a_direction"),
    ),
];

fn at<'a>(lines: &'a [&str], url: &'a str) -> impl Iterator<Item = String> + 'a {
    lines.iter().map(move |line| line.replace("{store}", url))
}

/// Runs each line with `more` words, all at once.
fn all(node: &Node, lines: impl Iterator<Item = String>, more: &str) -> Vec<Outcome> {
    let started = lines.map(|line| words(node, &format!("{line} {more}")).start());
    let started: Vec<_> = started.collect();
    started
        .into_iter()
        .map(crate::support::cli::Running::wait)
        .collect()
}

/// A server that takes connections and never says a word; its store.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("oci://{}/x", listener.local_addr().unwrap());
    (listener, url)
}

fn says(outcomes: &[Outcome], wanted: &[&str]) {
    for outcome in outcomes {
        for text in wanted {
            assert!(outcome.stderr.contains(text), "`{text}`: {outcome}");
        }
    }
}

fn store_and_ca_bundle() {
    let node = node_with_tree();
    let url = "oci://127.0.0.1:1/x";
    let lines = at(&WITH_A_STORE, url);
    let outcomes = all(&node, lines, "--ca-bundle /nothing.pem");
    says(&outcomes, &[url, "`/nothing.pem` does not exist"]);
}

fn daemon() {
    let node = node_with_tree();
    let lines = WITH_A_DAEMON.iter().map(|line| (*line).to_owned());
    let outcomes = all(&node, lines, "--daemon /no/socket --retry-for 0");
    says(&outcomes, &["cachectld:/no/socket"]);
}

fn config() {
    let node = node_with_tree();
    let lines = at(&WITH_A_STORE, "disk:s").chain(["status", "flush"].map(str::to_owned));
    let outcomes = all(&node, lines, "--config nothing.toml");
    says(&outcomes, &["nothing.toml does not exist (--config)"]);
    for outcome in outcomes {
        outcome.code(2);
    }
}

fn json() {
    let node = node_with_tree();
    run(&node, "export dir tree --name n --store disk:s").success();
    for line in at(&WITH_A_STORE, "disk:s") {
        words(&node, &line).json();
    }
}

/// Only what is data is still printed.
fn quiet() {
    let node = node_with_tree();
    run(&node, "export dir tree --name n --store disk:s").success();
    for line in at(&WITH_A_STORE, "disk:s") {
        let is_data = ["ls", "inspect", "du", "env"].contains(&line.split(' ').next().unwrap());
        let quiet = run(&node, &format!("{line} --quiet")).success();
        assert_eq!(
            (quiet.stdout.is_empty(), quiet.stderr.is_empty()),
            (!is_data, true),
            "{quiet}"
        );
    }
}

fn read_only() {
    let node = node_with_tree();
    run(&node, "export dir tree --name n --store disk:s").success();
    for line in at(&WITH_A_STORE, "disk:s") {
        let command = line.split(' ').next().unwrap();
        let refuses = ["copy", "prune", "rm"].contains(&command);
        let outcome = run(&node, &format!("{line} --read-only"));
        let outcome = outcome.code(if refuses { 2 } else { 0 });
        if refuses || command == "export" {
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(said.contains("--read-only is set"), "{outcome}");
        }
    }
    let left = run(&node, "ls --store disk:s").success().stdout;
    assert!(left.contains(" n ") && !left.contains(" m "), "{left}");
    assert!(!node.path("home/copied").exists());
}

fn budget() {
    let (_listener, url) = silent();
    let node = node_with_tree();
    // Nothing else ends it.
    let more = "--budget 300ms --stall 1h --connect-timeout 1h --retry-for 1h";
    let outcomes = all(&node, at(&WITH_A_STORE, &url), more);
    says(&outcomes, &["the time budget"]);
}

fn stall_and_connect_timeout() {
    let (_listener, url) = silent();
    let node = node_with_tree();
    let more = "--stall 300ms --connect-timeout 500ms --retry-for 0 --budget 1h";
    for outcome in all(&node, at(&WITH_A_STORE, &url), more) {
        // An answer may take three times as long; a second more than to connect is allowed for one that begins.
        let ended = ["no answer within 0.9s", "no answer within 1.5s"];
        let is_said = ended.iter().any(|text| outcome.stderr.contains(text));
        assert!(is_said, "{outcome}");
    }
}

fn retry_for() {
    let node = node_with_tree();
    let url = "oci://127.0.0.1:1/x";
    for outcome in all(&node, at(&WITH_A_STORE, url), "--retry-for 0") {
        let said = &outcome.stderr;
        assert!(
            said.contains("Connection refused") && !said.contains("attempts"),
            "{outcome}"
        );
    }
}

#[test]
fn flags_of_every_command_have_their_effect_in_each() {
    let node = Node::new();
    let help = run(&node, "--help").success().stdout;
    let (_, everywhere) = help.split_once("Everywhere:").unwrap();
    let shown = flags_in(everywhere);
    let table: BTreeSet<String> = TABLE.iter().map(|(flag, _)| (*flag).to_owned()).collect();
    assert_eq!(shown, table);
    let (_, commands) = help.split_once("Commands:").unwrap();
    let commands = commands.lines().skip(1);
    for line in commands.take_while(|line| !line.trim().is_empty()) {
        let command = line.split_whitespace().next().unwrap();
        let lines = WITH_A_STORE.iter().chain(&WITH_A_DAEMON);
        let is_tried = lines
            .map(|l| l.split(' ').next().unwrap())
            .any(|c| c == command);
        assert!(is_tried || WITHOUT.contains(&command), "{command}");
    }
    for (flag, shown) in TABLE {
        match shown {
            Here(shows) => shows(),
            Read(wrong, test) => {
                assert!(is_a_test(test), "there is no test {test}");
                let node = node_with_tree();
                let lines = at(&WITH_A_STORE, "disk:s");
                let outcomes = all(&node, lines, &format!("--{flag} {wrong}"));
                says(&outcomes, &[&format!("(--{flag})")]);
            }
            Elsewhere(test) => assert!(is_a_test(test), "there is no test {test}"),
        }
    }
}

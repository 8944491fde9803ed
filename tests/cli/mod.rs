//! The command line as a user and a script meet it: words, exit codes, JSON. The binary runs on a node of its own.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod checkout;
mod daemon;
mod documents;
mod environment;
mod everywhere;
mod exits;
mod flags;
mod folders;
mod in_the_way;
mod machine;
mod messages;
mod outputs;
mod pruning;
mod repositories;
mod settings;
mod transfers;
mod trust;

use serde_json::Value;

use crate::support::{
    cli::{Cachectl, Outcome, cachectl},
    node::Node,
};

/// `cachectl` with these words.
fn run(node: &Node, line: &str) -> Outcome {
    words(node, line).run()
}

fn words(node: &Node, line: &str) -> Cachectl {
    cachectl(node).args(line.split_whitespace())
}

/// A node with a folder `home/tree` of three entries.
fn node_with_tree() -> Node {
    let node = Node::new();
    std::fs::create_dir(node.path("home/tree")).unwrap();
    std::fs::write(node.path("home/tree/a"), "first").unwrap();
    std::fs::write(node.path("home/tree/b"), "second").unwrap();
    node
}

/// `disk:` URL of a store on the node that is not the default one.
fn store(node: &Node) -> String {
    format!("disk:{}", node.path("store").display())
}

/// Lines of standard error.
fn complaints(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().collect()
}

fn strings(value: &Value) -> Vec<&str> {
    let all = value
        .as_array()
        .unwrap_or_else(|| panic!("no array: {value}"));
    all.iter().map(|v| v.as_str().unwrap()).collect()
}

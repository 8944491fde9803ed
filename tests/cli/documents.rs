//! The documents say what the program does: every key, variable, flag and command.

use std::fs;

use cachectl::config::{
    keys::{CONFIG_VARIABLE, KEYS, TRUST_VARIABLE},
    table::{InCheckout, Key},
};

use super::{run, words};
use crate::support::node::Node;

const EXAMPLE: &str = include_str!("../../examples/cachectl.toml");
const CONFIG: &str = include_str!("../../docs/config.md");
const CLI: &str = include_str!("../../docs/cli.md");
const TRUST: &str = include_str!("../../docs/trust.md");

/// The example with every `#key = value` switched on.
fn switched_on() -> String {
    EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_example_has_every_key_and_is_read() {
    let node = Node::new();
    // As it is, it sets nothing; switched on, it sets everything.
    for (text, set) in [(EXAMPLE.to_owned(), 0), (switched_on(), KEYS.len())] {
        fs::write(node.path("home/example.toml"), text).unwrap();
        let report = words(&node, "env --config example.toml").json();
        let settings = report["settings"].as_array().unwrap();
        let from_file =
            |s: &&serde_json::Value| s["origin"].as_str().unwrap().contains("example.toml");
        let named: Vec<_> = settings
            .iter()
            .filter(from_file)
            .map(|s| &s["key"])
            .collect();
        assert_eq!(named.len(), set, "{named:?}");
    }
}

/// The row of a key in the reference.
fn row(key: &Key) -> String {
    let flag = key.flag.map_or_else(
        || "—".to_owned(),
        |f| {
            let of: Vec<String> = f.commands.iter().map(|c| format!("`{c}`")).collect();
            let of = if of.is_empty() { "" } else { " of " }.to_owned() + &of.join(", ");
            format!("`--{}`{of}", f.long)
        },
    );
    let in_checkout = match key.in_checkout {
        InCheckout::Counts => "yes",
        InCheckout::OnlyTrue => "only `true`",
        InCheckout::Ignored => "no",
    };
    format!(
        "| `{}` | `{}` | {flag} | {} | {} | {} | {in_checkout} |",
        key.name,
        key.env(),
        key.shape.in_words(),
        key.default,
        key.about
    )
}

#[test]
fn the_reference_has_the_row_of_every_key() {
    let rows = KEYS.iter().map(row);
    let lacking: Vec<String> = rows
        .filter(|row| !CONFIG.lines().any(|line| line == row))
        .collect();
    assert!(
        lacking.is_empty(),
        "docs/config.md lacks:\n{}",
        lacking.join("\n")
    );
    let rows = CONFIG.lines().filter(|l| l.contains("` | `CACHECTL_"));
    assert_eq!(
        rows.count(),
        KEYS.len(),
        "it has rows of keys that are gone"
    );
    assert!(CONFIG.contains(CONFIG_VARIABLE) && CONFIG.contains(TRUST_VARIABLE));
}

#[test]
fn the_reference_has_every_command_and_flag() {
    let node = Node::new();
    let help = run(&node, "--help").stdout;
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.strip_prefix("  ").filter(|l| !l.starts_with(' ')))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands.iter().filter(|c| **c != "help") {
        assert!(
            CLI.contains(&format!("cachectl {command}")),
            "docs/cli.md lacks `{command}`"
        );
        let help = run(&node, &format!("{command} --help")).stdout;
        let options = help.lines().filter(|l| l.trim_start().starts_with('-'));
        let words = options.flat_map(|l| l.split(|c: char| !c.is_ascii_lowercase() && c != '-'));
        for flag in words.filter(|w| w.starts_with("--") && w.len() > 3) {
            assert!(
                CLI.contains(&format!("`{flag}")),
                "docs/cli.md lacks {flag} of {command}"
            );
        }
    }
}

#[test]
fn manual_pages_name_the_values_of_flags() {
    let node = Node::new();
    for (page, words) in [
        (
            "",
            &["[--store URL]", "[--read-only[=BOOL]]", "COMMAND"][..],
        ),
        (
            "import",
            &[
                "[--restore-key PREFIX]...",
                "[--strict[=BOOL]]",
                "SOURCE",
                "[PATH]...",
            ],
        ),
        (
            "prune",
            &["[--max-age TIME]", "[--max-size SIZE]", "[--keep N]"],
        ),
    ] {
        let shown = run(&node, format!("man {page}").trim()).success().stdout;
        let shown = shown.replace('\\', "");
        for word in words {
            assert!(shown.contains(word), "{page}: {word}: {shown}");
        }
    }
}

/// Lines of a page that are prose: neither tables nor code.
fn prose(page: &str) -> Vec<&str> {
    let mut is_code = false;
    let lines = page.lines().filter(|line| {
        let line = line.trim_start();
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with('|')
    });
    lines.collect()
}

#[test]
fn prose_of_all_pages_wraps_at_120_columns() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = docs
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    let top = ["README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"];
    pages.extend(top.map(|page| root.join(page).with_extension("md")));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        // A link of its own line cannot be wrapped.
        let can_wrap = |line: &&str| line.split_whitespace().count() > 2;
        let long: Vec<&str> = prose(&text)
            .into_iter()
            .filter(|line| line.chars().count() > 120)
            .filter(can_wrap)
            .collect();
        assert!(long.is_empty(), "{}: {long:#?}", page.display());
    }
}

/// All names of functions below a folder of sources.
fn functions(folder: &std::path::Path, found: &mut std::collections::BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let named = text.split("fn ").skip(1);
            found.extend(named.filter_map(|rest| rest.split(['(', '<']).next().map(str::to_owned)));
        }
    }
}

#[test]
fn every_cannot_of_the_page_on_trust_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = std::collections::BTreeSet::new();
    for folder in ["src", "tests"] {
        functions(&root.join(folder), &mut known);
    }
    let rows = TRUST.lines().filter(|line| line.starts_with("| "));
    let mut tests = 0;
    for row in rows.filter(|row| !row.starts_with("| who ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        let named: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        let named: Vec<&str> = named
            .into_iter()
            .filter(|name| name.matches('_').count() > 2)
            .collect();
        assert!(cells[2].is_empty() || !named.is_empty(), "{row}");
        for name in &named {
            assert!(known.contains(*name), "there is no test `{name}`");
        }
        tests += named.len();
    }
    assert!(tests > 20, "{tests}");
}

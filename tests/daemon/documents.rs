//! The documents say what the daemon does: every key, variable and flag.

use std::path::Path;

use cachectl::config::{
    Env, Layer,
    daemon::{TABLE, keys::is_live, load},
    table::Key,
};

use super::{Daemon, cachectld};
use crate::support::node::Node;

const REFERENCE: &str = include_str!("../../docs/cachectld-config.md");

/// The row of a key in the reference.
fn row(key: &Key) -> String {
    let variables: Vec<String> = key.variables().map(|v| format!("`{v}`")).collect();
    let flag = key
        .flag
        .map_or_else(|| "—".to_owned(), |f| format!("`--{}`", f.long));
    let takes_effect = if is_live(key.name) {
        "reload"
    } else {
        "restart"
    };
    format!(
        "| `{}` | {} | {flag} | {} | {} | {takes_effect} | {} |",
        key.name,
        variables.join(", "),
        key.shape.in_words(),
        key.default,
        key.about
    )
}

#[test]
fn the_reference_has_the_row_of_every_key() {
    let lacking: Vec<String> = TABLE
        .keys()
        .iter()
        .map(row)
        .filter(|row| !REFERENCE.lines().any(|line| line == row))
        .collect();
    assert!(
        lacking.is_empty(),
        "docs/cachectld-config.md lacks:\n{}",
        lacking.join("\n")
    );
    let rows = REFERENCE.lines().filter(|l| l.contains("`CACHECTLD_"));
    let keys = rows.filter(|l| l.starts_with("| `")).count();
    assert_eq!(
        keys,
        TABLE.keys().len(),
        "it has rows of keys that are gone"
    );
    assert!(REFERENCE.contains(TABLE.config_variable));
}

#[test]
fn the_example_has_every_key_and_is_read() {
    const EXAMPLE: &str = include_str!("../../examples/cachectld.toml");
    let on = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    let node = Node::new();
    let env: Env = [("HOME", "/home/u")].into_iter().collect();
    // As it is, it sets nothing; switched on, it sets everything.
    for (text, set) in [(EXAMPLE, 0), (&on, TABLE.keys().len())] {
        let path = node.path("example.toml");
        std::fs::write(&path, text).unwrap();
        let loaded = load(&env, Some(Path::new(&path)), Layer::default()).unwrap();
        let unset: Vec<_> = TABLE
            .keys()
            .iter()
            .filter(|k| loaded.layer.get(k.name).is_none())
            .map(|k| k.name)
            .collect();
        assert_eq!(TABLE.keys().len() - unset.len(), set, "not set: {unset:?}");
    }
}

#[test]
fn the_unit_leaves_settings_to_its_file_and_makes_the_folders_in_it() {
    const UNIT: &str = include_str!("../../examples/systemd/cachectld.service");
    const FILE: &str = include_str!("../../examples/systemd/cachectld.toml");
    let lines = |start: &str| -> Vec<&'static str> {
        let lines = UNIT.lines();
        lines.filter_map(|l| l.strip_prefix(start)).collect()
    };
    // A variable would win over the file, without anybody who edits that seeing it.
    assert_eq!(
        lines("Environment="),
        ["CACHECTLD_CONFIG=/etc/cachectl/cachectld.toml"]
    );
    // What is wrong for a while must not keep the unit down.
    assert!(lines("RestartPreventExitStatus=").is_empty());
    assert!(lines("ExecStartPre=").is_empty());
    let made: Vec<String> = [
        ("State", "/var/lib"),
        ("Cache", "/var/cache"),
        ("Runtime", "/run"),
    ]
    .iter()
    .flat_map(|(kind, above)| {
        let names = lines(&format!("{kind}Directory="));
        names
            .into_iter()
            .map(move |name| format!("{above}/{name}/"))
    })
    .collect();
    // Those that are switched off too.
    let texts = FILE
        .split('"')
        .map(|t| t.strip_prefix("disk:").unwrap_or(t));
    let paths: Vec<_> = texts.filter(|t| t.starts_with('/')).collect();
    assert!(paths.len() > 3, "{paths:?}");
    for path in paths {
        let below = |folder: &String| format!("{path}/").starts_with(folder);
        assert!(made.iter().any(below), "the unit does not make {path}");
    }
    let node = Node::new();
    let path = node.path("unit.toml");
    std::fs::write(&path, FILE).unwrap();
    let env: Env = [("HOME", "/home/u")].into_iter().collect();
    let loaded = load(&env, Some(Path::new(&path)), Layer::default()).unwrap();
    assert_eq!(loaded.config.store.0, "disk:/var/lib/cachectld/store");
}

#[test]
fn help_names_every_flag_with_its_default() {
    let node = Node::new();
    let help = cachectld(&node).arg("--help").output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in TABLE.keys().iter().filter_map(|k| Some(k.flag?.long)) {
        assert!(help.contains(&format!("--{flag}")), "--{flag}");
    }
    assert!(help.contains("--check-config") && help.contains("Exit codes:"));
}

#[test]
fn a_start_says_what_is_set_and_with_v_all_settings() {
    let node = Node::new();
    let daemon = Daemon::start(&node, &["--upload-ttl", "2h"]);
    // One line for each address; with the usual two the start is five lines.
    assert_eq!(
        daemon.first_words(),
        [
            "Settings",
            "Authentication configured",
            "Listening",
            "Listening",
            "Ready"
        ]
    );
    let set = daemon.wait_for("Settings");
    let set = set["settings"].as_str().unwrap().to_owned();
    assert!(set.contains("upload_ttl = 2h (--upload-ttl)"), "{set}");
    assert!(
        set.contains("store = disk:") && !set.contains("drain_timeout"),
        "{set}"
    );
    drop(daemon);
    let node = Node::new();
    let daemon = Daemon::start(&node, &["-v"]);
    let all = daemon.lines("Setting");
    for key in TABLE.keys() {
        assert!(all.iter().any(|l| l["key"] == key.name), "{}", key.name);
    }
}

#[test]
fn the_manual_page_and_completions_name_every_flag() {
    let node = Node::new();
    let run = |args: &[&str]| {
        let out = cachectld(&node).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}");
        String::from_utf8(out.stdout).unwrap().replace('\\', "")
    };
    let (page, script) = (run(&["--man"]), run(&["--completions", "bash"]));
    for flag in TABLE.keys().iter().filter_map(|k| Some(k.flag?.long)) {
        for text in [&page, &script] {
            assert!(text.contains(&format!("--{flag}")), "--{flag}");
        }
    }
    assert!(
        page.contains("[--store URL]") && page.contains("[--listen ADDRESS]..."),
        "{page}"
    );
}

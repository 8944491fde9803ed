//! The arrows between the rooms of `src/`: who may use whom. A new arrow is a line here, to be seen and reviewed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Vocabulary: small, leaf, no product knowledge. From `transfer` up all of it is open.
const VOCABULARY: [&str; 13] = [
    "backoff", "digest", "entry", "fs", "task", "lately", "memory", "random", "redact", "progress",
    "metrics", "trace", "fair",
];

/// Room and what it may use, besides itself.
const ARROWS: [(&str, &[&str]); 28] = [
    ("backoff", &[]),
    ("digest", &[]),
    ("entry", &["digest"]),
    ("fs", &["entry"]),
    ("task", &[]),
    ("lately", &[]),
    ("memory", &[]),
    // Of any command line: that of each program has a manual page.
    ("manual", &[]),
    ("random", &[]),
    ("redact", &[]),
    ("progress", &[]),
    ("metrics", &[]),
    ("trace", &[]),
    // Places are counted.
    ("fair", &["metrics"]),
    // A table of contents is a list of entries; nothing else of the files' world is needed for it. It is read within a budget.
    ("artifact", &["digest", "entry", "memory"]),
    ("source", &["backoff", "entry", "digest", "fs", "progress"]),
    ("pack", &["entry", "digest", "fs", "progress", "artifact"]),
    // `Time` of `entry` is the one type of a moment, `span` of `progress` the one spelling of a duration; ids of uploads are not to
    // be guessed; callers share what may wait for a remote store.
    (
        "store",
        &[
            "artifact", "backoff", "digest", "fs", "task", "lately", "random", "redact", "entry",
            "metrics", "trace", "progress", "fair",
        ],
    ),
    ("transfer", &["store", "artifact"]),
    ("ops", &["source", "pack", "artifact", "store", "transfer"]),
    // Messages are made of the verbs' reports, and status codes of a store's kinds of trouble.
    ("proto", &["ops", "store"]),
    ("serve", &["ops", "transfer", "store", "artifact", "proto"]),
    (
        "daemon",
        &["serve", "ops", "store", "config", "telemetry", "manual"],
    ),
    // The sum of the rooms' settings; `source` for the options of a folder, `ops` for how BuildKit's tags are kept, `serve` for who
    // may come in.
    ("config", &["store", "source", "ops", "serve"]),
    // `store` and `source` to open what the arguments name; how they work stays unknown here.
    (
        "cli",
        &[
            "ops",
            "config",
            "telemetry",
            "store",
            "source",
            "artifact",
            "proto",
            "manual",
        ],
    ),
    ("telemetry", &["task", "redact", "trace"]),
    ("bin", &["cli", "config", "daemon", "telemetry"]),
    ("lib", &[]),
];

fn allowed(room: &str) -> BTreeSet<&'static str> {
    let (_, arrows) = ARROWS
        .iter()
        .find(|(r, _)| *r == room)
        .unwrap_or_else(|| panic!("room `{room}` is not in the table"));
    let high = [
        "transfer", "ops", "proto", "serve", "daemon", "config", "cli", "bin",
    ]
    .contains(&room);
    let vocabulary = VOCABULARY.iter().filter(|_| high);
    arrows.iter().chain(vocabulary).copied().collect()
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without its tests: they may look across.
fn code(path: &Path) -> String {
    let is_test = path
        .file_stem()
        .is_some_and(|s| s.to_string_lossy().ends_with("tests"))
        || path.iter().any(|part| part == "tests");
    if is_test {
        return String::new();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let end = text.find("mod tests {").unwrap_or(text.len());
    let lines = text[..end]
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every first name after `crate::` (or, in a binary, `cachectl::`), groups in braces included.
fn uses(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let name = |s: &str| {
        s.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    for (at, _) in code.match_indices(root) {
        // `super::super::` is another root than `super::`.
        if code[..at].ends_with("super::") {
            continue;
        }
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut start) = (1, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if depth == 1 && start && !c.is_whitespace() => {
                    found.insert(name(&group[i..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn rooms_use_only_what_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    assert!(all.len() > 30, "the sources are not where they were");
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in all {
        let inside = path.strip_prefix(&src).unwrap();
        let first = inside.iter().next().unwrap().to_string_lossy();
        let room = first.trim_end_matches(".rs");
        let root = if room == "bin" {
            "cachectl::"
        } else {
            "crate::"
        };
        for used in uses(&code(&path), root) {
            if used != room && !allowed(room).contains(used.as_str()) {
                wrong
                    .entry(format!("{room} -> {used}"))
                    .or_default()
                    .push(inside.display().to_string());
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that are not in the table: {wrong:#?}"
    );
}

/// Rooms in which no module needs one that needs it: each can be understood without those that use it.
const WITHOUT_CIRCLES: [&str; 14] = [
    "artifact",
    "artifact/fold",
    "artifact/toc",
    "cli",
    "config",
    "daemon",
    "ops",
    "ops/verify",
    "ops/prune",
    "pack",
    "proto",
    "source/place",
    "store/registry",
    "store/s3",
];

/// The modules of a room, each with those that it uses. What the room's `mod.rs` uses is left out: it is there to put them together.
fn modules(room: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = Vec::new();
    files(room, &mut all);
    let module = |path: &Path| {
        let inside = path.strip_prefix(room).unwrap().iter();
        let names: Vec<String> = inside.map(|n| n.to_string_lossy().into_owned()).collect();
        let depth = names.len() - usize::from(path.ends_with("mod.rs"));
        (names[0].trim_end_matches(".rs").to_owned(), depth)
    };
    let inside: Vec<_> = room.iter().rev().take_while(|n| *n != "src").collect();
    let inside = inside.iter().rev().map(|n| n.to_string_lossy());
    let from_the_crate = inside.fold("crate::".to_owned(), |all, n| all + &n + "::");
    let names: BTreeSet<String> = all.iter().map(|path| module(path).0).collect();
    let top = [room.join("mod.rs"), room.with_extension("rs")]
        .map(|p| if p.exists() { code(&p) } else { String::new() });
    let top = top.concat();
    let mut owners = BTreeMap::new();
    for name in &names {
        owners.insert(name.clone(), name.clone());
        let shown = uses(&top, &format!("use {name}::"));
        owners.extend(shown.into_iter().map(|item| (item, name.clone())));
    }
    let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
    for path in all.iter().filter(|path| **path != room.join("mod.rs")) {
        let (name, depth) = module(path);
        let mut used = uses(&code(path), &"super::".repeat(depth));
        used.extend(uses(&code(path), &from_the_crate));
        let others = used.iter().filter_map(|item| owners.get(item)).cloned();
        let others = others.filter(|other| *other != name).collect::<Vec<_>>();
        graph.entry(name).or_default().extend(others);
    }
    graph
}

/// The modules that are in a circle, or use one.
fn circles(mut graph: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let left: BTreeSet<String> = graph.keys().cloned().collect();
        graph.retain(|_, used| used.iter().any(|other| left.contains(other)));
        if graph.len() == left.len() {
            return graph;
        }
    }
}

#[test]
fn no_module_needs_one_that_needs_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in WITHOUT_CIRCLES {
        let graph = modules(&src.join(room));
        assert!(graph.len() > 3, "the modules of {room} are not found");
        let circles = circles(graph);
        assert!(circles.is_empty(), "circles in {room}: {circles:#?}");
    }
    let of = |pairs: &[(&str, &str)]| {
        let pair = |(name, used): &(&str, &str)| {
            let used = BTreeSet::from([(*used).to_owned()]);
            ((*name).to_owned(), used)
        };
        circles(pairs.iter().map(pair).collect())
    };
    assert!(of(&[("a", "b"), ("b", "c")]).is_empty());
    assert_eq!(of(&[("a", "b"), ("b", "c"), ("c", "b")]).len(), 3);
}

/// Readers of documents of up to 4 MiB that strangers wrote.
const PARSERS: [&str; 9] = [
    "CacheManifest::read(",
    "Grants::of(",
    "Manifest::sniff(",
    "Manifested::of(",
    "Outline::of(",
    "Outline::of_stored(",
    "Outline::read(",
    "mentions::all(",
    "mentions::read(",
];

/// Files that call them, each on a thread for it (`task::parse` or `task::blocking`): on a thread that serves, one document keeps
/// everybody waiting. Others ask these files.
const PARSE_ASIDE: [&str; 19] = [
    "ops/cache_tags/mod.rs",
    "ops/foreign.rs",
    "ops/load.rs",
    "ops/prune/reached.rs",
    "ops/sight.rs",
    "ops/sight/grants.rs",
    "ops/verify/behind.rs",
    "serve/registry/lists.rs",
    "serve/registry/manifests.rs",
    "serve/registry/sources.rs",
    "store/by_tags/repo.rs",
    "store/keyed/tags.rs",
    "store/layout.rs",
    "store/record.rs",
    "store/registry/manifests.rs",
    "store/tiered/core.rs",
    "store/tiered/lost.rs",
    "store/wrap/renewing.rs",
    "transfer/graph.rs",
];

#[test]
fn documents_of_strangers_are_parsed_by_few_and_aside() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let parses = |path: &&PathBuf| {
        let code = code(path);
        PARSERS.iter().any(|parser| code.contains(parser))
    };
    let inside = |path: &PathBuf| path.strip_prefix(&src).unwrap().display().to_string();
    let found: BTreeSet<String> = all.iter().filter(parses).map(inside).collect();
    let known = PARSE_ASIDE.map(str::to_owned);
    let others = found
        .into_iter()
        .filter(|file| !file.starts_with("artifact/") && !file.starts_with("store/testing/"))
        .filter(|file| !known.contains(file));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn uses_are_found_in_every_form() {
    let code = "use crate::digest::Digest;\nuse crate::{\n    a::{b, c},\n    self_made,\n    fs,\n};\nfn f() { crate::task::x() }";
    let want = ["a", "digest", "fs", "self_made", "task"];
    assert_eq!(uses(code, "crate::").into_iter().collect::<Vec<_>>(), want);
}

#[test]
fn no_room_below_ops_knows_async_files_or_go_that_it_must_not() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, words) in [
        ("source", &["async fn", "tokio::", "oci_spec", "zstd::"][..]),
        ("pack", &["async fn", "tokio::", "gobuild", "GOCACHE"]),
        ("artifact", &["async fn", "tokio::", "std::fs", "reqwest"]),
        ("store", &["gobuild", "GOCACHE", "clap::"]),
        (
            "ops",
            &["clap::", "std::env", "println!", "reqwest", "aws_sdk"],
        ),
    ] {
        let mut all = Vec::new();
        files(&src.join(room), &mut all);
        for path in all {
            let code = code(&path);
            for word in words {
                assert!(!code.contains(word), "{} says `{word}`", path.display());
            }
        }
    }
}

/// All dependencies by the names that code has for them.
fn dependencies() -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    let tables = ["dependencies", "dev-dependencies"].map(|t| manifest[t].as_table().unwrap());
    let names = tables.into_iter().flat_map(|t| t.keys());
    names.map(|name| name.replace('-', "_")).collect()
}

#[test]
fn every_dependency_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        files(&root.join(folder), &mut found);
    }
    let texts: Vec<String> = found
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for name in dependencies() {
        let path = format!("{name}::");
        let is_used = texts.iter().any(|text| {
            text.match_indices(&path)
                .any(|(at, _)| !text[..at].ends_with(is_name))
        });
        assert!(is_used, "Cargo.toml has `{name}`, and nothing uses it");
    }
}

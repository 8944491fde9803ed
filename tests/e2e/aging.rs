//! Entries that nobody used for the set days leave a Go cache; used ones stay, whichever job used them. Age goes by the store's clock:
//! nodes whose clocks are days ahead make nobody's entries leave.
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use crate::support::cli::cachectl;
use crate::support::e2e;
use crate::support::gocache::{GoCache, touch};
use crate::support::later::Later;
use crate::support::node::Node;
use crate::support::scratch::Scratch;
use crate::support::stores::{Backend, TestStore};

const EACH: usize = 20;

fn labels(group: &str) -> impl Iterator<Item = String> + use<'_> {
    (0..EACH).map(move |number| format!("{group}-{number}"))
}

fn actions(groups: &[&str]) -> BTreeSet<[u8; 32]> {
    groups
        .iter()
        .flat_map(|group| labels(group))
        .map(|label| GoCache::action(&label))
        .collect()
}

fn checkout() -> Scratch {
    let project = Scratch::new("checkout");
    fs::write(
        project.path().join("go.mod"),
        "module example.invalid/aging\n\ngo 1.24\n",
    )
    .expect("a new file");
    project
}

#[test]
fn unused_entries_leave_while_two_jobs_keep_their_halves() {
    if !e2e() {
        return;
    }
    // A bucket refuses requests that are signed by a clock days from its own.
    let store = TestStore::new(Backend::DistributionV3);
    let clock = Later::to(store.port());
    let project = checkout();
    let run = |node: &Node, line: &str| {
        let run = cachectl(node).inside(project.path());
        let run = run.args(line.split(' ')).args(["go", "--strict"]);
        run.store_through(&store, clock.port).run().success();
    };
    let held = || -> BTreeSet<[u8; 32]> {
        let reader = Node::new();
        run(&reader, "import");
        GoCache::read(&reader.gocache()).0.into_keys().collect()
    };
    let work = |half: &str| {
        let node = Node::new();
        run(&node, "import");
        touch(&node.gocache(), labels(half), SystemTime::now());
        run(&node, "export");
    };

    let mut all = GoCache::default();
    for label in ["left", "right", "nobody"].into_iter().flat_map(labels) {
        all.compile(&label, 3_000);
    }
    let first = Node::new();
    all.write(&first.gocache());
    run(&first, "export");

    for day in [3, 6, 9] {
        clock.set(day);
        ["left", "right"].into_iter().for_each(work);
        let stay: &[&str] = if day <= 6 {
            // Seven days are not over.
            &["left", "right", "nobody"]
        } else {
            &["left", "right"]
        };
        assert_eq!(held(), actions(stay), "day {day}");
    }
    // A half that its job gave up leaves as well, while the other stays.
    for day in [13, 17] {
        clock.set(day);
        work("right");
    }
    assert_eq!(held(), actions(&["right"]));

    // One export takes a shorter age: by the default the one that was used on day 17 would stay.
    clock.set(21);
    let used = || labels("right").skip(1);
    let node = Node::new();
    run(&node, "import");
    touch(&node.gocache(), used(), SystemTime::now());
    run(&node, "export --max-age 3d");
    let stay: BTreeSet<_> = used().map(|label| GoCache::action(&label)).collect();
    assert_eq!(held(), stay);
}

#[test]
fn a_node_whose_clock_is_ahead_ages_nobodys_entries() {
    if !e2e() {
        return;
    }
    let store = TestStore::new(Backend::Disk);
    let project = checkout();
    let run = |node: &Node, verb: &str, day: u32| {
        let run = cachectl(node)
            .inside(project.path())
            .args([verb, "go", "--strict"]);
        run.store(&store).days_later(day).run().success();
    };
    let held_on = |day: u32| -> BTreeSet<[u8; 32]> {
        let reader = Node::new();
        run(&reader, "import", day);
        GoCache::read(&reader.gocache()).0.into_keys().collect()
    };

    let mut all = GoCache::default();
    for label in ["left", "right", "nobody"].into_iter().flat_map(labels) {
        all.compile(&label, 3_000);
    }
    let first = Node::new();
    all.write(&first.gocache());
    run(&first, "export", 0);

    for day in [3, 6, 9] {
        for half in ["left", "right"] {
            let node = Node::new();
            run(&node, "import", day);
            let now = SystemTime::now() + Duration::from_secs(u64::from(day) * 24 * 60 * 60);
            touch(&node.gocache(), labels(half), now);
            run(&node, "export", day);
        }
        assert_eq!(
            held_on(day),
            actions(&["left", "right", "nobody"]),
            "day {day}"
        );
    }
}

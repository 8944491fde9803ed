//! A registry that does not delete tags: removed ones are listed forever, and have no content.

use super::{
    go::put,
    looking::{export_as, leave_side_tag, name_of, tree},
    times::{export_go, go_name, import_go, nanos, output_of},
    *,
};
use crate::{
    artifact::Tag,
    entry::Time,
    ops::remove,
    store::{
        Expect, TagStore as _,
        wrap::{
            Guard, Guarded,
            counters::{Counters, Tier},
        },
    },
};

const DAY: i64 = 86_400;
/// Most tags that a verb reads, including head and own side tag, however many were removed before.
const LOOKS: u64 = 10;

/// Such a registry.
fn registry() -> World {
    let world = World::new(Meet::SideTags);
    world.memory.tell_no_times();
    world.memory.delete_no_tags();
    world
}

/// A node, and its requests.
fn counted(world: &World, name: &str) -> (Context, Arc<Counters>) {
    let mut node = world.node(name);
    let counters = Arc::new(Counters::of(Tier::Remote));
    let guard = Guard {
        counters: counters.clone(),
        ..Guard::default()
    };
    let counted = Guarded::new(node.store.contents().clone(), guard);
    node.store = node.store.with_contents(Arc::new(counted));
    (node, counters)
}

/// Exports something new; returns the numbers of tags read and of manifests published.
async fn export_new(world: &World, content: &str) -> (u64, u64) {
    let (node, counters) = counted(world, "one");
    let root = tree(world, "one", &[("f", content.as_bytes())]);
    let report = export_as(&node, &root, "n", "").await;
    assert!(!report.unchanged);
    let count = counters.snapshot();
    (count.resolve.requests, count.publish.requests)
}

/// Imports the last export; returns the number of tags read.
async fn import(world: &World, content: &str) -> u64 {
    let (node, counters) = counted(world, "two");
    let root = world.path("two", "tree");
    let report = import_dir(&node, &root).await;
    assert!(is_hit(&report), "{report:?}");
    assert_eq!(std::fs::read_to_string(root.join("f")).unwrap(), content);
    counters.snapshot().resolve.requests
}

async fn remove_all(world: &World) {
    let options = removing("n", false);
    remove::run(&world.node("one"), &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn daily_exports_cost_the_same_after_a_week_and_after_two_months() {
    let world = registry();
    for day in 0..70 {
        world.memory.set_clock_ahead(day * DAY);
        let content = format!("of day {day}");
        let (looks, published) = export_new(&world, &content).await;
        assert_eq!(published, 2, "a side tag and one head on day {day}");
        assert!(looks <= LOOKS, "{looks} on day {day}");
        let looks = import(&world, &content).await;
        assert!(looks <= LOOKS, "{looks} on day {day}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_day_of_many_exports_and_a_pause_an_export_looks_at_few_tags() {
    for pause in [2, 10, 31, 100] {
        let world = registry();
        for n in 0..60 {
            export_new(&world, &n.to_string()).await;
        }
        for day in [2, 10, 31, 100] {
            world.memory.set_clock_ahead(pause.max(day) * DAY);
            let content = format!("after {day}");
            let (looks, published) = export_new(&world, &content).await;
            assert_eq!(published, 2, "on day {day}");
            assert!(looks <= LOOKS, "{looks} on day {day}");
            assert!(import(&world, &content).await <= LOOKS);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_removal_an_export_folds_in_one_round() {
    let world = registry();
    export_new(&world, "first").await;
    remove_all(&world).await;
    for n in 0..5 {
        let content = n.to_string();
        let (looks, published) = export_new(&world, &content).await;
        assert_eq!(published, 2, "{n}");
        assert!(looks <= LOOKS, "{looks}");
        assert!(import(&world, &content).await <= LOOKS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_were_removed_with_their_head_are_looked_at_by_one_export() {
    let world = registry();
    for n in 0..40 {
        export_new(&world, &n.to_string()).await;
    }
    world.memory.set_clock_ahead(DAY / 2);
    remove_all(&world).await;
    let (_, published) = export_new(&world, "first again").await;
    assert_eq!(published, 2);
    assert!(import(&world, "first again").await <= LOOKS);
    for n in 0..3 {
        let content = format!("then {n}");
        let (looks, published) = export_new(&world, &content).await;
        assert_eq!(published, 2);
        assert!(looks <= LOOKS, "{looks}");
        assert!(import(&world, &content).await <= LOOKS);
    }
}

/// A side tag created `days` ago by the store's clock, and listed only now.
async fn listed_late(world: &World, digest: Digest, days: i64) -> Tag {
    let manifest = world.memory.resolve(&digest.into()).await.unwrap();
    let now = world.memory.clock().await.unwrap();
    let at = Time {
        secs: now.secs - days * DAY,
        ..now
    };
    let side = go_name().side_tag(at, 7);
    let manifest = manifest.unwrap().manifest;
    let done = world
        .memory
        .publish(&manifest, Some(&side), &Expect::Absent);
    done.await.unwrap();
    side
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_tag_that_is_listed_weeks_late_is_folded_all_the_same() {
    let world = registry();
    let (one, two) = (world.path("one", "go-build"), world.path("two", "go-build"));
    put(&two, "late", b"late", nanos(-60));
    let late = export_go(&world.node("two"), &two).await.digest;
    remove_all(&world).await;
    put(&one, "x", b"x", nanos(-50));
    export_go(&world.node("one"), &one).await;
    listed_late(&world, late, 29).await;
    for n in 0..2 {
        let root = world.path(&format!("reader {n}"), "go-build");
        assert!(is_hit(&import_go(&world.node("reader"), &root).await));
        assert_eq!(output_of(&root, "late", &["late"]), "late");
        put(&one, &format!("y{n}"), b"y", nanos(-40));
        export_go(&world.node("one"), &one).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn side_tags_that_many_exports_at_once_left_go_one_day_where_tags_can_be_deleted() {
    let world = World::new(Meet::SideTags);
    let (node, root) = (world.node("one"), tree(&world, "one", &[("f", b"1")]));
    let digest = export_as(&node, &root, "n", "").await.digest;
    for n in 0..100 {
        leave_side_tag(&world, digest, &name_of("n", ""), n).await;
    }
    export_new(&world, "all of them").await;
    // No export for long enough that the head forgets them.
    for n in 0..5 {
        world.memory.set_clock_ahead((100 + n) * DAY);
        let (looks, published) = export_new(&world, &n.to_string()).await;
        assert!(looks <= LOOKS && published == 2, "{looks}, {published}");
    }
    let left = world.memory.tags("").await.unwrap();
    assert!(left.len() <= 3, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_is_not_removed_again_nor_counted_among_other_keys() {
    let world = registry();
    let node = world.node("one");
    let root = tree(&world, "one", &[("f", b"1")]);
    let miss = async || {
        let options = import::Options {
            key: "asked".into(),
            ..importing(&dir(&root))
        };
        import::run(&node, &options).await.unwrap().miss.unwrap()
    };
    for key in ["a", "b"] {
        export_as(&node, &root, "n", key).await;
    }
    assert!(miss().await.contains("; 2 other keys exist"));
    let would = remove::run(&node, &removing("n", true)).await.unwrap();
    assert_eq!(would.names.len(), 2);
    remove_all(&world).await;
    assert!(!world.memory.tags("dir.n.").await.unwrap().is_empty());
    for dry_run in [true, false] {
        let again = remove::run(&node, &removing("n", dry_run)).await.unwrap();
        assert_eq!(again, remove::Report::default());
    }
    let said = miss().await;
    assert!(said.starts_with("nothing is stored for"), "{said}");
    export_as(&node, &root, "n", "c").await;
    let said = miss().await;
    assert!(said.contains("; 1 other key exists"), "{said}");
}

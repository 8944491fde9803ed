//! `--max-size`: the stored size of a name stays below it, and entries left out for it stay left out.

use super::{go, *};
use crate::{
    ops::{Error, inspect, list},
    pack::write::tests::noise,
    store::Sweep as _,
};

async fn stored(world: &World) -> u64 {
    let rows = list::run(&world.node("looker"), None).await.unwrap().rows;
    rows.iter().map(|r| r.stored_bytes).sum()
}

fn limited(source: &Arc<dyn Source>, limit: u64) -> export::Options {
    export::Options {
        max_size: Some(limit),
        ..exporting(source)
    }
}

/// A build cache of this many actions of 10 to 50 kB.
fn fill(root: &Path, from: u64, to: u64) {
    for i in from..to {
        go::put(
            root,
            &format!("action {i}"),
            &noise(10_000 + (i as usize * 7919) % 40_000, i),
            1,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cache_stays_below_the_limit_and_unchanged_is_unchanged() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        let (root, node) = (world.path("one", "go-build"), world.node("one"));
        fill(&root, 0, 200);
        let source = go::cache(&root, "go1");
        for limit in [30_000, 500_000, 1_000_000] {
            let options = limited(&source, limit);
            let first = export::run(&node, &options).await.unwrap();
            let size = stored(&world).await;
            assert!(size <= limit, "{size} of {limit}: {first:?}");
            if limit > 100_000 {
                assert!(size > limit / 2, "{size} of {limit}");
            }
            for _ in 0..3 {
                let again = export::run(&node, &options).await.unwrap();
                assert!(again.unchanged, "{limit}: {again:?}");
                assert_eq!(again.digest, first.digest);
                assert_eq!((again.moved.blobs_moved, again.entries_packed), (0, 0));
            }
        }
        // The remaining entries are complete.
        let copy = world.path("two", "go-build");
        let report = import::run(&world.node("two"), &importing(&go::cache(&copy, "go1")))
            .await
            .unwrap();
        assert!(is_hit(&report) && report.entries > 10, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_was_lowered_or_binds_later_is_kept() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        let (root, node) = (world.path("one", "go-build"), world.node("one"));
        let source = go::cache(&root, "go1");
        fill(&root, 0, 100);
        export::run(&node, &exporting(&source)).await.unwrap();
        assert!(stored(&world).await > 1_000_000);
        let limit = 600_000;
        let options = limited(&source, limit);
        export::run(&node, &options).await.unwrap();
        assert!(stored(&world).await <= limit);
        // With each edit new entries are added, and old ones evicted.
        for i in 0..12 {
            fill(&root, 100 + i * 4, 104 + i * 4);
            export::run(&node, &options).await.unwrap();
            let size = stored(&world).await;
            assert!(size <= limit && size > limit / 2, "{i}: {size}");
            let again = export::run(&node, &options).await.unwrap();
            assert!(
                again.unchanged && again.moved.blobs_moved == 0,
                "{i}: {again:?}"
            );
        }
        let copy = world.path("two", "go-build");
        let report = import::run(&world.node("two"), &importing(&go::cache(&copy, "go1")))
            .await
            .unwrap();
        assert!(is_hit(&report), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_limits_leave_out_is_counted_by_every_export() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        let (root, node) = (world.path("one", "go-build"), world.node("one"));
        let source = go::cache(&root, "go1");
        fill(&root, 0, 100);
        let options = limited(&source, 600_000);
        let first = export::run(&node, &options).await.unwrap();
        let left = first.dropped;
        assert!(left.by_size.0 > 100, "{first:?}");
        assert_eq!((left.of.0, left.by_age), (200, (0, 0)), "{first:?}");
        let sum = (first.entries + left.by_size.0, first.bytes + left.by_size.1);
        assert_eq!(sum, left.of, "{first:?}");
        let again = export::run(&node, &options).await.unwrap();
        assert!(again.unchanged, "{again:?}");
        assert_eq!(again.dropped, left);
        let all = export::run(&node, &exporting(&source)).await.unwrap();
        assert_eq!((all.entries, all.dropped.of.0), (200, 200));
        assert_eq!((all.dropped.by_size, all.dropped.by_age), ((0, 0), (0, 0)));
        // Stored entries that had to be evicted count as well.
        let lowered = export::run(&node, &options).await.unwrap();
        assert!(lowered.dropped.by_size.0 > 100, "{lowered:?}");
        assert_eq!(lowered.dropped.of.0, 200, "{lowered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_for_its_age_is_counted_apart_and_may_be_everything() {
    for size in [None, Some(1_000_000)] {
        let world = World::new(Meet::CompareAndSwap);
        let root = world.path("one", "go-build");
        fill(&root, 0, 20);
        let source = go::cache(&root, "go1");
        export::run(&world.node("one"), &exporting(&source))
            .await
            .unwrap();
        world.memory.set_clock_ahead(10 * 86400);
        let two = world.path("two", "go-build");
        fill(&two, 50, 51);
        let options = export::Options {
            max_size: size,
            ..exporting(&go::cache(&two, "go1"))
        };
        let report = export::run(&world.node("two"), &options).await.unwrap();
        let left = report.dropped;
        assert_eq!((left.by_age.0, left.by_size, left.of.0), (40, (0, 0), 42));
        assert_eq!(report.entries, 2);
        world.memory.set_clock_ahead(20 * 86400);
        std::fs::remove_dir_all(&two).unwrap();
        std::fs::create_dir_all(&two).unwrap();
        let report = export::run(&world.node("two"), &options).await.unwrap();
        assert_eq!((report.entries, report.dropped.by_age.0), (0, 2));
        assert_eq!(report.dropped.of.0, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_above_the_limit_is_not_published() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    let root = super::looking::tree(&world, "one", &[("a", &noise(200_000, 1))]);
    let options = limited(&dir(&root), 50_000);
    let refused = export::run(&node, &options).await.unwrap_err();
    assert!(matches!(refused, Error::TooBig { limit: 50_000, .. }));
    assert!(
        inspect::run(&node, "n", false).await.unwrap().is_empty(),
        "nothing has the name"
    );
    assert!(
        world.memory.blobs().await.unwrap().is_empty(),
        "nothing was sent"
    );
    // An increment evicts what it replaces, if necessary.
    let options = limited(&dir(&root), 400_000);
    for i in 2..8 {
        std::fs::write(root.join("a"), noise(200_000, i)).unwrap();
        export::run(&node, &options).await.unwrap();
        let size = stored(&world).await;
        assert!(size <= 400_000, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_leaves_nothing_is_an_error_and_keeps_what_is_stored() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = world.path("one", "go-build");
    std::fs::create_dir_all(&root).unwrap();
    fill(&root, 0, 1);
    let cache = go::cache(&root, "go1");
    let blobs = async || world.memory.blobs().await.unwrap().len();
    let nothing = limited(&cache, 5);
    let refused = export::run(&node, &nothing).await.unwrap_err();
    assert!(
        matches!(refused, Error::NothingFits { limit: 5 }),
        "{refused}"
    );
    assert_eq!(blobs().await, 0);
    export::run(&node, &limited(&cache, 1_000_000))
        .await
        .unwrap();
    let there = blobs().await;
    fill(&root, 1, 2);
    export::run(&node, &nothing).await.unwrap_err();
    assert_eq!(blobs().await, there);
}

/// Refuses every push.
struct Refuses;

#[async_trait::async_trait]
impl crate::store::PushCheck for Refuses {
    async fn check_push(&self) -> crate::store::Result<()> {
        Err(crate::store::Error::new(
            crate::store::ErrorKind::Denied,
            "put",
            "no",
        ))
    }
}

#[tokio::test]
async fn what_may_not_be_stored_is_not_sent() {
    let world = World::new(crate::store::Meet::SideTags);
    let mut ctx = world.node("a");
    ctx.store = ctx.store.with_push_check(Arc::new(Refuses));
    let tree = world.path("a", "tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("big"), noise(8 << 20, 1)).unwrap();
    let refused = export::run(&ctx, &exporting(&dir(&tree)))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("cannot put"), "{refused}");
    assert!(world.memory.packs().is_empty(), "something was stored");
    // Little content is sent without asking.
    std::fs::write(tree.join("big"), noise(1 << 10, 1)).unwrap();
    export::run(&ctx, &exporting(&dir(&tree))).await.unwrap();
}

/// Few words in random order: level 1 stores a tenth more than the default level.
fn words(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let all: Vec<Vec<u8>> = (0..300)
        .map(|i| {
            noise(4 + i % 9, i as u64)
                .iter()
                .map(|b| b'a' + b % 26)
                .collect()
        })
        .collect();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend_from_slice(&all[rng.usize(..all.len())]);
        text.push(b' ');
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_counts_what_is_stored_at_the_requested_level() {
    let (usual, world) = (World::new(Meet::SideTags), World::new(Meet::SideTags));
    let root = world.path("one", "go-build");
    for i in 0..50 {
        go::put(&root, &format!("action {i}"), &words(20_000, i), 1);
    }
    let source = go::cache(&root, "go1");
    export::run(&usual.node("one"), &exporting(&source))
        .await
        .unwrap();
    let limit = stored(&usual).await;
    let options = export::Options {
        level: Some(1),
        ..limited(&source, limit)
    };
    let report = export::run(&world.node("one"), &options).await.unwrap();
    assert!(report.dropped.by_size.0 > 0, "{report:?}");
    assert!(stored(&world).await <= limit);
}

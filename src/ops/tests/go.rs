use std::fmt::Write as _;

use super::{times::go_name, *};
use crate::{
    artifact::name::SnapshotName,
    digest::Sha256,
    source::{Fingerprint, gobuild::GoBuild},
    store::{Expect, TagStore as _},
    transfer,
};

/// A Go build cache made by hand.
pub(super) fn put(
    root: &Path,
    action: &str,
    output: &[u8],
    nanos: u64,
) -> (std::path::PathBuf, std::path::PathBuf) {
    let id = Sha256::of(action.as_bytes()).to_hex();
    let out = Sha256::of(output).to_hex();
    let mut line = String::new();
    writeln!(line, "v1 {id} {out} {:>20} {nanos:>20}", output.len()).unwrap();
    let a = root.join(&id[..2]).join(format!("{id}-a"));
    let d = root.join(&out[..2]).join(format!("{out}-d"));
    for (path, content) in [(&d, output), (&a, line.as_bytes())] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    (a, d)
}

pub(super) fn cache(root: &Path, release: &str) -> Arc<dyn Source> {
    Arc::new(GoBuild::new(
        root,
        Fingerprint {
            gate: release.into(),
            ..Fingerprint::default()
        },
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_because_a_node_lacks_it() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        for (node, action) in [("one", "x"), ("two", "y")] {
            let root = world.path(node, "go-build");
            put(&root, action, action.as_bytes(), 1);
            put(&root, "both", b"both", 1);
            export::run(&world.node(node), &exporting(&cache(&root, "go1")))
                .await
                .unwrap();
        }
        let root = world.path("three", "go-build");
        let report = import::run(&world.node("three"), &importing(&cache(&root, "go1")))
            .await
            .unwrap();
        assert!(is_hit(&report), "{report:?}");
        assert_eq!(report.entries, 6);
        assert!(root.join("trim.txt").is_file());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_go_release_is_a_miss_that_says_so() {
    let world = World::new(Meet::SideTags);
    let root = world.path("one", "go-build");
    put(&root, "x", b"x", 1);
    export::run(&world.node("one"), &exporting(&cache(&root, "go1.26.8")))
        .await
        .unwrap();
    let root = world.path("two", "go-build");
    let report = import::run(&world.node("two"), &importing(&cache(&root, "go1.27.0")))
        .await
        .unwrap();
    assert!(report.hit.is_none() && report.miss.unwrap().contains("go1.26.8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_found_behind_any_number_of_keys_of_another_go_release() {
    // In stores of their own: an export includes what is stored under the same name, from any release.
    let (world, theirs) = (World::new(Meet::SideTags), World::new(Meet::SideTags));
    let export = async |world: &World, key: &str, release: &str| {
        let root = world.path("one", "go-build");
        put(&root, key, key.as_bytes(), 1);
        let mut options = exporting(&cache(&root, release));
        options.target.key = key.into();
        let report = export::run(&world.node("one"), &options).await;
        report.unwrap().digest
    };
    export(&world, "run-0", "go1.26.8").await;
    theirs.memory.set_clock_ahead(100);
    let newer = export(&theirs, "run-1", "go1.25.1").await;
    let newer = theirs.memory.resolve(&newer.into()).await.unwrap();
    let newer = newer.unwrap().manifest;
    let copying = transfer::Options {
        from: theirs.memory.clone(),
        to: world.memory.clone(),
        spool_dir: std::env::temp_dir(),
        concurrency: 2,
        progress: progress::silent(),
    };
    world.memory.set_clock_ahead(200);
    for i in 1..300 {
        let name = SnapshotName {
            key: format!("run-{i}"),
            ..go_name()
        };
        let tag = (&name.tag(), &Expect::Anything);
        transfer::copy(&copying, &newer, Some(tag)).await.unwrap();
    }
    let root = world.path("two", "go-build");
    let mut options = importing(&cache(&root, "go1.26.8"));
    options.key = "none".into();
    options.restore_keys = vec!["run-".into()];
    let report = import::run(&world.node("two"), &options).await.unwrap();
    assert_eq!(report.entries, 2, "{report:?}");
    assert_eq!(report.found.unwrap().1, "run-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_belies_its_name_is_never_published() {
    let world = World::new(Meet::SideTags);
    let root = world.path("one", "go-build");
    put(&root, "good", b"good", 1);
    let (_, damaged) = put(&root, "bad", b"the content", 1);
    std::fs::write(damaged, b"the c0ntent").unwrap();
    let out = export::run(&world.node("one"), &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    assert_eq!(out.entries, 2, "{out:?}");
    assert!(!out.left_out.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_leaves_a_partial_hit_of_whole_entries() {
    let world = World::new(Meet::SideTags);
    let root = world.path("one", "go-build");
    let node = world.node("one");
    put(&root, "first", &[1; 3000], 1);
    export::run(&node, &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    put(&root, "second", &[2; 3000], 1);
    export::run(&node, &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    let packs = packs_of(&world.memory);
    world.memory.lose(packs.last().unwrap());
    let two = world.path("two", "go-build");
    let report = import::run(&world.node("two"), &importing(&cache(&two, "go1")))
        .await
        .unwrap();
    assert!(report.hit.is_some() && report.partial, "{report:?}");
    let healed = export::run(&node, &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    assert!(healed.moved.blobs_moved > 0);
    let three = world.path("three", "go-build");
    let report = import::run(&world.node("three"), &importing(&cache(&three, "go1")))
        .await
        .unwrap();
    assert!(is_hit(&report) && report.entries == 4, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_which_nothing_is_left_is_a_damaged_miss() {
    let world = World::new(Meet::SideTags);
    let root = world.path("one", "go-build");
    put(&root, "first", &[1; 3000], 1);
    export::run(&world.node("one"), &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    let packs = packs_of(&world.memory);
    let import = async |node: &str| {
        let root = world.path(node, "go-build");
        import::run(&world.node(node), &importing(&cache(&root, "go1")))
            .await
            .unwrap()
    };
    // Damage is found when the packs are read, loss before that.
    for pack in &packs {
        world.memory.flip(pack, 40);
    }
    let damaged = import("two").await;
    for pack in &packs {
        world.memory.lose(pack);
    }
    for report in [damaged, import("three").await] {
        assert!(report.hit.is_none() && !report.partial, "{report:?}");
        assert!(report.damaged && !report.absent, "{report:?}");
        assert!(report.miss.is_some(), "{report:?}");
    }
    // Nothing is missing on the node that already has everything.
    let export = export::run(&world.node("one"), &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    assert!(export.moved.blobs_moved > 0, "{export:?}");
    assert!(is_hit(&import("four").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_go_did_not_make_is_told_of_where_it_is_in_the_way() {
    let world = World::new(Meet::SideTags);
    let root = world.path("one", "go-build");
    let (action, output) = put(&root, "x", b"x", 1);
    put(&root, "y", b"y", 1);
    export::run(&world.node("one"), &exporting(&cache(&root, "go1")))
        .await
        .unwrap();
    for (node, path) in [("two", &action), ("three", &output)] {
        let there = world.path(node, "go-build");
        let blocked = there.join(path.strip_prefix(&root).unwrap());
        std::fs::create_dir_all(&blocked).unwrap();
        let report = import::run(&world.node(node), &importing(&cache(&there, "go1")))
            .await
            .unwrap();
        assert!(report.hit.is_some() && report.blocked, "{report:?}");
        let mut whys = report.left_out.iter().map(|l| l.why.as_str());
        assert!(whys.any(|w| w.contains("Go did not create")), "{report:?}");
        std::fs::remove_dir(&blocked).unwrap();
        let again = import::run(&world.node(node), &importing(&cache(&there, "go1")))
            .await
            .unwrap();
        assert!(is_hit(&again) && blocked.is_file(), "{again:?}");
    }
}

//! Snapshots made to exhaust memory, and what several of one name share.

use super::{
    forging::{Forged, forge},
    looking::{name_of, tree},
    *,
};
use crate::{
    artifact::{Descriptor, Manifest, snapshot::Outline},
    ops::{Error, head, inspect, list},
    store::{BlobStore as _, Body, Expect, TagStore as _},
};

/// Publishes the head of `n` with a config in which `change` has altered the stated packs.
async fn forge_config(world: &World, node: &Context, change: impl FnOnce(&mut serde_json::Value)) {
    let memory = &world.memory;
    let tag = name_of("n", "").tag();
    let head = memory.resolve(&tag.clone().into()).await.unwrap().unwrap();
    let outline = Outline::read(&head.manifest).unwrap().unwrap();
    let bytes = load::read_blob(&*node.store, &outline.config).await;
    let mut config: serde_json::Value = serde_json::from_slice(&bytes.unwrap().unwrap()).unwrap();
    change(&mut config);
    let bytes = serde_json::to_vec(&config).unwrap();
    let desc = Descriptor::of(&outline.config.media_type, &bytes);
    let body = Body::Bytes(bytes.into());
    memory.put(&desc, &body).await.unwrap();
    let mut document: serde_json::Value = serde_json::from_slice(&head.manifest.bytes).unwrap();
    document["config"] = serde_json::to_value(&desc).unwrap();
    let bytes = serde_json::to_vec(&document).unwrap();
    let forged = Manifest::new(&head.manifest.media_type, bytes);
    memory
        .publish(&forged, Some(&tag), &Expect::Anything)
        .await
        .unwrap();
}

async fn sample(meet: Meet) -> (World, Context, std::path::PathBuf) {
    let world = World::new(meet);
    let node = world.node("a");
    let root = tree(&world, "a", &[("file", b"12345"), ("other", b"678")]);
    export_dir(&node, &root).await;
    (world, node, root)
}

async fn miss(world: &World) -> String {
    let target = world.path("b", "tree");
    let options = importing(&dir(&target));
    let report = import::run(&world.node("b"), &options).await.unwrap();
    assert!(!target.exists());
    report.miss.expect("it is a miss")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_promises_too_many_entries_is_a_miss_before_a_table_is_read() {
    let (world, node, _) = sample(Meet::CompareAndSwap).await;
    forge_config(&world, &node, |c| {
        c["packs"][0]["entries"] = 2_000_001.into();
    })
    .await;
    let why = miss(&world).await;
    assert!(
        why.contains("it lists 2000001 entries, more than the limit of 2000000"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_entries_than_its_config_promises_is_a_miss() {
    for promised in [1, 3, 1_000_000] {
        let (world, node, _) = sample(Meet::CompareAndSwap).await;
        forge_config(&world, &node, |c| {
            c["packs"][0]["entries"] = promised.into();
        })
        .await;
        let why = miss(&world).await;
        let want = format!("it lists 2 entries, its config promises {promised}");
        assert!(why.contains(&want), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_lists_one_path_many_times_is_a_miss_with_some_of_its_flaws() {
    let (world, node, _) = sample(Meet::CompareAndSwap).await;
    forge(&world, &node, |f: &mut Forged| {
        let entry = f.toc.entries[0].clone();
        f.toc.entries = vec![entry; 3000];
    })
    .await;
    let why = miss(&world).await;
    assert_eq!(why.matches("it is listed twice").count(), 3, "{why}");
    assert!(why.ends_with("and 7 more"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_share_memory_fail_when_it_is_in_use_and_not_for_ever() {
    let (world, node, _) = sample(Meet::CompareAndSwap).await;
    let memory = MemoryBudget::shared(1 << 20);
    let call = Context {
        tables: load::Tables::within(memory.clone()),
        ..node.clone()
    };
    let others = memory.reserve(0, (1 << 20) - 4096).unwrap();
    let refused = inspect::run(&call, "n", true).await.unwrap_err();
    assert!(matches!(refused, Error::Memory { .. }), "{refused}");
    // The tags of a listing count, and the rows made from them.
    let rest = memory.reserve(0, 4000).unwrap();
    let refused = list::run(&call, None).await.unwrap_err();
    assert!(refused.to_string().contains("1 tags"), "{refused}");
    drop((others, rest));
    assert_eq!(inspect::run(&call, "n", true).await.unwrap().len(), 1);
    assert_eq!(list::run(&call, None).await.unwrap().rows.len(), 1);
    assert_eq!(memory.taken(), 0);
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_side_tags_of_a_name_have_each_table_in_memory_once() {
    let (world, node, _) = sample(Meet::SideTags).await;
    let head = name_of("n", "").tag();
    let resolved = world.memory.resolve(&head.into()).await.unwrap().unwrap();
    for i in 0..3 {
        let side = name_of("n", "").side_tag(crate::entry::Time::now(), i);
        world
            .memory
            .publish(&resolved.manifest, Some(&side), &Expect::Anything)
            .await
            .unwrap();
    }
    let memory = MemoryBudget::of_command();
    let ctx = Context {
        tables: load::Tables::within(memory.clone()),
        // One after the other: the first reads, the others reuse its result.
        concurrency: 1,
        ..node.clone()
    };
    let damaged = std::collections::HashSet::new();
    let current = head::read(&ctx, &name_of("n", ""), &damaged).await.unwrap();
    assert_eq!(current.sides.len(), 3);
    let (_, once) = current.head.as_ref().unwrap().snapshot.reading_cost();
    let kept = current.head.as_ref().unwrap().memory.bytes();
    assert_eq!(memory.taken(), once + kept);
    drop(current);
    assert_eq!(memory.taken(), 0);
}

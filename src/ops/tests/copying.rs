//! Copy between stores.

use std::collections::HashSet;

use super::{
    looking::{export_as, image, leave_side_tag, name_of, tag_of, tree},
    *,
};
use crate::{
    ops::{copy, inspect, verify},
    store::{
        BlobStore as _, Expect, TagStore as _,
        disk::{self, Disk},
        keys::Repo,
        open,
    },
};

/// A context over a disk store.
pub(super) async fn on_disk(world: &World, name: &str, settings: &disk::Settings) -> Context {
    let root = world.path("stores", name);
    let disk = Arc::new(Disk::open(&root, Repo::cli(), settings).await.unwrap());
    let mut ctx = world.node("disk");
    let store = Store::of(&disk, StoreUrl::Disk(root), Meet::CompareAndSwap);
    ctx.store = store.with_spool_dir(disk.spool_dir());
    ctx
}

/// A context over a store that is opened as users open it, with all wrappers.
pub(super) async fn opened(world: &World, url: StoreUrl) -> Context {
    let mut ctx = world.node("opened");
    let options = open::Options::default();
    ctx.store = open::open(&url, &options).await.unwrap();
    ctx
}

async fn all_is_well(ctx: &Context) {
    let report = verify::run(ctx, None, verify::Depth::Data).await.unwrap();
    assert_eq!(report.faults, []);
}

async fn files(ctx: &Context, name: &str) -> Vec<String> {
    let shown = inspect::run(ctx, name, true).await.unwrap();
    let files = shown.into_iter().flat_map(|s| s.files.unwrap());
    files.map(|file| file.path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_the_same_after_disk_memory_and_disk_again() {
    let world = World::new(Meet::CompareAndSwap);
    let (first, last) = (
        on_disk(&world, "first", &disk::Settings::default()).await,
        on_disk(&world, "last", &disk::Settings::default()).await,
    );
    let between = world.node("one");
    let noise = crate::pack::write::tests::noise(3_000_000, 4);
    let root = tree(&world, "one", &[("a", b"hello"), ("big", &noise)]);
    let out = export_as(&first, &root, "n", "").await;
    let there = copy::run(&first, &between, None).await.unwrap();
    assert_eq!(there.tags, [tag_of("n", "").to_string()]);
    assert!(
        there.moved.blobs_moved >= 2 && there.moved.bytes_moved > 1_000_000,
        "{there:?}"
    );
    copy::run(&between, &last, Some("n")).await.unwrap();
    for ctx in [&between, &last] {
        let resolved = ctx
            .store
            .resolve(&tag_of("n", "").into())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(resolved.manifest.digest, out.digest);
        all_is_well(ctx).await;
    }
    let again = copy::run(&first, &last, None).await.unwrap();
    let skipped = copy::Report {
        found: true,
        ..copy::Report::default()
    };
    assert_eq!(again, skipped, "equal tags are skipped");
    let nothing = copy::run(&first, &last, Some("nobody")).await.unwrap();
    assert!(!nothing.found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_goes_through_an_image_layout_unchanged() {
    let world = World::new(Meet::CompareAndSwap);
    let first = opened(&world, StoreUrl::Disk(world.path("stores", "first"))).await;
    let layout = opened(&world, StoreUrl::Layout(world.path("stores", "layout"))).await;
    let last = opened(&world, StoreUrl::Disk(world.path("stores", "last"))).await;
    let noise = crate::pack::write::tests::noise(3_000_000, 4);
    let root = tree(&world, "one", &[("a", b"hello"), ("big", &noise)]);
    let out = export_as(&first, &root, "n", "").await;
    copy::run(&first, &layout, None).await.unwrap();
    copy::run(&layout, &last, None).await.unwrap();
    all_is_well(&layout).await;
    all_is_well(&last).await;
    let head = last.store.resolve(&tag_of("n", "").into()).await;
    assert_eq!(head.unwrap().unwrap().manifest.digest, out.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn side_tags_travel_with_their_name() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    export_as(&node, &root, "n", "").await;
    // Another writer's tree, published and then killed: it exists only as a side tag.
    let other = tree(&world, "two", &[("b", b"later")]);
    let later = export_as(&world.node("two"), &other, "n2", "").await;
    let mine = name_of("n", "");
    let loaded = world
        .memory
        .resolve(&later.digest.into())
        .await
        .unwrap()
        .unwrap();
    let loaded = crate::ops::load::load(&node, &loaded.manifest, &HashSet::default())
        .await
        .unwrap()
        .unwrap();
    let mut snapshot = loaded.snapshot;
    snapshot.name = mine.clone();
    let sealed = snapshot.seal(crate::entry::Time::now());
    let config = crate::store::Body::Bytes(sealed.config_bytes.clone().into());
    world.memory.put(&sealed.config, &config).await.unwrap();
    world
        .memory
        .publish(&sealed.manifest, None, &Expect::Anything)
        .await
        .unwrap();
    let side = leave_side_tag(&world, sealed.manifest.digest, &mine, 1 << 20).await;
    assert_eq!(
        files(&node, "n").await,
        ["b"],
        "the later tree is what readers get"
    );

    let to = World::new(Meet::SideTags);
    let report = copy::run(&node, &to.node("x"), Some("n")).await.unwrap();
    assert_eq!(report.left_out, []);
    assert_eq!(report.tags, [side.to_string(), mine.tag().to_string()]);
    assert_eq!(files(&to.node("x"), "n").await, ["b"]);
    all_is_well(&to.node("x")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_differing_folder_is_replaced_and_then_equal() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let (from, to) = (World::new(Meet::CompareAndSwap), World::new(meet));
        let (source, target) = (from.node("one"), to.node("one"));
        let theirs = tree(&to, "one", &[("theirs", b"there before")]);
        let own = export_as(&target, &theirs, "n", "").await;
        let root = tree(&from, "one", &[("a", b"hello")]);
        export_as(&source, &root, "n", "").await;
        let report = copy::run(&source, &target, None).await.unwrap();
        assert_eq!(report.tags, [tag_of("n", "").to_string()]);
        assert_eq!(files(&target, "n").await, ["a"]);
        let again = copy::run(&source, &target, None).await.unwrap();
        assert_eq!(again.tags, Vec::<String>::new(), "{meet:?}");
        let former = inspect::run(&target, &own.digest.to_string(), true)
            .await
            .unwrap();
        assert_eq!(former[0].files.as_ref().unwrap()[0].path, "theirs");
        all_is_well(&target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn differing_go_caches_are_merged_and_then_equal() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let (from, to) = (World::new(Meet::SideTags), World::new(meet));
        for (world, action) in [(&from, "x"), (&to, "y")] {
            let root = world.path("one", "go-build");
            go::put(&root, action, action.as_bytes(), 1);
            export::run(&world.node("one"), &exporting(&go::cache(&root, "go1")))
                .await
                .unwrap();
        }
        let (source, target) = (from.node("one"), to.node("one"));
        copy::run(&source, &target, None).await.unwrap();
        assert_eq!(files(&target, "n").await.len(), 4);
        let again = copy::run(&source, &target, None).await.unwrap();
        assert_eq!(again.tags, Vec::<String>::new());
        assert_eq!(
            files(&source, "n").await.len(),
            2,
            "the source stays as it is"
        );
        all_is_well(&target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_lost_pack_is_left_out_and_the_others_copied() {
    let (from, to) = (
        World::new(Meet::CompareAndSwap),
        World::new(Meet::CompareAndSwap),
    );
    let (source, target) = (from.node("one"), to.node("one"));
    export_as(&source, &tree(&from, "one", &[("a", b"lost")]), "bad", "").await;
    let pack = packs_of(&from.memory)[0];
    export_as(&source, &tree(&from, "two", &[("a", b"good")]), "good", "").await;
    from.memory.lose(&pack);
    let report = copy::run(&source, &target, None).await.unwrap();
    assert_eq!(report.tags, [tag_of("good", "").to_string()]);
    assert_eq!(report.left_out.len(), 1);
    assert!(report.left_out[0].why.contains("missing"), "{report:?}");
    assert_eq!(to.memory.tags("").await.unwrap(), [tag_of("good", "")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_copied_with_the_tags_that_point_at_it_or_alone() {
    let (from, to) = (
        World::new(Meet::CompareAndSwap),
        World::new(Meet::CompareAndSwap),
    );
    let (source, target) = (from.node("one"), to.node("one"));
    let root = tree(&from, "one", &[("a", b"1")]);
    let first = export_as(&source, &root, "n", "").await;
    std::fs::write(root.join("b"), b"2").unwrap();
    let second = export_as(&source, &root, "n", "").await;
    let report = copy::run(&source, &target, Some(&first.digest.to_string()))
        .await
        .unwrap();
    assert_eq!(report.tags, [first.digest.to_string()]);
    assert_eq!(to.memory.tags("").await.unwrap(), []);
    assert_eq!(
        inspect::run(&target, &first.digest.to_string(), false)
            .await
            .unwrap()
            .len(),
        1
    );
    let report = copy::run(&source, &target, Some(&second.digest.to_string()))
        .await
        .unwrap();
    assert_eq!(report.tags, [tag_of("n", "").to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_never_replaces_a_cache() {
    let (from, to) = (
        World::new(Meet::CompareAndSwap),
        World::new(Meet::CompareAndSwap),
    );
    let config = crate::store::Body::Bytes(bytes::Bytes::from_static(b"config"));
    let desc = crate::artifact::Descriptor::of("a/config", b"config");
    from.memory.put(&desc, &config).await.unwrap();
    let latest = "latest".parse().unwrap();
    for tag in [&tag_of("n", ""), &latest] {
        from.memory
            .publish(&image(), Some(tag), &Expect::Absent)
            .await
            .unwrap();
    }
    let target = to.node("one");
    let own = export_as(&target, &tree(&to, "one", &[("a", b"1")]), "n", "").await;
    let report = copy::run(&from.node("one"), &target, None).await.unwrap();
    assert_eq!(report.tags, ["latest"]);
    assert_eq!(report.left_out.len(), 1);
    let there = to
        .memory
        .resolve(&tag_of("n", "").into())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(there.manifest.digest, own.digest);
}

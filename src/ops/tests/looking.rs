//! List, inspect and remove.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::{
    artifact::{Manifest, Tag, media, name::SnapshotName},
    entry::Time,
    ops::{Error, du, foreign, inspect, list, prune, remove},
    store::{Expect, Sweep as _, TagStore as _, Untag},
};

const MEETS: [Meet; 2] = [Meet::CompareAndSwap, Meet::SideTags];

pub(super) fn tree(world: &World, node: &str, files: &[(&str, &[u8])]) -> std::path::PathBuf {
    let root = world.path(node, "tree");
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root
}

pub(super) async fn export_as(
    node: &Context,
    root: &Path,
    name: &str,
    key: &str,
) -> export::Report {
    let mut options = exporting(&dir(root));
    options.target.name = name.into();
    options.target.key = key.into();
    export::run(node, &options).await.unwrap()
}

pub(super) fn tag_of(name: &str, key: &str) -> Tag {
    name_of(name, key).tag()
}

pub(super) fn name_of(name: &str, key: &str) -> SnapshotName {
    SnapshotName {
        kind: "dir".into(),
        name: name.into(),
        scope: "default".into(),
        key: key.into(),
    }
}

/// An image that shares the repository.
pub(super) fn image() -> Manifest {
    let config = crate::artifact::Descriptor::of("a/config", b"config");
    let doc = serde_json::json!({ "config": config, "layers": [] });
    Manifest::new(media::IMAGE_MANIFEST, serde_json::to_vec(&doc).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_every_name_with_its_totals() {
    for meet in MEETS {
        let world = World::new(meet);
        let node = world.node("one");
        let root = tree(&world, "one", &[("a", b"hello"), ("b/c", b"worlds")]);
        let first = export_as(&node, &root, "x/y", "").await;
        export_as(&node, &root, "x/y", "k").await;
        export_as(&node, &root, "other", "").await;
        let report = list::run(&node, None).await.unwrap();
        assert_eq!(report.broken, []);
        let names: Vec<_> = report
            .rows
            .iter()
            .map(|r| (r.name.as_str(), r.key.as_str()))
            .collect();
        assert_eq!(names, [("other", ""), ("x/y", ""), ("x/y", "k")]);
        let row = &report.rows[1];
        assert_eq!((row.kind.as_str(), row.entries, row.bytes), ("dir", 3, 11));
        assert_eq!((row.digest, row.packs, row.pending), (first.digest, 1, 0));
        assert!(row.created.is_some() && row.stored_bytes > 0);
        let one = list::run(&node, Some("x/y")).await.unwrap();
        assert_eq!(one.rows, report.rows[1..]);
        let one = list::run(&node, Some(&row.tag)).await.unwrap();
        assert_eq!(one.rows, report.rows[1..2]);
        assert_eq!(
            list::run(&node, Some("x")).await.unwrap(),
            list::Report::default()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_tags_do_not_fail_a_listing() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    let good = export_as(&node, &root, "good", "").await;
    let bad = export_as(&node, &root, "bad", "").await;
    world.memory.lose(&bad.digest);
    let latest = "latest".parse().unwrap();
    world
        .memory
        .publish(&image(), Some(&latest), &Expect::Absent)
        .await
        .unwrap();
    let report = list::run(&node, None).await.unwrap();
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|r| (r.name.as_str(), r.kind.as_str()))
        .collect();
    assert!(
        rows.contains(&("good", "dir")) && rows.contains(&("latest", foreign::OTHER)),
        "{rows:?}"
    );
    assert!(
        report
            .broken
            .iter()
            .any(|b| b.what.contains(tag_of("bad", "").as_str())),
        "{report:?}"
    );
    assert_eq!(
        report
            .rows
            .iter()
            .find(|r| r.name == "good")
            .unwrap()
            .digest,
        good.digest
    );
}

/// Publishes what a node exported as a side tag that no head contains, as a killed writer leaves it.
pub(super) async fn leave_side_tag(
    world: &World,
    digest: Digest,
    name: &SnapshotName,
    random: u64,
) -> Tag {
    let manifest = world
        .memory
        .resolve(&digest.into())
        .await
        .unwrap()
        .unwrap()
        .manifest;
    let side = name.side_tag(Time::now(), random);
    world
        .memory
        .publish(&manifest, Some(&side), &Expect::Absent)
        .await
        .unwrap();
    side
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_side_tags_are_counted_even_without_a_head() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    let report = export_as(&node, &root, "n", "").await;
    leave_side_tag(&world, report.digest, &name_of("n", ""), 1).await;
    let row = |report: list::Report| report.rows.into_iter().next().unwrap();
    assert_eq!(row(list::run(&node, None).await.unwrap()).pending, 1);
    world.memory.untag(&tag_of("n", "")).await.unwrap();
    let alone = row(list::run(&node, None).await.unwrap());
    assert_eq!((alone.name.as_str(), alone.entries), ("n", 1));
    assert!(alone.pending >= 1);
}

fn files(shown: &inspect::Snapshot) -> Vec<(&str, u64)> {
    let files = shown.files.iter().flatten();
    files.map(|f| (f.path.as_str(), f.bytes)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_packs_files_and_pending_side_tags() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello"), ("b/c", b"worlds")]);
    let first = export_as(&node, &root, "n", "").await;
    std::fs::write(root.join("d"), b"new").unwrap();
    std::fs::remove_file(root.join("a")).unwrap();
    let second = export_as(&node, &root, "n", "").await;
    assert_ne!(first.digest, second.digest);
    let all = inspect::run(&node, "n", true).await.unwrap();
    assert_eq!(all.len(), 1);
    let shown = &all[0];
    assert_eq!(shown.row.digest, second.digest);
    assert_eq!(files(shown), [("b", 0), ("b/c", 6), ("d", 3)]);
    assert_eq!((shown.row.entries, shown.row.bytes), (3, 9));
    assert_eq!(shown.packs.len(), 2);
    let live: u64 = shown.packs.iter().map(|p| p.live).sum();
    assert_eq!(live, 3);
    let needed: u64 = shown.packs.iter().map(|p| p.objects_live).sum();
    let objects: u64 = shown.packs.iter().map(|p| p.objects).sum();
    assert_eq!(
        (needed, objects),
        (2, 3),
        "the object of `a` is dead weight"
    );
    assert!(!shown.folded.is_empty());
    // By tag and digest the same; a side tag or digest alone is shown as it is.
    assert_eq!(
        inspect::run(&node, tag_of("n", "").as_str(), true)
            .await
            .unwrap(),
        all
    );
    let old = inspect::run(&node, &first.digest.to_string(), true)
        .await
        .unwrap();
    assert!(files(&old[0]).contains(&("a", 5)));
    assert_eq!(inspect::run(&node, "nothing", false).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_of_what_cannot_be_read_is_an_error_that_says_why() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    let report = export_as(&node, &root, "n", "").await;
    world.memory.flip(&report.digest, 30);
    let e = inspect::run(&node, "n", false).await.unwrap_err();
    assert!(matches!(e, Error::Damaged { .. }), "{e}");
}

/// A daemon will run these as tasks.
#[test]
fn every_verb_that_looks_after_a_store_can_be_a_task() {
    fn task<T: Send>(_: impl FnOnce(&'static Context) -> T) {}
    task(|ctx| list::run(ctx, None));
    task(|ctx| inspect::run(ctx, "n", true));
    let removal: &'static remove::Options = Box::leak(Box::new(removing("n", true)));
    task(|ctx| remove::run(ctx, removal));
    task(|ctx| crate::ops::copy::run(ctx, ctx, None));
    let options: &'static crate::ops::prune::Options =
        Box::leak(Box::new(super::pruning::nothing_but_blobs()));
    task(|ctx| crate::ops::prune::run(ctx, options));
    task(|ctx| crate::ops::verify::run(ctx, None, crate::ops::verify::Depth::Data));
}

/// Records the order of removals.
struct Recorder(Arc<crate::store::testing::Memory>, Mutex<Vec<Tag>>);

#[async_trait]
impl Untag for Recorder {
    async fn untag(&self, tag: &Tag) -> crate::store::Result<bool> {
        self.1.lock().push(tag.clone());
        self.0.untag(tag).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn side_tags_are_removed_before_the_head_and_other_names_stay() {
    let world = World::new(Meet::SideTags);
    let mut node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    let report = export_as(&node, &root, "n", "").await;
    export_as(&node, &root, "n", "k").await;
    export_as(&node, &root, "nn", "").await;
    leave_side_tag(&world, report.digest, &name_of("n", ""), 1).await;
    let recorder = Arc::new(Recorder(world.memory.clone(), Mutex::default()));
    node.store = node.store.with_untag(recorder.clone());

    let before = world.memory.tags("").await.unwrap();
    let would = remove::run(&node, &removing("n", true)).await.unwrap();
    assert_eq!(
        world.memory.tags("").await.unwrap(),
        before,
        "a rehearsal removes nothing"
    );
    let removed = remove::run(&node, &removing("n", false)).await.unwrap();
    assert_eq!(removed, would);
    assert_eq!(
        removed.tags.len(),
        5,
        "two heads, two side tags of the exports, one left by hand: {removed:?}"
    );
    let order = recorder.1.lock().clone();
    for key in ["", "k"] {
        let head = tag_of("n", key);
        let at = order.iter().position(|t| *t == head).unwrap();
        let side = |t: &Tag| crate::artifact::name::head_of(t).as_ref() == Some(&head);
        assert!(order.iter().rposition(side).unwrap() < at, "{order:?}");
    }
    assert!(world.memory.tags("dir.n.").await.unwrap().is_empty());
    assert!(!world.memory.tags("dir.nn.").await.unwrap().is_empty());
    assert_eq!(
        remove::run(&node, &removing("n", false)).await.unwrap(),
        remove::Report::default()
    );
    assert!(
        !world.memory.blobs().await.unwrap().is_empty(),
        "blobs are prune's business"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_alone_is_removed_with_its_side_tags_a_digest_never() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    let report = export_as(&node, &root, "n", "").await;
    export_as(&node, &root, "n", "k").await;
    remove::run(&node, &removing(tag_of("n", "k").as_str(), false))
        .await
        .unwrap();
    let left = world.memory.tags("").await.unwrap();
    assert!(left.contains(&tag_of("n", "")));
    assert!(
        !left
            .iter()
            .any(|t| t.as_str().starts_with(tag_of("n", "k").as_str()))
    );
    let e = remove::run(&node, &removing(&report.digest.to_string(), false))
        .await
        .unwrap_err();
    assert!(matches!(e, Error::Usage(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_shared_blobs_once_and_says_what_a_removal_gives_back() {
    let world = World::new(Meet::CompareAndSwap);
    let settings = crate::store::disk::Settings::default();
    // A store that can lock others out removes at once.
    let node = super::copying::on_disk(&world, "one", &settings).await;
    let root = tree(&world, "one", &[("a", &[7; 5000])]);
    export_as(&node, &root, "x", "").await;
    export_as(&node, &root, "y", "").await;
    std::fs::write(root.join("a"), vec![b'z'; 90_000]).unwrap();
    export_as(&node, &root, "z", "").await;
    let all = du::run(&node, None).await.unwrap();
    assert_eq!((all.rows.len(), all.broken.len()), (3, 0));
    let row = |name: &str| all.rows.iter().find(|r| r.name == name).unwrap();
    assert_eq!(row("z").bytes, row("z").own_bytes);
    // x and y share their pack; each has its own manifest and config.
    assert!(row("x").own_bytes < row("x").bytes);
    assert_eq!((row("x").blobs, row("z").blobs), (3, 3));
    let sum: u64 = all.rows.iter().map(|r| r.bytes).sum();
    assert!(all.bytes < sum && all.blobs == 8);
    assert_eq!(
        all.store,
        Some(du::Whole {
            blobs: 8,
            bytes: all.bytes
        })
    );
    assert!(all.rows.is_sorted_by_key(|r| std::cmp::Reverse(r.bytes)));
    // The pack that x and y share belongs to neither alone, and is freed with both.
    assert_eq!(all.own_bytes, Some(all.bytes));
    let each: u64 = all.rows.iter().map(|r| r.own_bytes).sum();
    assert!(all.own_bytes > Some(each));

    let one = du::run(&node, Some("y")).await.unwrap();
    assert_eq!(one.rows, [row("y").clone()]);
    assert_eq!(one.bytes, row("y").bytes);
    assert_eq!(one.own_bytes, Some(row("y").own_bytes));

    remove::run(&node, &removing("x", false)).await.unwrap();
    let options = prune::Options {
        max_age: None,
        max_size: None,
        keep: None,
        grace: std::time::Duration::ZERO,
        now: false,
        dry_run: false,
    };
    prune::run(&node, &options).await.unwrap();
    let left = du::run(&node, None).await.unwrap().store.unwrap();
    assert_eq!(left.bytes, all.bytes - row("x").own_bytes);
}

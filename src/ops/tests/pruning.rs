//! Prune: names by policy, blobs by mark and sweep.

use std::time::Duration;

use super::{
    copying::on_disk,
    looking::{export_as, image, leave_side_tag, name_of, tag_of, tree},
    *,
};
use crate::{
    artifact::{Descriptor, Manifest, Tag, media},
    digest::Digest,
    ops::{
        copy,
        prune::{self, Options},
        verify,
    },
    store::{BlobStore as _, Body, Expect, Sweep as _, TagStore as _, Untag as _, disk},
};

const DAY: Duration = Duration::from_hours(24);

pub(super) fn nothing_but_blobs() -> Options {
    Options {
        max_age: None,
        max_size: None,
        keep: None,
        grace: DAY,
        now: false,
        dry_run: false,
    }
}

async fn tags(world: &World) -> Vec<Tag> {
    world.memory.tags("").await.unwrap()
}

async fn count(world: &World) -> usize {
    world.memory.blobs().await.unwrap().len()
}

/// A store with one name, and blobs of another that was removed.
async fn with_garbage(world: &World) -> Context {
    let node = world.node("one");
    export_as(&node, &tree(world, "one", &[("a", b"stays")]), "stays", "").await;
    export_as(&node, &tree(world, "two", &[("b", b"goes")]), "goes", "").await;
    for tag in tags(world).await {
        if tag.as_str().starts_with("dir.goes.") {
            world.memory.untag(&tag).await.unwrap();
        }
    }
    node
}

async fn all_is_well(ctx: &Context) {
    is_well(ctx, None).await;
}

async fn all_is_well_of(ctx: &Context, name: &str) {
    is_well(ctx, Some(name)).await;
}

async fn is_well(ctx: &Context, name: Option<&str>) {
    let report = verify::run(ctx, name, verify::Depth::Data).await.unwrap();
    assert!(report.snapshots > 0);
    assert_eq!(report.faults, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_a_grace_after_they_were_marked_and_no_sooner() {
    let world = World::new(Meet::SideTags);
    let node = with_garbage(&world).await;
    let all = count(&world).await;
    let options = nothing_but_blobs();
    world.memory.set_clock_ahead(3600);
    let first = prune::run(&node, &options).await.unwrap();
    assert!(first.marked >= 3 && first.blobs == 0, "{first:?}");
    assert_eq!(first.not_swept, None);
    world.memory.set_clock_ahead(3600 + 23 * 3600);
    let early = prune::run(&node, &options).await.unwrap();
    assert_eq!(
        (early.marked, early.blobs),
        (0, 0),
        "marked already, and not old enough: {early:?}"
    );
    world.memory.set_clock_ahead(3600 + 25 * 3600);
    let dry = prune::run(
        &node,
        &Options {
            dry_run: true,
            ..options.clone()
        },
    )
    .await
    .unwrap();
    assert_eq!(count(&world).await, all, "a rehearsal removes nothing");
    let late = prune::run(&node, &options).await.unwrap();
    assert_eq!((late.blobs, late.bytes), (first.marked, dry.bytes));
    assert_eq!(dry.blobs, late.blobs);
    assert_eq!(count(&world).await, all - first.marked as usize);
    assert_eq!(
        world.memory.marks().await.unwrap(),
        Vec::<String>::new(),
        "a mark that is done goes"
    );
    all_is_well(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_or_reached_after_the_mark_stays() {
    let world = World::new(Meet::SideTags);
    let node = with_garbage(&world).await;
    let options = nothing_but_blobs();
    world.memory.set_clock_ahead(3600);
    prune::run(&node, &options).await.unwrap();
    // One exporter brings the name back from the same bytes, by finding them there.
    world.memory.set_clock_ahead(20 * 3600);
    export_as(&node, &world.path("two", "tree"), "again", "").await;
    world.memory.set_clock_ahead(30 * 3600);
    prune::run(&node, &options).await.unwrap();
    all_is_well(&node).await;
    // It is removed again; since its blobs were reachable in between, they are marked again before they may be removed.
    for tag in world.memory.tags("dir.again.").await.unwrap() {
        world.memory.untag(&tag).await.unwrap();
    }
    let marked = prune::run(&node, &options).await.unwrap();
    assert!(marked.marked > 0 && marked.blobs == 0, "{marked:?}");
    world.memory.set_clock_ahead(60 * 3600);
    let gone = prune::run(&node, &options).await.unwrap();
    assert_eq!(gone.blobs, marked.marked);
    all_is_well(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_written_again_waits_for_a_mark_of_its_own() {
    let world = World::new(Meet::SideTags);
    let node = with_garbage(&world).await;
    let options = nothing_but_blobs();
    world.memory.set_clock_ahead(3600);
    let marked = prune::run(&node, &options).await.unwrap().marked;
    // A writer sends the pack and has no name for it yet.
    world.memory.set_clock_ahead(20 * 3600);
    let pack = packs_of(&world.memory)[1];
    let size = world.memory.stat(&pack).await.unwrap().unwrap();
    let desc = Descriptor::new("a/b", pack, size);
    let bytes = world.memory.get(&desc, 0..size).await.unwrap().unwrap();
    let bytes = crate::store::collect(bytes, size).await.unwrap();
    world.memory.damage(&pack, bytes);
    world.memory.set_clock_ahead(26 * 3600);
    let swept = prune::run(&node, &options).await.unwrap();
    assert_eq!((swept.blobs, swept.marked), (marked - 1, 1));
    assert_eq!(world.memory.stat(&pack).await.unwrap(), Some(size));
    world.memory.set_clock_ahead(60 * 3600);
    assert_eq!(prune::run(&node, &options).await.unwrap().blobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_from_a_clock_that_was_wrong_is_thrown_away() {
    let world = World::new(Meet::SideTags);
    let node = with_garbage(&world).await;
    let options = nothing_but_blobs();
    world.memory.set_clock_ahead(400 * 24 * 3600);
    let wrong = prune::run(&node, &options).await.unwrap();
    assert!(wrong.marked > 0);
    world.memory.set_clock_ahead(3600);
    let right = prune::run(&node, &options).await.unwrap();
    assert_eq!((right.marked, right.blobs), (wrong.marked, 0));
    assert_eq!(world.memory.marks().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_writes_and_removes_nothing() {
    let world = World::new(Meet::SideTags);
    let node = with_garbage(&world).await;
    world.memory.set_clock_ahead(3600);
    let (before, blobs) = (tags(&world).await, count(&world).await);
    let options = Options {
        max_age: Some(Duration::from_mins(1)),
        dry_run: true,
        ..nothing_but_blobs()
    };
    let report = prune::run(&node, &options).await.unwrap();
    assert!(
        report.tags.contains(&tag_of("stays", "").to_string()),
        "{report:?}"
    );
    assert_eq!(
        report.marked as usize, blobs,
        "with all names gone nothing is reached"
    );
    assert_eq!((tags(&world).await, count(&world).await), (before, blobs));
    assert_eq!(world.memory.marks().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_manifest_stops_the_sweep() {
    for loss in [false, true] {
        let world = World::new(Meet::CompareAndSwap);
        let node = with_garbage(&world).await;
        let head = world
            .memory
            .resolve(&tag_of("stays", "").into())
            .await
            .unwrap()
            .unwrap();
        let options = Options {
            grace: Duration::ZERO,
            ..nothing_but_blobs()
        };
        world.memory.set_clock_ahead(3600);
        prune::run(&node, &options).await.unwrap();
        if loss {
            world.memory.lose(&head.manifest.digest);
        } else {
            world.memory.flip(&head.manifest.digest, 40);
        }
        world.memory.set_clock_ahead(7200);
        let before = count(&world).await;
        let report = prune::run(&node, &options).await.unwrap();
        if loss {
            // What it named can no longer be found; that is consistent.
            assert_eq!(report.not_swept, None);
        } else {
            assert!(
                report
                    .not_swept
                    .as_ref()
                    .unwrap()
                    .contains("nothing is deleted"),
                "{report:?}"
            );
            assert_eq!((report.blobs, count(&world).await), (0, before));
        }
    }
}

/// Collects the warnings.
#[derive(Default)]
pub(super) struct Warnings(pub(super) parking_lot::Mutex<Vec<String>>);

impl progress::Watch for Warnings {
    fn begin(&self, _: progress::Phase, _: Option<u64>) {}
    fn advance(&self, _: progress::Phase, _: u64) {}
    fn end(&self, _: progress::Phase) {}
    fn warn(&self, message: &str) {
        self.0.lock().push(message.to_owned());
    }
}

/// Manifests that an older release's registry API accepted and its sweep could not read.
fn odd_documents(keeps: &Digest) -> [(&'static str, String); 4] {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let layers = format!(r#""layers":[{{"mediaType":"a/l","digest":"{keeps}","size":4}}]"#);
    [
        ("deep", format!(r#"{{{layers},"x":{deep}}}"#)),
        ("surrogate", format!(r#"{{{layers},"a":"\ud800"}}"#)),
        ("number", format!(r#"{{{layers},"a":1e999}}"#)),
        ("hidden", format!(r#"{{"y":["{keeps}"],"x":{deep}}}"#)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_that_is_not_json_keeps_what_it_names_and_everything_else_is_swept() {
    let kept = Descriptor::of("a/l", b"kept");
    for (name, document) in odd_documents(&kept.digest) {
        let world = World::new(Meet::CompareAndSwap);
        let mut node = with_garbage(&world).await;
        let warnings = Arc::new(Warnings::default());
        node.progress = warnings.clone();
        let body = Body::Bytes("kept".into());
        world.memory.put(&kept, &body).await.unwrap();
        let odd = Manifest::new(media::IMAGE_MANIFEST, document);
        let tag: Tag = "odd".parse().unwrap();
        let published = world.memory.publish(&odd, Some(&tag), &Expect::Absent);
        published.await.unwrap();
        let all = count(&world).await;
        let options = Options {
            grace: Duration::ZERO,
            ..nothing_but_blobs()
        };
        world.memory.set_clock_ahead(3600);
        prune::run(&node, &options).await.unwrap();
        world.memory.set_clock_ahead(7200);
        let report = prune::run(&node, &options).await.unwrap();
        assert_eq!(report.not_swept, None, "{name}");
        assert!(report.blobs >= 3, "{name}: {report:?}");
        assert_eq!(count(&world).await, all - report.blobs as usize);
        for digest in [&kept.digest, &odd.digest] {
            let there = world.memory.stat(digest).await.unwrap();
            assert!(there.is_some(), "{name}: {digest}");
        }
        assert_eq!(report.left_out, [], "{name}: it is no failure");
        let said = warnings.0.lock().pop().unwrap();
        let expected = format!(
            "tag odd: manifest {} cannot be read: it is not JSON",
            odd.digest
        );
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.ends_with("remove it with `cachectl rm odd`"), "{said}");
        all_is_well_of(&node, "stays").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_no_manifest_is_a_leaf_that_keeps_what_its_bytes_name() {
    let world = World::new(Meet::CompareAndSwap);
    let node = with_garbage(&world).await;
    let below = Descriptor::of("a/l", b"below");
    let junk = format!("junk {} junk", below.digest);
    let junk = Descriptor::of(media::IMAGE_MANIFEST, junk.as_bytes());
    for (desc, bytes) in [
        (&below, "below".to_owned()),
        (&junk, format!("junk {} junk", below.digest)),
    ] {
        let body = Body::Bytes(bytes.into());
        world.memory.put(desc, &body).await.unwrap();
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [junk]}).to_string();
    let index = Manifest::new(media::IMAGE_INDEX, index);
    let tag: Tag = "index".parse().unwrap();
    let published = world.memory.publish(&index, Some(&tag), &Expect::Absent);
    published.await.unwrap();
    let options = Options {
        grace: Duration::ZERO,
        ..nothing_but_blobs()
    };
    world.memory.set_clock_ahead(3600);
    prune::run(&node, &options).await.unwrap();
    world.memory.set_clock_ahead(7200);
    let report = prune::run(&node, &options).await.unwrap();
    assert_eq!((&report.not_swept, &report.left_out[..]), (&None, &[][..]));
    assert!(report.blobs >= 3, "{report:?}");
    for digest in [&index.digest, &junk.digest, &below.digest] {
        assert!(
            world.memory.stat(digest).await.unwrap().is_some(),
            "{digest}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_names_go_with_their_side_tags_and_young_ones_stay() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"1")]);
    let old = export_as(&node, &root, "old", "").await;
    export_as(&node, &root, "kept-young", "").await;
    let latest: Tag = "latest".parse().unwrap();
    world
        .memory
        .publish(&image(), Some(&latest), &Expect::Absent)
        .await
        .unwrap();
    world.memory.set_clock_ahead(10 * 24 * 3600);
    let young = export_as(&node, &root, "young", "").await;
    // A name is as young as its youngest side tag.
    leave_side_tag(&world, young.digest, &name_of("kept-young", ""), 5).await;
    let options = Options {
        max_age: Some(5 * DAY),
        ..nothing_but_blobs()
    };
    let report = prune::run(&node, &options).await.unwrap();
    assert!(
        report.tags.iter().all(|t| t.starts_with("dir.old.")),
        "{report:?}"
    );
    assert_eq!(report.tags.len(), 2);
    assert_eq!(
        report.tags.last(),
        Some(&tag_of("old", "").to_string()),
        "the head is last"
    );
    assert!(
        world
            .memory
            .resolve(&old.digest.into())
            .await
            .unwrap()
            .is_some(),
        "its blobs wait for the sweep"
    );
    let left = tags(&world).await;
    assert!(left.contains(&latest), "an image is none of our business");
    assert!(left.contains(&tag_of("young", "")) && left.contains(&tag_of("kept-young", "")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_keys_of_each_name_stay() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    for (i, (name, key)) in [
        ("n", "k1"),
        ("n", "k2"),
        ("n", ""),
        ("n", "k3"),
        ("m", "k1"),
    ]
    .iter()
    .enumerate()
    {
        world.memory.set_clock_ahead(i as i64 * 100);
        let content = format!("{name}{key}");
        let root = tree(
            &world,
            &format!("{name}-{key}"),
            &[("a", content.as_bytes())],
        );
        export_as(&node, &root, name, key).await;
    }
    let report = prune::run(
        &node,
        &Options {
            keep: Some(2),
            ..nothing_but_blobs()
        },
    )
    .await
    .unwrap();
    let mut gone = report.tags;
    gone.sort();
    assert_eq!(
        gone,
        [tag_of("n", "k1").to_string(), tag_of("n", "k2").to_string()]
    );
    assert_eq!(tags(&world).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_as_old_as_what_it_is_a_copy_of() {
    let source = World::new(Meet::CompareAndSwap);
    let from = source.node("one");
    let root = tree(&source, "one", &[("a", b"1")]);
    // Copied in the order of their names, which is not that of their publication.
    for (i, key) in ["z", "y", "x", "w", "v"].iter().enumerate() {
        source.memory.set_clock_ahead(i as i64 * 100 - 10_000);
        export_as(&from, &root, "n", key).await;
    }
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    copy::run(&from, &node, None).await.unwrap();
    let options = Options {
        keep: Some(2),
        dry_run: true,
        ..nothing_but_blobs()
    };
    let mut gone = prune::run(&node, &options).await.unwrap().tags;
    gone.sort();
    assert_eq!(gone, ["x", "y", "z"].map(|k| tag_of("n", k).to_string()));
    let options = Options {
        max_age: Some(Duration::from_secs(9_750)),
        ..nothing_but_blobs()
    };
    let mut gone = prune::run(&node, &options).await.unwrap().tags;
    gone.sort();
    assert_eq!(gone, ["x", "y", "z"].map(|k| tag_of("n", k).to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_names_go_until_the_rest_is_small_enough() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    for (i, name) in ["first", "second", "third"].iter().enumerate() {
        world.memory.set_clock_ahead(i as i64 * 100);
        let noise = crate::pack::write::tests::noise(100_000, i as u64);
        export_as(&node, &tree(&world, name, &[("a", &noise)]), name, "").await;
    }
    let options = Options {
        max_size: Some(130_000),
        ..nothing_but_blobs()
    };
    let report = prune::run(&node, &options).await.unwrap();
    assert_eq!(report.tags, [tag_of("first", "").to_string()]);
    assert_eq!(
        prune::run(&node, &options).await.unwrap().tags,
        Vec::<String>::new()
    );
    // What cannot be removed is reported.
    let latest: Tag = "latest".parse().unwrap();
    world
        .memory
        .publish(&image(), Some(&latest), &Expect::Absent)
        .await
        .unwrap();
    let report = prune::run(
        &node,
        &Options {
            max_size: Some(10),
            ..nothing_but_blobs()
        },
    )
    .await
    .unwrap();
    assert_eq!(
        (report.tags.len(), report.left_out.len()),
        (2, 1),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_repositories_and_images_reach_stays() {
    let world = World::new(Meet::CompareAndSwap);
    let node = on_disk(&world, "d", &disk::Settings::default()).await;
    let root = world.path("stores", "d");
    let other = disk::Disk::open(
        &root,
        "team/app".parse().unwrap(),
        &disk::Settings::default(),
    )
    .await
    .unwrap();
    let put = async |text: &'static str| {
        let desc = Descriptor::of("a/layer", text.as_bytes());
        let body = Body::Bytes(bytes::Bytes::from_static(text.as_bytes()));
        other.put(&desc, &body).await.unwrap();
        desc
    };
    let (layer, loose) = (put("layer").await, put("loose").await);
    let image = crate::artifact::Manifest::new(
        crate::artifact::media::IMAGE_MANIFEST,
        serde_json::to_vec(&serde_json::json!({ "config": layer, "layers": [] })).unwrap(),
    );
    other.publish(&image, None, &Expect::Absent).await.unwrap();
    let index = crate::artifact::Manifest::new(
        crate::artifact::media::IMAGE_INDEX,
        serde_json::to_vec(&serde_json::json!({ "manifests": [image.descriptor()] })).unwrap(),
    );
    other
        .publish(&index, Some(&"v1".parse().unwrap()), &Expect::Absent)
        .await
        .unwrap();
    drop(other);
    let report = prune::run(
        &node,
        &Options {
            grace: Duration::ZERO,
            ..nothing_but_blobs()
        },
    )
    .await
    .unwrap();
    assert_eq!((report.blobs, report.not_swept), (1, None));
    let store = &node.store;
    assert_eq!(store.stat(&loose.digest).await.unwrap(), None);
    for digest in [layer.digest, image.digest, index.digest] {
        assert!(store.stat(&digest).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_disk_a_sweep_waits_for_exporters_and_then_needs_no_grace() {
    let world = World::new(Meet::CompareAndSwap);
    let settings = disk::Settings {
        lock_wait: Duration::from_millis(100),
        ..disk::Settings::default()
    };
    let exporter = on_disk(&world, "d", &settings).await;
    let pruner = on_disk(&world, "d", &settings).await;
    let (one, two) = (
        tree(&world, "one", &[("a", b"1")]),
        tree(&world, "two", &[("b", b"2")]),
    );
    export_as(&exporter, &one, "n", "").await;
    export_as(&exporter, &two, "n", "").await;
    let options = Options {
        grace: Duration::ZERO,
        ..nothing_but_blobs()
    };
    let busy = prune::run(&pruner, &options).await.unwrap();
    assert!(
        busy.not_swept
            .as_ref()
            .unwrap()
            .contains("a daemon, exports or imports"),
        "{busy:?}"
    );
    assert_eq!(busy.blobs, 0);
    drop(exporter);
    let dry = prune::run(
        &pruner,
        &Options {
            dry_run: true,
            ..options.clone()
        },
    )
    .await
    .unwrap();
    let free = prune::run(&pruner, &options).await.unwrap();
    assert_eq!(free.not_swept, None);
    assert_eq!(
        free.blobs, 3,
        "manifest, config and pack of the first tree: {free:?}"
    );
    assert_eq!((dry.blobs, dry.bytes), (free.blobs, free.bytes));
    all_is_well(&pruner).await;
    assert_eq!(prune::run(&pruner, &options).await.unwrap().blobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_and_prunes_at_once_lose_nothing_on_disk() {
    let world = Arc::new(World::new(Meet::CompareAndSwap));
    let exports = (0..6).map(|i| {
        let world = world.clone();
        async move {
            for round in 0..3 {
                // Each process opens the store again.
                let node = on_disk(&world, "d", &disk::Settings::default()).await;
                let content = format!("{i} {round}");
                let root = tree(
                    &world,
                    &format!("node-{i}"),
                    &[("a", content.as_bytes()), ("same", b"same")],
                );
                export_as(&node, &root, &format!("n{i}"), "").await;
                drop(node);
                tokio::task::yield_now().await;
            }
        }
    });
    let prunes = async {
        let mut swept = 0;
        for _ in 0..6 {
            let settings = disk::Settings {
                lock_wait: Duration::from_secs(5),
                ..disk::Settings::default()
            };
            let node = on_disk(&world, "d", &settings).await;
            let options = Options {
                grace: Duration::ZERO,
                ..nothing_but_blobs()
            };
            swept += prune::run(&node, &options).await.unwrap().blobs;
        }
        swept
    };
    tokio::join!(futures_util::future::join_all(exports), prunes);
    let node = on_disk(&world, "d", &disk::Settings::default()).await;
    let report = verify::run(&node, None, verify::Depth::Data).await.unwrap();
    assert_eq!((report.snapshots, report.faults), (6, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_collects_by_itself_is_not_swept_and_says_why() {
    let world = World::new(Meet::SideTags);
    let mut node = with_garbage(&world).await;
    let store = node.store.with_url("oci://reg.example/go");
    node.store = store.with_sweep(None);
    let report = prune::run(&node, &nothing_but_blobs()).await.unwrap();
    assert!(report.not_swept.unwrap().contains("the registry removes"));
    assert!(report.blobs == 0 && !report.sweep_failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_may_not_be_written_is_not_swept_and_that_is_a_failure() {
    let world = World::new(Meet::SideTags);
    let mut node = with_garbage(&world).await;
    node.store = node.store.with_sweep(None);
    let report = prune::run(&node, &nothing_but_blobs()).await.unwrap();
    assert!(report.sweep_failed && report.blobs == 0, "{report:?}");
    let why = report.not_swept.unwrap();
    assert!(why.starts_with("the store is read-only"), "{why}");
}

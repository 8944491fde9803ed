use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::{
    entry::Entry,
    source::NothingKnown,
    store::{
        TagStore as _,
        wrap::{
            Guard, Guarded,
            counters::{Counters, Tier},
        },
    },
};

/// Everything about a tree that is exported.
fn look(root: &Path) -> BTreeMap<String, (Entry, Vec<u8>)> {
    let scan = dir(root).scan(&NothingKnown).unwrap();
    let read = |e: &Entry| {
        if e.kind.is_file() {
            std::fs::read(root.join(e.path.as_path())).unwrap()
        } else {
            Vec::new()
        }
    };
    scan.items
        .into_iter()
        .map(|i| (i.entry.path.to_string(), (i.entry.clone(), read(&i.entry))))
        .collect()
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn sample(root: &Path) {
    write(root, "a/small", b"hello");
    write(root, "a/empty", b"");
    write(
        root,
        "b/big",
        &crate::pack::write::tests::noise(3_000_000, 9),
    );
    write(
        root,
        "b/c/deep",
        &crate::pack::write::tests::noise(70_000, 8),
    );
    std::fs::create_dir_all(root.join("nothing/in/it")).unwrap();
    std::os::unix::fs::symlink("../a/small", root.join("b/link")).unwrap();
    std::fs::hard_link(root.join("a/small"), root.join("b/hard")).unwrap();
    std::fs::set_permissions(root.join("a/small"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::fs::set_permissions(root.join("b/c"), std::fs::Permissions::from_mode(0o500)).unwrap();
}

const MEETS: [Meet; 2] = [Meet::CompareAndSwap, Meet::SideTags];

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_as_it_was_on_another_node() {
    for meet in MEETS {
        let world = World::new(meet);
        let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
        sample(&one);
        let out = export_dir(&world.node("one"), &one).await;
        assert!(out.left_out.is_empty(), "{:?}", out.left_out);
        let back = import_dir(&world.node("two"), &two).await;
        assert!(is_hit(&back), "{back:?}");
        assert_eq!(look(&one), look(&two));
        assert_eq!(back.digest, Some(out.digest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_moves_nothing_and_keeps_its_digest() {
    for meet in MEETS {
        let world = World::new(meet);
        let one = world.path("one", "tree");
        sample(&one);
        let first = export_dir(&world.node("one"), &one).await;
        let again = export_dir(&world.node("one"), &one).await;
        assert!(!first.unchanged && again.unchanged, "{again:?}");
        assert_eq!(again.moved.bytes_moved, 0);
        if meet == Meet::CompareAndSwap {
            assert_eq!(first.digest, again.digest);
        }
        // A node that has no index finds the same by reading.
        let other = export_dir(&world.node("other"), &one).await;
        assert!(other.unchanged, "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_packed_alone_and_what_is_gone_goes() {
    for meet in MEETS {
        let world = World::new(meet);
        let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
        sample(&one);
        let node = world.node("one");
        export_dir(&node, &one).await;
        let mut big = std::fs::read(one.join("b/big")).unwrap();
        big[1_500_000] ^= 1;
        write(&one, "b/big", &big);
        write(&one, "new", b"new");
        std::fs::remove_file(one.join("a/empty")).unwrap();
        let out = export_dir(&node, &one).await;
        assert!(out.moved.bytes_moved < 400_000, "{:?}", out.moved);
        assert!(out.moved.bytes_saved > 1_000_000, "{:?}", out.moved);
        assert!(is_hit(&import_dir(&world.node("two"), &two).await));
        assert_eq!(look(&one), look(&two));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_onto_what_is_there_fetches_nothing_and_changes_only_what_differs() {
    let world = World::new(Meet::SideTags);
    let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
    sample(&one);
    let (a, b) = (world.node("one"), world.node("two"));
    export_dir(&a, &one).await;
    import_dir(&b, &two).await;
    let again = import_dir(&b, &two).await;
    assert!(is_hit(&again));
    assert_eq!(
        (again.moved.bytes_moved, again.entries_restored),
        (0, 0),
        "{again:?}"
    );
    // Damage visible in metadata is repaired; files outside the snapshot stay.
    write(&two, "a/small", b"other");
    write(&two, "own", b"own");
    let mended = import_dir(&b, &two).await;
    assert!(is_hit(&mended) && mended.moved.bytes_moved > 0);
    std::fs::remove_file(two.join("own")).unwrap();
    // The root's folders got new times from the added file; compare contents.
    let contents = |root: &Path| {
        look(root)
            .into_iter()
            .map(|(p, (_, c))| (p, c))
            .collect::<Vec<_>>()
    };
    assert_eq!(contents(&one), contents(&two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_removes_what_the_snapshot_does_not_have() {
    let world = World::new(Meet::SideTags);
    let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
    sample(&one);
    export_dir(&world.node("one"), &one).await;
    write(&two, "own/file", b"own");
    write(&two, "a/small", b"other");
    let options = import::Options {
        how: crate::ops::restore::How {
            mirror: true,
            ..crate::ops::restore::How::default()
        },
        ..importing(&dir(&two))
    };
    assert!(is_hit(
        &import::run(&world.node("two"), &options).await.unwrap()
    ));
    assert_eq!(look(&one), look(&two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_is_a_miss_and_the_next_export_heals_it() {
    for meet in MEETS {
        let world = World::new(meet);
        let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
        sample(&one);
        let node = world.node("one");
        export_dir(&node, &one).await;
        let packs = packs_of(&world.memory);
        assert!(world.memory.lose(&packs[0]));
        let miss = import_dir(&world.node("two"), &two).await;
        assert!(
            miss.hit.is_none() && miss.miss.as_ref().unwrap().contains("missing"),
            "{miss:?}"
        );
        assert!(!two.exists());
        let healed = export_dir(&node, &one).await;
        assert!(healed.moved.blobs_moved > 0);
        assert!(is_hit(&import_dir(&world.node("two"), &two).await));
        assert_eq!(look(&one), look(&two));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_a_miss_and_an_export_from_the_node_that_saw_it_heals_it() {
    for meet in MEETS {
        let world = World::new(meet);
        let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
        sample(&one);
        export_dir(&world.node("one"), &one).await;
        let pack = packs_of(&world.memory)[0];
        world.memory.flip(&pack, 5000);
        let miss = import_dir(&world.node("two"), &two).await;
        assert!(
            miss.hit.is_none() && miss.miss.as_ref().unwrap().contains("damaged"),
            "{miss:?}"
        );
        assert!(std::fs::read_dir(&two).map_or(true, |d| d.count() == 0));
        sample(&two);
        let healed = export_dir(&world.node("two"), &two).await;
        assert!(healed.moved.blobs_moved > 0, "{healed:?}");
        let three = world.path("three", "tree");
        assert!(is_hit(&import_dir(&world.node("three"), &three).await));
        assert_eq!(look(&two), look(&three));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_merge_the_last_tree_counts_and_with_merge_all_do() {
    for meet in MEETS {
        let world = World::new(meet);
        for (merge, want) in [(false, vec!["b/2"]), (true, vec!["a/1", "b/2"])] {
            let world = if merge { &World::new(meet) } else { &world };
            for (node, file) in [("one", "a/1"), ("two", "b/2")] {
                let root = world.path(node, "tree");
                write(&root, file, file.as_bytes());
                let options = export::Options {
                    merge,
                    ..exporting(&dir(&root))
                };
                export::run(&world.node(node), &options).await.unwrap();
            }
            let three = world.path("three", "tree");
            assert!(is_hit(&import_dir(&world.node("three"), &three).await));
            let files: Vec<String> = look(&three)
                .into_iter()
                .filter(|(_, (e, _))| e.kind.is_file())
                .map(|(p, _)| p)
                .collect();
            assert_eq!(files, want, "{meet:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_lose_nothing_of_a_merged_tree() {
    for meet in MEETS {
        let world = Arc::new(World::new(meet));
        let mut tasks = Vec::new();
        for i in 0..16 {
            let world = world.clone();
            tasks.push(crate::task::spawn("writer", async move {
                let name = format!("node-{i}");
                let root = world.path(&name, "tree");
                write(
                    &root,
                    &format!("own/{i}"),
                    format!("content of {i}").as_bytes(),
                );
                write(&root, "shared", b"the same everywhere");
                let options = export::Options {
                    merge: true,
                    ..exporting(&dir(&root))
                };
                export::run(&world.node(&name), &options).await.unwrap();
            }));
        }
        for task in tasks {
            task.join().await;
        }
        let back = world.path("reader", "tree");
        assert!(is_hit(&import_dir(&world.node("reader"), &back).await));
        let files = look(&back)
            .into_iter()
            .filter(|(_, (e, _))| e.kind.is_file())
            .count();
        assert_eq!(files, 17, "{meet:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_exactly_then_by_prefix_newest_first() {
    let world = World::new(Meet::SideTags);
    for (i, key) in ["deps-1", "deps-2", "other"].into_iter().enumerate() {
        let root = world.path("one", key);
        write(&root, "key", key.as_bytes());
        let mut options = exporting(&dir(&root));
        options.target.key = key.into();
        world.memory.set_clock_ahead(i as i64 * 100);
        export::run(&world.node("one"), &options).await.unwrap();
    }
    for (key, prefixes, want) in [
        ("deps-1", vec![], Some("deps-1")),
        ("deps-9", vec!["deps-"], Some("deps-2")),
        ("none", vec!["no", "oth"], Some("other")),
        ("none", vec!["no"], None),
    ] {
        let root = world.path("two", &format!("{key}-{}", prefixes.len()));
        let mut options = importing(&dir(&root));
        options.key = key.into();
        options.restore_keys = prefixes.into_iter().map(str::to_owned).collect();
        let report = import::run(&world.node("two"), &options).await.unwrap();
        assert_eq!(report.hit.is_some(), want.is_some(), "{key}");
        if let Some(want) = want {
            assert_eq!(std::fs::read_to_string(root.join("key")).unwrap(), want);
        }
    }
}

/// Exports `content` under `key`, `at` seconds after the test began.
async fn export_key(world: &World, key: &str, at: i64, content: &str) {
    let root = world.path("one", "keyed");
    write(&root, "key", content.as_bytes());
    let mut options = exporting(&dir(&root));
    options.target.key = key.into();
    world.memory.set_clock_ahead(at);
    export::run(&world.node("one"), &options).await.unwrap();
}

async fn import_key(ctx: &Context, root: &Path, key: &str, prefix: &str) -> import::Report {
    let mut options = importing(&dir(root));
    options.key = key.into();
    options.restore_keys = vec![prefix.to_owned()];
    import::run(ctx, &options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_found_behind_any_number_of_keys_that_were_not_asked_for() {
    // Their tags begin alike: over 40 characters only 26 stay clear.
    let long = "linux-x64-node-22-package-lock-json";
    let world = World::new(Meet::SideTags);
    export_key(&world, &format!("{long}-rel-1"), 0, "rel").await;
    for i in 1..34 {
        export_key(&world, &format!("{long}-main-{i}"), i * 10, &i.to_string()).await;
    }
    let root = world.path("two", "y");
    let report = import_key(&world.node("two"), &root, "none", &format!("{long}-rel-")).await;
    assert!(report.hit.is_some(), "{report:?}");
    assert_eq!(std::fs::read_to_string(root.join("key")).unwrap(), "rel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_found_behind_damaged_keys_and_a_miss_of_many_is_told_in_few_words() {
    let world = World::new(Meet::SideTags);
    export_key(&world, "r-0", 0, "whole").await;
    let whole = world.memory.packs();
    for i in 1..40 {
        export_key(&world, &format!("r-{i}"), i * 10, &i.to_string()).await;
    }
    let packs = world.memory.packs();
    for pack in packs.iter().filter(|pack| !whole.contains(pack)) {
        assert!(world.memory.lose(pack));
    }
    let root = world.path("two", "y");
    let report = import_key(&world.node("two"), &root, "none", "r-").await;
    assert_eq!(report.found.unwrap().1, "r-0");
    assert_eq!(std::fs::read_to_string(root.join("key")).unwrap(), "whole");
    assert!(whole.iter().all(|pack| world.memory.lose(pack)));
    let miss = import_key(&world.node("three"), &root, "none", "r-").await;
    let said = miss.miss.unwrap();
    assert!(
        said.ends_with("; and 37 more") && said.len() < 600,
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_costs_at_most_40_requests_whatever_number_of_keys_it_has() {
    let world = World::new(Meet::SideTags);
    for i in 0..60 {
        export_key(&world, &format!("run-{i}"), i * 10, &i.to_string()).await;
    }
    let mut ctx = world.node("two");
    let counters = Arc::new(Counters::of(Tier::Remote));
    let guard = Guard {
        counters: counters.clone(),
        ..Guard::default()
    };
    let counted = Guarded::new(ctx.store.contents().clone(), guard);
    ctx.store = ctx.store.with_contents(Arc::new(counted));
    let root = world.path("two", "y");
    let report = import_key(&ctx, &root, "run-none", "run-").await;
    assert_eq!(report.found.unwrap().1, "run-59");
    let count = counters.snapshot();
    // A bucket answers a tag's record and then its manifest.
    let requests = count.tags.requests + 2 * count.resolve.requests + count.get.requests;
    assert!(requests <= 40, "{requests}: {count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_times_are_listed_a_prefix_costs_one_request_for_each_key() {
    let world = World::new(Meet::SideTags);
    for i in 0..30 {
        export_key(&world, &format!("run-{i}"), i * 10, &i.to_string()).await;
    }
    world.memory.tell_no_times();
    // The newest one cannot be used: the next one is read again.
    let newest = super::looking::tag_of("n", "run-29");
    let newest = world.memory.resolve(&newest.into()).await.unwrap();
    let newest: serde_json::Value =
        serde_json::from_slice(&newest.unwrap().manifest.bytes).unwrap();
    let config = newest["config"]["digest"].as_str().unwrap();
    world.memory.lose(&config.parse().unwrap());
    let mut ctx = world.node("two");
    let counters = Arc::new(Counters::of(Tier::Remote));
    let guard = Guard {
        counters: counters.clone(),
        ..Guard::default()
    };
    let counted = Guarded::new(ctx.store.contents().clone(), guard);
    ctx.store = ctx.store.with_contents(Arc::new(counted));
    let root = world.path("two", "y");
    let report = import_key(&ctx, &root, "run-none", "run-").await;
    assert_eq!(report.found.unwrap().1, "run-28");
    let count = counters.snapshot();
    // Every key, the exactly requested one, and the second newest again.
    assert_eq!(count.resolve.requests, 30 + 1 + 1, "{count:?}");
    assert!(count.get.requests <= 6, "{count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_of_a_key_says_that_there_are_others() {
    let world = World::new(Meet::SideTags);
    export_key(&world, "web-1", 0, "1").await;
    let root = world.path("two", "y");
    let miss = import_key(&world.node("two"), &root, "zzz", "api-").await;
    assert_eq!(
        miss.miss.unwrap(),
        "no key `zzz` and no key that starts with `api-` is stored for dir `n` in default; 1 other key exists (`cachectl ls`)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_tree_is_a_tree() {
    let world = World::new(Meet::SideTags);
    let one = world.path("one", "tree");
    std::fs::create_dir_all(&one).unwrap();
    export_dir(&world.node("one"), &one).await;
    let two = world.path("two", "tree");
    let report = import_dir(&world.node("two"), &two).await;
    assert!(is_hit(&report), "{report:?}");
    assert!(look(&two).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_exported_is_a_miss_that_says_so() {
    let world = World::new(Meet::SideTags);
    let root = world.path("one", "tree");
    let report = import_dir(&world.node("one"), &root).await;
    assert!(report.hit.is_none());
    assert!(report.miss.unwrap().contains("nothing is stored"));
    assert!(!root.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_a_miss_and_the_next_export_takes_its_place() {
    for meet in MEETS {
        for damage in [&b""[..], b"<html>", b"{}"] {
            let world = World::new(meet);
            let one = world.path("one", "tree");
            sample(&one);
            let before = export_dir(&world.node("one"), &one).await.digest;
            world.memory.damage(&before, damage);
            let two = world.path("two", "tree");
            let miss = import_dir(&world.node("two"), &two).await;
            assert!(miss.hit.is_none() && miss.miss.is_some(), "{miss:?}");
            assert!(!two.exists());
            export_dir(&world.node("one"), &one).await;
            let hit = import_dir(&world.node("two"), &two).await;
            assert!(is_hit(&hit), "{meet:?} {damage:?}: {hit:?}");
            assert_eq!(look(&one), look(&two));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_which_all_is_excluded_keeps_its_mode_where_it_stands() {
    let world = World::new(Meet::CompareAndSwap);
    let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
    let mode = |root: &Path, path: &str| {
        let meta = std::fs::metadata(root.join(path)).unwrap();
        meta.permissions().mode() & 0o777
    };
    for root in [&one, &two] {
        for path in ["keep/f", "other/f"] {
            write(root, path, b"x");
        }
    }
    for path in ["keep", "other"] {
        let modes = [(&one, 0o700), (&two, 0o755)];
        for (root, mode) in modes {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(root.join(path), mode).unwrap();
        }
    }
    export_dir(&world.node("one"), &one).await;
    let options = crate::source::dir::Options {
        exclude: vec!["keep/**".into()],
        ..Default::default()
    };
    let excluding = crate::source::dir::Dir::new(&two, &options).unwrap();
    let excluding: Arc<dyn Source> = Arc::new(excluding);
    let report = import::run(&world.node("two"), &importing(&excluding)).await;
    assert!(is_hit(&report.unwrap()));
    assert_eq!((mode(&two, "keep"), mode(&two, "other")), (0o755, 0o700));
}

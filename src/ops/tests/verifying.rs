//! Verify: all damage is found, at the depth that covers it.

use super::{
    copying::{on_disk, opened},
    forging::forge,
    looking::{export_as, image, leave_side_tag, name_of, tag_of, tree},
    *,
};
use crate::{
    artifact::{Descriptor, Manifest, toc::Toc},
    digest::ContentId,
    ops::verify::{self, Depth},
    store::{BlobStore as _, Body, Expect, Sweep as _, TagStore as _, disk},
};

const DEPTHS: [Depth; 3] = [Depth::Structure, Depth::Digests, Depth::Data];

async fn faults(ctx: &Context, depth: Depth) -> Vec<String> {
    let report = verify::run(ctx, None, depth).await.unwrap();
    report
        .faults
        .iter()
        .map(|f| format!("{}: {}", f.what, f.why))
        .collect()
}

/// A tree of small files, a hard link, and a big file that changed once, so that its segments are in two packs.
async fn sample(world: &World) -> Context {
    let node = world.node("one");
    let mut noise = crate::pack::write::tests::noise(1_500_000, 6);
    let root = tree(
        world,
        "one",
        &[("a", b"hello"), ("big", &noise), ("c/d", b"deep")],
    );
    std::fs::hard_link(root.join("a"), root.join("hard")).unwrap();
    export_as(&node, &root, "n", "").await;
    noise[700_000..700_100].fill(0);
    std::fs::write(root.join("big"), &noise).unwrap();
    export_as(&node, &root, "n", "").await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_has_no_faults_at_any_depth() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        let node = sample(&world).await;
        let stored: u64 = world
            .memory
            .blobs()
            .await
            .unwrap()
            .iter()
            .map(|b| b.size)
            .sum();
        for depth in DEPTHS {
            let report = verify::run(&node, None, depth).await.unwrap();
            assert_eq!(report.faults, [], "{depth:?}");
            assert_eq!(report.packs, 2);
            assert!(report.snapshots >= 1 && report.entries >= 5, "{report:?}");
            match depth {
                Depth::Structure => assert_eq!(report.bytes_read, 0),
                _ => assert!(report.bytes_read > stored / 2, "{report:?}"),
            }
        }
        assert_eq!(
            verify::run(&node, Some("other"), Depth::Data)
                .await
                .unwrap(),
            verify::Report::default()
        );
        assert!(
            verify::run(&node, Some(tag_of("n", "").as_str()), Depth::Data)
                .await
                .unwrap()
                .snapshots
                >= 1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn go_caches_have_no_faults_either() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        for action in ["x", "y", "z"] {
            let root = world.path(action, "go-build");
            go::put(&root, action, action.as_bytes(), 1);
            go::put(&root, "both", action.as_bytes(), 1);
            export::run(&world.node(action), &exporting(&go::cache(&root, "go1")))
                .await
                .unwrap();
        }
        assert_eq!(
            faults(&world.node("x"), Depth::Data).await,
            Vec::<String>::new()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_is_found() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    let root = tree(
        &world,
        "one",
        &[("a", b"hello"), ("b/c", b"some more bytes")],
    );
    export_as(&node, &root, "n", "").await;
    let packs = packs_of(&world.memory);
    let mut looked = 0;
    for blob in world.memory.blobs().await.unwrap() {
        let is_pack = packs.contains(&blob.digest);
        // Of a pack its structure is the table of contents and the content of the footer.
        let inner = if is_pack {
            let last = crate::pack::bare::FOOTER_BYTES;
            let desc = Descriptor::new("a/b", blob.digest, blob.size);
            let range = blob.size - last..blob.size;
            let footer = world.memory.get(&desc, range).await.unwrap().unwrap();
            let footer = crate::store::collect(footer, last).await.unwrap();
            let toc = crate::pack::bare::read_footer(&footer, blob.size).unwrap();
            let structure =
                (toc.offset..toc.offset + toc.size).chain(blob.size - last + 8..blob.size);
            let structure: std::collections::HashSet<u64> = structure.collect();
            (0..blob.size)
                .filter(|at| !structure.contains(at))
                .collect()
        } else {
            Vec::new()
        };
        for at in 0..blob.size as usize {
            world.memory.flip(&blob.digest, at);
            for depth in DEPTHS {
                if depth == Depth::Structure && inner.contains(&(at as u64)) {
                    continue;
                }
                let found = faults(&node, depth).await;
                assert!(
                    !found.is_empty(),
                    "byte {at} of {} ({depth:?})",
                    blob.digest
                );
                looked += 1;
            }
            world.memory.flip(&blob.digest, at);
        }
    }
    assert!(looked > 1000);
    assert_eq!(
        faults(&node, Depth::Data).await,
        Vec::<String>::new(),
        "all is as it was"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_export_mended_is_no_fault_of_the_side_tags_before_it() {
    let world = World::new(Meet::SideTags);
    let node = world.node("one");
    let root = tree(&world, "one", &[("a", b"hello")]);
    export_as(&node, &root, "n", "").await;
    assert!(world.memory.lose(&packs_of(&world.memory)[0]));
    assert_ne!(faults(&node, Depth::Structure).await, [""; 0]);
    let into = world.path("two", "tree");
    assert!(!is_hit(&import_dir(&world.node("two"), &into).await));
    export_as(&node, &root, "n", "").await;
    assert!(is_hit(&import_dir(&world.node("two"), &into).await));
    for depth in DEPTHS {
        assert_eq!(faults(&node, depth).await, [""; 0], "{depth:?}");
    }
    // One that the head does not contain is needed.
    let (side, _) = first_manifest_and_config(&world).await;
    let tag = leave_side_tag(&world, side, &name_of("n", ""), 9).await;
    let lost = world.memory.resolve(&tag.into()).await.unwrap().unwrap();
    world.memory.flip(&lost.manifest.digest, 30);
    assert_ne!(faults(&node, Depth::Structure).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_a_big_pack_is_found_wherever_it_is() {
    let world = World::new(Meet::SideTags);
    let node = sample(&world).await;
    let mut rng = fastrand::Rng::with_seed(3);
    for pack in packs_of(&world.memory) {
        let size = world.memory.stat(&pack).await.unwrap().unwrap();
        for _ in 0..8 {
            let at = rng.usize(..size as usize);
            world.memory.flip(&pack, at);
            for depth in [Depth::Digests, Depth::Data] {
                let found = faults(&node, depth).await;
                assert!(
                    found.iter().any(|f| f.contains(&pack.to_string())),
                    "byte {at}: {found:?}"
                );
            }
            world.memory.flip(&pack, at);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_or_cut_off_is_found_by_its_structure() {
    let world = World::new(Meet::CompareAndSwap);
    let node = sample(&world).await;
    for blob in world.memory.blobs().await.unwrap() {
        let desc = Descriptor::new("a/b", blob.digest, blob.size);
        let whole = world
            .memory
            .get(&desc, 0..blob.size)
            .await
            .unwrap()
            .unwrap();
        let whole = crate::store::collect(whole, blob.size).await.unwrap();
        let reached = blob.digest != first_manifest_and_config(&world).await.0
            && blob.digest != first_manifest_and_config(&world).await.1;
        world.memory.lose(&blob.digest);
        let lost = faults(&node, Depth::Structure).await;
        world
            .memory
            .damage(&blob.digest, whole.slice(..whole.len() - 1));
        let cut = faults(&node, Depth::Structure).await;
        world.memory.damage(&blob.digest, whole);
        assert_eq!(
            (lost.is_empty(), cut.is_empty()),
            (!reached, !reached),
            "{}",
            blob.digest
        );
    }
    assert_eq!(faults(&node, Depth::Data).await, Vec::<String>::new());
}

/// Unreachable leftovers of the first export.
async fn first_manifest_and_config(world: &World) -> (Digest, Digest) {
    let head = world
        .memory
        .resolve(&tag_of("n", "").into())
        .await
        .unwrap()
        .unwrap();
    for blob in world.memory.blobs().await.unwrap() {
        let resolved = world.memory.resolve(&blob.digest.into()).await;
        if let Ok(Some(r)) = resolved
            && r.manifest.digest != head.manifest.digest
        {
            let outline = crate::artifact::snapshot::Outline::read(&r.manifest)
                .unwrap()
                .unwrap();
            return (r.manifest.digest, outline.config.digest);
        }
    }
    panic!("there were two exports");
}

/// Publishes the head's snapshot with another table of contents in its first pack.
async fn with_toc(world: &World, node: &Context, change: impl FnOnce(&mut Toc)) {
    forge(world, node, |pack| change(&mut pack.toc)).await;
}

/// A forgery: its name, the depth that finds it, the change.
type Lie = (&'static str, Depth, Box<dyn FnOnce(&mut Toc)>);

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_contents_that_lies_is_found() {
    let wrong = ContentId::of(b"something else");
    let big = |toc: &Toc| {
        toc.entries
            .iter()
            .position(|e| e.objects.len() > 1)
            .unwrap()
    };
    let lies: Vec<Lie> = vec![
        ("nothing", Depth::Data, Box::new(|_| {})),
        (
            "content of a big file",
            Depth::Data,
            Box::new(move |toc| {
                let at = big(toc);
                toc.entries[at].content = wrong;
            }),
        ),
        (
            "order of segments",
            Depth::Data,
            Box::new(move |toc| {
                let at = big(toc);
                let mut objects = toc.entries[at].objects.to_vec();
                objects.reverse();
                toc.entries[at].objects = objects.into();
            }),
        ),
        (
            "content of a small file",
            Depth::Structure,
            Box::new(move |toc| {
                let at = toc
                    .entries
                    .iter()
                    .position(|e| e.objects.len() == 1)
                    .unwrap();
                toc.entries[at].content = wrong;
            }),
        ),
        (
            "an object",
            Depth::Data,
            Box::new(move |toc| {
                let last = toc.objects.len() - 1;
                toc.objects[last].content = wrong;
            }),
        ),
        (
            "a frame's length",
            Depth::Data,
            Box::new(|toc| toc.frames[0].raw_len += 1),
        ),
        (
            "a frame's digest",
            Depth::Data,
            Box::new(move |toc| toc.frames[0].hash = wrong),
        ),
        (
            "a path twice",
            Depth::Structure,
            Box::new(|toc| {
                let at = toc
                    .entries
                    .iter()
                    .position(|e| e.objects.len() == 1)
                    .unwrap();
                let twice = toc.entries[at].entry.path.clone();
                let other = toc
                    .entries
                    .iter()
                    .rposition(|e| e.objects.len() == 1)
                    .unwrap();
                assert_ne!(at, other);
                toc.entries[other].entry.path = twice;
            }),
        ),
    ];
    for (what, depth, lie) in lies {
        let world = World::new(Meet::CompareAndSwap);
        let node = world.node("one");
        let noise = crate::pack::write::tests::noise(900_000, 6);
        let root = tree(
            &world,
            "one",
            &[("a", b"hello"), ("b", b"world"), ("big", &noise)],
        );
        export_as(&node, &root, "n", "").await;
        with_toc(&world, &node, lie).await;
        let found = faults(&node, depth).await;
        assert_eq!(found.is_empty(), what == "nothing", "{what}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_names_must_be_there_too() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    let latest = "latest".parse().unwrap();
    world
        .memory
        .publish(&image(), Some(&latest), &Expect::Absent)
        .await
        .unwrap();
    let found = faults(&node, Depth::Structure).await;
    assert!(found[0].contains("missing"), "{found:?}");
    let desc = Descriptor::of("a/config", b"config");
    world
        .memory
        .put(&desc, &Body::Bytes(bytes::Bytes::from_static(b"config")))
        .await
        .unwrap();
    assert_eq!(faults(&node, Depth::Digests).await, Vec::<String>::new());
    world.memory.flip(&desc.digest, 0);
    assert_eq!(faults(&node, Depth::Structure).await, Vec::<String>::new());
    assert!(!faults(&node, Depth::Digests).await.is_empty());
    // Not even JSON.
    let odd = Manifest::new("text/html", "<html>");
    world
        .memory
        .publish(&odd, Some(&"odd".parse().unwrap()), &Expect::Absent)
        .await
        .unwrap();
    verify::run(&node, None, Depth::Data).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_disk_is_found_through_all_wrappers() {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    let world = World::new(Meet::CompareAndSwap);
    let node = opened(&world, StoreUrl::Disk(world.path("stores", "d"))).await;
    let noise = crate::pack::write::tests::noise(3_000_000, 1);
    let root = tree(&world, "one", &[("a", &noise)]);
    export_as(&node, &root, "n", "").await;
    let blobs = node.store.sweep().unwrap().blobs().await.unwrap();
    let pack = blobs.iter().max_by_key(|b| b.size).unwrap();
    let path = world.path("stores", "d").join("blobs/sha256");
    let path = path.join(pack.digest.hex());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    for at in [0, pack.size / 2, pack.size - 100] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        for depth in [Depth::Digests, Depth::Data] {
            let found = faults(&node, depth).await;
            assert!(!found.is_empty(), "{at} {depth:?}");
        }
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(faults(&node, Depth::Data).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_names_share_is_read_once_and_its_fault_told_for_each() {
    let world = World::new(Meet::CompareAndSwap);
    let node = on_disk(&world, "d", &disk::Settings::default()).await;
    let noise = crate::pack::write::tests::noise(50_000, 1);
    let root = tree(&world, "one", &[("a", &noise)]);
    export_as(&node, &root, "n", "").await;
    export_as(&node, &root, "m", "").await;
    let report = verify::run(&node, None, Depth::Digests).await.unwrap();
    assert_eq!(
        (report.snapshots, report.packs, report.faults.len()),
        (2, 1, 0)
    );
    let blobs = node.store.sweep().unwrap().blobs().await.unwrap();
    let pack = blobs.iter().max_by_key(|b| b.size).unwrap();
    let path = world
        .path("stores", "d")
        .join("blobs/sha256")
        .join(pack.digest.hex());
    std::fs::remove_file(&path).unwrap();
    let report = verify::run(&node, None, Depth::Digests).await.unwrap();
    assert!(report.faults.len() >= 2, "{report:?}");
    for name in ["n", "m"] {
        assert!(
            report
                .faults
                .iter()
                .any(|f| f.what.contains(tag_of(name, "").as_str())),
            "{report:?}"
        );
    }
}

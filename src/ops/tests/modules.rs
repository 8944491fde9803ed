//! Go's module cache: damage on one node never reaches others, and damage on a node is repaired.

use super::{forging::forge_kind, *};
use crate::source::gomod::{
    GoMod, Project,
    tests::{BASE, fill},
};

fn source(root: &Path) -> Arc<dyn Source> {
    Arc::new(GoMod::new(root, Project::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_without_its_zip_is_not_exported() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        let (bad, good) = (world.path("bad", "mod"), world.path("good", "mod"));
        fill(&bad, "x");
        let zip = bad.join(format!("{BASE}.zip"));
        std::fs::write(&zip, b"PK damaged").unwrap();
        let out = export::run(&world.node("bad"), &exporting(&source(&bad)))
            .await
            .unwrap();
        assert_eq!((out.entries, out.entries_packed), (2, 2), "{out:?}");
        assert_eq!(out.left_out.len(), 2, "{out:?}");
        // Nor does it replace the right one.
        fill(&good, "x");
        export::run(&world.node("good"), &exporting(&source(&good)))
            .await
            .unwrap();
        export::run(&world.node("bad"), &exporting(&source(&bad)))
            .await
            .unwrap();
        let copy = world.path("two", "mod");
        let report = import::run(&world.node("two"), &importing(&source(&copy)))
            .await
            .unwrap();
        assert!(is_hit(&report) && report.entries == 4, "{report:?}");
    }
}

/// A store with the module of [`fill`], exported by node `one`.
async fn with_module() -> World {
    let world = World::new(Meet::CompareAndSwap);
    let root = world.path("one", "mod");
    fill(&root, "x");
    export::run(&world.node("one"), &exporting(&source(&root)))
        .await
        .unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_mends_a_damaged_zip_and_reads_whole_ones_once() {
    let world = with_module().await;
    let (there, node) = (world.path("two", "mod"), world.node("two"));
    fill(&there, "x");
    let at = there.join(format!("{BASE}.zip"));
    let import = async || {
        import::run(&node, &importing(&source(&there)))
            .await
            .unwrap()
    };
    assert_eq!(import().await.entries_restored, 0);
    let index = crate::source::index::NodeIndex::load(
        node.state_dir.as_ref().unwrap(),
        crate::source::SourceKind::GoMod,
        &there,
    )
    .unwrap();
    assert_eq!(index.len(), 4, "nothing is read again");
    let mut bytes = std::fs::read(&at).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x55;
    let before = std::fs::metadata(&at).unwrap().modified().unwrap();
    std::fs::write(&at, &bytes).unwrap();
    std::fs::File::options()
        .append(true)
        .open(&at)
        .unwrap()
        .set_modified(before)
        .unwrap();
    let mended = import().await;
    assert!(
        is_hit(&mended) && mended.entries_restored == 1,
        "{mended:?}"
    );
    assert!(std::fs::read(&at).unwrap() != bytes);
    assert_eq!(import().await.entries_restored, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_modules_changes_no_file_that_is_linked_to_from_outside() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    const PARTS: [&str; 5] = ["zip", "ziphash", "mod", "info", "list"];
    let world = with_module().await;
    // First everything is correct, then nothing.
    for (node, is_damaged) in [("two", false), ("three", true)] {
        let there = world.path(node, "mod");
        fill(&there, "x");
        let inside = |part: &str| match part {
            "list" => there.join(BASE).with_file_name("list"),
            _ => there.join(format!("{BASE}.{part}")),
        };
        std::fs::write(inside("list"), "v0.0.1\n").unwrap();
        let outside = |part: &str| world.path(node, &format!("mine.{part}"));
        for part in PARTS {
            if is_damaged {
                std::fs::write(inside(part), b"").unwrap();
            }
            std::fs::hard_link(inside(part), outside(part)).unwrap();
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(outside(part), mode).unwrap();
            let file = std::fs::File::options().write(true).open(outside(part));
            let long_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(72);
            file.unwrap().set_modified(long_ago).unwrap();
        }
        let state = |part: &str| {
            let meta = std::fs::metadata(outside(part)).unwrap();
            let ours = (meta.ino(), meta.mode(), meta.mtime(), meta.mtime_nsec());
            (ours, std::fs::read(outside(part)).unwrap())
        };
        let before = PARTS.map(state);
        let report = import::run(&world.node(node), &importing(&source(&there)))
            .await
            .unwrap();
        let restored = if is_damaged { 4 } else { 0 };
        assert!(is_hit(&report), "{report:?}");
        assert_eq!(report.entries_restored, restored, "{report:?}");
        assert!(PARTS.map(state) == before, "damaged: {is_damaged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_checksum_databases_in_older_snapshots_are_left_out_without_a_word() {
    let world = World::new(Meet::CompareAndSwap);
    let (root, node) = (world.path("one", "mod"), world.node("one"));
    fill(&root, "x");
    export::run(&node, &exporting(&source(&root)))
        .await
        .unwrap();
    forge_kind(&world, &node, "gomod", |forged| {
        for name in ["lookup/example.com/m@v1.0.0", "tile/8/0/000.p/1"] {
            let mut answer = forged.toc.entries[0].clone();
            let path = format!("cache/download/sumdb/my.sumdb/{name}");
            answer.entry.path = crate::entry::EntryPath::new(path.into_bytes()).unwrap();
            forged.toc.entries.push(answer);
        }
    })
    .await;
    let verified = crate::ops::verify::run(&node, None, crate::ops::verify::Depth::Data);
    assert_eq!(verified.await.unwrap().faults, []);
    let copy = world.path("two", "mod");
    let report = import::run(&world.node("two"), &importing(&source(&copy)))
        .await
        .unwrap();
    assert!(is_hit(&report) && report.left_out.is_empty(), "{report:?}");
    assert!(copy.join(format!("{BASE}.zip")).exists());
    assert!(!copy.join("cache/download/sumdb").exists());
}

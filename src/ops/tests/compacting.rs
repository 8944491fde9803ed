//! Few packs: however often and whatever is exported, a snapshot keeps few packs, and stays complete.

use super::{
    looking::{tag_of, tree},
    *,
};
use crate::{
    artifact::{
        config::Fingerprint,
        fold::Rules,
        name::SnapshotName,
        snapshot::{At, Layer, Pack, Snapshot, TocPlace},
        toc::{Frame, Object, Toc, TocEntry},
    },
    digest::ContentId,
    entry::{Entry, EntryPath, Meta},
    ops::{compact, inspect},
    pack::write::tests::noise,
};

/// A pack of one frame with this many stored bytes, in which each of `files` has `len` bytes; the live ones come first.
fn snapshot(stored: u32, files: usize, len: u32, live: usize) -> Snapshot {
    let mut toc = Toc::default();
    toc.frames.push(Frame {
        offset: 0,
        len: stored,
        raw_len: 4 << 20,
        hash: ContentId::of(b"frame"),
    });
    for i in 0..files {
        let content = ContentId::of(&i.to_le_bytes());
        toc.objects.push(Object {
            content,
            len,
            frame: 0,
            offset: i as u32 * len,
        });
        let path = EntryPath::new(format!("f{i}").into_bytes()).unwrap();
        toc.entries.push(TocEntry {
            entry: Entry::file(path, len.into(), Meta::default()),
            content,
            objects: Box::new([i as u32]),
        });
    }
    let digest = Digest::sha256_of(&toc.encode());
    let place = TocPlace {
        digest,
        offset: u64::from(stored) + 8,
        size: 1,
    };
    let layer = Layer::new(digest, u64::from(stored) * 3, place);
    let mut pack = Pack::all_live(layer, Arc::new(toc), 0);
    pack.live[live..].fill(false);
    Snapshot {
        name: SnapshotName {
            kind: "dir".into(),
            name: "n".into(),
            scope: "s".into(),
            key: String::new(),
        },
        fingerprint: Fingerprint::default(),
        packs: vec![pack],
        merge: false,
        folded: Vec::new(),
        root: None,
        created: None,
        published: None,
    }
}

fn kept(s: &Snapshot) -> Vec<(usize, At)> {
    s.live().map(|(at, _)| at).enumerate().collect()
}

#[test]
fn a_pack_of_tiny_files_is_no_dead_weight_while_they_live() {
    // Five bytes of content in some hundred of headers, and a table of contents twice as large as all of it.
    let all = snapshot(4 << 20, 40_000, 5, 40_000);
    assert_eq!(compact::choose(&all, &kept(&all), Rules::Tree), None);
    let most = snapshot(4 << 20, 40_000, 5, 30_000);
    assert_eq!(compact::choose(&most, &kept(&most), Rules::Tree), None);
    let few = snapshot(4 << 20, 40_000, 5, 10_000);
    let choice = compact::choose(&few, &kept(&few), Rules::Tree).expect("three of four are dead");
    assert_eq!((choice.local.len(), choice.generation), (10_000, 1));
}

async fn packs(world: &World) -> usize {
    let node = world.node("looker");
    let shown = inspect::run(&node, tag_of("n", "").as_str(), false)
        .await
        .unwrap();
    shown[0].packs.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_exports_stay_few_packs_and_lose_nothing() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        let node = world.node("one");
        let root = tree(&world, "one", &[("big", &noise(2_000_000, 1))]);
        let mut most = 0;
        for i in 0..30_u64 {
            std::fs::write(root.join(format!("f{i}")), noise(3000, 100 + i)).unwrap();
            export_dir(&node, &root).await;
            most = most.max(packs(&world).await);
        }
        assert!((2..=10).contains(&most), "{most} packs");
        let copy = world.path("two", "tree");
        assert!(is_hit(&import_dir(&world.node("two"), &copy).await));
        for i in 0..30_u64 {
            let read = std::fs::read(copy.join(format!("f{i}"))).unwrap();
            assert!(read == noise(3000, 100 + i), "f{i}");
        }
        assert!(std::fs::read(copy.join("big")).unwrap() == noise(2_000_000, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_weight_goes_and_what_lived_in_it_stays() {
    let world = World::new(Meet::CompareAndSwap);
    let node = world.node("one");
    let root = tree(
        &world,
        "one",
        &[
            ("stays", &noise(1_000_000, 1)),
            ("goes", &noise(12_000_000, 2)),
        ],
    );
    export_dir(&node, &root).await;
    let before = packs_of(&world.memory);
    std::fs::write(root.join("goes"), b"now small").unwrap();
    let report = export_dir(&node, &root).await;
    assert!(
        report.moved.bytes_moved > 400_000 && report.moved.bytes_moved < 1_200_000,
        "{report:?}"
    );
    assert_eq!(packs(&world).await, 1, "the old pack is left behind");
    assert!(packs_of(&world.memory).len() > before.len());
    let copy = world.path("two", "tree");
    assert!(is_hit(&import_dir(&world.node("two"), &copy).await));
    assert!(std::fs::read(copy.join("stays")).unwrap() == noise(1_000_000, 1));
    assert_eq!(std::fs::read(copy.join("goes")).unwrap(), b"now small");
    // And then there is nothing more to do.
    let again = export_dir(&node, &root).await;
    assert!(again.unchanged && again.moved.blobs_moved == 0, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_lacks_is_fetched_when_packs_are_merged() {
    for meet in [Meet::CompareAndSwap, Meet::SideTags] {
        let world = World::new(meet);
        // Each writer has only its own part: the eighth small pack makes the ninth export merge them.
        for i in 0..12_u64 {
            let root = world.path(&format!("node-{i}"), "go-build");
            go::put(&root, &format!("action {i}"), &noise(2000, i), 1);
            let node = world.node(&format!("node-{i}"));
            export::run(&node, &exporting(&go::cache(&root, "go1")))
                .await
                .unwrap();
        }
        let root = world.path("reader", "go-build");
        let report = import::run(&world.node("reader"), &importing(&go::cache(&root, "go1")))
            .await
            .unwrap();
        assert!(is_hit(&report), "{report:?}");
        assert_eq!(report.entries, 24);
        let node = world.node("looker");
        let mut name = super::looking::name_of("n", "");
        name.kind = "gobuild".into();
        let shown = inspect::run(&node, name.tag().as_str(), false)
            .await
            .unwrap();
        assert!(shown[0].packs.len() < 9, "{} packs", shown[0].packs.len());
    }
}

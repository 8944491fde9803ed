//! Malicious side tags: many of them, or ones that claim too much.

use std::collections::HashSet;

use super::{
    forging::{Forged, forge_tag},
    go::put,
    times::{MEETS, export_go, go_name, import_go, nanos},
    *,
};
use crate::{
    artifact::{
        Tag,
        config::{Config, Folded},
        snapshot::{Outline, Snapshot},
    },
    entry::Time,
    ops::{head, list},
    store::{BlobStore as _, Body, Expect, TagStore as _},
};

/// A name with one honest export, as its head.
async fn honest(meet: Meet) -> (World, std::path::PathBuf, Snapshot) {
    let world = World::new(meet);
    let one = world.path("one", "go-build");
    for i in 0..20_u8 {
        put(&one, &format!("action {i}"), &[i; 3000], nanos(-60));
    }
    export_go(&world.node("one"), &one).await;
    let head = current(&world.node("looker")).await.head.unwrap().snapshot;
    (world, one, head)
}

async fn current(node: &Context) -> head::Current {
    head::read(node, &go_name(), &HashSet::new()).await.unwrap()
}

async fn publish(world: &World, snapshot: &Snapshot, tag: &Tag, created: i64) {
    let sealed = snapshot.seal(Time {
        secs: created,
        nanos: 0,
    });
    let body = Body::Bytes(sealed.config_bytes.clone().into());
    world.memory.put(&sealed.config, &body).await.unwrap();
    let store = &world.memory;
    let done = store.publish(&sealed.manifest, Some(tag), &Expect::Anything);
    done.await.unwrap();
}

fn side(random: u64) -> Tag {
    go_name().side_tag(Time::now(), random)
}

/// The config that the head has in the store.
async fn config_of_head(world: &World) -> (Config, usize) {
    let head = world.memory.resolve(&go_name().tag().into()).await;
    let outline = Outline::read(&head.unwrap().unwrap().manifest);
    let desc = outline.unwrap().unwrap().config;
    let bytes = load::read_blob(&*world.memory, &desc).await;
    let bytes = bytes.unwrap().unwrap();
    (Config::decode(&bytes).unwrap(), bytes.len())
}

/// Side tags that a writer claims were folded.
fn said(count: u64) -> impl Iterator<Item = Folded> {
    (0..count).map(|i| Folded::new(side(1 << 40 | i).as_str(), u32::MAX))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_side_tags_take_the_memory_of_a_few() {
    let (world, _, mut head) = honest(Meet::SideTags).await;
    head.folded = said(2000).collect();
    for i in 0..64 {
        publish(&world, &head, &side(i), i as i64).await;
    }
    let budget = MemoryBudget::shared(3 << 20);
    let mut node = world.node("reader");
    node.tables = load::Tables::within(budget.clone());
    let read = current(&node).await;
    assert_eq!(read.sides.len(), 64);
    let loaded = read.head.as_ref().unwrap();
    let (_, tables) = loaded.snapshot.reading_cost();
    assert!(
        budget.taken() >= tables + loaded.memory.bytes() && loaded.memory.bytes() > 0,
        "what a snapshot keeps beside its tables is counted"
    );
    let folded = read.folded().unwrap().folded;
    assert!(folded.len() <= 64 + 1 + 1000, "{}", folded.len());
    drop(read);
    assert_eq!(budget.taken(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_waits_for_its_own_reservations() {
    let (world, _, mut head) = honest(Meet::SideTags).await;
    head.folded = said(5000).collect();
    for i in 0..8 {
        head.name.key = format!("k{i}");
        publish(&world, &head, &head.name.tag(), 0).await;
    }
    let largest = 5000 * 80;
    let budget = MemoryBudget::shared(6 * largest);
    let mut node = world.node("reader");
    node.tables = load::Tables::within(budget);
    let report = list::run(&node, None).await.unwrap();
    assert_eq!((report.rows.len(), report.broken.len()), (9, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_say_was_folded_does_not_stay_in_the_head() {
    for meet in MEETS {
        let (world, one, mut head) = honest(meet).await;
        let strange = (0..3000).map(|i| Folded::new(format!("x{i}"), u32::MAX));
        head.folded = said(3000).chain(strange).collect();
        publish(&world, &head, &side(1), 0).await;
        put(&one, "new", b"new", nanos(-50));
        export_go(&world.node("one"), &one).await;
        let (config, _) = config_of_head(&world).await;
        let today = Time::now().day();
        assert!(config.folded.iter().all(|f| f.day <= today), "{meet:?}");
        assert!(config.folded.iter().all(|f| f.tag.starts_with("gobuild.")));
        assert!(config.folded.len() <= 1003, "{}", config.folded.len());
        let mut options = exporting(&go::cache(&one, "go1"));
        options.replace = true;
        export::run(&world.node("one"), &options).await.unwrap();
        let (config, _) = config_of_head(&world).await;
        let listed = world.memory.tags("").await.unwrap();
        let marks = config.folded.len() - listed.len().min(config.folded.len());
        assert!(marks <= 1, "{} of {}", config.folded.len(), listed.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_tag_with_ten_thousand_gates_hides_no_export() {
    for meet in MEETS {
        let (world, one, mut head) = honest(meet).await;
        head.fingerprint.gates = (0..10_000).map(|i| format!("{i:05}")).collect();
        publish(&world, &head, &side(1), 0).await;
        put(&one, "new", b"new", nanos(-50));
        export_go(&world.node("one"), &one).await;
        let report = import_go(&world.node("two"), &world.path("two", "go-build")).await;
        assert!(is_hit(&report) && report.entries == 42, "{report:?}");
        // The head alone shows it too.
        config_of_head(&world).await;
    }
}

fn hides(f: &mut Forged, generation: u32) {
    f.toc.generation = generation;
    f.frames.fill(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_claims_to_replace_others_hides_nothing_from_an_import() {
    for generation in [1, 1 << 31, u32::MAX] {
        let (world, _, _) = honest(Meet::SideTags).await;
        let node = world.node("attacker");
        forge_tag(&world, &node, "gobuild", &side(1), |f| hides(f, generation)).await;
        let report = import_go(&world.node("two"), &world.path("two", "go-build")).await;
        assert!(report.hit.is_some(), "{generation}: {report:?}");
        assert_eq!(report.entries_restored, 40, "{generation}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pack_of_the_highest_generation_hid_is_healed_by_who_saw_it() {
    let (world, one, _) = honest(Meet::SideTags).await;
    let node = world.node("one");
    forge_tag(&world, &node, "gobuild", &side(1), |f| hides(f, 1 << 31)).await;
    // This export folds it, and the honest packs leave the head.
    put(&one, "new", b"new", nanos(-50));
    export_go(&node, &one).await;
    let empty = world.path("again", "go-build");
    let seen = import_go(&node, &empty).await;
    // The honest packs are still listed behind it.
    assert!(seen.hit.is_some() && !seen.partial, "{seen:?}");
    assert_eq!(seen.entries_restored, 42, "{seen:?}");
    assert!(
        seen.left_out.iter().any(|l| l.what.starts_with("pack ")),
        "{seen:?}"
    );
    export_go(&node, &one).await;
    let report = import_go(&world.node("two"), &world.path("two", "go-build")).await;
    assert!(is_hit(&report) && report.entries == 42, "{report:?}");
}

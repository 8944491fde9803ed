//! `export --replace`: a name that points at one tree alone, and exports that began before.

use std::collections::HashSet;

use super::{
    go::{cache, put},
    looking::{export_as, leave_side_tag, tree},
    times::{MEETS, export_go, go_name, import_go, nanos, output_of},
    *,
};
use crate::{
    artifact::{
        fold,
        snapshot::{EMPTY_CONTENT, Snapshot},
    },
    entry::Time,
    ops::{
        Error, copy, head,
        publish::{self, Limits, Publication},
        remove, rules,
    },
    progress::{Phase, Watch},
    store::{BlobStore as _, Body, Expect, TagStore as _},
};

const BAD: [&str; 2] = ["good", "bad"];

/// A name that holds a bad result, and a job that was filled from it.
async fn poisoned(world: &World) -> std::path::PathBuf {
    let one = world.path("one", "go-build");
    put(&one, "x", b"bad", nanos(-50));
    put(&one, "y", b"fine", nanos(-50));
    export_go(&world.node("one"), &one).await;
    let job = world.path("job", "go-build");
    import_go(&world.node("job"), &job).await;
    job
}

async fn replace(world: &World) -> export::Report {
    let clean = world.path("clean", "go-build");
    put(&clean, "x", b"good", nanos(-60));
    let mut options = exporting(&cache(&clean, "go1"));
    options.replace = true;
    export::run(&world.node("clean"), &options).await.unwrap()
}

/// What a fresh node imports.
async fn read(world: &World, node: &str) -> (&'static str, &'static str) {
    let root = world.path(node, "go-build");
    let report = import_go(&world.node(node), &root).await;
    assert!(is_hit(&report), "{report:?}");
    (
        output_of(&root, "x", &BAD),
        output_of(&root, "y", &["fine"]),
    )
}

async fn current(world: &World) -> head::Current {
    head::read(&world.node("looker"), &go_name(), &HashSet::new())
        .await
        .unwrap()
}

async fn head_of(world: &World) -> Snapshot {
    current(world).await.head.unwrap().snapshot
}

/// Publishes `mine` like a writer that read `base` before.
async fn publish_late(
    world: &World,
    mine: &Snapshot,
    base: &head::Current,
) -> crate::ops::Result<publish::Head> {
    let own = std::collections::HashSet::new();
    let publication = Publication {
        own: &own,
        mine,
        base,
        built_on_base: true,
        rules: rules::of(crate::source::SourceKind::GoBuild),
        limits: Limits {
            max_age_days: 7,
            max_bytes: None,
        },
        damaged: &HashSet::new(),
        created: Time::now(),
        copied: None,
    };
    publish::publish(&world.node("late"), &publication).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_is_the_own_tree_alone_though_the_bad_result_is_newer() {
    for meet in MEETS {
        let world = World::new(meet);
        poisoned(&world).await;
        assert_eq!(read(&world, "before").await, ("bad", "fine"));
        let report = replace(&world).await;
        assert!(!report.unchanged && report.entries == 2, "{report:?}");
        assert_eq!(read(&world, "after").await, ("good", "none"), "{meet:?}");
        // Later exports build on it.
        let after = world.path("after", "go-build");
        put(&after, "z", b"more", nanos(-1));
        export_go(&world.node("after"), &after).await;
        assert_eq!(read(&world, "next").await, ("good", "none"));
        assert_eq!(head_of(&world).await.live().count(), 4);
    }
}

#[derive(Default)]
struct Warnings(parking_lot::Mutex<Vec<String>>);

impl Watch for Warnings {
    fn begin(&self, _: Phase, _: Option<u64>) {}
    fn advance(&self, _: Phase, _: u64) {}
    fn end(&self, _: Phase) {}
    fn warn(&self, message: &str) {
        self.0.lock().push(message.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_by_what_was_imported_is_warned_of_until_the_cache_is_emptied() {
    for (used, exported) in [(false, false), (true, false), (false, true)] {
        let world = World::new(Meet::SideTags);
        let job = poisoned(&world).await;
        let replace = async || {
            let warnings = Arc::new(Warnings::default());
            let node = Context {
                progress: warnings.clone(),
                ..world.node("job")
            };
            let mut options = exporting(&cache(&job, "go1"));
            options.replace = true;
            export::run(&node, &options).await.unwrap();
            std::mem::take(&mut *warnings.0.lock())
        };
        let files = || {
            let names = std::fs::read_dir(&job).unwrap();
            let folders = names.filter_map(|f| std::fs::read_dir(f.unwrap().path()).ok());
            let files = folders.flatten().map(|f| f.unwrap().path());
            files.collect::<Vec<_>>()
        };
        if used {
            // As the go command marks what it uses.
            for file in files() {
                let file = std::fs::File::options().write(true).open(file).unwrap();
                file.set_modified(std::time::SystemTime::now()).unwrap();
            }
        }
        if exported {
            export_go(&world.node("job"), &job).await;
        }
        let said = replace().await;
        assert!(said.len() == 1 && said[0].contains("4 of "), "{said:?}");
        assert!(said[0].contains("empty the cache"), "{said:?}");
        for file in files() {
            std::fs::remove_file(file).unwrap();
        }
        put(&job, "x", b"good", nanos(-60));
        assert_eq!(replace().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn side_tags_count_as_contained_readable_or_not() {
    let world = World::new(Meet::SideTags);
    poisoned(&world).await;
    let bad = head_of(&world).await;
    let digest = current(&world).await.head.unwrap().digest;
    let left = leave_side_tag(&world, digest, &go_name(), 7).await;
    let lost = {
        let mut sealed = bad.clone();
        sealed.merge = true;
        let sealed = sealed.seal(Time::now());
        let body = Body::Bytes(EMPTY_CONTENT.into());
        let empty = crate::artifact::snapshot::empty_layer();
        world.memory.put(&empty, &body).await.unwrap();
        let tag = go_name().side_tag(Time::now(), 8);
        let done = world
            .memory
            .publish(&sealed.manifest, Some(&tag), &Expect::Absent);
        done.await.unwrap();
        tag
    };
    replace(&world).await;
    let head = head_of(&world).await;
    for tag in [&left, &lost] {
        assert!(head.folded.iter().any(|f| f.tag == tag.as_str()), "{tag}");
    }
    assert_eq!(read(&world, "after").await, ("good", "none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_begun_before_brings_nothing_back_and_is_told() {
    for meet in MEETS {
        let world = World::new(meet);
        poisoned(&world).await;
        let base = current(&world).await;
        let mine = base.head.clone().unwrap().snapshot;
        replace(&world).await;
        let refused = publish_late(&world, &mine, &base).await;
        assert!(
            matches!(refused, Err(Error::Replaced { .. })),
            "{meet:?} {refused:?}"
        );
        assert_eq!(read(&world, "after").await, ("good", "none"), "{meet:?}");
        let after = world.path("after", "go-build");
        put(&after, "z", b"more", nanos(-1));
        export_go(&world.node("after"), &after).await;
        assert_eq!(read(&world, "next").await, ("good", "none"), "{meet:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_head_that_comes_back_is_healed_from_the_replacements_own_side_tag() {
    let world = World::new(Meet::SideTags);
    poisoned(&world).await;
    let tag = go_name().tag();
    let reference = tag.clone().into();
    let old = world.memory.resolve(&reference).await.unwrap();
    replace(&world).await;
    // A writer of any version that read it before and publishes late.
    let old = old.unwrap().manifest;
    let sent = world.memory.publish(&old, Some(&tag), &Expect::Anything);
    sent.await.unwrap();
    assert_eq!(read(&world, "after").await, ("good", "none"));
    let after = world.path("after", "go-build");
    put(&after, "z", b"more", nanos(-1));
    export_go(&world.node("after"), &after).await;
    assert_eq!(read(&world, "next").await, ("good", "none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_imported_before_does_not_export_after() {
    for meet in MEETS {
        let world = World::new(meet);
        let job = poisoned(&world).await;
        replace(&world).await;
        put(&job, "z", b"built", nanos(-1));
        let refused = export::run(&world.node("job"), &exporting(&cache(&job, "go1"))).await;
        assert!(
            matches!(refused, Err(Error::Replaced { .. })),
            "{meet:?} {refused:?}"
        );
        assert_eq!(read(&world, "after").await, ("good", "none"));
        // The next job of that node, with an empty cache.
        std::fs::remove_dir_all(&job).unwrap();
        import_go(&world.node("job"), &job).await;
        put(&job, "z", b"built", nanos(-1));
        let done = export_go(&world.node("job"), &job).await;
        assert_eq!(done.entries, 4, "{done:?}");
        // The node that replaced it can continue too.
        let clean = world.path("clean", "go-build");
        put(&clean, "w", b"w", nanos(-1));
        assert_eq!(export_go(&world.node("clean"), &clean).await.entries, 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_before_is_not_built_on_and_does_not_fill_the_head_again() {
    for meet in MEETS {
        let world = World::new(meet);
        let one = world.path("one", "go-build");
        put(&one, "x", b"bad", nanos(-50));
        let with_key = |root: &Path, replace| {
            let mut options = exporting(&cache(root, "go1"));
            options.target.key = "k".into();
            options.replace = replace;
            options
        };
        let node = world.node("one");
        export::run(&node, &with_key(&one, false)).await.unwrap();
        replace(&world).await;
        let fresh = world.path("fresh", "go-build");
        put(&fresh, "z", b"built", nanos(-1));
        let node = world.node("fresh");
        export::run(&node, &with_key(&fresh, false)).await.unwrap();
        assert_eq!(read(&world, "after").await, ("good", "none"), "{meet:?}");
        // A key can be replaced as well, and with it the head.
        export::run(&node, &with_key(&fresh, true)).await.unwrap();
        let root = world.path("by-key", "go-build");
        let mut options = importing(&cache(&root, "go1"));
        options.key = "k".into();
        import::run(&world.node("by-key"), &options).await.unwrap();
        assert_eq!(output_of(&root, "x", &BAD), "none");
        assert_eq!(head_of(&world).await.live().count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_forgot_the_mark_after_a_week_is_merged_again() {
    let world = World::new(Meet::SideTags);
    poisoned(&world).await;
    replace(&world).await;
    world.memory.set_clock_ahead(8 * 86_400);
    // An older program rewrites the head: it forgets what was folded long ago, including the mark.
    let mut old = head_of(&world).await;
    let marked = old.clone();
    old.folded.clear();
    old.published = None;
    let sealed = old.seal(Time::now());
    let body = Body::Bytes(sealed.config_bytes.clone().into());
    world.memory.put(&sealed.config, &body).await.unwrap();
    let tag = go_name().tag();
    let done = world
        .memory
        .publish(&sealed.manifest, Some(&tag), &Expect::Anything);
    done.await.unwrap();
    let old = head_of(&world).await;
    let rules = rules::of(crate::source::SourceKind::GoBuild);
    for (a, b) in [(&old, &marked), (&marked, &old)] {
        assert!(!fold::replaced::is_replaced(a, b, rules));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_does_not_undo_a_replacement_and_makes_none() {
    let (old, world) = (World::new(Meet::SideTags), World::new(Meet::SideTags));
    poisoned(&old).await;
    copy::run(&old.node("a"), &world.node("b"), None)
        .await
        .unwrap();
    replace(&world).await;
    let back = copy::run(&old.node("a"), &world.node("b"), None).await;
    let back = back.unwrap();
    assert!(back.left_out[0].why.contains("--replace"), "{back:?}");
    assert_eq!(read(&world, "after").await, ("good", "none"));
    // In the other direction it is just another writer's cache, and both are kept.
    copy::run(&world.node("b"), &old.node("a"), None)
        .await
        .unwrap();
    assert_eq!(read(&old, "old").await.1, "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_replaced_as_by_any_export() {
    for meet in MEETS {
        let world = World::new(meet);
        let merged = tree(&world, "one", &[("kept", b"1")]);
        export_as(&world.node("one"), &merged, "n", "").await;
        let two = tree(&world, "two", &[("f", b"2")]);
        let mut options = exporting(&dir(&two));
        options.replace = true;
        let node = world.node("two");
        export::run(&node, &options).await.unwrap();
        let back = world.path("three", "tree");
        assert!(is_hit(&import_dir(&world.node("three"), &back).await));
        assert!(back.join("f").exists() && !back.join("kept").exists());
        // A replaced name can be removed as a whole.
        remove::run(&node, &removing("n", false)).await.unwrap();
        assert_eq!(world.memory.tags("").await.unwrap(), []);
    }
}

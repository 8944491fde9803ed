//! Times chosen by a writer in entries, manifests and tags, and what counts instead.

use super::{
    go::{cache, put},
    looking::{export_as, name_of, tag_of, tree},
    pruning::nothing_but_blobs,
    *,
};
use crate::{
    artifact::{Tag, name::SnapshotName},
    digest::Sha256,
    entry::Time,
    ops::prune,
    store::{Expect, TagStore as _},
    transfer,
};

pub(super) const MEETS: [Meet; 2] = [Meet::CompareAndSwap, Meet::SideTags];
const YEAR: i64 = 365 * 86_400;

pub(super) fn go_name() -> SnapshotName {
    SnapshotName {
        kind: "gobuild".into(),
        ..name_of("n", "")
    }
}

/// Nanoseconds from 1970, some seconds from now.
pub(super) fn nanos(secs_from_now: i64) -> u64 {
    let now = Time::now().as_nanos() as i64;
    (now + secs_from_now * 1_000_000_000) as u64
}

/// Which of `outputs` a cache has for an action.
pub(super) fn output_of(root: &Path, action: &str, outputs: &[&'static str]) -> &'static str {
    let id = Sha256::of(action.as_bytes()).to_hex();
    let Ok(line) = std::fs::read_to_string(root.join(&id[..2]).join(format!("{id}-a"))) else {
        return "none";
    };
    let has = |o: &&&str| line.contains(&Sha256::of(o.as_bytes()).to_hex());
    outputs.iter().find(has).copied().unwrap_or("another")
}

pub(super) async fn import_go(node: &Context, root: &Path) -> import::Report {
    import::run(node, &importing(&cache(root, "go1")))
        .await
        .unwrap()
}

pub(super) async fn export_go(node: &Context, root: &Path) -> export::Report {
    export::run(node, &exporting(&cache(root, "go1")))
        .await
        .unwrap()
}

/// Publishes under `tag` a snapshot by a writer whose clock, and whose store's clock, are `ahead` seconds ahead.
async fn plant(world: &World, tag: &Tag, ahead: i64, source: impl Fn(&Path) -> Arc<dyn Source>) {
    let theirs = World::new(Meet::CompareAndSwap);
    theirs.memory.set_clock_ahead(ahead);
    let node = theirs.node("theirs");
    let options = exporting(&source(&theirs.path("theirs", "made")));
    let digest = export::run(&node, &options).await.unwrap().digest;
    let found = theirs.memory.resolve(&digest.into()).await.unwrap();
    let options = transfer::Options {
        from: theirs.memory.clone(),
        to: world.memory.clone(),
        spool_dir: std::env::temp_dir(),
        concurrency: 2,
        progress: progress::silent(),
    };
    let manifest = found.unwrap().manifest;
    transfer::copy(&options, &manifest, Some((tag, &Expect::Anything)))
        .await
        .unwrap();
}

async fn plant_go(world: &World, tag: &Tag, ahead: i64) {
    plant(world, tag, ahead, |root| {
        put(root, "x", b"bad", nanos(ahead));
        put(root, "only theirs", b"theirs", nanos(-60));
        cache(root, "go1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_future_is_left_out_and_said_and_honest_ones_stay() {
    for (meet, tells) in [
        (Meet::CompareAndSwap, true),
        (Meet::SideTags, true),
        (Meet::SideTags, false),
    ] {
        let world = World::new(meet);
        if !tells {
            world.memory.tell_no_times();
        }
        let main = world.path("main", "go-build");
        put(&main, "x", b"good", nanos(-50));
        export_go(&world.node("main"), &main).await;
        let side = match meet {
            Meet::SideTags => go_name().side_tag(Time::now(), 1),
            // Any writer may write the head.
            Meet::CompareAndSwap => go_name().tag(),
        };
        plant_go(&world, &side, 200 * YEAR).await;

        let job = world.path("job", "go-build");
        let report = import_go(&world.node("job"), &job).await;
        let want = if meet == Meet::SideTags {
            "good"
        } else {
            "none"
        };
        assert_eq!(output_of(&job, "x", &["good", "bad"]), want, "{meet:?}");
        // Their entries with honest times are imported anyway, and nothing is missing.
        assert_eq!(output_of(&job, "only theirs", &["theirs"]), "theirs");
        assert!(is_hit(&report), "{report:?}");
        let said = &report.left_out;
        assert!(
            said.len() == 1 && said[0].why.contains("dated more than 10 minutes"),
            "{said:?}"
        );

        // As the README does: import, build, export. What main builds is in, and the head is clean from then on.
        put(&job, "x", b"good", nanos(-10));
        put(&job, "y", b"new", nanos(-5));
        let out = export_go(&world.node("job"), &job).await;
        assert!(!out.unchanged && !out.left_out.is_empty(), "{out:?}");
        let next = world.path("next", "go-build");
        let report = import_go(&world.node("next"), &next).await;
        assert_eq!(output_of(&next, "x", &["good", "bad"]), "good");
        assert_eq!(output_of(&next, "y", &["new"]), "new");
        assert_eq!(report.left_out, [], "{meet:?} {tells}");
        assert!(export_go(&world.node("next"), &next).await.unchanged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_time_that_is_long_ago_leaves_nothing_of_an_old_program_out() {
    // `SOURCE_DATE_EPOCH` is long before all entries.
    let world = World::new(Meet::SideTags);
    let one = world.path("one", "go-build");
    put(&one, "x", b"good", nanos(-50));
    let mut options = exporting(&cache(&one, "go1"));
    options.created = Created::At(Time {
        secs: 315_532_800,
        nanos: 0,
    });
    export::run(&world.node("one"), &options).await.unwrap();
    let two = world.path("two", "go-build");
    let report = import_go(&world.node("two"), &two).await;
    assert!(is_hit(&report) && report.left_out.is_empty(), "{report:?}");
    assert_eq!(output_of(&two, "x", &["good"]), "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_node_whose_clock_is_ahead_are_not_exported_and_it_is_told() {
    let world = World::new(Meet::SideTags);
    let one = world.path("one", "go-build");
    put(&one, "ahead", b"ahead", nanos(3600));
    put(&one, "right", b"right", nanos(-10));
    put(&one, "a little", b"a little", nanos(300));
    let out = export_go(&world.node("one"), &one).await;
    assert_eq!(out.entries, 4, "{out:?}");
    assert!(out.left_out[0].why.contains("go clean -cache"), "{out:?}");
    assert!(export_go(&world.node("one"), &one).await.unchanged);
    let two = world.path("two", "go-build");
    let report = import_go(&world.node("two"), &two).await;
    assert_eq!((report.entries, report.left_out.len()), (4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_all_of_which_is_dated_ahead_is_not_said_to_be_empty() {
    let world = World::new(Meet::SideTags);
    let one = world.path("one", "go-build");
    put(&one, "ahead", b"ahead", nanos(3600));
    let options = exporting(&cache(&one, "go1"));
    let error = export::run(&world.node("one"), &options).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("an entry is dated more than 10 minutes ahead"),
        "{said}"
    );
    assert!(said.contains("go clean -cache"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_future_does_not_stand_above_what_is_exported_after_it() {
    let world = World::new(Meet::SideTags);
    let main = tree(&world, "main", &[("f", b"good 1")]);
    export_dir(&world.node("main"), &main).await;
    let tomorrow = Time {
        secs: Time::now().secs + 86_400,
        nanos: 0,
    };
    let planted = name_of("n", "").side_tag(tomorrow, 1);
    plant(&world, &planted, 86_400, |root| {
        std::fs::create_dir_all(root).unwrap();
        std::fs::write(root.join("f"), "bad").unwrap();
        dir(root)
    })
    .await;
    let job = world.path("job", "tree");
    let read = |root: &Path| std::fs::read_to_string(root.join("f")).unwrap();
    let report = import_dir(&world.node("job"), &job).await;
    assert_eq!(read(&job), "good 1", "{report:?}");
    assert_eq!(report.left_out.len(), 1, "{report:?}");
    for content in ["good 2", "good 3"] {
        std::fs::write(main.join("f"), content).unwrap();
        export_dir(&world.node("main"), &main).await;
        import_dir(&world.node("job"), &job).await;
        assert_eq!(read(&job), content);
    }
    // It is contained, and old enough; otherwise it would be read forever.
    let left = world.memory.tags("").await.unwrap();
    assert!(!left.contains(&planted), "{left:?}");
    // Nothing changes once that time is reached either.
    world.memory.set_clock_ahead(86_500);
    import_dir(&world.node("job"), &job).await;
    assert_eq!(read(&job), "good 3");
}

/// Exports three keys that claim to be made at `claims`, one after the other.
async fn three_keys(world: &World, claims: [i64; 3]) {
    let node = world.node("one");
    for (i, secs) in claims.into_iter().enumerate() {
        world.memory.set_clock_ahead(i as i64 * 100);
        let root = tree(world, "one", &[("a", i.to_string().as_bytes())]);
        let mut options = exporting(&dir(&root));
        options.target.key = format!("r-{}", 9 - i);
        options.created = Created::At(Time { secs, nanos: 0 });
        export::run(&node, &options).await.unwrap();
    }
    world.memory.set_clock_ahead(1000);
}

async fn newest_by_prefix(world: &World, reader: &str) -> String {
    let back = world.path(reader, "tree");
    let mut options = importing(&dir(&back));
    options.key = "r-none".into();
    options.restore_keys = vec!["r-".into()];
    let report = import::run(&world.node(reader), &options).await.unwrap();
    report.found.expect("there are such keys").1
}

async fn kept_of_one(world: &World) -> String {
    let options = prune::Options {
        keep: Some(1),
        dry_run: true,
        ..nothing_but_blobs()
    };
    let gone = prune::run(&world.node("one"), &options).await.unwrap().tags;
    let tags = world.memory.tags("dir.n.").await.unwrap();
    let mut kept = tags
        .iter()
        .filter(|t| !gone.contains(&t.to_string()))
        .filter(|t| crate::artifact::name::is_head(t));
    let tag = kept.next().expect("one is kept").as_str();
    assert_eq!(kept.next(), None);
    tag.rsplit('.').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_is_what_was_published_last_whatever_its_writer_claims() {
    // `SOURCE_DATE_EPOCH` of every nix shell; a node whose clock is a month ahead; one that goes backwards.
    let (now, past) = (Time::now().secs, 315_532_800);
    for claims in [
        [past, past, past],
        [now + 30 * 86_400, now, now],
        [past + 3, past + 2, past + 1],
    ] {
        for (meet, tells) in [
            (Meet::CompareAndSwap, true),
            (Meet::SideTags, true),
            (Meet::SideTags, false),
        ] {
            let world = World::new(meet);
            if !tells {
                world.memory.tell_no_times();
            }
            three_keys(&world, claims).await;
            assert_eq!(newest_by_prefix(&world, "reader").await, "r-7");
            assert_eq!(kept_of_one(&world).await, "r-7");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_keys_published_at_one_moment_all_take_the_same_for_the_newest() {
    for round in 0..4 {
        let world = World::new(Meet::CompareAndSwap);
        world.memory.stop_clock(Time::now());
        let node = world.node("one");
        for key in ["r-1", "r-2", "r-3"] {
            let root = tree(&world, "one", &[("a", format!("{key} {round}").as_bytes())]);
            export_as(&node, &root, "n", key).await;
        }
        let newest = newest_by_prefix(&world, "reader").await;
        assert_eq!(kept_of_one(&world).await, newest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_claims_to_be_published_in_the_future_is_as_old_as_its_tag() {
    let world = World::new(Meet::CompareAndSwap);
    plant(&world, &tag_of("n", "r-9"), 200 * YEAR, |root| {
        std::fs::create_dir_all(root).unwrap();
        dir(root)
    })
    .await;
    three_keys(&world, [0, 0, 0]).await;
    assert_eq!(kept_of_one(&world).await, "r-7");
    world.memory.set_clock_ahead(40 * 86_400);
    let options = prune::Options {
        max_age: Some(std::time::Duration::from_hours(30 * 24)),
        ..nothing_but_blobs()
    };
    let gone = prune::run(&world.node("one"), &options).await.unwrap().tags;
    assert_eq!(gone.len(), 3, "{gone:?}");
}

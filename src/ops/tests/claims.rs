//! Packs that claim to hold the content of others: they hold other bytes, under digests that match anyway.

use std::{collections::HashSet, path::PathBuf};

use super::{
    forging::{Forged, forge_tag},
    go,
    looking::name_of,
    times::nanos,
    *,
};
use crate::{
    artifact::{
        Tag,
        name::SnapshotName,
        toc::{Foreign, Frame, MAX_GENERATION, TocEntry},
    },
    digest::ContentId,
    entry::{Kind, Time},
    ops::{damage, head, verify},
    source::gomod::{
        GoMod, Project,
        tests::{BASE, fill},
    },
};

const KINDS: [&str; 3] = ["gobuild", "gomod", "dir"];

fn source(kind: &str, root: &Path) -> Arc<dyn Source> {
    match kind {
        "gobuild" => go::cache(root, "go1"),
        "gomod" => Arc::new(GoMod::new(root, Project::default())),
        _ => dir(root),
    }
}

fn name(kind: &str) -> SnapshotName {
    SnapshotName {
        kind: kind.into(),
        ..name_of("n", "")
    }
}

fn side(kind: &str, random: u64) -> Tag {
    name(kind).side_tag(Time::now(), random)
}

/// Adds a new entry to the cache, by number.
fn add(kind: &str, root: &Path, number: u8) {
    match kind {
        "gobuild" => {
            for i in 0..10 {
                let output = [number, i].repeat(1500);
                go::put(root, &format!("{number} {i}"), &output, nanos(-60));
            }
        }
        "gomod" if number == 0 => drop(fill(root, "x")),
        "gomod" => {
            let base = root.join(BASE.replace("v1.0.0", &format!("v1.{number}.0")));
            let info = format!("{{\"Version\":\"v1.{number}.0\"}}");
            std::fs::write(base.with_extension("0.info"), info).unwrap();
            let module = format!("module example.com/m\n// {number}\n");
            std::fs::write(base.with_extension("0.mod"), module).unwrap();
        }
        _ => {
            std::fs::create_dir_all(root.join("d")).unwrap();
            std::fs::write(root.join(format!("d/small {number}")), [number; 3000]).unwrap();
            // Of several objects.
            let mut large = fastrand::Rng::with_seed(number.into());
            let large: Vec<u8> = std::iter::repeat_with(|| large.u8(..))
                .take(700_000)
                .collect();
            std::fs::write(root.join(format!("large {number}")), large).unwrap();
        }
    }
}

async fn export(kind: &str, node: &Context, root: &Path) -> export::Report {
    export::run(node, &exporting(&source(kind, root)))
        .await
        .unwrap()
}

async fn import(kind: &str, node: &Context, root: &Path) -> import::Report {
    import::run(node, &importing(&source(kind, root)))
        .await
        .unwrap()
}

/// All files below a folder with their contents, except those that Go's caches keep per node. Modules are repacked in transit.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for item in std::fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            let own = ["trim.txt", "README", "list", "lock"];
            if path.is_dir() {
                open.push(path);
            } else if !own.iter().any(|o| path.ends_with(o)) {
                let is_module = path.extension().is_some_and(|e| e == "zip");
                let content = if is_module {
                    Vec::new()
                } else {
                    std::fs::read(&path).unwrap()
                };
                all.push((path.strip_prefix(root).unwrap().to_owned(), content));
            }
        }
    }
    all.sort();
    all
}

fn packs_told(report: &import::Report) -> Vec<&str> {
    let told = report.left_out.iter().map(|l| l.what.as_str());
    told.filter(|w| w.starts_with("pack ")).collect()
}

/// Kinds of packs that claim another pack's content.
type Lie = (&'static str, fn(&mut Forged));

fn lies() -> Vec<Lie> {
    vec![
        ("frames of other bytes", Forged::other_bytes),
        ("frames that decode to less", |f| {
            f.other_frames(|len| vec![7; len / 2]);
        }),
        ("frames that decode to more", |f| {
            f.other_frames(|len| vec![7; len + 1]);
        }),
        ("frames that cannot be decoded", |f| {
            f.other_bytes();
            for frame in &mut f.toc.frames {
                let from = frame.offset as usize;
                let stored = &mut f.frames[from..from + frame.len as usize];
                stored[..4].fill(0);
                frame.hash = ContentId::of(stored);
            }
        }),
        ("objects of another length", |f| {
            f.other_bytes();
            f.toc.entries.clear();
            for o in &mut f.toc.objects {
                o.len -= 1;
            }
        }),
    ]
}

/// A name with one honest export, and a side tag that someone pushes on top of it.
async fn attacked(kind: &str, generation: u32, lie: fn(&mut Forged)) -> (World, Context, PathBuf) {
    let world = World::new(Meet::SideTags);
    let (node, root) = (world.node("one"), world.path("one", "cache"));
    add(kind, &root, 0);
    export(kind, &node, &root).await;
    let tag = side(kind, 1);
    forge_tag(&world, &world.node("attacker"), kind, &tag, |f| {
        lie(f);
        f.toc.generation = generation;
    })
    .await;
    (world, node, root)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pack_of_other_bytes_claims_is_restored_after_exports_of_nodes_that_never_imported()
{
    for kind in KINDS {
        for generation in [0, 1, MAX_GENERATION] {
            for (lie, how) in lies() {
                let what = format!("{kind}, generation {generation}, {lie}");
                let (world, node, root) = attacked(kind, generation, how).await;
                for number in 1..3 {
                    add(kind, &root, number);
                    export(kind, &node, &root).await;
                }
                let (two, copy) = (world.node("two"), world.path("two", "cache"));
                let report = import(kind, &two, &copy).await;
                assert!(
                    report.hit.is_some() && !report.partial,
                    "{what}: {report:?}"
                );
                assert_eq!(files(&copy), files(&root), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_other_bytes_is_told_once_and_the_next_export_there_ends_it() {
    for kind in KINDS {
        for (lie, how) in &lies()[..4] {
            let what = format!("{kind}, {lie}");
            let (world, node, root) = attacked(kind, MAX_GENERATION, *how).await;
            add(kind, &root, 1);
            export(kind, &node, &root).await;
            let (two, copy) = (world.node("two"), world.path("two", "cache"));
            let report = import(kind, &two, &copy).await;
            let told = packs_told(&report);
            assert_eq!(told.len(), 1, "{what}: {report:?}");
            let noted = damage::known(&two).await;
            let noted: Vec<String> = noted.iter().map(|d| format!("pack {d}")).collect();
            assert_eq!(noted, told, "{what}");
            // After it was found here, a check without the data reports it too.
            let seen = verify::run(&two, None, verify::Depth::Structure)
                .await
                .unwrap();
            assert!(!seen.faults.is_empty(), "{what}");
            export(kind, &two, &copy).await;
            let (three, copy) = (world.node("three"), world.path("three", "cache"));
            let report = import(kind, &three, &copy).await;
            assert!(is_hit(&report), "{what}: {report:?}");
            assert_eq!(report.left_out.len(), 0, "{what}: {report:?}");
            assert_eq!(files(&copy), files(&root), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_pack_is_not_taken_for_damaged_because_another_one_says_it_holds_more() {
    // The table lists an honest object as the content of another name, which it is not.
    let (world, _, root) = attacked("dir", 0, |f| {
        for e in &mut f.toc.entries {
            if e.objects.len() > 1 {
                e.content = ContentId::of(b"promised");
            }
        }
    })
    .await;
    let honest: HashSet<Digest> = {
        let looker = world.node("looker");
        let current = head::read(&looker, &name("dir"), &HashSet::new())
            .await
            .unwrap();
        let packs = current.head.unwrap().snapshot.packs;
        packs
            .iter()
            .map(crate::artifact::snapshot::Pack::digest)
            .collect()
    };
    let two = world.node("two");
    import("dir", &two, &world.path("two", "cache")).await;
    let noted = damage::known(&two).await;
    assert!(noted.len() == 1 && noted.is_disjoint(&honest), "{noted:?}");
    drop(root);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_not_merged_away_because_another_one_says_it_holds_them() {
    for kind in ["gobuild", "dir"] {
        let (world, node, root) = attacked(kind, MAX_GENERATION, |f| {
            f.other_bytes();
            // Too large to be merged itself.
            let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
                .take(3 << 20)
                .collect();
            let stored = zstd::bulk::compress(&noise, 1).unwrap();
            f.toc.frames.push(Frame {
                offset: f.frames.len() as u64,
                len: stored.len() as u32,
                raw_len: noise.len() as u32,
                hash: ContentId::of(&stored),
            });
            f.frames.extend(stored);
        })
        .await;
        for number in 1..12 {
            add(kind, &root, number);
            export(kind, &node, &root).await;
        }
        let current = head::read(&node, &name(kind), &HashSet::new())
            .await
            .unwrap();
        assert!(
            current.folded().unwrap().packs.len() < 9,
            "they were merged"
        );
        let copy = world.path("two", "cache");
        let report = import(kind, &world.node("two"), &copy).await;
        assert!(
            report.hit.is_some() && !report.partial,
            "{kind}: {report:?}"
        );
        assert_eq!(files(&copy), files(&root), "{kind}");
    }
}

/// Makes the table list the files that no other entry needs, without content in the pack, as `change` makes them.
fn listed_as(f: &mut Forged, change: fn(&mut TocEntry)) {
    f.toc.entries.retain(|e| e.entry.needs.is_none());
    let own = f.toc.objects.drain(..);
    f.toc.foreign = own
        .map(|o| Foreign {
            content: o.content,
            len: o.len,
        })
        .collect();
    f.toc.frames.clear();
    f.frames.clear();
    for e in &mut f.toc.entries {
        e.entry.meta.mtime = Time { secs: 1, nanos: 0 };
        change(e);
    }
}

fn of_nothing(e: &mut TocEntry, kind: Kind) {
    e.entry.kind = kind;
    e.content = ContentId::OF_NOTHING;
    e.objects = Box::default();
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_no_go_cache_has_hide_nothing_and_the_next_export_ends_them() {
    let lies: [Lie; 3] = [
        ("folders", |f| listed_as(f, |e| of_nothing(e, Kind::Dir))),
        ("empty files", |f| {
            listed_as(f, |e| {
                let (size, extents) = (0, None);
                of_nothing(e, Kind::File { size, extents });
            });
            // Such a file may be empty.
            let is_mod = |e: &TocEntry| e.entry.path.as_bytes().ends_with(b".mod");
            f.toc.entries.retain(|e| !is_mod(e));
        }),
        ("files with a mode that Go does not give", |f| {
            listed_as(f, |e| e.entry.meta.mode = 0o7777);
        }),
    ];
    for kind in ["gobuild", "gomod"] {
        for (lie, how) in lies {
            let what = format!("{kind}, {lie}");
            let (world, node, root) = attacked(kind, MAX_GENERATION, how).await;
            let copy = world.path("two", "cache");
            let report = import(kind, &world.node("two"), &copy).await;
            assert!(
                report.hit.is_some() && !report.partial,
                "{what}: {report:?}"
            );
            let told = report
                .left_out
                .iter()
                .filter(|l| l.why.contains("not belong in a cache"));
            assert_eq!(told.count(), 1, "{what}: {report:?}");
            assert_eq!(files(&copy), files(&root), "{what}");
            let seen = verify::run(&node, None, verify::Depth::Structure).await;
            let faults = seen.unwrap().faults;
            let is_told = faults
                .iter()
                .any(|f| f.why.contains("not belong in a cache"));
            assert!(is_told, "{what}: {faults:?}");

            // From a node that never imported, and has nothing of the rest.
            let other = world.path("other", "cache");
            add(kind, &other, if kind == "gomod" { 0 } else { 7 });
            export(kind, &world.node("other"), &other).await;
            add(kind, &root, 1);
            export(kind, &node, &root).await;
            let (three, copy) = (world.node("three"), world.path("three", "cache"));
            let report = import(kind, &three, &copy).await;
            assert!(is_hit(&report), "{what}: {report:?}");
            assert_eq!(report.left_out.len(), 0, "{what}: {report:?}");
            for file in files(&root) {
                assert!(files(&copy).contains(&file), "{what}: {}", file.0.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_anew_does_not_meet_its_other_in_a_merged_pack() {
    let world = World::new(Meet::SideTags);
    let nodes = ["one", "two"].map(|n| (world.node(n), world.path(n, "cache")));
    let mut counts = Vec::new();
    for number in 1..12 {
        add("gobuild", &nodes[0].1, number);
        export("gobuild", &nodes[0].0, &nodes[0].1).await;
        // The same action with another output each time.
        let at = nanos(i64::from(number) - 60);
        go::put(&nodes[1].1, "same", &[number; 3000], at);
        export("gobuild", &nodes[1].0, &nodes[1].1).await;
        let current = head::read(&nodes[1].0, &name("gobuild"), &HashSet::new()).await;
        let packs = current.unwrap().folded().unwrap().packs;
        counts.push(packs.len());
        for pack in packs {
            let mut paths = HashSet::new();
            for e in &pack.toc.entries {
                assert!(paths.insert(&e.entry.path), "{} at {number}", e.entry.path);
            }
        }
    }
    let is_merged = counts.windows(2).any(|pair| pair[1] < pair[0]);
    assert!(is_merged, "{counts:?}");
}

//! Malicious snapshots (fault rows T1–T9): each is a miss with a reason, and nothing changes, neither outside the target nor in it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::{
    forging::{Forged, forge},
    looking::tree,
    *,
};
use crate::{
    artifact::toc::TocEntry,
    entry::{Entry, EntryPath, Extent, Kind, Meta, Time},
};

fn path(p: &str) -> EntryPath {
    EntryPath::new(p.as_bytes()).unwrap()
}

/// An entry without content.
fn bare(p: &str, kind: Kind) -> TocEntry {
    let mut entry = Entry::file(path(p), 0, Meta::default());
    entry.meta.mode = 0o777;
    entry.kind = kind;
    TocEntry {
        entry,
        content: crate::digest::ContentId::OF_NOTHING,
        objects: Box::default(),
    }
}

fn link(p: &str, to: &str) -> TocEntry {
    bare(p, Kind::Symlink(to.as_bytes().into()))
}

/// The entry `file` under another name.
fn again(forged: &Forged, p: &str) -> TocEntry {
    let mut copy = forged.toc.entries[place(forged)].clone();
    copy.entry.path = path(p);
    copy
}

fn place(forged: &Forged) -> usize {
    let found = forged
        .toc
        .entries
        .iter()
        .position(|e| e.entry.path == path("file"));
    found.expect("the sample has it")
}

fn one_frame_of(forged: &mut Forged, stored: Vec<u8>, raw_len: u32) {
    forged.one_frame(stored, raw_len);
    for o in &mut forged.toc.objects {
        (o.frame, o.offset) = (0, 0);
    }
    // One object is left, the rest would overlap.
    forged.toc.objects.truncate(1);
    forged.toc.objects[0].len = raw_len.min(5);
    let keep = place(forged);
    let mut kept = forged.toc.entries[keep].clone();
    kept.objects = Box::new([0]);
    kept.entry.kind = Kind::File {
        size: u64::from(forged.toc.objects[0].len),
        extents: None,
    };
    forged.toc.entries = vec![kept];
}

/// Everything below a folder, with what an attack may change. Not the time of `target` itself, since a staging folder is created and
/// removed in it.
fn look(root: &Path, target: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for item in std::fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let mode = meta.permissions().mode();
            let mtime = (path != target).then(|| meta.mtime());
            all.push(format!("{} {mode:o} {mtime:?} {content:?}", path.display()));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

type Attack = (&'static str, Box<dyn FnOnce(&mut Forged)>);

fn attack(name: &'static str, how: impl FnOnce(&mut Forged) + 'static) -> Attack {
    (name, Box::new(how))
}

/// A name that [`EntryPath`] refuses, in place of one of the same length.
fn named(name: &'static str, bytes: &'static [u8]) -> Attack {
    attack(name, move |f| {
        let stand_in = "QWERTYUIOPASDFGH";
        let innocent: &'static str = &stand_in[..bytes.len()];
        let copy = again(f, innocent);
        f.toc.entries.push(copy);
        f.patches.push((innocent.as_bytes(), bytes.to_vec()));
    })
}

fn attacks() -> Vec<Attack> {
    let mut all = attacks_by_entries();
    all.extend(attacks_by_frames());
    all
}

fn attacks_by_entries() -> Vec<Attack> {
    vec![
        // T1
        named("parent", b"../outside/x"),
        named("parent inside", b"d/../../outsid"),
        named("absolute", b"/tmp/x"),
        named("dot", b"d/./x"),
        named("double slash", b"d//x"),
        named("slash at the end", b"dddd/"),
        named("NUL", b"na\0me"),
        // T2
        attack("a file through a link", |f| {
            f.toc.entries.push(link("link", "../outside"));
            let copy = again(f, "link/written");
            f.toc.entries.push(copy);
        }),
        attack("a folder through a link", |f| {
            f.toc.entries.push(link("link", "../outside"));
            f.toc.entries.push(bare("link/made", Kind::Dir));
        }),
        attack("a hard link to a file behind a link", |f| {
            f.toc.entries.push(link("link", "../outside"));
            f.toc
                .entries
                .push(bare("hard", Kind::Hardlink(path("link/secret"))));
        }),
        attack("a hard link to a link", |f| {
            f.toc.entries.push(link("link", "../outside/secret"));
            f.toc
                .entries
                .push(bare("hard", Kind::Hardlink(path("link"))));
        }),
        attack("a hard link out of the root", |f| {
            f.toc
                .entries
                .push(bare("hard", Kind::Hardlink(path("QWERTYUIOPASDFGHJ"))));
            f.patches
                .push((b"QWERTYUIOPASDFGHJ", b"../outside/secret".to_vec()));
        }),
        attack("a file below a file", |f| {
            let copy = again(f, "file/below");
            f.toc.entries.push(copy);
        }),
        attack("a link to nothing", |f| {
            f.toc.entries.push(link("link", ""));
        }),
        attack("a link with NUL", |f| {
            f.toc.entries.push(link("link", "a\0b"));
        }),
        attack("a link longer than any system takes", |f| {
            f.toc.entries.push(link("link", &"x/".repeat(4000)));
        }),
        // T3
        attack("a name twice", |f| {
            let copy = again(f, "file");
            f.toc.entries.push(copy);
        }),
        attack("a name for two things", |f| {
            f.toc.entries.push(link("file", "../outside"));
        }),
        attack(
            "a content that is not what was promised",
            promise_other_content,
        ),
        // T5, T6: sizes that contradict
        attack("a size without content", |f| {
            let at = place(f);
            f.toc.entries[at].entry.kind = Kind::File {
                size: i64::MAX as u64,
                extents: None,
            };
        }),
        attack("holes beyond any file", |f| {
            let at = place(f);
            let run = |offset| Extent { offset, len: 5 };
            f.toc.entries[at].entry.kind = Kind::File {
                size: i64::MAX as u64,
                extents: Some(vec![run(i64::MAX as u64 - 5)].into()),
            };
        }),
    ]
}

fn attacks_by_frames() -> Vec<Attack> {
    let bomb = || zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let small = b"hello";
    vec![
        // T7, T8
        attack("a frame that decodes to more than it says", move |f| {
            one_frame_of(f, bomb(), 5);
        }),
        attack("a frame that decodes to less", move |f| {
            one_frame_of(f, zstd::bulk::compress(small, 1).unwrap(), 4 << 20);
        }),
        attack("a frame cut short", move |f| {
            let mut stored = zstd::bulk::compress(small, 1).unwrap();
            stored.pop();
            one_frame_of(f, stored, 5);
        }),
        attack("a frame that is none", move |f| {
            one_frame_of(f, b"not zstd at all".to_vec(), 5);
        }),
        attack("a frame that only skips", move |f| {
            let mut stored = 0x184D_2A50_u32.to_le_bytes().to_vec();
            stored.extend(5_u32.to_le_bytes());
            stored.extend(small);
            one_frame_of(f, stored, 5);
        }),
        attack("a frame of an unknown dictionary", move |f| {
            // Magic; single segment, a dictionary id of one byte; size 5; a raw block, the last (RFC 8878, 3.1.1).
            let mut stored = vec![0x28, 0xB5, 0x2F, 0xFD, 0x21, 77, 5, 0x29, 0, 0];
            stored.extend(small);
            one_frame_of(f, stored, 5);
        }),
    ]
}

async fn sample(world: &World) -> Context {
    let node = world.node("writer");
    let root = tree(
        world,
        "writer",
        &[("file", b"hello"), ("d/other", b"other")],
    );
    export_dir(&node, &root).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_forgery_is_a_hit() {
    let world = World::new(Meet::CompareAndSwap);
    let node = sample(&world).await;
    forge(&world, &node, |_| {}).await;
    let root = world.path("reader", "target");
    assert!(is_hit(&import_dir(&world.node("reader"), &root).await));
    assert_eq!(std::fs::read(root.join("file")).unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_snapshot_is_a_miss_that_touches_nothing() {
    for there in [false, true] {
        for (name, how) in attacks() {
            let world = World::new(Meet::CompareAndSwap);
            let node = sample(&world).await;
            forge(&world, &node, how).await;
            let outside = world.path("reader", "outside");
            std::fs::create_dir(&outside).unwrap();
            std::fs::write(outside.join("secret"), b"secret").unwrap();
            let root = world.path("reader", "target");
            if there {
                std::fs::create_dir(&root).unwrap();
                std::fs::write(root.join("mine"), b"mine").unwrap();
                // It already exists, and leads outside.
                symlink("../outside", root.join("d")).unwrap();
            }
            let all = outside.parent().unwrap().to_owned();
            // In another second, so that the clock does not decide.
            for folder in [&outside, &root].into_iter().filter(|f| f.exists()) {
                let folder = std::fs::File::open(folder).unwrap();
                folder.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            let before = look(&all, &root);
            let reader = world.node("elsewhere");
            let end = import::run(&reader, &importing(&dir(&root))).await;
            let what = format!("{name}, target there: {there}");
            let said = match end {
                Ok(report) => {
                    assert_eq!(report.hit, None, "{what}: {report:?}");
                    report.miss.unwrap()
                }
                Err(e) => e.to_string(),
            };
            assert!(!said.is_empty() && !said.contains('\n'), "{what}: {said}");
            assert_eq!(look(&all, &root), before, "{what}: {said}");
        }
    }
}

fn promise_other_content(f: &mut Forged) {
    let at = place(f);
    f.toc.entries[at].content = crate::digest::ContentId::of(b"promised");
}

/// By default such a snapshot is a miss: see above.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_verifies_frames_alone_restores_what_the_frames_hold() {
    let world = World::new(Meet::CompareAndSwap);
    let node = sample(&world).await;
    forge(&world, &node, promise_other_content).await;
    let root = world.path("reader", "target");
    let mut options = importing(&dir(&root));
    options.how.verify = crate::ops::restore::Verify::Frames;
    let report = import::run(&world.node("reader"), &options).await.unwrap();
    assert!(is_hit(&report), "{report:?}");
    assert_eq!(std::fs::read(root.join("file")).unwrap(), b"hello");
    // A frame with other bytes is still found.
    forge(&world, &node, |f| f.frames[8] ^= 1).await;
    let (other, root) = (world.node("other"), world.path("other", "target"));
    options.source = dir(&root);
    let report = import::run(&other, &options).await.unwrap();
    assert!(report.hit.is_none() && !root.exists(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_may_lead_out_but_is_never_followed() {
    let world = World::new(Meet::CompareAndSwap);
    let node = sample(&world).await;
    forge(&world, &node, |f| f.toc.entries.push(link("link", "/etc"))).await;
    let root = world.path("reader", "target");
    assert!(is_hit(&import_dir(&world.node("reader"), &root).await));
    assert!(root.join("link").symlink_metadata().unwrap().is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_special_bits_of_a_snapshot_are_not_restored_without_the_flag() {
    let world = World::new(Meet::CompareAndSwap);
    let node = sample(&world).await;
    forge(&world, &node, |f| {
        for e in &mut f.toc.entries {
            e.entry.meta.mode |= 0o7000;
            (e.entry.meta.uid, e.entry.meta.gid) = (12_345, 12_345);
        }
    })
    .await;
    let root = world.path("reader", "target");
    assert!(is_hit(&import_dir(&world.node("reader"), &root).await));
    for path in ["file", "d", "d/other"] {
        let meta = std::fs::metadata(root.join(path)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7000, 0, "{path}");
        assert!(meta.uid() != 12_345 && meta.gid() != 12_345, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_no_clock_shows_does_no_harm() {
    for secs in [i64::MIN, -1, i64::MAX] {
        let world = World::new(Meet::CompareAndSwap);
        let node = sample(&world).await;
        forge(&world, &node, |f| {
            let at = place(f);
            f.toc.entries[at].entry.meta.mtime = Time { secs, nanos: 1 };
        })
        .await;
        let root = world.path("reader", "target");
        let end = import::run(&world.node("reader"), &importing(&dir(&root))).await;
        match end {
            Ok(report) if report.hit.is_some() => {
                assert_eq!(std::fs::read(root.join("file")).unwrap(), b"hello");
            }
            _ => assert!(!root.exists(), "{secs}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cache_takes_no_file_that_is_none_of_its_own() {
    let out = crate::digest::Sha256::of(b"out").to_hex();
    let foreign = |p: &str| {
        let p = p.to_owned();
        move |f: &mut Forged| {
            let mut copy = f.toc.entries[0].clone();
            copy.entry.path = path(&p);
            copy.entry.needs = None;
            f.toc.entries.push(copy);
        }
    };
    let other = crate::digest::Sha256::of(b"other").to_hex();
    let wrong_name = format!("{}/{other}-d", &other[..2]);
    for name in ["trim.txt", "ab/evil", &wrong_name, "fuzz/x"] {
        let world = World::new(Meet::CompareAndSwap);
        let writer = world.path("writer", "go-build");
        go::put(&writer, "x", b"out", 1);
        let source = go::cache(&writer, "go1");
        let node = world.node("writer");
        export::run(&node, &exporting(&source)).await.unwrap();
        forging::forge_kind(&world, &node, "gobuild", foreign(name)).await;
        let root = world.path("reader", "go-build");
        let reader = world.node("reader");
        let report = import::run(&reader, &importing(&go::cache(&root, "go1")))
            .await
            .unwrap();
        assert!(
            !root.join(name).exists() || name == "trim.txt",
            "{report:?}"
        );
        if name == "trim.txt" {
            // Ours, fresh: not what the snapshot says.
            assert_ne!(std::fs::read(root.join(name)).unwrap(), b"out");
        }
        assert!(root.join(&out[..2]).join(format!("{out}-d")).is_file());
    }
}

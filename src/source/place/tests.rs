use std::{
    os::unix::{fs::FileExt as _, fs::MetadataExt as _, fs::PermissionsExt, fs::symlink},
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    entry::{Kind, Meta},
    source::{
        NothingKnown, Source as _, Standing,
        dir::{Dir as DirSource, Options},
        meta::Carry,
        own::OwnWithin,
    },
};

const PLAIN: Carry = Carry {
    xattrs: false,
    owner: false,
    root: false,
};

fn path(p: &str) -> EntryPath {
    EntryPath::new(p.as_bytes()).unwrap()
}

fn time(secs: i64) -> Time {
    Time { secs, nanos: 7 }
}

fn file(p: &str) -> Entry {
    let meta = Meta {
        mode: 0o644,
        mtime: time(1000),
        ..Meta::default()
    };
    Entry::file(path(p), 3, meta)
}

fn of_kind(p: &str, mode: u32, kind: Kind) -> Entry {
    let mut entry = file(p);
    entry.kind = kind;
    entry.meta.mode = mode;
    entry
}

/// Stages each file of `entries` with content `new`.
fn stage(staging: &Staging, entries: &[Entry]) -> Vec<bool> {
    let stage_one = |e: &Entry| {
        if !e.kind.is_file() {
            return false;
        }
        let f = staging.tree().create_file(&e.path, e.meta.mode).unwrap();
        f.write_all_at(b"new", 0).unwrap();
        staging.tree().finish_file(&f, e, e.meta.mtime).unwrap();
        true
    };
    entries.iter().map(stage_one).collect()
}

fn place_with(
    staging: Staging,
    entries: &[Entry],
    staged: &[bool],
    mirror: Option<&Keep<'_>>,
) -> crate::source::Result<Placed> {
    let entries: Vec<&Entry> = entries.iter().collect();
    staging.place(&Placement {
        entries: &entries,
        staged,
        mtime: &|e| e.meta.mtime,
        rank: &|p| u8::from(p.name().ends_with(b"-a")),
        mirror,
        own: &OwnWithin::default(),
        leave: &Leave::default(),
    })
}

fn restore(target: &Path, entries: &[Entry]) -> Placed {
    let mut entries = entries.to_vec();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let entries = &entries;
    let staging = Staging::begin(target, PLAIN).unwrap();
    let staged = stage(&staging, entries);
    place_with(staging, entries, &staged, None).unwrap()
}

/// Everything below `root` in words: path, kind, mode, mtime, content.
fn picture(root: &Path) -> Vec<String> {
    let source = DirSource::new(root, &Options::default()).unwrap();
    let scan = source.scan(&NothingKnown).unwrap();
    assert_eq!(scan.skipped, []);
    scan.items
        .iter()
        .map(|item| {
            let content = source.open(item).ok().map(|mut c| {
                let mut bytes = Vec::new();
                c.read_to_end(&mut bytes).unwrap();
                c.settle().unwrap();
                crate::digest::ContentId::of(&bytes)
            });
            format!("{:?} {content:?}", item.entry)
        })
        .collect()
}

fn names(root: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().file_name().into())
        .collect();
    names.sort();
    names
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_new_target_appears_by_one_rename_and_its_parents_are_made() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("a/b/t");
    let placed = restore(&target, &[file("x"), file("y/z")]);
    assert_eq!((placed.moves, placed.removed), (1, 0));
    assert_eq!(read(target.join("y/z")), "new");
    assert_eq!(names(&temp.path().join("a/b")), [PathBuf::from("t")]);
}

#[test]
fn an_existing_target_keeps_itself_and_what_else_it_holds() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir_all(target.join("both")).unwrap();
    std::fs::write(target.join("both/mine"), "old").unwrap();
    std::fs::write(target.join("both/x"), "old").unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o751)).unwrap();
    let before = std::fs::metadata(&target).unwrap();
    let entries = [file("both/x"), file("both/y"), file("new/p"), file("new/q")];
    let placed = restore(&target, &entries);
    assert_eq!(placed.moves, 3, "two files and one new folder");
    let after = std::fs::metadata(&target).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    for (p, content) in [
        ("both/mine", "old"),
        ("both/x", "new"),
        ("both/y", "new"),
        ("new/q", "new"),
    ] {
        assert_eq!(read(target.join(p)), content, "{p}");
    }
    assert_eq!(
        names(&target),
        [PathBuf::from("both"), PathBuf::from("new")]
    );
}

#[test]
fn dropped_without_placing_the_target_is_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let there = temp.path().join("t");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("x"), "old").unwrap();
    let before = picture(&there);
    for target in [there.clone(), temp.path().join("p/q/absent")] {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        stage(&staging, &[file("x"), file("y/z")]);
        assert_eq!(picture(&there), before);
    }
    assert_eq!(picture(&there), before);
    assert_eq!(names(temp.path()), [PathBuf::from("t")]);
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next_and_a_live_one_is_spared() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir(&target).unwrap();
    for dead in [
        temp.path().join(".cachectl-tmp-0000000000000001"),
        target.join(".cachectl-tmp-0000000000000002"),
    ] {
        std::fs::create_dir_all(dead.join("new/x")).unwrap();
        std::fs::write(dead.join("lock"), "").unwrap();
    }
    // Killed before its lock was made; killed while it copied a file.
    std::fs::create_dir(target.join(".cachectl-tmp-0000000000000003")).unwrap();
    std::fs::write(target.join(".cachectl-tmp-0000000000000004"), "half").unwrap();
    let first = Staging::begin(&target, PLAIN).unwrap();
    let second = Staging::begin(&target, PLAIN).unwrap();
    assert_eq!(names(temp.path()), [PathBuf::from("t")]);
    assert_eq!(names(&target).len(), 2);
    drop((first, second));
    assert_eq!(names(&target).len(), 0);
}

#[test]
fn two_at_once_both_succeed_and_the_last_wins() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    let dir = |p: &str| of_kind(p, 0o750, Kind::Dir);
    let link = |p: &str| of_kind(p, 0o777, Kind::Symlink((*b"x").into()));
    let hard = |p: &str, to: &str| of_kind(p, 0o644, Kind::Hardlink(path(to)));
    let one = [
        dir("d"),
        file("d/one"),
        file("d/x"),
        hard("h", "d/x"),
        link("l"),
    ];
    let two = [
        dir("d"),
        file("d/two"),
        file("d/x"),
        hard("h", "d/x"),
        link("l"),
    ];
    let (a, b) = (
        Staging::begin(&target, PLAIN).unwrap(),
        Staging::begin(&target, PLAIN).unwrap(),
    );
    let (sa, sb) = (stage(&a, &one), stage(&b, &two));
    assert!(a.is_fresh() && b.is_fresh());
    place_with(a, &one, &sa, None).unwrap();
    place_with(b, &two, &sb, None).unwrap();
    let found: Vec<_> = picture(&target);
    assert_eq!(found.len(), 6, "{found:?}");
    let ino = |p: &str| std::fs::metadata(target.join(p)).unwrap().ino();
    assert_eq!(ino("h"), ino("d/x"));
    assert_eq!(names(temp.path()), [PathBuf::from("t")]);
}

#[test]
fn files_folders_and_links_in_each_others_way_are_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    let outside = temp.path().join("outside");
    std::fs::create_dir_all(target.join("was-dir/full")).unwrap();
    std::fs::write(target.join("was-dir/full/f"), "old").unwrap();
    std::fs::write(target.join("was-file"), "old").unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "untouched").unwrap();
    symlink(&outside, target.join("was-link")).unwrap();
    symlink(outside.join("f"), target.join("was-link-to-file")).unwrap();
    let entries = [
        file("was-dir"),
        file("was-file/f"),
        file("was-link-to-file"),
        file("was-link/f"),
    ];
    let staging = Staging::begin(&target, PLAIN).unwrap();
    let staged = stage(&staging, &entries);
    place_with(staging, &entries, &staged, Some(&|_, _| false)).unwrap();
    for e in &entries {
        assert_eq!(read(target.join(e.path.as_path())), "new");
        let m = std::fs::symlink_metadata(target.join(e.path.as_path())).unwrap();
        assert!(m.is_file());
    }
    assert_eq!(read(outside.join("f")), "untouched");
    assert_eq!(names(&target).len(), 4);
}

#[test]
fn a_folder_that_comes_into_the_way_goes_only_if_it_may() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir_all(&target).unwrap();
    let entries = [file("way")];
    let place = |mirror: Option<&Keep<'_>>| {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        let staged = stage(&staging, &entries);
        std::fs::create_dir_all(target.join("way/sub/store")).unwrap();
        place_with(staging, &entries, &staged, mirror)
    };
    let refused = |mirror: Option<&Keep<'_>>, why: &str| {
        let e = place(mirror).unwrap_err().to_string();
        assert!(e.contains("`way`") && e.contains(why), "{e}");
        assert!(target.join("way/sub/store").is_dir());
    };
    refused(None, "is not empty");
    let keep = |path: &[u8], _: bool| path == b"way/sub";
    refused(Some(&keep), "`way/sub`, which is excluded");
    let store = Dir::open(target.join("way/sub/store")).unwrap();
    store.mark_own().unwrap();
    let everything = |_: &[u8], _: bool| false;
    refused(
        Some(&everything),
        "`way/sub/store`, which is cachectl's own",
    );
    std::fs::remove_file(target.join("way/sub/store/.cachectl-folder")).unwrap();
    place(Some(&everything)).unwrap();
    assert_eq!(read(target.join("way")), "new");
}

#[test]
fn links_planted_between_the_steps_are_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir_all(target.join("d")).unwrap();
    let entries = [of_kind("d", 0o700, Kind::Dir), file("d/f"), file("e/f")];
    let staging = Staging::begin(&target, PLAIN).unwrap();
    // In the staged tree, before the folder is made.
    symlink(&outside, staging.tree().root().path().join("e")).unwrap();
    assert!(staging.tree().create_file(&path("e/f"), 0o644).is_err());
    std::fs::remove_file(staging.tree().root().path().join("e")).unwrap();
    symlink(outside.join("f"), staging.tree().root().path().join("g")).unwrap();
    assert!(staging.tree().create_file(&path("g"), 0o644).is_err());
    let staged = stage(&staging, &entries);
    // In the target, after it was looked at.
    std::fs::remove_dir(target.join("d")).unwrap();
    symlink(&outside, target.join("d")).unwrap();
    place_with(staging, &entries, &staged, None).unwrap();
    assert_eq!(names(&outside), Vec::<PathBuf>::new());
    assert!(
        std::fs::symlink_metadata(target.join("d"))
            .unwrap()
            .is_dir()
    );
    assert_eq!(read(target.join("d/f")), "new");
}

#[test]
fn a_target_that_is_a_link_is_resolved_once() {
    let temp = tempfile::tempdir().unwrap();
    let real = temp.path().join("real");
    symlink("hop", temp.path().join("t")).unwrap();
    symlink("real", temp.path().join("hop")).unwrap();
    restore(&temp.path().join("t"), &[file("x")]);
    assert_eq!(read(real.join("x")), "new");
    restore(&temp.path().join("t"), &[file("y")]);
    assert_eq!(read(real.join("y")), "new");
    assert!(temp.path().join("t").is_symlink() && temp.path().join("hop").is_symlink());
    symlink("round", temp.path().join("round")).unwrap();
    assert!(Staging::begin(&temp.path().join("round"), PLAIN).is_err());
}

#[test]
fn a_target_that_is_a_file_is_refused_and_kept() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::write(&target, "precious").unwrap();
    let e = Staging::begin(&target, PLAIN).unwrap_err().to_string();
    assert!(e.contains("is not a folder"), "{e}");
    assert_eq!(read(&target), "precious");
    assert!(Staging::begin(&target.join("below"), PLAIN).is_err());
    assert_eq!(names(temp.path()), [PathBuf::from("t")]);
}

#[test]
fn read_only_folders_with_old_times_are_restored_as_such_and_again() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    let mut entries = vec![
        of_kind("ro", 0o555, Kind::Dir),
        of_kind("ro/deep", 0o500, Kind::Dir),
        file("ro/deep/f"),
        file("ro/f"),
    ];
    restore(&target, &entries);
    let check = |entries: &[Entry]| {
        for e in entries {
            let m = std::fs::metadata(target.join(e.path.as_path())).unwrap();
            assert_eq!(m.mode() & 0o7777, e.meta.mode, "{}", e.path);
            assert_eq!((m.mtime(), m.mtime_nsec()), (1000, 7), "{}", e.path);
        }
    };
    check(&entries);
    entries.push(file("ro/g"));
    restore(&target, &entries);
    check(&entries);
}

#[test]
fn mirror_removes_what_is_not_in_the_snapshot_but_what_is_excluded() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    for dir in ["gone/deep", "keepers", "d", "gone2"] {
        std::fs::create_dir_all(target.join(dir)).unwrap();
    }
    for f in [
        "gone/deep/f",
        "keepers/k.keep",
        "keepers/x",
        "d/stays",
        "d/goes",
        "goes",
    ] {
        std::fs::write(target.join(f), "old").unwrap();
    }
    symlink("/etc", target.join("gone2/link")).unwrap();
    let entries = [of_kind("d", 0o755, Kind::Dir), file("d/stays"), file("new")];
    let staging = Staging::begin(&target, PLAIN).unwrap();
    let other = Staging::begin(&target, PLAIN).unwrap();
    let mut staged = stage(&staging, &entries[2..]);
    staged.splice(0..0, [false, false]);
    let keep = |p: &[u8], _: bool| p.ends_with(b".keep");
    let placed = place_with(staging, &entries, &staged, Some(&keep)).unwrap();
    assert_eq!(placed.removed, 8);
    assert!(other.tree().root().stat_self().is_ok());
    assert!(target.join(other.tree().root().path()).exists());
    drop(other);
    let left: Vec<_> = picture(&target);
    assert_eq!(left.len(), 5, "{left:?}");
    assert_eq!(read(target.join("d/stays")), "old");
    assert_eq!(read(target.join("keepers/k.keep")), "old");
    let m = std::fs::metadata(target.join("d")).unwrap();
    assert_eq!(m.mtime(), 1000, "removals must not show in a folder's time");
}

#[test]
fn a_hard_link_to_a_file_that_stands_already_is_made_and_moved_with_its_file() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("a"), "old").unwrap();
    let entries = [file("a"), of_kind("l", 0o644, Kind::Hardlink(path("a")))];
    let ino = |p: &str| std::fs::metadata(target.join(p)).unwrap().ino();
    let staging = Staging::begin(&target, PLAIN).unwrap();
    place_with(staging, &entries, &[false, false], None).unwrap();
    assert_eq!(ino("a"), ino("l"));
    let before = ino("a");
    restore(&target, &entries);
    assert_eq!(ino("a"), ino("l"));
    assert_ne!(ino("a"), before);
    assert_eq!(read(target.join("l")), "new");
}

#[test]
fn entries_that_contradict_themselves_are_errors_that_change_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    let hard = |p: &str, to: &str| of_kind(p, 0o644, Kind::Hardlink(path(to)));
    let cases: [&[Entry]; 4] = [
        &[hard("a", "b")],
        &[hard("a", "b"), hard("b", "a")],
        &[file("b"), file("a")],
        &[file("a"), file("a")],
    ];
    for entries in cases {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        let staged = vec![false; entries.len()];
        assert!(place_with(staging, entries, &staged, None).is_err());
        assert!(!target.exists());
    }
    let staging = Staging::begin(&target, PLAIN).unwrap();
    assert!(place_with(staging, &[file("a")], &[false], None).is_err());
    // A path that is below a file.
    let staging = Staging::begin(&target, PLAIN).unwrap();
    staging.tree().create_file(&path("a"), 0o644).unwrap();
    assert!(staging.tree().create_file(&path("a/b"), 0o644).is_err());
    assert!(staging.tree().create_file(&path("a"), 0o644).is_err());
    drop(staging);
    assert_eq!(names(temp.path()), Vec::<PathBuf>::new());
}

#[test]
fn lower_ranks_appear_first_and_new_folders_after_the_first() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temp.path().join("t/00")).unwrap();
    let entries = [
        file("00/1-a"),
        file("00/2-d"),
        file("01/3-a"),
        file("01/3-d"),
    ];
    let staging = Staging::begin(&temp.path().join("t"), PLAIN).unwrap();
    let staged = stage(&staging, &entries);
    // A folder in place of `01` that cannot make way stops the placement there.
    let listed: Vec<&Entry> = entries.iter().collect();
    let plan = Placement {
        entries: &listed,
        staged: &staged,
        mtime: &|e| e.meta.mtime,
        rank: &|p| u8::from(p.name().ends_with(b"-a")),
        mirror: None,
        own: &OwnWithin::default(),
        leave: &Leave::default(),
    };
    let mover = moves::Mover::new(staging.tree(), staging.tree().root(), &plan);
    let order = mover.order_of_moves(&Dir::open(temp.path().join("t")).unwrap());
    assert_eq!(order, ["00/2-d", "01", "00/1-a"]);
}

#[test]
fn files_are_staged_by_many_threads_with_few_handles() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    let staging = Staging::begin(&target, PLAIN).unwrap();
    let entries: Vec<Entry> = (0..800)
        .map(|i| file(&format!("{:04}/{}/f", i % 350, i)))
        .collect();
    std::thread::scope(|s| {
        for part in entries.chunks(200) {
            let staging = &staging;
            s.spawn(move || stage(staging, part));
        }
    });
    let mut entries = entries;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let staged = vec![true; entries.len()];
    place_with(staging, &entries, &staged, None).unwrap();
    assert_eq!(picture(&target).len(), 800 + 800 + 350);
}

#[test]
fn what_a_rename_cannot_bring_over_is_copied() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir_all(target.join("mount/busy")).unwrap();
    std::fs::write(target.join("mount/x"), "old").unwrap();
    std::fs::write(target.join("mount/.cachectl-tmp-000000000000dead"), "half").unwrap();
    let hard = |p: &str, to: &str| of_kind(p, 0o644, Kind::Hardlink(path(to)));
    let entries = [
        of_kind("mount", 0o755, Kind::Dir),
        file("mount/busy"),
        hard("mount/hard", "mount/x"),
        of_kind("mount/link", 0o777, Kind::Symlink((*b"x").into())),
        file("mount/sub/deep"),
        file("mount/x"),
    ];
    let staging = Staging::begin(&target, PLAIN).unwrap();
    let staged = stage(&staging, &entries);
    let listed: Vec<&Entry> = entries.iter().collect();
    let plan = Placement {
        entries: &listed,
        staged: &staged,
        mtime: &|e| e.meta.mtime,
        rank: &|_| 0,
        mirror: None,
        own: &OwnWithin::default(),
        leave: &Leave::default(),
    };
    let container = Dir::open(staging.tree().root().path().parent().unwrap()).unwrap();
    let mut mover = moves::Mover::new(staging.tree(), &container, &plan);
    mover.complete().unwrap();
    slow::ONLY_COPY.set(true);
    let root = Dir::open(&target).unwrap();
    mover.copy_over(&root, 0, &path("mount")).unwrap();
    mover.make_late_links(&root).unwrap();
    slow::ONLY_COPY.set(false);
    mover.give_folders_meta(&root).unwrap();
    drop(staging);
    for f in [
        "mount/busy",
        "mount/hard",
        "mount/link",
        "mount/sub/deep",
        "mount/x",
    ] {
        assert_eq!(read(target.join(f)), "new", "{f}");
    }
    let ino = |p: &str| std::fs::metadata(target.join(p)).unwrap().ino();
    assert_eq!(ino("mount/hard"), ino("mount/x"));
    assert_eq!(names(&target.join("mount")).len(), 5);
    assert_eq!(
        std::fs::metadata(target.join("mount/x")).unwrap().mtime(),
        1000
    );
}

mod killed;
mod mounts;
mod ordinary_user;
mod round_trip;

#[test]
fn a_placement_that_fails_half_way_says_what_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("t");
    std::fs::create_dir(&target).unwrap();
    let entries = [file("a"), file("b"), file("c")];
    let refs: Vec<&Entry> = entries.iter().collect();
    let place = |names: &[Entry]| {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        stage(&staging, names);
        let plan = Placement {
            entries: &refs,
            // The disk lost what was not staged.
            staged: &[true, true, true],
            mtime: &|e| e.meta.mtime,
            rank: &|_| 0,
            mirror: None,
            own: &OwnWithin::default(),
            leave: &Leave::default(),
        };
        staging.place(&plan).unwrap_err()
    };
    let error = place(&entries[..2]);
    assert!(
        matches!(error, crate::source::Error::Partly { moves: 2, .. }),
        "{error:?}"
    );
    let said = error.to_string();
    assert!(said.contains("/t` is partly restored: 2 files"), "{said}");
    assert!(target.join("b").exists());
    // Nothing was changed: nothing is said.
    let error = place(&[]);
    assert!(matches!(error, crate::source::Error::Fs(_)), "{error:?}");
}

#[test]
fn leave_that_is_taken_back_ends_a_placement_between_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("t");
    std::fs::create_dir(&target).unwrap();
    for name in ["old-1", "old-2"] {
        std::fs::write(target.join(name), "old").unwrap();
    }
    let entries = [file("a"), file("b")];
    let refs: Vec<&Entry> = entries.iter().collect();
    let place = |leave: &Leave, keep: &Keep<'_>| {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        let staged = stage(&staging, &entries);
        let plan = Placement {
            entries: &refs,
            staged: &staged,
            mtime: &|e| e.meta.mtime,
            rank: &|_| 0,
            mirror: Some(keep),
            own: &OwnWithin::default(),
            leave,
        };
        staging.place(&plan)
    };
    // Nothing was changed, and nothing is.
    let leave = Leave::default();
    assert!(!leave.take_back());
    let error = place(&leave, &|_, _| false).unwrap_err();
    assert!(matches!(error, crate::source::Error::GivenUp), "{error:?}");
    assert!(!target.join("a").exists() && target.join("old-1").exists());
    // The mirror looks at what is there once all is placed.
    let leave = Leave::default();
    let was_used = std::sync::atomic::AtomicBool::new(false);
    let keep = |_: &[u8], _: bool| {
        was_used.fetch_or(leave.take_back(), std::sync::atomic::Ordering::SeqCst);
        false
    };
    let error = place(&leave, &keep).unwrap_err();
    let crate::source::Error::Partly { moves, removed, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*moves, *removed), (2, 0));
    assert!(was_used.into_inner());
    assert!(target.join("b").exists() && target.join("old-2").exists());
    assert!(error.to_string().starts_with("the time budget was spent"));
}

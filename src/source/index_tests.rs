use super::*;

const DEV: u64 = 7;

fn path(p: &str) -> EntryPath {
    EntryPath::new(p.as_bytes()).unwrap()
}

fn at(millis: i128) -> Time {
    Time::from_nanos(1_700_000_000_000_000_000 + millis * 1_000_000 + 1).unwrap()
}

fn stat(ctime: Time) -> Stat {
    Stat {
        dev: DEV,
        ino: 11,
        raw_mode: 0o100_644,
        nlink: 1,
        uid: 0,
        gid: 0,
        size: 5,
        blocks: 8,
        mtime: at(-1000),
        ctime,
    }
}

fn content() -> KnownContent {
    KnownContent {
        content: ContentId::of(b"hello"),
        len: 5,
    }
}

fn stamp() -> Stamp {
    Stamp {
        time: at(0),
        dev: DEV,
        coarse: false,
    }
}

fn index(stamp: Stamp, items: &[(&str, Stat)]) -> (tempfile::TempDir, NodeIndex) {
    let root = tempfile::tempdir().unwrap();
    let items = items.iter().map(|(p, s)| (path(p), *s, content()));
    let dir = Dir::open(root.path()).unwrap();
    let index = NodeIndex::record(&dir, stamp, Notes::default(), items).unwrap();
    (root, index)
}

fn encoded(index: &NodeIndex) -> Vec<u8> {
    [&index.head(&index.notes).unwrap(), &index.body[..]].concat()
}

#[test]
fn an_old_file_that_is_as_recorded_is_proven() {
    let s = stat(at(-20));
    let (_root, index) = index(stamp(), &[("b", s), ("a/x", s), ("c", s)]);
    for p in ["a/x", "b", "c"] {
        assert_eq!(index.content(&path(p), &s), Some(content()), "{p}");
    }
    for p in ["a", "a/y", "d", "B"] {
        assert_eq!(index.content(&path(p), &s), None, "{p}");
    }
}

#[test]
fn any_difference_is_no_proof() {
    let s = stat(at(-500));
    let (_root, index) = index(stamp(), &[("a", s)]);
    let others = [
        Stat { dev: 8, ..s },
        Stat { ino: 12, ..s },
        Stat { size: 6, ..s },
        Stat {
            mtime: at(-999),
            ..s
        },
        Stat {
            ctime: at(-499),
            ..s
        },
        Stat {
            raw_mode: 0o120_777,
            ..s
        },
    ];
    for other in others {
        assert_eq!(index.content(&path("a"), &other), None, "{other:?}");
    }
    let harmless = Stat {
        nlink: 2,
        uid: 5,
        ..s
    };
    assert!(index.content(&path("a"), &harmless).is_some());
}

#[test]
fn a_file_changed_within_a_tick_of_the_stamp_is_not_proven() {
    for millis in [-19, 0, 5] {
        let s = stat(at(millis));
        let (_root, index) = index(stamp(), &[("a", s)]);
        assert_eq!(index.content(&path("a"), &s), None, "{millis}");
        assert!(index.is_empty());
    }
}

#[test]
fn clocks_of_whole_seconds_need_two_of_them() {
    let coarse = Stamp {
        coarse: true,
        ..stamp()
    };
    for (millis, proven) in [(-1999, false), (-2000, true)] {
        let s = stat(at(millis));
        let (_root, index) = index(coarse, &[("a", s)]);
        assert_eq!(index.content(&path("a"), &s).is_some(), proven);
    }
}

#[test]
fn of_a_path_given_twice_the_last_counts() {
    let (old, new) = (
        stat(at(-90)),
        Stat {
            ino: 99,
            ..stat(at(-80))
        },
    );
    let (_root, index) = index(stamp(), &[("a", old), ("a", new)]);
    assert_eq!(index.len(), 1);
    assert!(index.content(&path("a"), &new).is_some());
}

#[test]
fn an_index_proves_just_the_files_that_it_lists_as_they_were() {
    let s = stat(at(-100));
    let (_root, index) = index(stamp(), &[("b", s), ("a", s)]);
    let just = |items: &[(&str, Stat, KnownContent)]| {
        index.proves_just(items.iter().map(|(p, s, c)| (path(p), *s, *c)))
    };
    let (a, b) = (("a", s, content()), ("b", s, content()));
    assert!(just(&[a, b]));
    let changed = ("b", Stat { size: 6, ..s }, content());
    let other = (
        "b",
        s,
        KnownContent {
            content: ContentId::of(b"other"),
            len: 5,
        },
    );
    for items in [
        &[a][..],
        &[a, b, ("c", s, content())],
        &[a, changed],
        &[a, other],
    ] {
        assert!(!just(items), "{items:?}");
    }
}

#[test]
fn an_index_that_is_kept_is_not_forgotten() {
    let (root, index) = index(stamp(), &[("a", stat(at(-100)))]);
    let state = root.path().join("state");
    index.save(&state, SourceKind::Dir, root.path());
    let file = file_of(&state, SourceKind::Dir, root.path()).unwrap();
    let age = |secs| {
        let opened = std::fs::File::open(&file).unwrap();
        fs::set_file_mtime(&opened, Time { secs, nanos: 0 }).unwrap();
    };
    age(1);
    index.keep(&state, SourceKind::Dir, root.path());
    forget_old(&state).unwrap();
    assert!(file.exists());
    age(1);
    forget_old(&state).unwrap();
    assert!(!file.exists());
}

#[test]
fn saved_and_loaded_it_is_the_same() {
    let s = stat(at(-100));
    let (root, mut index) = index(stamp(), &[("b", s), ("a/x", s)]);
    index.notes = Notes {
        imported: Some(Imported {
            at: (-3, 5),
            snapshot: "sha256:ab".to_owned(),
            store: "disk:/x".to_owned(),
            name: Some("dir.n.default..r".into()),
        }),
        matched: None,
        replacement: Some("dir.n.default..r0".into()),
    };
    let state = root.path().join("state/deep");
    index.save(&state, SourceKind::Dir, root.path());
    let again = NodeIndex::load(&state, SourceKind::Dir, root.path()).unwrap();
    assert_eq!(again.notes, index.notes);
    assert_eq!(again.imported_at(), Some(Time { secs: -3, nanos: 5 }));
    assert_eq!(again.content(&path("a/x"), &s), Some(content()));
    assert_eq!(again.stamp, index.stamp);
    assert!(NodeIndex::load(&state, SourceKind::GoMod, root.path()).is_none());
    assert!(NodeIndex::load(&state, SourceKind::Dir, &state).is_none());
}

#[test]
fn an_index_of_another_folder_under_that_name_is_not_used() {
    let (root, index) = index(stamp(), &[("a", stat(at(-100)))]);
    let (state, cache) = (root.path().join("state"), root.path().join("cache"));
    std::fs::create_dir(&cache).unwrap();
    index.save(&state, SourceKind::Dir, &cache);
    assert!(NodeIndex::load(&state, SourceKind::Dir, &cache).is_none());
}

#[test]
fn damage_anywhere_is_noticed() {
    let (_root, index) = index(stamp(), &[("a", stat(at(-100))), ("b", stat(at(-100)))]);
    let good = encoded(&index);
    assert!(NodeIndex::decode(good.clone()).is_ok());
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 0x10;
        assert!(NodeIndex::decode(bad).is_err(), "byte {i}");
        assert!(NodeIndex::decode(good[..i].to_vec()).is_err(), "cut at {i}");
    }
    assert!(NodeIndex::decode(vec![0; good.len()]).is_err());
}

#[test]
fn lengths_and_paths_that_lie_outside_are_refused_even_with_a_right_checksum() {
    let (_root, index) = index(stamp(), &[("a", stat(at(-100)))]);
    let good = encoded(&index);
    let records = HEADER + u64_at(&good, 56) as usize;
    for (place, value) in [
        (56, u64::MAX),
        (64, 95),
        (72, 9),
        (records, 77),
        (records + 8, 2),
    ] {
        let mut bad = good.clone();
        bad[place..place + 8].copy_from_slice(&value.to_le_bytes());
        let sum = checksum(&[&bad[16..]]);
        bad[8..16].copy_from_slice(&sum.to_le_bytes());
        assert!(NodeIndex::decode(bad).is_err(), "{place}");
    }
}

#[test]
fn a_state_folder_that_cannot_be_written_does_no_harm() {
    let (root, index) = index(stamp(), &[]);
    let file = root.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    index.save(&file.join("state"), SourceKind::Dir, root.path());
    assert!(NodeIndex::load(&file.join("state"), SourceKind::Dir, root.path()).is_none());
}

#[test]
fn long_forgotten_indexes_are_removed() {
    let (root, index) = index(stamp(), &[]);
    let state = root.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("dir-old.idx"), b"x").unwrap();
    std::fs::write(state.join("other"), b"x").unwrap();
    let dir = Dir::open(&state).unwrap();
    for name in [&b"dir-old.idx"[..], b"other"] {
        dir.set_mtime(name, Time { secs: 1, nanos: 0 }).unwrap();
    }
    index.save(&state, SourceKind::Dir, root.path());
    let names: Vec<_> = dir.list().unwrap().into_iter().map(|n| n.name).collect();
    assert_eq!(names.len(), 3);
    assert!(names.contains(&(*b"other").into()));
    assert!(names.contains(&fs::OWN_MARK.into()));
}

#[test]
fn taking_the_time_leaves_no_trace() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let old = Time {
        secs: 1000,
        nanos: 3,
    };
    fs::set_file_mtime(dir.as_fd(), old).unwrap();
    let stamp = Stamp::take(&dir).unwrap();
    let probe = named_probe(&dir).unwrap();
    assert!(probe.ctime >= stamp.time);
    assert_eq!(probe.dev, stamp.dev);
    assert_eq!(dir.stat_self().unwrap().mtime, old);
    assert_eq!(dir.list().unwrap(), []);
}

#[test]
fn what_was_written_before_a_settled_stamp_is_proven() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("f"), b"hello").unwrap();
    let dir = Dir::open(root.path()).unwrap();
    let early = Stamp::take(&dir).unwrap();
    let settled = Stamp::take_settled(&dir).unwrap();
    let s = dir.stat(b"f").unwrap().unwrap();
    assert!(settled.proves(&s));
    // Made in the same breath as the file: nothing can be said.
    assert!(!early.proves(&Stat {
        ctime: early.time,
        ..s
    }));
}

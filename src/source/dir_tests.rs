use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _, fs::symlink, net::UnixListener},
    path::Path,
};

use super::*;
use crate::{
    entry::Extent,
    source::{KnownContent, NothingKnown},
};

fn path(p: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::new(p.as_ref()).unwrap()
}

fn source(root: &Path, exclude: &[&str]) -> Dir {
    let options = Options {
        exclude: exclude.iter().map(ToString::to_string).collect(),
        ..Options::default()
    };
    Dir::new(root, &options).unwrap()
}

fn scan(root: &Path, exclude: &[&str]) -> Scan {
    source(root, exclude).scan(&NothingKnown).unwrap()
}

fn paths(scan: &Scan) -> Vec<String> {
    scan.items
        .iter()
        .map(|i| i.entry.path.to_string())
        .collect()
}

fn content(source: &Dir, item: &Item) -> std::result::Result<Vec<u8>, String> {
    let mut content = source.open(item)?;
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    content.settle()?;
    Ok(bytes)
}

/// Says everything is known, as this.
struct AllKnown(KnownContent);

impl Known for AllKnown {
    fn content(&self, _: &EntryPath, _: &Stat) -> Option<KnownContent> {
        Some(self.0)
    }
}

#[test]
fn an_absent_root_is_empty_and_a_file_is_none() {
    let temp = tempfile::tempdir().unwrap();
    assert_eq!(scan(&temp.path().join("gone"), &[]).items.len(), 0);
    std::fs::write(temp.path().join("f"), "").unwrap();
    let e = source(&temp.path().join("f"), &[]).scan(&NothingKnown);
    assert!(e.unwrap_err().to_string().contains("is not a folder"));
}

#[test]
fn every_kind_is_found_in_the_order_of_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let at = |p: &str| temp.path().join(p);
    std::fs::create_dir_all(at("a/empty")).unwrap();
    std::fs::write(at("a-"), "x").unwrap();
    std::fs::write(at("a/f"), "hello").unwrap();
    std::fs::hard_link(at("a/f"), at("a/z")).unwrap();
    std::fs::hard_link(at("a/f"), at("0")).unwrap();
    symlink("../nowhere", at("a/l")).unwrap();
    std::fs::write(temp.path().join(OsStr::from_bytes(b"\xff\xfe")), "y").unwrap();
    let scan = scan(temp.path(), &[]);
    let kinds: Vec<_> = scan
        .items
        .iter()
        .map(|i| (i.entry.path.as_bytes(), &i.entry.kind))
        .collect();
    let file = |size| Kind::File {
        size,
        extents: None,
    };
    assert_eq!(
        kinds,
        [
            (&b"0"[..], &file(5)),
            (b"a", &Kind::Dir),
            (b"a-", &file(1)),
            (b"a/empty", &Kind::Dir),
            (b"a/f", &Kind::Hardlink(path("0"))),
            (b"a/l", &Kind::Symlink((*b"../nowhere").into())),
            (b"a/z", &Kind::Hardlink(path("0"))),
            (b"\xff\xfe", &file(1)),
        ]
    );
    assert_eq!(scan.skipped, []);
}

#[test]
fn a_second_name_outside_the_tree_does_not_count() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("t")).unwrap();
    std::fs::write(temp.path().join("a"), "").unwrap();
    std::fs::hard_link(temp.path().join("a"), temp.path().join("t/b")).unwrap();
    let inside = scan(&temp.path().join("t"), &[]);
    assert!(inside.items[0].entry.kind.is_file());
    let without = scan(temp.path(), &["/a"]);
    assert_eq!(paths(&without), ["t", "t/b"]);
    assert!(without.items[1].entry.kind.is_file());
}

#[test]
fn what_cannot_be_carried_is_named_and_what_is_excluded_is_not() {
    let temp = tempfile::tempdir().unwrap();
    let at = |p: &str| temp.path().join(p);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    std::fs::create_dir_all(at("node_modules/x")).unwrap();
    std::fs::create_dir_all(at(".cachectl-tmp-0000000000000001/new")).unwrap();
    std::fs::write(at("f"), "").unwrap();
    let all = scan(temp.path(), &["node_modules/"]);
    assert_eq!(paths(&all), ["f"]);
    let skipped: Vec<_> = all
        .skipped
        .iter()
        .map(|s| (&s.path[..], &s.why[..]))
        .collect();
    assert_eq!(
        skipped,
        [("fifo", "it is a fifo"), ("socket", "it is a socket")]
    );
    assert_eq!(scan(temp.path(), &["socket", "fifo"]).skipped, []);
}

#[test]
fn the_root_may_be_a_link_and_links_below_are_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("real")).unwrap();
    std::fs::write(temp.path().join("real/f"), "x").unwrap();
    symlink("real", temp.path().join("root")).unwrap();
    symlink(".", temp.path().join("real/loop")).unwrap();
    let got = scan(&temp.path().join("root"), &[]);
    assert_eq!(paths(&got), ["f", "loop"]);
}

#[test]
fn the_content_of_a_sparse_file_is_its_data() {
    let temp = tempfile::tempdir().unwrap();
    let f = std::fs::File::create(temp.path().join("f")).unwrap();
    f.set_len(10 << 20).unwrap();
    f.write_all_at(&[1; 4096], 1 << 20).unwrap();
    f.write_all_at(&[2; 100], 5 << 20).unwrap();
    let source = source(temp.path(), &[]);
    let got = source.scan(&NothingKnown).unwrap();
    let item = &got.items[0];
    let Kind::File { size, extents } = &item.entry.kind else {
        panic!("{item:?}")
    };
    assert_eq!(*size, 10 << 20);
    let runs: Vec<Extent> = extents.clone().unwrap().to_vec();
    assert_eq!(runs.len(), 2);
    assert_eq!((runs[0].offset, runs[1].offset), (1 << 20, 5 << 20));
    let bytes = content(&source, item).unwrap();
    assert_eq!(bytes.len() as u64, item.entry.kind.content_len());
    assert_eq!(&bytes[..4096], [1; 4096]);
    assert_eq!(&bytes[4096..4196], [2; 100]);
}

#[test]
fn a_file_that_changed_since_the_scan_can_be_taken_anew() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().join("f");
    std::fs::write(&at, "one").unwrap();
    let source = source(temp.path(), &[]);
    let mut item = source.scan(&NothingKnown).unwrap().items.remove(0);
    std::fs::write(&at, "three").unwrap();
    assert!(content(&source, &item).is_err());
    source.complete(&mut item).unwrap();
    assert!(content(&source, &item).is_err(), "it was complete");
    item.complete = false;
    source.complete(&mut item).unwrap();
    assert_eq!(content(&source, &item).unwrap(), b"three");
    std::fs::remove_file(&at).unwrap();
    item.complete = false;
    assert_eq!(source.complete(&mut item).unwrap_err(), "it is gone");
    assert!(source.open(&item).is_err());
}

#[test]
fn owners_and_special_bits_count_only_with_the_flag() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("f"), "x").unwrap();
    let root = fs::Dir::open(temp.path()).unwrap();
    root.set_mode(b"f", 0o4755).unwrap();
    let plain = scan(temp.path(), &[]).items.remove(0).entry.meta;
    assert_eq!((plain.mode, plain.uid, plain.gid), (0o755, 0, 0));
    let options = Options {
        owner: true,
        ..Options::default()
    };
    let full = Dir::new(temp.path(), &options).unwrap();
    let full = full.scan(&NothingKnown).unwrap().items.remove(0);
    assert_eq!(full.entry.meta.mode, 0o4755);
    assert_eq!(full.entry.meta.uid, full.stat.uid);
}

#[test]
fn extended_attributes_travel_with_the_flag() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let at = temp.path().join("f");
    std::fs::write(&at, "x").unwrap();
    let set =
        |name: &[u8], value: &[u8]| fs::set_xattr(std::fs::File::open(&at).unwrap(), name, value);
    // Not every file system has them.
    if set(b"user.k", b"v").is_err() {
        return;
    }
    let options = Options {
        xattrs: true,
        ..Options::default()
    };
    let source = Dir::new(temp.path(), &options).unwrap();
    let got = source.scan(&NothingKnown).unwrap();
    let item = &got.items[0];
    assert_eq!(*item.entry.xattrs, [((*b"user.k").into(), (*b"v").into())]);
    assert_eq!(*scan(temp.path(), &[]).items[0].entry.xattrs, []);
    let root = fs::Dir::open(temp.path()).unwrap();
    let content = ContentId::of(b"x");
    let standing = || {
        source
            .standing(
                &mut fs::Parents::new(&root),
                &item.entry,
                Some(&content),
                &NothingKnown,
            )
            .unwrap()
    };
    assert_eq!(standing(), Standing::Same);
    set(b"user.k", b"other").unwrap();
    set(b"user.more", b"").unwrap();
    assert_eq!(standing(), Standing::SameContent);
    source.adjust(&root, &item.entry, Time::now()).unwrap();
    assert_eq!(standing(), Standing::Same);
}

#[test]
fn what_stands_is_told_from_what_should() {
    let temp = tempfile::tempdir().unwrap();
    let at = |p: &str| temp.path().join(p);
    std::fs::create_dir(at("d")).unwrap();
    std::fs::write(at("d/f"), "hello").unwrap();
    std::fs::hard_link(at("d/f"), at("d/h")).unwrap();
    symlink("d", at("l")).unwrap();
    let source = source(temp.path(), &[]);
    let root = fs::Dir::open(temp.path()).unwrap();
    let got = source.scan(&NothingKnown).unwrap();
    let content = ContentId::of(b"hello");
    let nothing: &dyn Known = &NothingKnown;
    let standing = |e: &Entry, known: &dyn Known| {
        let content = e.kind.is_file().then_some(&content);
        source
            .standing(&mut fs::Parents::new(&root), e, content, known)
            .unwrap()
    };
    for item in &got.items {
        assert_eq!(standing(&item.entry, nothing), Standing::Same, "{item:?}");
        let mut e = item.entry.clone();
        e.path = path("gone/x");
        assert_eq!(standing(&e, nothing), Standing::Absent);
        e.path = path("l/x");
        assert_eq!(standing(&e, nothing), Standing::Absent, "through a link");
        if matches!(e.kind, Kind::Hardlink(_)) {
            continue;
        }
        let mut e = item.entry.clone();
        e.meta.mtime.nanos ^= 1;
        assert_eq!(standing(&e, nothing), Standing::SameContent, "{e:?}");
        source.adjust(&root, &e, Time::now()).unwrap();
        assert_eq!(standing(&e, nothing), Standing::Same, "{e:?}");
        source.adjust(&root, &item.entry, Time::now()).unwrap();
    }
    let file = got.items.iter().find(|i| i.entry.kind.is_file()).unwrap();
    let known = |bytes: &[u8]| {
        AllKnown(KnownContent {
            content: ContentId::of(bytes),
            len: bytes.len() as u64,
        })
    };
    assert_eq!(standing(&file.entry, &known(b"hello")), Standing::Same);
    assert_eq!(standing(&file.entry, &known(b"HELLO")), Standing::Other);
    std::fs::write(at("d/f"), "HELLO").unwrap();
    assert_eq!(standing(&file.entry, nothing), Standing::Other);
    std::fs::write(at("d/f"), "hello!").unwrap();
    assert_eq!(standing(&file.entry, nothing), Standing::Other);
    let mut link = got
        .items
        .iter()
        .find(|i| i.entry.path == path("l"))
        .unwrap()
        .entry
        .clone();
    link.kind = Kind::Symlink((*b"e").into());
    assert_eq!(standing(&link, nothing), Standing::Other);
    link.kind = Kind::Dir;
    assert_eq!(
        standing(&link, nothing),
        Standing::Other,
        "a link to a folder"
    );
    let hard = got
        .items
        .iter()
        .find(|i| i.entry.path == path("d/h"))
        .unwrap();
    std::fs::remove_file(at("d/h")).unwrap();
    std::fs::write(at("d/h"), "hello").unwrap();
    assert_eq!(standing(&hard.entry, nothing), Standing::Other);
}

#[test]
fn a_hole_in_another_place_is_other_content() {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, at: u64| {
        let f = std::fs::File::create(temp.path().join(name)).unwrap();
        f.set_len(4 << 20).unwrap();
        f.write_all_at(&[7; 4096], at).unwrap();
    };
    write("a", 1 << 20);
    let source = source(temp.path(), &[]);
    let item = source.scan(&NothingKnown).unwrap().items.remove(0);
    let content = ContentId::of(&content(&source, &item).unwrap());
    let root = fs::Dir::open(temp.path()).unwrap();
    let standing = |known: &dyn Known| {
        source
            .standing(
                &mut fs::Parents::new(&root),
                &item.entry,
                Some(&content),
                known,
            )
            .unwrap()
    };
    assert_eq!(standing(&NothingKnown), Standing::Same);
    write("a", 2 << 20);
    assert_eq!(standing(&NothingKnown), Standing::Other);
    let known = AllKnown(KnownContent {
        content,
        len: item.entry.kind.content_len(),
    });
    assert_eq!(standing(&known), Standing::Other);
}

#[test]
fn impossible_entries_are_not_admitted() {
    let source = source(Path::new("/nowhere"), &[]);
    let good = Entry::file(path("a"), 100, Meta::default());
    assert_eq!(source.kind().admit(&good, None), Ok(()));
    let refused = |change: &dyn Fn(&mut Entry)| {
        let mut e = good.clone();
        change(&mut e);
        source.kind().admit(&e, None).unwrap_err()
    };
    let run = |offset, len| Extent { offset, len };
    let sparse = |runs: &[Extent]| Kind::File {
        size: 100,
        extents: Some(runs.into()),
    };
    refused(&|e| e.path = path("x/.cachectl-tmp-0000000000000001/f"));
    refused(&|e| e.meta.mode = 0o10000);
    refused(&|e| e.meta.mtime.nanos = 1_000_000_000);
    refused(&|e| e.kind = Kind::Symlink((*b"").into()));
    refused(&|e| e.kind = Kind::Symlink((*b"a\0b").into()));
    refused(&|e| e.kind = Kind::Symlink(vec![b'a'; 4096].into()));
    refused(&|e| e.kind = Kind::Hardlink(path("a")));
    refused(&|e| {
        e.kind = Kind::File {
            size: u64::MAX,
            extents: None,
        }
    });
    refused(&|e| e.kind = sparse(&[run(0, 0)]));
    refused(&|e| e.kind = sparse(&[run(90, 11)]));
    refused(&|e| e.kind = sparse(&[run(u64::MAX, 2)]));
    refused(&|e| e.kind = sparse(&[run(10, 10), run(15, 10)]));
    refused(&|e| e.xattrs = Box::new([((*b"").into(), (*b"").into())]));
    let mut e = good.clone();
    e.kind = sparse(&[run(10, 10), run(20, 80)]);
    assert_eq!(source.kind().admit(&e, None), Ok(()));
    e.kind = Kind::Symlink((*b"../../../etc/passwd").into());
    assert_eq!(
        source.kind().admit(&e, None),
        Ok(()),
        "it is never followed by us"
    );
}

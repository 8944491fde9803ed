//! Scanning, staging, placing and scanning again gives the same tree, for any tree.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Node {
    File { len: usize, mode: u32, hole: bool },
    Dir { mode: u32 },
    Link(Vec<u8>),
    SameAs(usize),
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        4 => (0..5000_usize, prop::sample::select(vec![0o644, 0o444, 0o755, 0o600, 0o4755]), any::<bool>())
            .prop_map(|(len, mode, hole)| Node::File { len, mode, hole: hole && len % 3 == 0 }),
        2 => prop::sample::select(vec![0o755, 0o700, 0o555, 0o1777]).prop_map(|mode| Node::Dir { mode }),
        1 => prop::collection::vec(1..=255u8, 1..20).prop_map(Node::Link),
        1 => (0..50_usize).prop_map(Node::SameAs),
    ]
}

/// Names of few bytes, so that `a`, `a-` and `a/b` meet, some not UTF-8.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"ab-.0\xff".to_vec()), 1..4)
        .prop_filter("no dots", |n| n != b"." && n != b"..")
}

fn tree() -> impl Strategy<Value = Vec<(Vec<Vec<u8>>, Node, i64, u32)>> {
    let path = prop::collection::vec(name(), 1..4);
    prop::collection::vec(
        (
            path,
            node(),
            -5_000_000_000..5_000_000_000_i64,
            0..1_000_000_000_u32,
        ),
        0..30,
    )
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Builds it as far as its parts go together.
fn build(root: &Path, tree: &[(Vec<Vec<u8>>, Node, i64, u32)]) {
    std::fs::create_dir_all(root).unwrap();
    let mut made: Vec<(PathBuf, Time, Option<u32>)> = Vec::new();
    for (names, node, secs, nanos) in tree {
        let path = names.iter().fold(root.to_owned(), |p, n| p.join(os(n)));
        if std::fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        let real = path.parent().unwrap().canonicalize().unwrap();
        if !real.starts_with(root.canonicalize().unwrap()) || path.symlink_metadata().is_ok() {
            continue;
        }
        let mode = match node {
            Node::File { len, mode, hole } => {
                let f = std::fs::File::create(&path).unwrap();
                let start = if *hole { 1 << 20 } else { 0 };
                f.write_all_at(&vec![*len as u8; *len], start).unwrap();
                if *hole {
                    f.set_len(3 << 20).unwrap();
                }
                Some(*mode)
            }
            Node::Dir { mode } => {
                std::fs::create_dir(&path).unwrap();
                Some(*mode)
            }
            Node::Link(to) => {
                symlink(os(to), &path).unwrap();
                None
            }
            Node::SameAs(i) => {
                let files: Vec<_> = made.iter().filter(|(p, ..)| p.is_file()).collect();
                if files.is_empty() {
                    continue;
                }
                let (to, ..) = files[i % files.len()];
                if to.is_symlink() {
                    continue;
                }
                std::fs::hard_link(to, &path).unwrap();
                continue;
            }
        };
        made.push((
            path,
            Time {
                secs: *secs,
                nanos: *nanos,
            },
            mode,
        ));
    }
    for (path, time, mode) in made.iter().rev() {
        let dir = Dir::open(path.parent().unwrap()).unwrap();
        let name = std::os::unix::ffi::OsStrExt::as_bytes(path.file_name().unwrap());
        if let Some(mode) = mode {
            dir.set_mode(name, *mode).unwrap();
        }
        dir.set_mtime(name, *time).unwrap();
    }
}

fn carry_over(from: &Path, to: &Path, options: &Options) {
    let source = DirSource::new(from, options).unwrap();
    let target = DirSource::new(to, options).unwrap();
    let scan = source.scan(&NothingKnown).unwrap();
    let carry = source.carry();
    let root = Dir::open_if_there(to).unwrap();
    let staging = Staging::begin(to, carry).unwrap();
    let mut staged = Vec::new();
    for item in &scan.items {
        let e = &item.entry;
        target.kind().admit(e, None).unwrap();
        let mut content = Vec::new();
        if let Ok(mut c) = source.open(item) {
            c.read_to_end(&mut content).unwrap();
            c.settle().unwrap();
        }
        assert_eq!(content.len() as u64, e.kind.content_len());
        let id = crate::digest::ContentId::of(&content);
        let standing = match &root {
            None => Standing::Absent,
            Some(root) => target
                .standing(
                    &mut crate::fs::Parents::new(root),
                    e,
                    Some(&id),
                    &NothingKnown,
                )
                .unwrap(),
        };
        match standing {
            Standing::SameContent => target
                .adjust(root.as_ref().unwrap(), e, Time::now())
                .unwrap(),
            Standing::Absent | Standing::Other if e.kind.is_file() => {
                let Kind::File { size, extents } = &e.kind else {
                    unreachable!()
                };
                let f = staging.tree().create_file(&e.path, e.meta.mode).unwrap();
                f.set_len(*size).unwrap();
                let whole = [crate::entry::Extent {
                    offset: 0,
                    len: *size,
                }];
                let mut at = 0;
                for run in extents.as_deref().unwrap_or(&whole) {
                    f.write_all_at(&content[at..at + run.len as usize], run.offset)
                        .unwrap();
                    at += run.len as usize;
                }
                staging.tree().finish_file(&f, e, e.meta.mtime).unwrap();
                staged.push(true);
                continue;
            }
            _ => {}
        }
        staged.push(false);
    }
    let entries: Vec<Entry> = scan.items.into_iter().map(|i| i.entry).collect();
    let keep = |_: &[u8], _: bool| false;
    let placed = place_with(staging, &entries, &staged, Some(&keep)).unwrap();
    for e in &entries {
        if !e.kind.is_file() {
            let now = target
                .standing(
                    &mut crate::fs::Parents::new(&placed.target),
                    e,
                    None,
                    &NothingKnown,
                )
                .unwrap();
            assert_eq!(now, Standing::Same, "{e:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_tree_is_the_exported_one_wherever_it_goes(
        first in tree(),
        second in tree(),
        owner in any::<bool>(),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let at = |p: &str| temp.path().join(p);
        let options = Options { owner, ..Options::default() };
        build(&at("a"), &first);
        build(&at("b"), &second);
        // Onto nothing, onto another tree (mirrored), and onto itself.
        carry_over(&at("a"), &at("new"), &options);
        prop_assert_eq!(picture(&at("a")), picture(&at("new")));
        carry_over(&at("a"), &at("b"), &options);
        prop_assert_eq!(picture(&at("a")), picture(&at("b")));
        carry_over(&at("a"), &at("b"), &options);
        prop_assert_eq!(picture(&at("a")), picture(&at("b")));
    }
}

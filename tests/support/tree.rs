//! Directory trees as values: made from a seed, written down, read back, compared.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// What stands at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Folder {
        mode: u32,
    },
    File {
        mode: u32,
        mtime: (i64, i64),
        content: Vec<u8>,
    },
    Link {
        target: OsString,
    },
}

/// Relative path → item.
pub(crate) type Tree = BTreeMap<OsString, Item>;

/// Reads everything below `root`; names that begin with `skip` are left out at the top.
pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![OsString::new()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(root.join(&folder))
            .unwrap_or_else(|error| panic!("{}: {error}", root.join(&folder).display()));
        for entry in entries {
            let entry = entry.expect("a folder that nobody else changes");
            let mut name = folder.clone();
            if !name.is_empty() {
                name.push("/");
            }
            name.push(entry.file_name());
            let meta = entry.metadata().expect("a file that nobody else removes");
            let mode = meta.permissions().mode() & 0o7777;
            let item = if meta.is_dir() {
                open.push(name.clone());
                Item::Folder { mode }
            } else if meta.is_symlink() {
                Item::Link {
                    target: fs::read_link(entry.path())
                        .expect("a link")
                        .into_os_string(),
                }
            } else {
                let content = fs::read(entry.path()).expect("a readable file");
                Item::File {
                    mode,
                    mtime: (meta.mtime(), meta.mtime_nsec()),
                    content,
                }
            };
            tree.insert(name, item);
        }
    }
    tree
}

/// Only the contents of the files, for comparisons in which times may differ.
pub(crate) fn contents(root: &Path) -> BTreeMap<OsString, Vec<u8>> {
    read(root)
        .into_iter()
        .filter_map(|(name, item)| match item {
            Item::File { content, .. } => Some((name, content)),
            Item::Folder { .. } | Item::Link { .. } => None,
        })
        .collect()
}

/// Says where two trees differ, by name; a whole dump would hide it.
#[track_caller]
pub(crate) fn assert_same(found: &Tree, wanted: &Tree, what: &str) {
    let differing: Vec<_> = wanted
        .keys()
        .chain(found.keys())
        .filter(|name| wanted.get(*name) != found.get(*name))
        .map(|name| match (wanted.get(name), found.get(name)) {
            (Some(_), None) => format!("{} is missing", name.display()),
            (None, _) => format!("{} should not be there", name.display()),
            (Some(wanted), Some(found)) => format!(
                "{}: {} instead of {}",
                name.display(),
                brief(found),
                brief(wanted)
            ),
        })
        .take(20)
        .collect();
    assert!(
        differing.is_empty(),
        "{what}: {} and {} items, differing:\n{}",
        found.len(),
        wanted.len(),
        differing.join("\n")
    );
}

fn brief(item: &Item) -> String {
    match item {
        Item::File {
            mode,
            mtime,
            content,
        } => format!(
            "file {mode:o} {}.{:09} {} bytes {:?}…",
            mtime.0,
            mtime.1,
            content.len(),
            String::from_utf8_lossy(&content[..content.len().min(16)])
        ),
        other => format!("{other:?}"),
    }
}

/// Bytes of `length` that compress about as well as object files do.
pub(crate) fn bytes(rng: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 64);
    while out.len() < length {
        if rng.u8(..) < 100 && out.len() > 256 {
            let from = rng.usize(..out.len() - 64);
            out.extend_from_within(from..from + 64);
        } else {
            out.extend(std::iter::repeat_with(|| rng.u8(..)).take(32));
        }
    }
    out.truncate(length);
    out
}

/// Writes a tree of `files` files with the things that trees have: folders, empty ones, links, executables, a name
/// that is not UTF-8, a file that spans several frames.
pub(crate) fn make(root: &Path, seed: u64, files: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    fs::create_dir_all(root.join("empty/inside")).expect("a folder of the test");
    for number in 0..files {
        let folder = root.join(format!("d{}/e{}", rng.u32(..7), rng.u32(..3)));
        fs::create_dir_all(&folder).expect("a folder of the test");
        let path = folder.join(format!("file-{number}"));
        let length = match rng.u32(..20) {
            0 => 0,
            1 => rng.usize(200_000..700_000),
            _ => rng.usize(1..9_000),
        };
        fs::write(&path, bytes(&mut rng, length)).expect("a new file");
        if rng.bool() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        }
    }
    fs::write(root.join("big"), bytes(&mut rng, 5_000_000)).expect("a new file");
    let odd = OsString::from_vec(b"not-utf8-\xff\xfe".to_vec());
    fs::write(root.join(odd), b"odd").expect("a new file");
    std::os::unix::fs::symlink("d1/nowhere", root.join("link")).expect("a new link");
}

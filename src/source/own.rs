//! Cachectl's own folders inside a carried tree: never content, neither in exports nor in imports.
//!
//! Folders in use are recognized by their paths, even before they exist, and by device and inode, which a bind mount does not
//! change. All others (another job's store, a daemon's folders) are recognized by the mark in their root
//! ([`crate::fs::OWN_MARK`]).

use std::{
    collections::HashSet,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use crate::{
    entry::EntryPath,
    fs::{Dir, OWN_MARK, Stat},
};

/// The folders that this run uses, by absolute paths; they need not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnFolders(Vec<PathBuf>);

impl OwnFolders {
    /// From these paths, which must be absolute.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().collect())
    }

    /// Those that are currently in the tree at `root`. Blocks.
    pub fn within(&self, root: &Path) -> OwnWithin {
        let root = resolved(root);
        let mut within = OwnWithin::default();
        for path in &self.0 {
            let path = resolved(path);
            if let Ok(stat) = Dir::open(&path).and_then(|dir| dir.stat_self()) {
                within.ids.insert((stat.dev, stat.ino));
            }
            match path.strip_prefix(&root) {
                Ok(below) if below.as_os_str().is_empty() => within.is_root = true,
                Ok(below) => within.below.push(below.as_os_str().as_bytes().into()),
                Err(_) => {}
            }
        }
        within
    }
}

/// Resolves all links in the existing part of `path`.
fn resolved(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut there = path;
    loop {
        if let Ok(mut found) = there.canonicalize() {
            for part in rest.into_iter().rev() {
                match part {
                    Component::ParentDir => drop(found.pop()),
                    part => found.push(part),
                }
            }
            return found;
        }
        let mut parts = there.components();
        match parts.next_back() {
            Some(last) => rest.push(last),
            None => return path.to_owned(),
        }
        there = parts.as_path();
    }
}

/// Cachectl's own folders in one tree.
#[derive(Debug, Clone, Default)]
pub struct OwnWithin {
    ids: HashSet<(u64, u64)>,
    /// Paths below the root of the tree.
    below: Vec<Box<[u8]>>,
    is_root: bool,
}

impl OwnWithin {
    /// Returns true if the tree at `root` (`None`: it does not exist yet) is itself such a folder.
    pub fn is_root(&self, root: Option<&Dir>) -> bool {
        let is_own = |root: &Dir| {
            let in_use = root.stat_self().is_ok_and(|stat| self.is_in_use(&stat));
            in_use || root.has_own_mark()
        };
        self.is_root || root.is_some_and(is_own)
    }

    /// Returns true if `path` is, or is inside, a folder in use.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.below
            .iter()
            .any(|own| path.starts_with(own) && matches!(path.get(own.len()), None | Some(b'/')))
    }

    /// Returns true if a folder in use is below `path`: only a folder may exist there.
    fn lies_below(&self, path: &[u8]) -> bool {
        self.below
            .iter()
            .any(|own| own.starts_with(path) && own.get(path.len()) == Some(&b'/'))
    }

    /// Returns true if `name` in `dir` is such a folder.
    pub fn is(&self, dir: &Dir, name: &[u8], stat: &Stat) -> bool {
        stat.is_dir() && (self.is_in_use(stat) || dir.is_marked_own(name))
    }

    fn is_in_use(&self, stat: &Stat) -> bool {
        self.ids.contains(&(stat.dev, stat.ino))
    }

    /// Checks the paths of a snapshot against the tree at `root` (`None`: it does not exist yet).
    pub fn guard<'a>(&'a self, root: Option<&'a Dir>) -> Guard<'a> {
        Guard {
            own: self,
            root,
            folder: Vec::new(),
            above: Vec::new(),
        }
    }
}

/// Folders above a path that are kept open; below that, only the last one is.
const MOST_OPEN: usize = 32;

/// Finds entries of a snapshot that would change one of cachectl's own folders.
pub struct Guard<'a> {
    own: &'a OwnWithin,
    root: Option<&'a Dir>,
    /// The last checked folder: consecutive entries mostly share it.
    folder: Vec<u8>,
    /// Folders above and at it, each by the end of its path, with the result of its check.
    above: Vec<(usize, Above)>,
}

/// A folder that contains entries.
enum Above {
    /// It is one of cachectl's own folders, or inside one.
    Own,
    /// It does not exist.
    Absent,
    There(Dir),
}

impl Guard<'_> {
    /// Returns true if the entry at `path` (a folder or something else) must not be restored.
    pub fn forbids(&mut self, path: &EntryPath, is_dir: bool) -> bool {
        let bytes = path.as_bytes();
        let in_use = self.own.covers(bytes) || (!is_dir && self.own.lies_below(bytes));
        if in_use || path.name() == OWN_MARK {
            return true;
        }
        let Some(root) = self.root else {
            return false;
        };
        if path.folder() != self.folder {
            self.enter(root, path.folder());
        }
        let dir = match self.above.last() {
            Some((_, Above::Own)) => return true,
            Some((_, Above::Absent)) => return false,
            Some((_, Above::There(dir))) => dir,
            None => root,
        };
        // Entries other than folders are checked together with all other folders in the way.
        let stat = is_dir.then(|| dir.stat(path.name()).ok().flatten());
        let stat = stat.flatten();
        stat.is_some_and(|stat| self.own.is(dir, path.name(), &stat))
    }

    /// Checks the folders down to `folder`, from the lowest one that is above the last path too.
    fn enter(&mut self, root: &Dir, folder: &[u8]) {
        let is_above = |end: usize| {
            folder.starts_with(&self.folder[..end]) && matches!(folder.get(end), None | Some(b'/'))
        };
        while self.above.pop_if(|(end, _)| !is_above(*end)).is_some() {}
        self.folder = folder.into();
        while let Some(start) = self.next_name(folder.len()) {
            let len = folder[start..].iter().position(|b| *b == b'/');
            let end = len.map_or(folder.len(), |len| start + len);
            let dir = match self.above.last() {
                Some((_, Above::There(dir))) => dir,
                _ => root,
            };
            let found = self.judge(dir, &folder[start..end]);
            if self.above.len() > MOST_OPEN {
                self.above.pop();
            }
            self.above.push((end, found));
        }
    }

    /// Where the next name to be checked starts, of a folder whose path has `len` bytes.
    fn next_name(&self, len: usize) -> Option<usize> {
        match self.above.last() {
            None => (len > 0).then_some(0),
            Some((end, Above::There(_))) => (*end < len).then_some(end + 1),
            Some(_) => None,
        }
    }

    fn judge(&self, dir: &Dir, name: &[u8]) -> Above {
        match dir.stat(name) {
            Ok(Some(stat)) if self.own.is(dir, name, &stat) => return Above::Own,
            Ok(Some(stat)) if stat.is_dir() => {}
            _ => return Above::Absent,
        }
        dir.open_dir(name).map_or(Above::Absent, Above::There)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(p: &str) -> EntryPath {
        EntryPath::new(p.as_bytes()).unwrap()
    }

    #[test]
    fn a_folder_in_use_is_known_before_it_exists_and_through_links() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("real/tree")).unwrap();
        std::os::unix::fs::symlink("real", temp.path().join("link")).unwrap();
        let own = OwnFolders::new([temp.path().join("link/tree/x/../store/deep")]);
        let within = own.within(&temp.path().join("real/tree"));
        assert!(within.covers(b"store/deep") && within.covers(b"store/deep/f"));
        assert!(!within.covers(b"store/deeper") && !within.covers(b"store"));
        let mut guard = within.guard(None);
        assert!(
            guard.forbids(&path("store"), false),
            "a file in the way of its folder"
        );
        assert!(!guard.forbids(&path("store"), true));
        assert!(
            !own.within(&temp.path().join("real/tree/store/deep/f"))
                .covers(b"f")
        );
    }

    #[test]
    fn a_folder_in_use_is_known_under_another_path_and_a_foreign_one_by_its_mark() {
        let temp = tempfile::tempdir().unwrap();
        for folder in ["store", "t/a/other/sub", "t/plain"] {
            std::fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        Dir::open(temp.path().join("t/a/other"))
            .unwrap()
            .mark_own()
            .unwrap();
        let own = OwnFolders::new([temp.path().join("store")]);
        let root = Dir::open(temp.path()).unwrap();
        let within = own.within(&temp.path().join("t"));
        // What a bind mount shows: another path, the same device and inode.
        let stat = root.stat(b"store").unwrap().unwrap();
        assert!(within.is(&root, b"store", &stat));
        let tree = Dir::open(temp.path().join("t")).unwrap();
        let mut guard = within.guard(Some(&tree));
        for (at, is_dir, forbidden) in [
            ("a/other", true, true),
            ("a/other/sub/f", false, true),
            ("a/new", false, false),
            ("a/.cachectl-folder", false, true),
            ("plain/f", false, false),
            ("absent/f", false, false),
        ] {
            assert_eq!(guard.forbids(&path(at), is_dir), forbidden, "{at}");
        }
        let deep = ["d"; 100].join("/");
        std::fs::create_dir_all(temp.path().join("t").join(&deep).join("own")).unwrap();
        let lowest = EntryPath::new(deep.as_bytes()).unwrap();
        let lowest = tree.open_below(&lowest).unwrap();
        lowest.open_dir(b"own").unwrap().mark_own().unwrap();
        for (end, forbidden) in [
            ("own/f", true),
            ("f", false),
            ("own/g/h", true),
            ("g/f", false),
        ] {
            let at = path(&format!("{deep}/{end}"));
            assert_eq!(guard.forbids(&at, false), forbidden, "{at}");
        }
        assert!(!guard.forbids(&path("d/f"), false) && guard.forbids(&path("a/other"), true));
        assert!(!within.is_root(Some(&tree)));
        let of_store = own.within(&temp.path().join("store"));
        assert!(of_store.is_root(Some(&root)) && of_store.is_root(None));
    }
}

//! The folders of many paths, each opened once while consecutive paths share it.

use super::{Dir, Result};
use crate::entry::EntryPath;

/// Opens the folders that contain paths, remembering the last one: consecutive paths in ascending order mostly share it.
pub struct Parents<'a> {
    root: &'a Dir,
    /// Path of the last folder; empty for the root.
    folder: Vec<u8>,
    /// The last folder, unless that is the root or does not exist.
    opened: Option<Dir>,
}

impl<'a> Parents<'a> {
    /// For paths below `root`.
    pub fn new(root: &'a Dir) -> Self {
        Self {
            root,
            folder: Vec::new(),
            opened: None,
        }
    }

    /// The root.
    pub fn root(&self) -> &'a Dir {
        self.root
    }

    /// The folder that contains `path`; `None` if it does not exist, or a link or file is in the path. A folder that was missing for the
    /// last path is taken to be missing for the next one.
    pub fn of(&mut self, path: &EntryPath) -> Result<Option<&Dir>> {
        let folder = path.folder();
        if *folder != *self.folder {
            self.opened = self.root.open_parent_if_there(path)?;
            self.folder.clear();
            self.folder.extend_from_slice(folder);
        }
        if folder.is_empty() {
            return Ok(Some(self.root));
        }
        Ok(self.opened.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_gets_its_own_folder_whatever_came_before() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("l")).unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let mut parents = Parents::new(&root);
        for (path, folder) in [
            ("x", Some("")),
            ("a/x", Some("a")),
            ("a/y", Some("a")),
            ("a/b/x", Some("a/b")),
            ("gone/x", None),
            ("gone/y", None),
            ("l/b", None),
            ("z", Some("")),
        ] {
            let path = EntryPath::new(path.as_bytes()).unwrap();
            let found = parents.of(&path).unwrap().map(|dir| dir.path().to_owned());
            let expected = folder.map(|f| {
                if f.is_empty() {
                    temp.path().into()
                } else {
                    temp.path().join(f)
                }
            });
            assert_eq!(found, expected, "{path}");
        }
    }
}

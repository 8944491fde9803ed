//! The mark of cachectl's own folders: stores, and the state of a node or a daemon. They are never the content of a cache.

use std::path::Path;

use super::{Dir, Result, make_dirs};

/// A file in the root of each such folder, written when the folder is opened for writing. Only its presence matters.
pub const OWN_MARK: &[u8] = b".cachectl-folder";
const TEXT: &[u8] =
    b"This folder belongs to cachectl. Exports leave it out, and imports never change it.\n";

impl Dir {
    /// Marks this folder as cachectl's own. Users who may read and replace files in the folder may do so with the mark, whatever
    /// the umask.
    pub fn mark_own(&self) -> Result<()> {
        use std::io::Write as _;
        let failed = |e| super::Error::new("write", self.at(OWN_MARK), e);
        let mut file = match self.create_file(OWN_MARK, 0o600) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            made => made?,
        };
        let bits = self.stat_self()?.mode() & 0o666 | 0o600;
        super::set_file_mode(&file, bits).map_err(failed)?;
        file.write_all(TEXT).map_err(failed)
    }

    /// Returns true if this folder has the mark; a folder that cannot be examined has none.
    pub fn has_own_mark(&self) -> bool {
        self.stat(OWN_MARK).is_ok_and(|stat| stat.is_some())
    }

    /// Returns true if the folder `name` in this one has the mark. `name` must not be a link.
    pub fn is_marked_own(&self, name: &[u8]) -> bool {
        let mark = [name, b"/", OWN_MARK].concat();
        self.stat(&mark).is_ok_and(|stat| stat.is_some())
    }
}

/// Creates a folder of cachectl's own, and those above it. If the mark cannot be written, the folder has none.
pub fn make_own_dirs(path: &Path) -> Result<()> {
    make_dirs(path)?;
    let _ = Dir::open(path).and_then(|dir| dir.mark_own());
    Ok(())
}

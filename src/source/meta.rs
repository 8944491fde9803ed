//! Which metadata of an entry is carried, and restoring it.

use crate::{
    entry::{Entry, Kind, Time},
    fs,
};

use super::xattr;

/// Which metadata of an entry is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carry {
    /// Extended attributes.
    pub xattrs: bool,
    /// Owners and special mode bits.
    pub owner: bool,
    /// Whether this process may give files away.
    pub root: bool,
}

impl Carry {
    /// As requested, for this process.
    pub fn new(xattrs: bool, owner: bool) -> Self {
        Self {
            xattrs,
            owner,
            root: fs::is_root(),
        }
    }

    /// The mode bits that are carried.
    pub fn mode(self, mode: u32) -> u32 {
        mode & if self.owner { 0o7777 } else { 0o777 }
    }

    /// Returns true if owners are restored.
    pub fn gives_away(self) -> bool {
        self.owner && self.root
    }
}

/// Sets owner, attributes, permissions and time of the file with the entry's name in `parent`, as far as they are carried.
///
/// Links get owner and time only; hard links nothing, since their file has the metadata.
pub fn give_meta(parent: &fs::Dir, entry: &Entry, mtime: Time, carry: Carry) -> fs::Result<()> {
    give_meta_named(parent, entry.path.name(), entry, mtime, carry)
}

/// The same for an entry that still has another name.
pub(super) fn give_meta_named(
    parent: &fs::Dir,
    name: &[u8],
    entry: &Entry,
    mtime: Time,
    carry: Carry,
) -> fs::Result<()> {
    if matches!(entry.kind, Kind::Hardlink(_)) {
        return Ok(());
    }
    if carry.gives_away() {
        parent.set_owner(name, entry.meta.uid, entry.meta.gid)?;
    }
    if !matches!(entry.kind, Kind::Symlink(_)) {
        let mode = carry.mode(entry.meta.mode);
        if carry.xattrs {
            let err = |e| fs::Error::new("set extended attributes of", parent.at(name), e);
            parent.set_mode(name, mode | 0o700)?;
            let privileged = carry.gives_away();
            match entry.kind {
                Kind::Dir => {
                    xattr::write(parent.open_dir(name)?.as_fd(), &entry.xattrs, privileged)
                }
                _ => xattr::write(parent.open_file(name)?, &entry.xattrs, privileged),
            }
            .map_err(err)?;
        }
        parent.set_mode(name, mode)?;
    }
    parent.set_mtime(name, mtime)
}

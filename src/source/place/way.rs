//! Whether something in the target that conflicts with the snapshot may be removed.

use super::Keep;
use crate::{
    entry::EntryPath,
    fs::{self, Dir, Stat},
    source::{own::OwnWithin, walk},
};

/// The reason why the file or folder at `path`, whose parent is `parent`, must stay; `None` if it may be removed, or does not
/// exist.
///
/// Files and links stay only if they are mount points. A folder stays if it is or contains one of cachectl's own folders, a mount
/// point, a path for which `keep` returns true, or an unreadable folder. All others may be removed in a `mirror`; otherwise only
/// an empty one.
///
/// # Errors
/// When the answer cannot be determined for lack of handles or memory, or `path` itself cannot be examined.
pub fn stays(
    parent: &Dir,
    path: &EntryPath,
    own: &OwnWithin,
    keep: &Keep<'_>,
    mirror: bool,
) -> fs::Result<Option<String>> {
    let name = path.name();
    let Some(stat) = parent.stat(name)? else {
        return Ok(None);
    };
    if !stat.is_dir() {
        let is_mounted = parent.is_mount_point(name)?;
        return Ok(is_mounted.then(|| "the file in its place is a mount point".to_owned()));
    }
    let look = Look { own, keep };
    if let Some(what) = look.at(parent, name, path, &stat)? {
        return Ok(Some(format!("the folder in its place {}", what.is())));
    }
    match look.below(parent, path)? {
        Below::Kept(below, what) if below == *path => {
            Ok(Some(format!("the folder in its place {}", what.is())))
        }
        Below::Kept(below, what) => Ok(Some(format!(
            "the folder in its place holds `{below}`, which {}",
            what.is()
        ))),
        Below::Something if !mirror => Ok(Some(
            "the folder in its place is not empty: remove it, or import with --mirror".to_owned(),
        )),
        Below::Something | Below::Nothing => Ok(None),
    }
}

/// Why something must not be removed.
enum Kept {
    Own,
    MountPoint,
    Excluded,
    Unreadable(std::io::Error),
}

impl Kept {
    fn is(&self) -> String {
        match self {
            Self::Own => "is cachectl's own".to_owned(),
            Self::MountPoint => "is a mount point".to_owned(),
            Self::Excluded => "is excluded".to_owned(),
            Self::Unreadable(e) => format!("cannot be read: {e}"),
        }
    }
}

enum Below {
    Nothing,
    Something,
    Kept(EntryPath, Kept),
}

struct Look<'a> {
    own: &'a OwnWithin,
    keep: &'a Keep<'a>,
}

impl Look<'_> {
    /// Examines `name` in `dir`.
    fn at(
        &self,
        dir: &Dir,
        name: &[u8],
        path: &EntryPath,
        stat: &Stat,
    ) -> fs::Result<Option<Kept>> {
        if walk::is_temp(name) || self.own.is(dir, name, stat) {
            return Ok(Some(Kept::Own));
        }
        if dir.is_mount_point(name)? {
            return Ok(Some(Kept::MountPoint));
        }
        let is_kept = (self.keep)(path.as_bytes(), stat.is_dir());
        Ok(is_kept.then_some(Kept::Excluded))
    }

    /// Examines everything in the folder `top`, without following links.
    fn below(&self, parent: &Dir, top: &EntryPath) -> fs::Result<Below> {
        let mut found = Below::Nothing;
        // Paths relative to `parent`.
        let mut folders = vec![top.name().to_vec()];
        while let Some(folder) = folders.pop() {
            let whole = match top.parent() {
                Some(above) => above.join(&folder),
                None => EntryPath::new(folder.clone()),
            };
            let (Ok(whole), Ok(below)) = (whole, EntryPath::new(folder.clone())) else {
                let e = std::io::ErrorKind::InvalidFilename.into();
                return Ok(Below::Kept(top.clone(), Kept::Unreadable(e)));
            };
            let listed = parent
                .open_below(&below)
                .and_then(|dir| dir.list().map(|names| (dir, names)));
            let (dir, names) = match listed {
                Ok(listed) => listed,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) if walk::is_fatal(&e.source) => return Err(e),
                Err(e) => return Ok(Below::Kept(whole, Kept::Unreadable(e.source))),
            };
            for child in names {
                found = Below::Something;
                let Ok(path) = whole.join(&child.name) else {
                    let e = std::io::ErrorKind::InvalidFilename.into();
                    return Ok(Below::Kept(whole, Kept::Unreadable(e)));
                };
                let stat = match dir.stat(&child.name) {
                    Ok(Some(stat)) => stat,
                    Ok(None) => continue,
                    Err(e) if walk::is_fatal(&e.source) => return Err(e),
                    // A folder that can be listed, but not entered.
                    Err(e) => return Ok(Below::Kept(path, Kept::Unreadable(e.source))),
                };
                if let Some(why) = self.at(&dir, &child.name, &path, &stat)? {
                    return Ok(Below::Kept(path, why));
                }
                if stat.is_dir() {
                    folders.push([&folder[..], b"/", &child.name[..]].concat());
                }
            }
        }
        Ok(found)
    }
}

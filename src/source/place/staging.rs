//! The staging folder: created, locked, and cleaned up after dead runs.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{Placed, Placement, StageTree, is_errno, moves};
use crate::{
    fs::{self, Dir, Lock, LockMode, Stat},
    source::{
        Error, Result,
        meta::Carry,
        walk::{TEMP_PREFIX, is_temp},
    },
};

const LOCK: &[u8] = b"lock";
const NEW: &[u8] = b"new";

/// A tree that is being staged for a target. Dropped without [`Staging::place`], it leaves the target unchanged.
#[derive(Debug)]
pub struct Staging {
    /// The target, its last links resolved.
    target: PathBuf,
    /// The folder that contains the staging folder.
    holder: Dir,
    name: Vec<u8>,
    container: Dir,
    tree: StageTree,
    _lock: Option<Lock>,
    /// There was no target: one rename turns the tree into the target.
    fresh: bool,
    /// Folders above the target that were created for it, from the top.
    made: Vec<PathBuf>,
    /// The target's previous mode, if it had to be made writable.
    mode_before: Option<u32>,
}

impl Staging {
    /// Creates a staging folder for `target` and removes those of dead runs.
    ///
    /// For an absent target it is next to the target, for an existing one inside: so a target that is a mount point, or whose
    /// parent is not writable, is staged on its own file system. Folders above the target are created.
    ///
    /// # Errors
    /// The target exists but is not a folder, or it is not writable.
    pub fn begin(target: &Path, carry: Carry) -> Result<Self> {
        let target = resolve(target)?;
        let mut made = Vec::new();
        let opened = match std::fs::symlink_metadata(&target) {
            Ok(m) if m.is_dir() => Some(Dir::open(&target)?),
            Ok(_) => {
                let shown = target.display();
                return Err(Error::Invalid(format!(
                    "`{shown}` is not a folder: remove it, or choose another target"
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(fs::Error::new("stat", target, e).into()),
        };
        let fresh = opened.is_none();
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(if target.is_absolute() { "/" } else { "." }));
        let holder = if let Some(dir) = opened {
            // A run that died before the target existed left its folder next to it.
            if let Ok(parent) = Dir::open(parent) {
                remove_dead(&parent);
            }
            dir
        } else {
            made = missing(parent);
            fs::make_dirs(parent)?;
            Dir::open(parent)?
        };
        remove_dead(&holder);
        let mut mode_before = None;
        let made_one = match Container::make(&holder) {
            Err(e) if !fresh && e.kind() == io::ErrorKind::PermissionDenied => {
                mode_before = make_writable(&holder)?;
                Container::make(&holder)
            }
            other => other,
        };
        let container = match made_one {
            Ok(container) => container,
            Err(e) => {
                remove_empty(&made);
                restore_mode(&holder, mode_before);
                return Err(e.into());
            }
        };
        Ok(Self {
            target,
            holder,
            name: container.name,
            tree: StageTree::new(container.new, carry, container.lost),
            container: container.dir,
            _lock: container.lock,
            fresh,
            made,
            mode_before,
        })
    }

    /// The target, its last links resolved.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The tree to fill.
    pub fn tree(&self) -> &StageTree {
        &self.tree
    }

    /// Returns true if there was no target when staging began.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Moves the staged tree into the target. The staging folder and replaced files are removed at the end.
    ///
    /// A new target appears atomically and complete. In an existing target each file or new folder does; a kill in between leaves
    /// some names old and some new, but none incomplete; folders may then lack their final permissions and times, which the next
    /// restore corrects. A folder and a file with the same name are exchanged in one step if the file system supports it.
    ///
    /// # Errors
    /// The first failure, as [`Error::Partly`] if something was already placed, which stays. `Invalid` if the entries contradict
    /// each other.
    pub fn place(mut self, plan: &Placement<'_>) -> Result<Placed> {
        let mut mover = moves::Mover::new(&self.tree, &self.container, plan);
        let target = if self.fresh {
            mover.complete()?;
            mover.give_folders_meta(self.tree.root())?;
            plan.leave.ask()?;
            let appeared = self.appear()?;
            self.made.clear();
            if let Some(target) = appeared {
                return Ok(Placed {
                    target,
                    moves: 1,
                    removed: 0,
                });
            }
            // Another process created it meanwhile: treat it as an existing target, for which everything is staged.
            self.holder.open_dir(target_name(&self.target))?
        } else {
            self.holder.try_clone()?
        };
        let done = mover.run(&target);
        let (moves, removed) = (mover.moves, mover.removed);
        // Files that were moved away and not replaced count as changes too.
        let changed = moves.max(mover.put_aside.min(1));
        done.map_err(|e| e.after(&self.target, changed, removed))?;
        Ok(Placed {
            target,
            moves,
            removed,
        })
    }

    /// Renames the staged root to the target; `None` if the target exists by now.
    fn appear(&self) -> Result<Option<Dir>> {
        let name = target_name(&self.target);
        let renamed = match self.container.rename_new(NEW, &self.holder, name) {
            Err(e) if is_errno(&e, &[Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP]) => {
                // Without `RENAME_NOREPLACE` at most an empty folder is replaced.
                self.container.rename(NEW, &self.holder, name)
            }
            other => other,
        };
        match renamed {
            Ok(()) => Ok(Some(self.holder.open_dir(name)?)),
            Err(e) if is_errno(&e, &[Errno::EXIST, Errno::NOTEMPTY]) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = self.holder.remove_tree(&self.name) {
            tracing::warn!(error = %e, "Staging folder not removed, the next import will");
        }
        remove_empty(&self.made);
        restore_mode(&self.holder, self.mode_before);
    }
}

/// The last name of an absent target; [`resolve`] guarantees that there is one.
fn target_name(target: &Path) -> &[u8] {
    target.file_name().unwrap_or_default().as_bytes()
}

/// Follows the links at the end of `target`, even dangling ones.
fn resolve(target: &Path) -> Result<PathBuf> {
    // `x/.` and `x/..` have no last name; the system resolves them.
    let mut path = match target.file_name() {
        Some(_) => target.to_owned(),
        None => target
            .canonicalize()
            .map_err(|e| fs::Error::new("resolve", target, e))?,
    };
    for _ in 0..40 {
        let Ok(to) = std::fs::read_link(&path) else {
            return Ok(path);
        };
        path = match path.parent() {
            Some(parent) => parent.join(to),
            None => to,
        };
        if path.file_name().is_none() {
            path = path
                .canonicalize()
                .map_err(|e| fs::Error::new("resolve", target, e))?;
        }
    }
    Err(Error::Invalid(format!(
        "too many links in `{}`",
        target.display()
    )))
}

/// The folders of `path` that do not exist, from the top.
fn missing(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = path
        .ancestors()
        .take_while(|p| !p.as_os_str().is_empty() && !p.exists())
        .map(Path::to_owned)
        .collect();
    all.reverse();
    all
}

fn remove_empty(made: &[PathBuf]) {
    for path in made.iter().rev() {
        // Another process may use it by now.
        let _ = std::fs::remove_dir(path);
    }
}

/// Makes a folder of our own user writable; returns its previous mode if that changed it.
fn make_writable(dir: &Dir) -> fs::Result<Option<u32>> {
    let mode = dir.stat_self()?.mode();
    if mode & 0o300 == 0o300 {
        return Ok(None);
    }
    fs::set_open_mode(dir.as_fd(), mode | 0o700)
        .map_err(|e| fs::Error::new("write into", dir.path(), e))?;
    Ok(Some(mode))
}

fn restore_mode(dir: &Dir, mode: Option<u32>) {
    if let Some(mode) = mode
        && let Err(e) = fs::set_open_mode(dir.as_fd(), mode)
    {
        tracing::warn!(path = %dir.path().display(), error = %e, "Permissions not restored");
    }
}

struct Container {
    name: Vec<u8>,
    dir: Dir,
    new: Dir,
    lock: Option<Lock>,
    lost: u32,
}

impl Container {
    fn make(holder: &Dir) -> fs::Result<Self> {
        loop {
            let name = temp_name();
            match holder.make_dir(&name, 0o777) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            match Self::furnish(holder, &name) {
                Ok(Some(container)) => return Ok(container),
                // Another process took it for dead just before it was locked.
                Ok(None) => {}
                Err(e) => {
                    // Report the first error.
                    let _ = holder.remove_tree(&name);
                    return Err(e);
                }
            }
        }
    }

    fn furnish(holder: &Dir, name: &[u8]) -> fs::Result<Option<Self>> {
        let Some(stat) = holder.stat(name)? else {
            return Ok(None);
        };
        let lost = 0o777 & !stat.mode();
        if lost & 0o700 != 0 {
            holder.set_mode(name, 0o700)?;
        }
        let Some(dir) = fs::missing_is_none(holder.open_dir(name))? else {
            return Ok(None);
        };
        fs::set_open_mode(dir.as_fd(), 0o700)
            .map_err(|e| fs::Error::new("set mode of", dir.path(), e))?;
        let lock = match dir.create_file(LOCK, 0o600) {
            Ok(file) => file,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let mine = fs::stat_file(&lock).map_err(|e| fs::Error::new("stat", dir.at(LOCK), e))?;
        let lock = match Lock::try_file(lock, &dir.at(LOCK), LockMode::Exclusive) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Ok(None),
            Err(e) => {
                // If locks are not supported, no process can take the folder for dead either.
                tracing::debug!(error = %e, "Staging folder not locked");
                None
            }
        };
        if !same(dir.stat(LOCK)?, &mine) || !same(holder.stat(name)?, &dir.stat_self()?) {
            return Ok(None);
        }
        dir.make_dir(NEW, 0o777)?;
        if lost & 0o700 != 0 {
            dir.set_mode(NEW, 0o777 & !lost | 0o700)?;
        }
        Ok(Some(Self {
            name: name.to_vec(),
            new: dir.open_dir(NEW)?,
            dir,
            lock,
            lost,
        }))
    }
}

fn same(a: Option<Stat>, b: &Stat) -> bool {
    a.is_some_and(|a| (a.dev, a.ino) == (b.dev, b.ino))
}

pub(super) fn temp_name() -> Vec<u8> {
    let mut name = TEMP_PREFIX.to_vec();
    name.extend_from_slice(format!("{:016x}", fastrand::u64(..)).as_bytes());
    name
}

/// Removes staging folders of dead runs in `holder`: those of our own user whose lock is free. Errors are ignored.
pub(super) fn remove_dead(holder: &Dir) {
    let names = match holder.list() {
        Ok(names) => names,
        Err(e) => {
            tracing::debug!(error = %e, "Did not search for dead staging folders");
            return;
        }
    };
    for name in names {
        if is_temp(&name.name)
            && let Err(e) = remove_if_dead(holder, &name.name)
        {
            tracing::debug!(error = %e, "Dead staging folder not removed");
        }
    }
}

fn remove_if_dead(holder: &Dir, name: &[u8]) -> fs::Result<()> {
    let Some(stat) = holder.stat(name)? else {
        return Ok(());
    };
    if stat.uid != fs::user_id() {
        return Ok(());
    }
    let (file, path) = if stat.is_dir() {
        let dir = holder.open_dir(name)?;
        let file = match dir.open_file(LOCK) {
            Ok(file) => file,
            // It is just being created, or its creator was killed: a lock created by us makes a live creator choose another
            // folder.
            Err(e) if e.kind() == io::ErrorKind::NotFound => dir.create_file(LOCK, 0o600)?,
            Err(e) => return Err(e),
        };
        (file, dir.at(LOCK))
    } else if stat.is_file() {
        (holder.open_file(name)?, holder.at(name))
    } else {
        return holder.remove_file(name);
    };
    match Lock::try_file(file, &path, LockMode::Exclusive)? {
        None => Ok(()),
        Some(_held) => holder.remove_tree(name),
    }
}

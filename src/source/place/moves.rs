//! From the staged tree into the target, name by name.

use rustix::{fs::FileType, io::Errno};

use super::{Placement, StageTree, is_below, is_errno, mirror, stays, tree_order};
use crate::{
    entry::{EntryPath, Kind},
    fs::{self, Dir, Parents},
    source::{Error, Result, meta},
};

/// System errors for a name that is taken by another kind of file, or by a non-empty folder.
const IN_THE_WAY: [Errno; 4] = [Errno::ISDIR, Errno::NOTDIR, Errno::EXIST, Errno::NOTEMPTY];
/// System errors if the file system cannot exchange names.
const NO_EXCHANGE: [Errno; 4] = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::XDEV];
/// System errors for a read-only folder.
const READ_ONLY: [Errno; 2] = [Errno::ACCESS, Errno::PERM];

/// One rename.
#[derive(Debug)]
struct Move {
    /// Position in `Mover::order` of the first entry that moves.
    at: usize,
    path: EntryPath,
    /// Single files by their rank; a folder with all its contents comes after the first rank.
    rank: (u8, bool),
}

/// Moves one staged tree into one target.
pub(super) struct Mover<'a> {
    pub(super) tree: &'a StageTree,
    /// Takes files that are replaced.
    container: &'a Dir,
    pub(super) plan: &'a Placement<'a>,
    /// Indices of the entries in tree order.
    pub(super) order: Vec<usize>,
    /// By index: whether it is in the staged tree and must be moved.
    pub(super) in_stage: Vec<bool>,
    /// Hard links that can only be created in the target itself, by index.
    pub(super) late: Vec<usize>,
    /// Folders that were made writable, and their previous modes.
    writable: Vec<(EntryPath, u32)>,
    /// Renames that were done.
    pub(super) moves: u64,
    /// Names that the mirror removed.
    pub(super) removed: u64,
    pub(super) put_aside: u64,
    /// The staged tree has already been completed, for an absent target.
    completed: bool,
}

impl<'a> Mover<'a> {
    pub(super) fn new(tree: &'a StageTree, container: &'a Dir, plan: &'a Placement<'a>) -> Self {
        let path = |i: usize| plan.entries[i].path.as_bytes();
        let mut order: Vec<usize> = (0..plan.entries.len()).collect();
        // Entries are sorted by bytes, which is nearly the same order: a stable sort only merges its runs.
        order.sort_by(|a, b| tree_order(path(*a), path(*b)));
        Self {
            tree,
            container,
            plan,
            in_stage: vec![false; plan.entries.len()],
            order,
            late: Vec::new(),
            writable: Vec::new(),
            moves: 0,
            removed: 0,
            put_aside: 0,
            completed: false,
        }
    }

    /// Moves everything into an existing target; `moves` and `removed` count the progress, even if it fails.
    pub(super) fn run(&mut self, target: &Dir) -> Result<()> {
        if !self.completed {
            self.complete_for(Some(target))?;
        }
        let mut done = || {
            for m in self.moves(target)? {
                self.plan.leave.ask()?;
                self.carry_out(target, &m)?;
            }
            self.make_late_links(target)?;
            match self.plan.mirror {
                Some(keep) => {
                    let (plan, mut removed) = (self.plan, 0);
                    let loosen = |path, dir: &Dir| self.loosen(path, dir);
                    let done = mirror::run(plan, target, keep, loosen, &mut removed);
                    self.removed += removed;
                    done
                }
                None => Ok(()),
            }
        };
        let done = done();
        self.restore_modes(target);
        done?;
        self.give_folders_meta(target)
    }

    /// Creates all folders and links in the staged tree, which will become the target.
    pub(super) fn complete(&mut self) -> Result<()> {
        self.complete_for(None)?;
        self.completed = true;
        Ok(())
    }

    /// Creates the folders and links that the target lacks in the staged tree.
    fn complete_for(&mut self, target: Option<&Dir>) -> Result<()> {
        let (entries, carry) = (self.plan.entries, self.tree.carry());
        if self.plan.staged.len() != entries.len()
            || !entries.windows(2).all(|w| w[0].path < w[1].path)
        {
            return Err(Error::Invalid(
                "the entries to be placed are not in order".to_owned(),
            ));
        }
        let mut there = target.map(Parents::new);
        for at in 0..self.order.len() {
            let i = self.order[at];
            let entry = entries[i];
            self.in_stage[i] = match &entry.kind {
                Kind::File { .. } => {
                    if target.is_none() && !self.plan.staged[i] {
                        let why = format!("`{}` has not been staged", entry.path);
                        return Err(Error::Invalid(why));
                    }
                    self.plan.staged[i]
                }
                Kind::Dir => {
                    let is_there =
                        stat(&mut there, &entry.path)?.is_some_and(|(_, stat)| stat.is_dir());
                    if !is_there {
                        self.tree.make_dir(&entry.path)?;
                    }
                    !is_there
                }
                Kind::Symlink(to) => {
                    let same = match stat(&mut there, &entry.path)? {
                        Some((dir, stat)) if stat.file_type() == FileType::Symlink => {
                            dir.read_link(entry.path.name())? == *to
                        }
                        _ => false,
                    };
                    if !same {
                        let folder = self.tree.folder_of(&entry.path)?;
                        folder.symlink(to, entry.path.name())?;
                        meta::give_meta(&folder, entry, (self.plan.mtime)(entry), carry)?;
                    }
                    !same
                }
                // When all files are known.
                Kind::Hardlink(_) => false,
            };
        }
        for at in 0..self.order.len() {
            let i = self.order[at];
            if let Kind::Hardlink(to) = &entries[i].kind {
                self.in_stage[i] = self.stage_hard_link(i, to, target)?;
            }
        }
        Ok(())
    }

    /// Returns true if the link was created in the staged tree: not if the existing one is right, or if it must be created late.
    fn stage_hard_link(&mut self, i: usize, to: &EntryPath, target: Option<&Dir>) -> Result<bool> {
        let entries = self.plan.entries;
        let entry = entries[i];
        let file = entries
            .binary_search_by(|e| e.path.cmp(to))
            .ok()
            .filter(|j| entries[*j].kind.is_file());
        let Some(j) = file else {
            return Err(Error::Invalid(format!(
                "`{}` is a hard link to `{to}`, which is not a file of the snapshot",
                entry.path
            )));
        };
        let folder = self.tree.folder_of(&entry.path)?;
        if self.in_stage[j] {
            let from = self.tree.folder_of(to)?;
            from.hard_link(to.name(), &folder, entry.path.name())?;
            return Ok(true);
        }
        let mut there = target.map(Parents::new);
        let other = stat(&mut there, &entry.path)?.map(|(_, s)| (s.dev, s.ino));
        let Some((from, stat)) = stat(&mut there, to)? else {
            let why = format!("`{to}` has not been staged and is not there");
            return Err(Error::Invalid(why));
        };
        if other == Some((stat.dev, stat.ino)) {
            return Ok(false);
        }
        match from.hard_link(to.name(), &folder, entry.path.name()) {
            Ok(()) => Ok(true),
            Err(e) if is_errno(&e, &[Errno::XDEV]) => {
                self.late.push(i);
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The smallest set of renames that moves everything, in the order of execution.
    fn moves(&self, target: &Dir) -> Result<Vec<Move>> {
        let mut there = Some(Parents::new(target));
        let mut moves: Vec<Move> = Vec::new();
        // Folders above the current entry that both trees have.
        let mut both: Vec<&[u8]> = Vec::new();
        for (at, i) in self.order.iter().enumerate() {
            let entry = self.plan.entries[*i];
            let path = entry.path.as_bytes();
            let goes_along = |m: &Move| m.rank.1 && is_below(path, m.path.as_bytes());
            if !self.in_stage[*i] || moves.last().is_some_and(goes_along) {
                continue;
            }
            while both.last().is_some_and(|above| !is_below(path, above)) {
                both.pop();
            }
            let mut end = both.last().map_or(0, |above| above.len() + 1);
            loop {
                let rest = path[end..].iter().position(|b| *b == b'/');
                end = rest.map_or(path.len(), |n| end + n);
                let whole = end == path.len();
                let folder = !whole || entry.kind == Kind::Dir;
                let prefix = EntryPath::new(&path[..end]).map_err(|e| {
                    // A prefix of a path is one.
                    Error::Invalid(e.to_string())
                })?;
                if !folder || !stat(&mut there, &prefix)?.is_some_and(|(_, s)| s.is_dir()) {
                    let rank = if folder { 0 } else { (self.plan.rank)(&prefix) };
                    moves.push(Move {
                        at,
                        path: prefix,
                        rank: (rank, folder),
                    });
                    break;
                }
                both.push(&path[..end]);
                if whole {
                    break;
                }
                end += 1;
            }
        }
        // Stable: within a rank the tree's order stays.
        moves.sort_by_key(|m| m.rank);
        Ok(moves)
    }

    #[cfg(test)]
    pub(super) fn order_of_moves(mut self, target: &Dir) -> Vec<String> {
        self.complete_for(Some(target)).unwrap();
        let moves = self.moves(target).unwrap();
        moves.iter().map(|m| m.path.to_string()).collect()
    }

    fn carry_out(&mut self, target: &Dir, m: &Move) -> Result<()> {
        let from = self.tree.folder_of(&m.path)?;
        let Some(to) = target.open_parent_if_there(&m.path)? else {
            let why = format!("the folder of `{}` vanished from the target", m.path);
            return Err(Error::Invalid(why));
        };
        let name = m.path.name();
        let mut tried_writable = false;
        loop {
            let Err(e) = from.rename(name, &to, name) else {
                self.moves += 1;
                return Ok(());
            };
            if is_errno(&e, &READ_ONLY) && !tried_writable {
                tried_writable = true;
                self.make_writable(&m.path, &from, &to)?;
            } else if is_errno(&e, &[Errno::XDEV]) {
                self.moves += 1;
                return self.copy_over(target, m.at, &m.path);
            } else if is_errno(&e, &IN_THE_WAY) {
                let theirs = to.stat(name)?.is_some_and(|s| s.is_dir());
                if m.rank.1 && theirs {
                    // Another process created it meanwhile: now both trees have it.
                    self.moves += 1;
                    return self.copy_over(target, m.at, &m.path);
                }
                self.may_go(&to, &m.path)?;
                match from.exchange(name, &to, name) {
                    Ok(()) => {
                        self.moves += 1;
                        return Ok(());
                    }
                    Err(e) if is_errno(&e, &NO_EXCHANGE) => self.put_aside(&to, name)?,
                    Err(e) if is_errno(&e, &READ_ONLY) && !tried_writable => {
                        tried_writable = true;
                        self.make_writable(&m.path, &from, &to)?;
                    }
                    Err(e) => return Err(e.into()),
                }
            } else {
                return Err(e.into());
            }
        }
    }

    /// Refuses to remove a folder that appeared at the path since the entries were chosen.
    pub(super) fn may_go(&self, parent: &Dir, path: &EntryPath) -> Result<()> {
        let (own, mirror) = (self.plan.own, self.plan.mirror);
        match stays(
            parent,
            path,
            own,
            mirror.unwrap_or(&|_, _| false),
            mirror.is_some(),
        )? {
            Some(why) => Err(Error::Invalid(format!("cannot restore `{path}`: {why}"))),
            None => Ok(()),
        }
    }

    /// Moves `name` out of the way, into the container, which is removed at the end.
    pub(super) fn put_aside(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        self.put_aside += 1;
        let aside = format!("old-{}", self.put_aside);
        match dir.rename(name, self.container, aside.as_bytes()) {
            // Another file system, or a layer below an overlay: it cannot be kept until the end.
            Err(e) if is_errno(&e, &[Errno::XDEV]) => Ok(dir.remove_tree(name)?),
            other => Ok(other?),
        }
    }

    /// Makes renames into a read-only folder possible, and of read-only folders (a rename writes their `..`), if they belong to
    /// us.
    fn make_writable(&mut self, path: &EntryPath, from: &Dir, to: &Dir) -> Result<()> {
        if let Some(parent) = path.parent()
            && let Some(mode) = loosen(to)?
        {
            self.writable.push((parent, mode));
        }
        loosen(from)?;
        let name = path.name();
        for dir in [from, to] {
            if dir.stat(name)?.is_some_and(|s| s.is_dir()) {
                // The staged folder gets its final mode at the end; the other one is being removed.
                dir.set_mode(name, 0o700)?;
            }
        }
        Ok(())
    }

    /// As [`Mover::make_writable`], for the removal of names in the folder `path`.
    pub(super) fn loosen(&mut self, path: Option<EntryPath>, dir: &Dir) -> Result<()> {
        if let (Some(mode), Some(path)) = (loosen(dir)?, path) {
            self.writable.push((path, mode));
        }
        Ok(())
    }

    fn restore_modes(&mut self, target: &Dir) {
        for (path, mode) in self.writable.drain(..).rev() {
            let restored = match target.open_parent_if_there(&path) {
                // It may have been removed since.
                Ok(Some(dir)) => match dir.stat(path.name()) {
                    Ok(Some(_)) => dir.set_mode(path.name(), mode),
                    other => other.map(drop),
                },
                other => other.map(drop),
            };
            if let Err(e) = restored {
                tracing::warn!(error = %e, "Permissions of a folder not restored");
            }
        }
    }

    /// Sets the final permissions and times of folders, deepest first, since each change below a folder changes its time.
    pub(super) fn give_folders_meta(&self, root: &Dir) -> Result<()> {
        let carry = self.tree.carry();
        let mut parents = Parents::new(root);
        for i in self.order.iter().rev() {
            let entry = self.plan.entries[*i];
            if entry.kind != Kind::Dir {
                continue;
            }
            let Some(parent) = parents.of(&entry.path)? else {
                continue;
            };
            let Some(stat) = parent.stat(entry.path.name())?.filter(fs::Stat::is_dir) else {
                continue;
            };
            let mtime = (self.plan.mtime)(entry);
            let right = !carry.xattrs
                && !carry.gives_away()
                && stat.mtime == mtime
                && stat.mode() == carry.mode(entry.meta.mode);
            if !right {
                meta::give_meta(parent, entry, mtime, carry)?;
            }
        }
        Ok(())
    }
}

/// The parent of `path` in the target, and the `stat` of `path`.
fn stat<'p>(
    there: &'p mut Option<Parents<'_>>,
    path: &EntryPath,
) -> fs::Result<Option<(&'p Dir, fs::Stat)>> {
    let Some(parents) = there else {
        return Ok(None);
    };
    let Some(dir) = parents.of(path)? else {
        return Ok(None);
    };
    Ok(dir.stat(path.name())?.map(|stat| (dir, stat)))
}

/// Makes a folder writable for its owner; returns its previous mode if that changed it.
fn loosen(dir: &Dir) -> fs::Result<Option<u32>> {
    let mode = dir.stat_self()?.mode();
    if mode & 0o700 == 0o700 {
        return Ok(None);
    }
    fs::set_open_mode(dir.as_fd(), mode | 0o700)
        .map_err(|e| fs::Error::new("write into", dir.path(), e))?;
    Ok(Some(mode))
}

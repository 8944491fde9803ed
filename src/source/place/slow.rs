//! Fallback if a rename is impossible: mount points in the target, layers of an overlay, folders that appeared meanwhile.
//!
//! Works entry by entry; files are copied to a temporary name next to their path, locked while the process lives, and renamed.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{is_below, is_errno, moves::Mover, staging};
use crate::{
    entry::{Entry, EntryPath, Extent, Kind},
    fs::{self, Dir, Lock, LockMode},
    source::{Result, meta},
};
use rustix::io::Errno;

const PIECE: usize = 1 << 20;

#[cfg(test)]
thread_local! {
    /// If set, no file can be renamed, as if the target were on another file system.
    pub(super) static ONLY_COPY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn rename_over(from: &Dir, to: &Dir, name: &[u8]) -> bool {
    #[cfg(test)]
    if ONLY_COPY.get() {
        return false;
    }
    from.rename(name, to, name).is_ok()
}

impl Mover<'_> {
    /// Copies everything staged at `path` or below, which starts at position `at`.
    pub(super) fn copy_over(&mut self, target: &Dir, at: usize, path: &EntryPath) -> Result<()> {
        let mut cleaned: Option<EntryPath> = None;
        for next in at..self.order.len() {
            let i = self.order[next];
            let entry = self.plan.entries[i];
            if entry.path != *path && !is_below(entry.path.as_bytes(), path.as_bytes()) {
                break;
            }
            if !self.in_stage[i] {
                continue;
            }
            self.plan.leave.ask()?;
            let to = self.make_way(target, &entry.path)?;
            if entry.path.parent() != cleaned {
                cleaned = entry.path.parent();
                staging::remove_dead(&to);
            }
            let name = entry.path.name();
            match &entry.kind {
                Kind::Dir => self.make_folder(&to, name)?,
                Kind::Hardlink(_) => self.late.push(i),
                Kind::Symlink(link) => {
                    let temp = staging::temp_name();
                    to.symlink(link, &temp)?;
                    meta::give_meta_named(
                        &to,
                        &temp,
                        entry,
                        (self.plan.mtime)(entry),
                        self.tree.carry(),
                    )?;
                    self.swap_in(&to, &temp, &entry.path)?;
                }
                Kind::File { .. } => {
                    let from = self.tree.folder_of(&entry.path)?;
                    if !rename_over(&from, &to, name) {
                        self.copy_file(&from, &to, entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Hard links between files of a file system on which nothing could be staged.
    pub(super) fn make_late_links(&mut self, target: &Dir) -> Result<()> {
        for i in std::mem::take(&mut self.late) {
            let entry = self.plan.entries[i];
            let Kind::Hardlink(file) = &entry.kind else {
                continue;
            };
            self.plan.leave.ask()?;
            let to = self.make_way(target, &entry.path)?;
            let temp = staging::temp_name();
            target
                .open_parent(file)?
                .hard_link(file.name(), &to, &temp)?;
            self.swap_in(&to, &temp, &entry.path)?;
            // Renaming between two names of the same file does nothing.
            to.remove_file(&temp)?;
        }
        Ok(())
    }

    /// The folder that contains `path` in the target, created if missing; a non-folder in its place is replaced.
    fn make_way(&mut self, target: &Dir, path: &EntryPath) -> Result<Dir> {
        let mut dir = target.try_clone()?;
        if let Some(parent) = path.parent() {
            for name in parent.names() {
                self.make_folder(&dir, name)?;
                dir = dir.open_dir(name)?;
            }
        }
        Ok(dir)
    }

    fn make_folder(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        match dir.stat(name)? {
            Some(stat) if stat.is_dir() => return Ok(()),
            Some(_) => self.put_aside(dir, name)?,
            None => {}
        }
        match dir.make_dir(name, 0o777) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn copy_file(&mut self, from: &Dir, to: &Dir, entry: &Entry) -> Result<()> {
        let name = entry.path.name();
        let (temp, file) = locked_temp(to, entry.meta.mode)?;
        let mut copied = || -> Result<()> {
            let source = from.open_file(name)?;
            copy_data(&source, &file).map_err(|e| fs::Error::new("copy to", to.at(name), e))?;
            let stat =
                fs::stat_file(&source).map_err(|e| fs::Error::new("stat", from.at(name), e))?;
            self.tree.finish_file(&file, entry, stat.mtime)?;
            self.swap_in(to, &temp, &entry.path)
        };
        let result = copied();
        if result.is_err() {
            // Report the error of the copy itself.
            let _ = to.remove_file(&temp);
        }
        result
    }

    fn swap_in(&mut self, dir: &Dir, temp: &[u8], path: &EntryPath) -> Result<()> {
        let name = path.name();
        match dir.rename(temp, dir, name) {
            Err(e) if is_errno(&e, &[Errno::ISDIR, Errno::NOTEMPTY, Errno::EXIST]) => {
                self.may_go(dir, path)?;
                self.put_aside(dir, name)?;
                Ok(dir.rename(temp, dir, name)?)
            }
            other => Ok(other?),
        }
    }
}

/// A new temporary file that is ours while the handle lives.
fn locked_temp(dir: &Dir, mode: u32) -> Result<(Vec<u8>, File)> {
    loop {
        let name = staging::temp_name();
        let file = dir.create_file(&name, mode & 0o777)?;
        let path = dir.at(&name);
        let handle = file
            .try_clone()
            .map_err(|e| fs::Error::new("duplicate handle of", &path, e))?;
        // The lock belongs to the open file, so the clone holds it too.
        match Lock::try_file(handle, &path, LockMode::Exclusive) {
            Ok(Some(lock)) => drop(lock),
            Ok(None) => continue,
            Err(e) => tracing::debug!(error = %e, "Temporary file not locked"),
        }
        if dir.stat(&name)?.is_some() {
            return Ok((name, file));
        }
    }
}

fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let stat = fs::stat_file(from)?;
    let runs = if fs::may_be_sparse(&stat) {
        fs::data_runs(from, stat.size)?
    } else {
        None
    };
    let whole = [Extent {
        offset: 0,
        len: stat.size,
    }];
    let mut buf = vec![0; PIECE];
    for run in runs.as_deref().unwrap_or(&whole) {
        let (mut at, end) = (run.offset, run.offset + run.len);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let n = from.read_at(&mut buf[..want], at)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buf[..n], at)?;
            at += n as u64;
        }
    }
    // At the end: Go uses the only file in a program's folder, whatever its name, if its size is right.
    to.set_len(stat.size)
}

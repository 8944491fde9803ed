//! Walking a tree: visits every name once, on all cores, by folder handles, without following links.
//!
//! Mount points below the root are treated like any other folder (use `--exclude` to leave them out). Staging folders of imports
//! (`.cachectl-tmp-…`) and cachectl's own folders ([`super::own`]) are never visited.

use std::{io, sync::Arc};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::{Result, Skipped, own::OwnWithin};
use crate::{
    entry::EntryPath,
    fs::{Dir, DirName, Stat},
};

/// Prefix of cachectl's temporary names: staging folders, partly copied files. Never exported, never removed by a mirroring
/// import.
pub const TEMP_PREFIX: &[u8] = b".cachectl-tmp-";

/// Returns true for a temporary name of cachectl: the prefix and 16 hexadecimal digits. Other names with that prefix must not be
/// hidden or removed.
pub fn is_temp(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(TEMP_PREFIX) else {
        return false;
    };
    let random = rest.strip_prefix(b"probe-").unwrap_or(rest);
    random.len() == 16
        && random
            .iter()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Names processed at once, so that one large folder keeps all cores busy.
const BATCH: usize = 1024;
/// More threads than this have no benefit on one file system.
const MOST_THREADS: usize = 8;

/// One name that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// The folder that contains it.
    pub dir: &'a Dir,
    /// Its path below the root; the last name is the one in `dir`.
    pub path: &'a EntryPath,
    /// Its metadata.
    pub stat: &'a Stat,
}

/// The results of a visitor.
#[derive(Debug)]
pub struct Gathered<T> {
    /// In no order.
    pub items: Vec<T>,
    /// In no order.
    pub skipped: Vec<Skipped>,
    /// Visited folders that cannot be listed, so that their contents are unknown. In no order.
    pub unlisted: Vec<EntryPath>,
}

impl<T> Gathered<T> {
    fn new() -> Self {
        Self {
            items: Vec::new(),
            skipped: Vec::new(),
            unlisted: Vec::new(),
        }
    }

    /// Records that `path` is left out.
    pub fn skip(&mut self, path: &(impl ToString + ?Sized), why: impl Into<String>) {
        self.skipped.push(Skipped {
            path: path.to_string(),
            why: why.into(),
        });
    }
}

/// Calls `wanted` for every name (`path`, and whether `stat` shows a folder) and `visit` for the wanted ones; unwanted folders
/// are not entered.
///
/// Names that vanish meanwhile are skipped. A folder that cannot be listed is visited, and recorded as skipped and unlisted.
///
/// # Errors
/// Those of `visit`, and lack of handles or memory, since the result might be incomplete.
pub fn walk<T: Send>(
    root: &Dir,
    own: &OwnWithin,
    wanted: &(dyn Fn(&[u8], bool) -> bool + Sync),
    visit: &(dyn Fn(&Found<'_>, &mut Gathered<T>) -> Result<()> + Sync),
) -> Result<Gathered<T>> {
    let queue = Queue::new(WalkTask::List(None));
    let walker = Walker {
        root,
        own,
        wanted,
        visit,
        queue: &queue,
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS));
    let mut all = Gathered::new();
    std::thread::scope(|scope| -> Result<()> {
        let helpers: Vec<_> = (1..threads)
            .map(|_| scope.spawn(|| walker.work()))
            .collect();
        let mut results = vec![walker.work()];
        for helper in helpers {
            match helper.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        for result in results {
            let mut part = result?;
            all.items.append(&mut part.items);
            all.skipped.append(&mut part.skipped);
            all.unlisted.append(&mut part.unlisted);
        }
        Ok(())
    })?;
    Ok(all)
}

enum WalkTask {
    /// A folder to open and list; `None` is the root.
    List(Option<EntryPath>),
    /// Names of an open folder.
    Names(Arc<Dir>, Option<EntryPath>, Vec<DirName>),
}

struct Walker<'a, T> {
    root: &'a Dir,
    own: &'a OwnWithin,
    wanted: &'a (dyn Fn(&[u8], bool) -> bool + Sync),
    visit: &'a (dyn Fn(&Found<'_>, &mut Gathered<T>) -> Result<()> + Sync),
    queue: &'a Queue,
}

impl<T> Walker<'_, T> {
    fn work(&self) -> Result<Gathered<T>> {
        let mut out = Gathered::new();
        while let Some(job) = self.queue.next() {
            // Counts the job as done even if it panics, so that the others do not wait for it forever.
            let done = Done(self.queue);
            let result = match job {
                WalkTask::List(path) => self.list(path.as_ref(), &mut out),
                WalkTask::Names(dir, path, names) => {
                    self.names(&dir, path.as_ref(), &names, &mut out)
                }
            };
            if result.is_err() {
                self.queue.stop();
            }
            drop(done);
            result?;
        }
        Ok(out)
    }

    fn list(&self, path: Option<&EntryPath>, out: &mut Gathered<T>) -> Result<()> {
        let opened = match path {
            None => self.root.try_clone(),
            Some(path) => self.root.open_below(path),
        };
        let listed = opened.and_then(|dir| dir.list().map(|names| (dir, names)));
        let (dir, mut names) = match (listed, path) {
            (Ok(listed), _) => listed,
            (Err(e), Some(path)) if !is_fatal(&e.source) => {
                if e.kind() != io::ErrorKind::NotFound {
                    out.unlisted.push(path.clone());
                    out.skip(path, format!("the folder cannot be listed: {}", e.source));
                }
                return Ok(());
            }
            (Err(e), _) => return Err(e.into()),
        };
        names.retain(|n| !is_temp(&n.name));
        if names.len() <= BATCH {
            return self.names(&dir, path, &names, out);
        }
        let dir = Arc::new(dir);
        while !names.is_empty() {
            let rest = names.split_off(names.len().min(BATCH));
            self.queue
                .add(WalkTask::Names(Arc::clone(&dir), path.cloned(), names));
            names = rest;
        }
        Ok(())
    }

    fn names(
        &self,
        dir: &Dir,
        parent: Option<&EntryPath>,
        names: &[DirName],
        out: &mut Gathered<T>,
    ) -> Result<()> {
        for name in names {
            let path = match parent {
                Some(parent) => parent.join(&name.name),
                None => EntryPath::new(name.name.clone()),
            };
            let path = match path {
                Ok(path) => path,
                Err(e) => {
                    out.skip(&e.path, e.why);
                    continue;
                }
            };
            if self.own.covers(path.as_bytes()) {
                continue;
            }
            // If the listing shows the type, unwanted names need no `stat`.
            if let Some(is_dir) = name.is_dir
                && !(self.wanted)(path.as_bytes(), is_dir)
            {
                continue;
            }
            let stat = match dir.stat(&name.name) {
                Ok(Some(stat)) => stat,
                Ok(None) => continue,
                Err(e) if !is_fatal(&e.source) => {
                    out.skip(&path, format!("it cannot be examined: {}", e.source));
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            if name.is_dir != Some(stat.is_dir()) && !(self.wanted)(path.as_bytes(), stat.is_dir())
            {
                continue;
            }
            if self.own.is(dir, &name.name, &stat) {
                continue;
            }
            (self.visit)(
                &Found {
                    dir,
                    path: &path,
                    stat: &stat,
                },
                out,
            )?;
            if stat.is_dir() {
                self.queue.add(WalkTask::List(Some(path)));
            }
        }
        Ok(())
    }
}

/// Returns true if an error is about this process rather than about one file.
pub(super) fn is_fatal(e: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// Jobs, last in first out, so that it holds little more than the unlisted folders of one path.
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

struct QueueState {
    jobs: Vec<WalkTask>,
    /// Jobs that are waiting or running.
    open: usize,
    stopped: bool,
}

struct Done<'a>(&'a Queue);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        if std::thread::panicking() {
            state.stopped = true;
        }
        if state.open == 0 || state.stopped {
            self.0.changed.notify_all();
        }
    }
}

impl Queue {
    fn new(first: WalkTask) -> Self {
        Self {
            state: Mutex::new(QueueState {
                jobs: vec![first],
                open: 1,
                stopped: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn add(&self, job: WalkTask) {
        let mut state = self.state.lock();
        state.jobs.push(job);
        state.open += 1;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<WalkTask> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                return Some(job);
            }
            if state.open == 0 {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Error;

    fn paths(root: &std::path::Path, wanted: &(dyn Fn(&[u8], bool) -> bool + Sync)) -> Vec<String> {
        let root = Dir::open(root).unwrap();
        let got = walk(
            &root,
            &OwnWithin::default(),
            wanted,
            &|found: &Found<'_>, out| {
                out.items.push(found.path.to_string());
                Ok(())
            },
        )
        .unwrap();
        let mut items = got.items;
        items.sort();
        items
    }

    #[test]
    fn every_name_is_found_once_and_links_are_not_entered() {
        let temp = tempfile::tempdir().unwrap();
        let at = |p: &str| temp.path().join(p);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::create_dir_all(at(".cachectl-tmp-000000000000000a/y")).unwrap();
        std::fs::write(at("a/b/f"), b"").unwrap();
        std::os::unix::fs::symlink("a", at("l")).unwrap();
        for i in 0..3000 {
            std::fs::write(at(&format!("a/{i}")), b"").unwrap();
        }
        let got = paths(temp.path(), &|_, _| true);
        assert_eq!(got.len(), 3004);
        assert!(got.contains(&"a/b/f".to_owned()) && got.contains(&"l".to_owned()));
        assert_eq!(paths(temp.path(), &|p, _| p != b"a"), ["l"]);
        assert_eq!(paths(temp.path(), &|_, is_dir| is_dir), ["a", "a/b"]);
    }

    #[test]
    fn an_error_of_the_visitor_ends_the_walk() {
        let temp = tempfile::tempdir().unwrap();
        for i in 0..100 {
            std::fs::create_dir(temp.path().join(i.to_string())).unwrap();
        }
        let root = Dir::open(temp.path()).unwrap();
        let got = walk::<()>(&root, &OwnWithin::default(), &|_, _| true, &|found, _| {
            Err(Error::Invalid(found.path.to_string()))
        });
        assert!(got.is_err());
    }
}

//! The 256 folders of a build cache, opened once each, and work on them by all cores.

use crate::{
    entry::EntryPath,
    fs::{self, Dir, Stat, missing_is_none},
    source::{Result, stable::open_parent},
};

/// Most threads for one scan: more gain nothing on a directory tree.
const MAX_THREADS: usize = 8;

/// Says whether it is the name of a shard: two lower-case hex digits.
pub(super) fn is_shard(name: &[u8]) -> bool {
    name.len() == 2 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `stat` of a path below `root`; `None` where it or its folder is missing.
pub(super) fn stat(root: &Dir, path: &EntryPath) -> fs::Result<Option<Stat>> {
    match missing_is_none(open_parent(root, path))? {
        Some(dir) => dir.stat(path.name()),
        None => Ok(None),
    }
}

/// Shards below one root, each opened at its first use.
pub(super) struct Shards<'a> {
    root: &'a Dir,
    open: Vec<Option<Option<Dir>>>,
}

impl<'a> Shards<'a> {
    pub(super) fn new(root: &'a Dir) -> Self {
        Self {
            root,
            open: std::iter::repeat_with(|| None).take(256).collect(),
        }
    }

    /// The folder of a path `xx/…`; `None` if there is none.
    pub(super) fn of(&mut self, path: &EntryPath) -> fs::Result<Option<&Dir>> {
        let name = path.names().next().unwrap_or_default();
        let Some(at) = std::str::from_utf8(name)
            .ok()
            .and_then(|n| u8::from_str_radix(n, 16).ok())
        else {
            return Ok(None);
        };
        let slot = &mut self.open[usize::from(at)];
        if slot.is_none() {
            *slot = Some(missing_is_none(self.root.open_dir(name))?);
        }
        Ok(slot.as_ref().and_then(Option::as_ref))
    }

    /// `stat` of a path `xx/name`.
    pub(super) fn stat(&mut self, path: &EntryPath) -> fs::Result<Option<Stat>> {
        match self.of(path)? {
            Some(dir) => dir.stat(path.name()),
            None => Ok(None),
        }
    }
}

/// Cuts `all` into one run per core, works on them at once, and joins the results in order.
pub(super) fn in_threads<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&[T]) -> Result<Vec<R>> + Sync,
) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = all.len().div_ceil(threads.min(MAX_THREADS)).max(16);
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = all
            .chunks(run)
            .map(|part| scope.spawn(move || work(part)))
            .collect();
        for handle in handles {
            let part = handle
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            found.extend(part);
        }
        Ok(found)
    })
}

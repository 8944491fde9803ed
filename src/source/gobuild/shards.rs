//! The 256 folders of a build cache, each opened once; closed when open files run short.

use crate::{
    entry::EntryPath,
    fs::{self, Dir, Stat, missing_is_none},
    source::{stable::open_parent, walk::is_fatal},
};

/// Returns true for the name of a shard: two lower-case hex digits.
pub(super) fn is_shard(name: &[u8]) -> bool {
    name.len() == 2 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `stat` of a path below `root`; `None` if it or its folder is missing.
pub(super) fn stat(root: &Dir, path: &EntryPath) -> fs::Result<Option<Stat>> {
    match missing_is_none(open_parent(root, path))? {
        Some(dir) => dir.stat(path.name()),
        None => Ok(None),
    }
}

/// What is known of one shard.
enum Slot {
    NotTried,
    Missing,
    Open(Dir),
}

/// Shards below one root, each opened at its first use.
pub(super) struct Shards<'a> {
    root: &'a Dir,
    open: Vec<Slot>,
}

impl<'a> Shards<'a> {
    pub(super) fn new(root: &'a Dir) -> Self {
        Self {
            root,
            open: std::iter::repeat_with(|| Slot::NotTried)
                .take(256)
                .collect(),
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
        let mut opened = None;
        if matches!(self.open[usize::from(at)], Slot::NotTried) {
            let found = match self.root.open_dir(name) {
                Err(e) if is_fatal(&e.source) => {
                    self.close();
                    self.root.open_dir(name)
                }
                found => found,
            };
            opened = Some(missing_is_none(found)?);
        }
        let slot = &mut self.open[usize::from(at)];
        if let Some(found) = opened {
            *slot = match found {
                Some(dir) => Slot::Open(dir),
                None => Slot::Missing,
            };
        }
        Ok(match slot {
            Slot::Open(dir) => Some(dir),
            Slot::NotTried | Slot::Missing => None,
        })
    }

    fn close(&mut self) {
        for slot in &mut self.open {
            if matches!(slot, Slot::Open(_)) {
                *slot = Slot::NotTried;
            }
        }
    }

    /// `stat` of a path `xx/name`.
    pub(super) fn stat(&mut self, path: &EntryPath) -> fs::Result<Option<Stat>> {
        match self.of(path)? {
            Some(dir) => dir.stat(path.name()),
            None => Ok(None),
        }
    }
}

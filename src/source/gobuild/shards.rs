//! The 256 folders of a build cache, each opened once; closed when open files run short.

use super::{output::Found, path::output_path};
use crate::{
    digest::Sha256,
    entry::EntryPath,
    fs::{self, Dir, missing_is_none},
    source::walk::is_fatal,
};

/// Returns true for the name of a shard: two lower-case hex digits.
pub(super) fn is_shard(name: &[u8]) -> bool {
    name.len() == 2 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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

    /// What is in the place of the output with that digest.
    pub(super) fn output(&mut self, output: Sha256) -> fs::Result<Found> {
        let place = output_path(output);
        match self.of(&place)? {
            Some(shard) => Found::at(shard, place.name()),
            None => Ok(Found::Nothing),
        }
    }
}

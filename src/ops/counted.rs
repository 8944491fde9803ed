//! Collections over many names, within the memory budget: a tag costs its writer almost nothing and may need thousands of blobs.

use std::collections::HashMap;

use super::{Context, Error, LeftOut, Result};
use crate::{
    digest::Digest,
    memory::{Exhausted, Reservation},
};

/// Memory that a digest takes in a map, with its value.
pub(super) const BYTES_PER_DIGEST: u64 = 200;

/// Counts this many more digests, as entries that a command reads.
///
/// # Errors
/// `Memory` when there is no memory for them.
pub(super) fn grow(room: &mut Reservation, digests: usize) -> Result<()> {
    let digests = digests as u64;
    let grown = room.grow_of(digests, digests.saturating_mul(BYTES_PER_DIGEST));
    grown.map_err(|why| Error::Memory {
        what: "what tags need".to_owned(),
        why,
    })
}

/// The blobs that some tags need, including their own manifests, each once, with their sizes.
#[derive(Debug, Default)]
pub(super) struct Needed {
    sizes: HashMap<Digest, u64>,
    room: Reservation,
}

impl Needed {
    /// None yet.
    pub(super) fn within(ctx: &Context) -> Self {
        Self {
            sizes: HashMap::new(),
            room: ctx.tables.no_room_yet(),
        }
    }

    /// Adds the blobs that a tag needs.
    ///
    /// # Errors
    /// `Memory` when there is no memory for it.
    pub(super) fn add(&mut self, blobs: impl IntoIterator<Item = (Digest, u64)>) -> Result<()> {
        for (digest, size) in blobs {
            if self.sizes.insert(digest, size).is_none() {
                grow(&mut self.room, 1)?;
            }
        }
        Ok(())
    }

    /// All of them.
    pub(super) fn sizes(&self) -> &HashMap<Digest, u64> {
        &self.sizes
    }
}

/// Problems found with many names.
#[derive(Debug)]
pub(super) struct Faults {
    all: Vec<LeftOut>,
    room: Reservation,
    full: Option<Exhausted>,
}

impl Faults {
    /// None yet.
    pub(super) fn within(ctx: &Context) -> Self {
        Self {
            all: Vec::new(),
            room: ctx.tables.no_room_yet(),
            full: None,
        }
    }

    /// Adds one; if there is no room for it, [`Self::check`] reports that.
    pub(super) fn push(&mut self, fault: LeftOut) {
        let bytes = 2 * size_of::<LeftOut>() + fault.what.len() + fault.why.len();
        match self.room.grow(bytes as u64) {
            Ok(()) => self.all.push(fault),
            Err(why) => self.full = Some(why),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Forgets all but the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.all.truncate(len);
    }

    /// Checks that there was room for all of them.
    ///
    /// # Errors
    /// `Memory` if not.
    pub(super) fn check(&self) -> Result<()> {
        self.full.map_or(Ok(()), |why| {
            let what = "all that is wrong".to_owned();
            Err(Error::Memory { what, why })
        })
    }

    /// All of them, for a report.
    pub(super) fn into_all(self) -> Vec<LeftOut> {
        self.all
    }
}

impl Extend<LeftOut> for Faults {
    fn extend<T: IntoIterator<Item = LeftOut>>(&mut self, more: T) {
        more.into_iter().for_each(|fault| self.push(fault));
    }
}

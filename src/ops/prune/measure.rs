//! The space that names take, by the store's sizes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use super::Name;
use crate::{
    digest::Digest,
    memory::Reservation,
    ops::{
        Context, Result,
        counted::{self, BYTES_PER_DIGEST, Needed},
    },
    store::{self, RepoStore},
};

/// Blobs that a name needs, by index in [`Blobs`], sorted.
pub(super) type Set = Arc<[u32]>;

/// All blobs that names need, each once. Names that need the same blobs share one set.
pub(super) struct Blobs {
    index: HashMap<Digest, u32>,
    sets: HashSet<Set>,
    room: Reservation,
}

impl Blobs {
    /// None yet.
    pub(super) fn within(ctx: &Context) -> Self {
        Self {
            index: HashMap::new(),
            sets: HashSet::new(),
            room: ctx.tables.no_room_yet(),
        }
    }

    /// The set of blobs that a name needs.
    ///
    /// # Errors
    /// `Memory` when there is no memory for it.
    pub(super) fn set_of(&mut self, needed: &Needed) -> Result<Set> {
        let mut set = Vec::with_capacity(needed.sizes().len());
        let before = self.index.len();
        for digest in needed.sizes().keys() {
            let next = u32::try_from(self.index.len()).unwrap_or(u32::MAX);
            set.push(*self.index.entry(*digest).or_insert(next));
        }
        counted::grow(&mut self.room, self.index.len() - before)?;
        set.sort_unstable();
        if let Some(known) = self.sets.get(set.as_slice()) {
            return Ok(known.clone());
        }
        let digests = size_of_val(set.as_slice()) / BYTES_PER_DIGEST as usize;
        counted::grow(&mut self.room, digests + 1)?;
        let set: Set = set.into();
        self.sets.insert(set.clone());
        Ok(set)
    }

    /// The stored sizes, by index. Sizes in manifests are only their writers' claims, and would let one writer evict the names of all
    /// others. A blob that is not stored takes no space.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(super) async fn sizes(&self, ctx: &Context, all: &[Name]) -> Result<Vec<u64>> {
        let mut sizes = vec![0; self.index.len()];
        // A caller with rights to the whole store may list it.
        if let Some(sweep) = ctx.store.sweep().filter(|_| ctx.reach.is_whole()) {
            for blob in sweep.blobs().await? {
                if let Some(at) = self.index.get(&blob.digest) {
                    sizes[*at as usize] = blob.size;
                }
            }
            return Ok(sizes);
        }
        for (at, size) in stat(ctx.concurrency, self.each_with_store(all)).await? {
            sizes[at as usize] = size;
        }
        Ok(sizes)
    }

    /// All blobs by index, each with the store of a name that needs it.
    fn each_with_store(&self, all: &[Name]) -> Vec<(u32, Digest, Arc<dyn RepoStore>)> {
        let mut stores = vec![None; self.index.len()];
        for name in all {
            for at in &*name.needs {
                stores[*at as usize] = Some(&name.named.place.ctx.store);
            }
        }
        let blob = |(digest, at): (&Digest, &u32)| {
            let store = stores[*at as usize]?;
            Some((*at, *digest, store.contents().clone()))
        };
        self.index.iter().filter_map(blob).collect()
    }
}

fn stat(
    at_once: usize,
    blobs: Vec<(u32, Digest, Arc<dyn RepoStore>)>,
) -> BoxFuture<'static, store::Result<Vec<(u32, u64)>>> {
    stream::iter(blobs)
        .map(|(at, digest, store)| async move {
            let size = store.stat(&digest).await?;
            Ok((at, size.unwrap_or(0)))
        })
        .buffer_unordered(at_once.max(1))
        .try_collect()
        .boxed()
}

/// Bytes of the blobs that names reach, each once.
pub(super) struct Sizes<'b> {
    bytes: &'b [u64],
    names: Vec<u32>,
    pub(super) total: u64,
}

impl<'b> Sizes<'b> {
    /// Of no name yet.
    pub(super) fn new(sizes: &'b [u64]) -> Self {
        Self {
            bytes: sizes,
            names: vec![0; sizes.len()],
            total: 0,
        }
    }

    pub(super) fn add(&mut self, name: &Name) {
        for at in name.needs.iter().map(|at| *at as usize) {
            self.names[at] += 1;
            if self.names[at] == 1 {
                self.total = self.total.saturating_add(self.bytes[at]);
            }
        }
    }

    pub(super) fn take(&mut self, name: &Name) {
        for at in name.needs.iter().map(|at| *at as usize) {
            self.names[at] -= 1;
            if self.names[at] == 0 {
                self.total = self.total.saturating_sub(self.bytes[at]);
            }
        }
    }
}

//! Decides which of two parts is right about a layer by reading its bytes.
//!
//! Only layers about which parts contradict each other are read. So a pusher cannot remove the results of others from a tag by false claims
//! about their layers; the layer with the false claim is left out of the part that made it.
//!
//! They are read without a merge permit: a merge that needs a layer read releases its parts and its permit, and starts again once the layer
//! is known. Results are remembered, so a layer is read once; a read in progress continues when its request ends. Callers take turns, layer
//! by layer.
//!
//! The layers to read depend only on the parts, the layers' digests and their sizes, and the result only on a layer's bytes: so all daemons
//! agree. A layer that cannot be decided is left out of all parts: a wrong claim fails a build, a cache miss does not.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    CacheTags, Sized,
    merging::{Locks, UNBOUNDED},
    unpack::{self, Found},
};
use crate::{
    artifact::buildkit::{Claims, Part},
    digest::Digest,
    fair::{Permit, Pool},
    store::{Error, ErrorKind, Repository, Result},
    task,
};

/// Most stored bytes of disputed layers read for one merge, and the most work they may cost together: each part has its share.
pub(super) const MAX_BYTES: u64 = 256 << 20;
pub(super) const MAX_WORK: u64 = 4 << 30;
/// Most layers read at once: each takes up to 32 MiB, and a processor.
const PLACES: usize = 2;
/// Most remembered layers.
const MAX_KNOWN: usize = 10_000;

/// The results of reading layers.
pub(super) type Settled = HashMap<Digest, Found>;

/// Layers that must be read before parts can be merged.
pub(super) struct Unsettled(Vec<Sized>);

/// Reads disputed layers, and remembers the results.
pub(super) struct Settling {
    places: Pool,
    of_layer: Locks<Digest>,
    known: Mutex<Settled>,
    time: Duration,
}

impl Default for Settling {
    fn default() -> Self {
        Self {
            places: Pool::new("disputed layers", PLACES, UNBOUNDED),
            of_layer: Locks::default(),
            known: Mutex::default(),
            time: unpack::MAX_TIME,
        }
    }
}

/// Contradicting claims of parts, and the layers to read.
pub(super) struct Dispute {
    claims: Claims,
    readable: Vec<Sized>,
}

impl Dispute {
    /// Collects the claims of `parts`; blocks while it goes over their layers.
    pub(super) fn of(parts: &[Part], lost: &HashSet<Sized>) -> Self {
        let claims = Claims::disputed(parts, lost);
        let readable = affordable(&claims.by_part(parts, lost));
        Self { claims, readable }
    }
}

/// Chooses which layers of each part are read: the same ones in every daemon, whatever it read before.
///
/// The part pushed last gets half of the budget, so that the next honest push ends any dispute. Then each part gets an equal share of the
/// rest, and then what others leave unused: a part that is wrong about many layers cannot keep others from being proved right about a few.
pub(super) fn affordable(parts: &[BTreeSet<Sized>]) -> Vec<Sized> {
    let waiting = parts.iter().filter(|p| !p.is_empty()).count().max(1) as u64;
    let (mut bytes, mut work) = (MAX_BYTES, MAX_WORK);
    let mut read = BTreeSet::new();
    let mut choose = |layers: &BTreeSet<Sized>, share: u64| {
        let (mut own_bytes, mut own_work) = (MAX_BYTES / share, MAX_WORK / share);
        for layer in layers {
            let (size, costs) = (layer.1, unpack::work(layer.1));
            let fits = size <= bytes.min(own_bytes) && costs <= work.min(own_work);
            if fits && read.insert(*layer) {
                (bytes, work) = (bytes - size, work - costs);
                (own_bytes, own_work) = (own_bytes - size, own_work - costs);
            }
        }
    };
    for last in parts.iter().take(1) {
        choose(last, 2);
    }
    for share in [2 * waiting, 1] {
        for layers in parts {
            choose(layers, share);
        }
    }
    read.into_iter().collect()
}

impl CacheTags {
    /// The proved claims about disputed layers, as far as they are known.
    pub(super) fn claims(
        &self,
        repo: &Repository,
        dispute: Dispute,
        settled: &Settled,
    ) -> std::result::Result<Claims, Unsettled> {
        let Dispute {
            mut claims,
            readable,
        } = dispute;
        let mut unsettled = Vec::new();
        for layer @ (digest, _) in readable {
            let found = settled.get(&digest).cloned();
            match found.or_else(|| self.settling.known(&digest)) {
                None => unsettled.push(layer),
                Some(Found::Is(claim)) => claims.prove(&digest, claim),
                Some(Found::Untold | Found::Missing) => {}
            }
        }
        if !unsettled.is_empty() {
            return Err(Unsettled(unsettled));
        }
        if let Some(digest) = claims.layers().next() {
            let layers = claims.layers().count();
            tracing::warn!(repo = %repo.name(), layers, %digest, "Parts of a merged cache contradict each other about layers, the first of which is logged here; the layers' bytes decide, and layers for which they cannot are left out");
        }
        Ok(claims)
    }

    /// Reads layers, and adds the results to `settled`. The caller holds no merge permit while it waits here.
    pub(super) async fn settle(
        &self,
        repo: &Repository,
        unsettled: Unsettled,
        settled: &mut Settled,
    ) -> Result<()> {
        for layer in unsettled.0 {
            let place = self.settling.places.enter_again(self.caller.clone());
            let found = self.settling.find(repo, layer, Some(place.await)).await?;
            settled.insert(layer.0, found);
        }
        Ok(())
    }

    /// The same for the daemon itself, which works sequentially and waits for nobody.
    pub(super) async fn settle_at_once(
        &self,
        repo: &Repository,
        unsettled: Unsettled,
        settled: &mut Settled,
    ) -> Result<()> {
        for layer in unsettled.0 {
            let found = self.settling.find(repo, layer, None).await?;
            settled.insert(layer.0, found);
        }
        Ok(())
    }
}

impl Settling {
    /// The result for a layer, if it was read.
    pub(super) fn known(&self, digest: &Digest) -> Option<Found> {
        self.known.lock().get(digest).cloned()
    }

    fn remember(&self, digest: Digest, found: Found) {
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(digest, found);
    }

    /// Reads an unknown layer; `place` is held until it is read, even if nobody waits for that any more.
    async fn find(
        self: &Arc<Self>,
        repo: &Repository,
        (digest, size): Sized,
        place: Option<Permit>,
    ) -> Result<Found> {
        // The holder of the lock has a permit; a call without a permit waits for nobody.
        let lock = match &place {
            Some(_) => Some(self.of_layer.lock(digest).await),
            None => None,
        };
        if let Some(known) = self.known(&digest) {
            return Ok(known);
        }
        let (tell, told) = oneshot::channel();
        let (this, repo) = (self.clone(), repo.clone());
        let reading = async move {
            let found = this.read(&repo, digest, size).await;
            drop((lock, place));
            // The request may be over.
            let _ = tell.send(found);
        };
        task::spawn("read a disputed layer", reading).detach();
        told.await.unwrap_or_else(|_| {
            let why = "the daemon ends";
            Err(Error::unavailable("read", why).at("", digest))
        })
    }

    async fn read(&self, repo: &Repository, digest: Digest, size: u64) -> Result<Found> {
        let found = match unpack::look(repo, digest, size, self.time).await {
            // It may come back intact, so this is not remembered.
            Ok(Found::Missing) => return Ok(Found::Missing),
            Err(e) if e.kind == ErrorKind::Corrupt => return Ok(Found::Missing),
            found => found?,
        };
        self.remember(digest, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
impl Settling {
    /// Reads no layer for longer than `time` of CPU time.
    pub(super) fn within(time: Duration) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    /// The permits for reading.
    pub(super) fn places(&self) -> &Pool {
        &self.places
    }
}

//! Which of two parts is right about a layer: its bytes say so.
//!
//! Only layers that parts contradict each other about are read. So nobody who may push takes the results of others out of a tag by a
//! false word about their layers; the layer that it lied about is left out of its own part.
//!
//! They are read without a place to merge: whoever finds that a layer has to be read lets go of the parts and of the place, and
//! begins again once it is known. What was found is remembered, so a layer is read once; who is in the middle of it when the request
//! ends goes on. Callers take turns, layer by layer.
//!
//! Which layers are read is decided by the parts, by the digests of the layers and by their sizes, and what a layer is by its bytes: so all daemons say the same. A
//! layer that is not told is left out of all parts: a build that is told what is wrong fails, and one that misses goes on.

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

/// Stored bytes of disputed layers that are read for one merge, and the work that they may cost together: each part has its share.
pub(super) const MAX_BYTES: u64 = 256 << 20;
pub(super) const MAX_WORK: u64 = 4 << 30;
/// Layers that are read at once: each takes up to 32 MiB, and a processor.
const PLACES: usize = 2;
/// Layers that are remembered at most.
const MAX_KNOWN: usize = 10_000;

/// What layers were found to be.
pub(super) type Settled = HashMap<Digest, Found>;

/// Layers that are to be read before parts can be merged.
pub(super) struct Unsettled(Vec<Sized>);

/// Reads disputed layers, and remembers what they are.
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

/// The claims of parts that contradict each other, and which of the layers are to be read.
pub(super) struct Dispute {
    claims: Claims,
    readable: Vec<Sized>,
}

impl Dispute {
    /// What `parts` say; blocks for as long as it takes to look over their layers.
    pub(super) fn of(parts: &[Part], lost: &HashSet<Sized>) -> Self {
        let claims = Claims::disputed(parts, lost);
        let readable = affordable(&claims.by_part(parts, lost));
        Self { claims, readable }
    }
}

/// Those of the layers of each part that are read: the same ones in each daemon, whatever it read before.
///
/// The part pushed last has half of what may be read, so that the next honest push ends any dispute. Then each part has an equal share of
/// the rest, and then what others leave of theirs: a part that is wrong about many layers keeps nobody from being right about few.
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
    /// What holds of each layer that is disputed, as far as it is known.
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
            tracing::warn!(repo = %repo.name(), layers, %digest, "Parts of a merged cache contradict each other about layers, of which this is the first; their bytes decide; those that cannot be told from them are left out");
        }
        Ok(claims)
    }

    /// Reads layers, and adds what they are to `settled`. Whoever waits here holds no place to merge.
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

    /// The same for the daemon itself, which does one thing after the other and waits for nobody.
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
    /// What a layer was found to be, if it was read.
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

    /// Reads a layer that is not known; `place` is held until it is read, also if nobody waits for that any more.
    async fn find(
        self: &Arc<Self>,
        repo: &Repository,
        (digest, size): Sized,
        place: Option<Permit>,
    ) -> Result<Found> {
        // Whoever has the lock has a place; without one nobody is waited for.
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
            Err(Error::new(ErrorKind::Unavailable, "read", why).at("", digest))
        })
    }

    async fn read(&self, repo: &Repository, digest: Digest, size: u64) -> Result<Found> {
        let found = match unpack::look(repo, digest, size, self.time).await {
            // Whether it comes back whole nobody knows.
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
    /// That reads no layer for longer than `time` of a processor.
    pub(super) fn within(time: Duration) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    /// The places of those who read.
    pub(super) fn places(&self) -> &Pool {
        &self.places
    }
}

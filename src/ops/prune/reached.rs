//! Finds what the tags and parts of all repositories reach, and its referrers.
//!
//! Memory is bounded by what the store holds, not by what manifests mention: a mention counts only if the listing of blobs has it, and then
//! it is one bit there. Mentioned digests are never looked up one by one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Count, doors::Promised, named};
use crate::{
    artifact::{
        Descriptor,
        descriptor::MAX_MANIFEST_BYTES,
        media,
        mentions::{self, Mention},
    },
    digest::Digest,
    ops::{Context, load, sight::Sights},
    store::{self, Error, ErrorKind, Repository, StoredBlob, corrupt_is_none},
    task,
};

/// Most bytes of manifests in memory at once, in units of [`UNIT`].
const ROOM: u32 = 256;
const UNIT: u64 = 64 << 10;

/// The blobs of a store, sorted, and which of them must stay.
pub(super) struct Listing {
    blobs: Vec<StoredBlob>,
    stays: Vec<bool>,
}

impl Listing {
    pub(super) fn of(mut blobs: Vec<StoredBlob>) -> Self {
        blobs.sort_unstable_by_key(|b| b.digest);
        let stays = vec![false; blobs.len()];
        Self { blobs, stays }
    }

    fn find(&self, digest: &Digest) -> Option<usize> {
        self.blobs.binary_search_by(|b| b.digest.cmp(digest)).ok()
    }

    fn size(&self, digest: &Digest) -> Option<u64> {
        self.find(digest).map(|at| self.blobs[at].size)
    }

    fn stays(&self, digest: &Digest) -> bool {
        self.find(digest).is_some_and(|at| self.stays[at])
    }

    fn keep(&mut self, digest: &Digest) {
        if let Some(at) = self.find(digest) {
            self.stays[at] = true;
        }
    }

    /// The blobs that need not stay, in the order in which they may be removed.
    pub(super) fn loose(self, kinds: &HashMap<Digest, BlobKind>) -> Vec<StoredBlob> {
        let all = self.blobs.into_iter().zip(self.stays);
        let loose = all.filter(|(_, stays)| !stays).map(|(blob, _)| blob);
        let mut loose: Vec<StoredBlob> = loose.collect();
        loose.sort_by_key(|b| kinds.get(&b.digest).copied().unwrap_or(BlobKind::Blob));
        loose
    }
}

/// The kind of a removed blob, in the order of removal: a manifest is removed before what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlobKind {
    /// A manifest that may name other manifests.
    Index,
    /// Any other manifest.
    Manifest,
    /// Not a manifest in any repository.
    Blob,
}

/// What a digest is claimed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// A tag or a part of one leads to it: it was accepted as a manifest when it was pushed.
    Root,
    /// A descriptor claims that it is a manifest; the claim may be wrong.
    Manifest,
    /// It is JSON, and may name others.
    Document,
    /// Its digest appears in the text of an unreadable document; it may be anything.
    Guess,
}

/// A manifest, or possible manifest, to read.
#[derive(Debug, Clone, Copy)]
struct Next {
    digest: Digest,
    sort: Sort,
    /// The root that led to it.
    root: Digest,
}

impl Next {
    fn root(digest: Digest) -> Self {
        Self {
            digest,
            sort: Sort::Root,
            root: digest,
        }
    }
}

pub(super) struct Marking<'c> {
    ctx: &'c Context,
    pub(super) listing: Listing,
    /// Tagged manifests that are not JSON, with reasons.
    pub(super) unreadable: BTreeMap<Digest, String>,
    read: HashSet<Digest>,
    room: Arc<Semaphore>,
}

impl<'c> Marking<'c> {
    pub(super) fn new(ctx: &'c Context, listing: Listing) -> Self {
        Self {
            ctx,
            listing,
            unreadable: BTreeMap::new(),
            read: HashSet::new(),
            room: Arc::new(Semaphore::new(ROOM as usize)),
        }
    }

    /// Keeps `roots` and everything that they reach.
    ///
    /// # Errors
    /// `Corrupt` for a manifest whose bytes are not those of its digest: they may have named anything.
    pub(super) async fn keep(&mut self, roots: Vec<Digest>) -> store::Result<()> {
        self.reach(roots.into_iter().map(Next::root)).await
    }

    /// Keeps the blobs promised to clients, and what they may name if they are manifests; counts the blobs that stay only because of that.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(super) async fn keep_promised(&mut self, promised: Promised) -> store::Result<Count> {
        let before = self.listing.stays.clone();
        let blobs = self.listing.blobs.iter();
        let told: Vec<Next> = blobs
            .filter(|b| promised(&b.digest))
            .map(|b| Next {
                sort: Sort::Guess,
                ..Next::root(b.digest)
            })
            .collect();
        self.reach(told.into_iter()).await?;
        let stays = self.listing.stays.iter().zip(before);
        let only = stays.map(|(now, before)| *now && !before);
        let blobs = self.listing.blobs.iter().zip(only);
        Ok(Count::of(
            blobs.filter(|(_, only)| *only).map(|(blob, _)| blob),
        ))
    }

    async fn reach(&mut self, from: impl Iterator<Item = Next>) -> store::Result<()> {
        let mut level: Vec<Next> = from.filter(|n| self.read.insert(n.digest)).collect();
        for next in &level {
            self.listing.keep(&next.digest);
        }
        while !level.is_empty() {
            let mut documents = self.documents(std::mem::take(&mut level));
            while let Some((next, bytes)) = documents.try_next().await? {
                let Some((bytes, _room)) = bytes else {
                    continue;
                };
                let (found, why) = mentioned(bytes).await;
                let others = if why.is_none() {
                    Sort::Document
                } else {
                    Sort::Guess
                };
                for (digest, mention) in found {
                    let Some(at) = self.listing.find(&digest) else {
                        continue;
                    };
                    self.listing.stays[at] = true;
                    let sort = match mention {
                        Mention::Text => continue,
                        Mention::Manifest => Sort::Manifest,
                        Mention::Document => others,
                    };
                    if self.read.insert(digest) {
                        let root = next.root;
                        level.push(Next { digest, sort, root });
                    }
                }
                if let Some(why) = why.filter(|_| next.sort == Sort::Root) {
                    self.unreadable.insert(next.digest, why);
                }
            }
        }
        Ok(())
    }

    /// Keeps untagged referrers of anything in use in the same repository: signatures and attestations of an image live as long as it does.
    /// Other repositories are not searched, and a digest that is not a manifest of this one is not followed: the pusher of a manifest could
    /// otherwise learn what others have. Digests in `gone` are not roots.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub(super) async fn keep_referrers(
        &mut self,
        gone: Option<&HashSet<Digest>>,
    ) -> store::Result<()> {
        for repository in self.ctx.store.all_repositories().await? {
            let own = repository.manifests().await?;
            let left = own.iter().filter(|d| !self.listing.stays(d)).copied();
            let subjects = subjects(self.ctx, &repository, left.collect()).await?;
            if subjects.is_empty() {
                continue;
            }
            let mut roots = roots(&repository).await?;
            roots.retain(|d| gone.is_none_or(|gone| !gone.contains(d)));
            let own = own.into_iter().collect();
            let live = self.referrers(&own, subjects, roots).await?;
            self.reach(live.into_iter()).await?;
        }
        Ok(())
    }

    /// Records the doubts of manifests that no repository keeps: what they doubt must not become visible once they are removed.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(super) async fn keep_doubts(&self) -> store::Result<()> {
        let sights = Sights::default();
        for repository in &self.ctx.store.all_repositories().await? {
            let going = repository.manifests().await?.into_iter();
            let going = going.filter(|d| !self.listing.stays(d)).map(Ok);
            stream::iter(going)
                .try_for_each_concurrent(self.ctx.concurrency.max(1), async |digest| {
                    if repository.is_checked(&digest).await? {
                        return Ok(());
                    }
                    sights.keep_doubts(repository, &digest).await
                })
                .await?;
        }
        Ok(())
    }

    /// Keeps the manifests of all repositories, reachable or not.
    pub(super) async fn keep_manifests(&mut self) -> store::Result<()> {
        for repository in self.ctx.store.all_repositories().await? {
            for digest in repository.manifests().await? {
                self.listing.keep(&digest);
            }
        }
        Ok(())
    }

    /// Finds which of the unreachable blobs are manifests.
    pub(super) async fn kinds(&self) -> store::Result<HashMap<Digest, BlobKind>> {
        let mut kinds = HashMap::new();
        for repository in &self.ctx.store.all_repositories().await? {
            let loose = repository.manifests().await?.into_iter();
            let loose = loose.filter(|d| !self.listing.stays(d));
            let known = stream::iter(loose).map(async |digest| {
                // One with a damaged record may be either.
                let known = corrupt_is_none(repository.known(&digest).await)?;
                Ok::<_, Error>((digest, known))
            });
            let mut known = Box::pin(known.buffer_unordered(self.ctx.concurrency.max(1)));
            while let Some((digest, known)) = known.try_next().await? {
                let is_image = known.is_some_and(|k| media::is_image_manifest(&k.media_type));
                let kind = if is_image {
                    BlobKind::Manifest
                } else {
                    BlobKind::Index
                };
                let all = kinds.entry(digest).or_insert(kind);
                *all = kind.min(*all);
            }
        }
        Ok(kinds)
    }

    /// Finds the referrers of whatever `roots` reach by way of manifests among `own`.
    async fn referrers(
        &self,
        own: &HashSet<Digest>,
        mut subjects: HashMap<Digest, Vec<Digest>>,
        roots: Vec<Digest>,
    ) -> store::Result<Vec<Next>> {
        let (mut seen, mut live) = (HashSet::new(), Vec::new());
        let mut found: Vec<Next> = roots.into_iter().map(Next::root).collect();
        loop {
            let mut level = Vec::new();
            while let Some(next) = found.pop() {
                let referrers = subjects.remove(&next.digest).unwrap_or_default();
                let referrers = referrers.into_iter().map(|digest| Next {
                    sort: Sort::Manifest,
                    ..Next::root(digest)
                });
                live.extend(referrers.clone());
                found.extend(referrers);
                let is_own = next.sort == Sort::Root || own.contains(&next.digest);
                if is_own && seen.insert(next.digest) {
                    level.push(next);
                }
            }
            if level.is_empty() || subjects.is_empty() {
                return Ok(live);
            }
            let mut documents = self.documents(level);
            while let Some((Next { root, .. }, bytes)) = documents.try_next().await? {
                let Some((bytes, _room)) = bytes else {
                    continue;
                };
                let (mentioned, _) = mentioned(bytes).await;
                // A digest mentioned only as text is not a manifest itself, but may be a subject.
                let of_use = mentioned.into_iter().filter(|(d, mention)| {
                    subjects.contains_key(d) || *mention != Mention::Text && own.contains(d)
                });
                found.extend(of_use.map(|(digest, _)| Next {
                    digest,
                    sort: Sort::Guess,
                    root,
                }));
            }
        }
    }

    /// The bytes of manifests, with their memory reservation; `None` for those that are cleanly absent.
    fn documents(
        &self,
        level: Vec<Next>,
    ) -> impl futures_util::Stream<
        Item = store::Result<(Next, Option<(Bytes, OwnedSemaphorePermit)>)>,
    > + Unpin
    + use<'c> {
        let sized: Vec<_> = level
            .into_iter()
            .map(|next| (next, self.listing.size(&next.digest)))
            .collect();
        let (ctx, room) = (self.ctx, self.room.clone());
        let read = stream::iter(sized).map(move |(next, size)| {
            let room = room.clone();
            async move {
                match document(ctx, &next, size, room).await {
                    Ok(bytes) => Ok((next, bytes)),
                    Err(e) => Err(named::damaged(ctx, e, next.root).await),
                }
            }
        });
        Box::pin(read.buffer_unordered(ctx.concurrency.max(1)))
    }
}

/// The digests that a document mentions; and why the document could not be read as a manifest.
async fn mentioned(bytes: Bytes) -> (Vec<(Digest, Mention)>, Option<String>) {
    task::parse(bytes.len(), move || {
        let mut found = Vec::new();
        let why = mentions::all(&bytes, &mut |digest, mention| found.push((digest, mention)));
        (found, why)
    })
    .await
}

/// What the tags of one repository point at, and their parts.
async fn roots(repository: &Repository) -> store::Result<Vec<Digest>> {
    let mut roots = Vec::new();
    for tag in repository.tags().await? {
        roots.extend(repository.pointed(&tag).await?);
        let parts = repository.parts(&tag).await?;
        roots.extend(parts.into_iter().map(|p| p.digest));
    }
    Ok(roots)
}

/// The subjects of `manifests` by the repository's records, with their referrers.
async fn subjects(
    ctx: &Context,
    repository: &Repository,
    manifests: Vec<Digest>,
) -> store::Result<HashMap<Digest, Vec<Digest>>> {
    let mut all: HashMap<Digest, Vec<Digest>> = HashMap::new();
    let mut known = stream::iter(manifests)
        .map(|digest| async move { (digest, repository.known(&digest).await) })
        .buffer_unordered(ctx.concurrency.max(1));
    while let Some((digest, known)) = known.next().await {
        match known {
            Ok(known) => {
                if let Some(subject) = known.and_then(|k| k.subject) {
                    all.entry(subject.digest).or_default().push(digest);
                }
            }
            // It cannot be requested by its digest either: it is already lost.
            Err(e) if e.kind == ErrorKind::Corrupt => {
                tracing::debug!(%digest, error = %e, "Record of a manifest is damaged");
            }
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// A manifest's bytes; `None` if it is cleanly absent, or too large for a manifest. It is read as a blob: this store handle knows the
/// manifests of one repository only, but the blobs of all. `size` is the one in the listing, if listed.
///
/// # Errors
/// `Corrupt` for a manifest whose bytes are not those of its digest.
async fn document(
    ctx: &Context,
    next: &Next,
    size: Option<u64>,
    room: Arc<Semaphore>,
) -> store::Result<Option<(Bytes, OwnedSemaphorePermit)>> {
    let Next { digest, sort, .. } = *next;
    let store = &*ctx.store;
    let damaged = |why: String| {
        let why = format!("{why}; nothing is deleted while the blobs that it needs are unknown");
        Error::corrupt("read manifest", why).at("", digest)
    };
    let size = match size {
        Some(size) => size,
        // It was written after the listing, or its bytes are lost.
        None => match store.stat(&digest).await? {
            Some(size) => size,
            None => return Ok(None),
        },
    };
    if size > MAX_MANIFEST_BYTES {
        return match sort {
            Sort::Root => Err(damaged(format!("a manifest of {size} bytes is too large"))),
            // No registry accepts a manifest of that size, so it is not a manifest.
            Sort::Manifest | Sort::Document | Sort::Guess => Ok(None),
        };
    }
    let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(ROOM);
    let room = room.acquire_many_owned(units.clamp(1, ROOM)).await;
    let room = room.expect("it is never closed");
    let desc = Descriptor::new(media::IMAGE_MANIFEST, digest, size);
    match load::read_blob(store, &desc).await {
        Ok(bytes) => Ok(bytes.map(|bytes| (bytes, room))),
        Err(e) if e.is_unreadable() && sort == Sort::Guess => Ok(None),
        Err(e) if e.kind == ErrorKind::Corrupt => Err(damaged(e.message)),
        Err(e) if e.is_unreadable() => Err(damaged(format!(
            "{}; give this user read access (chown)",
            e.message
        ))),
        Err(e) => Err(e),
    }
}

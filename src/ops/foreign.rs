//! Foreign manifests (other than cachectl snapshots): their kind, and the blobs that their tags need.
//!
//! A tag needs its manifest, the parts it is merged from, what is below an index, and the referrers of any of these: signatures and
//! attestations that are pushed beside an image.

use std::collections::{HashMap, HashSet};

use super::{Error, Result, counted, load, names, reach::RepoContext};
use crate::{
    artifact::{
        Descriptor, Manifest, Tag,
        buildkit::{CacheManifest, MAX_CONFIG_BYTES, Part},
        media,
    },
    digest::Digest,
    entry::Time,
    memory::Reservation,
    store::corrupt_is_none,
    task,
    transfer::{self, graph},
};

/// Most manifests of one tag that are read; having more is a fault.
const MAX_MANIFESTS: usize = 10_000;

/// Most faults reported for one tag.
const MAX_FAULTS: usize = 1000;

/// A cache of a BuildKit builder.
pub const BUILDKIT: &str = "buildkit";
/// An image.
pub const IMAGE: &str = "image";
/// An image for several platforms.
pub const INDEX: &str = "index";
/// Any other manifest.
pub const OTHER: &str = "other";

/// The kind of a manifest: one of the four.
pub(super) async fn kind(manifest: &Manifest) -> &'static str {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || kind_of(&manifest)).await
}

fn kind_of(manifest: &Manifest) -> &'static str {
    if let Ok(Some(_)) = CacheManifest::read(manifest) {
        return BUILDKIT;
    }
    match manifest.media_type.as_str() {
        media::IMAGE_INDEX | media::DOCKER_LIST => INDEX,
        media::DOCKER_MANIFEST => IMAGE,
        media::IMAGE_MANIFEST if has_image_config(manifest) => IMAGE,
        _ => OTHER,
    }
}

/// Image spec, `manifest.md`: an artifact states another type of its own, or of its config.
fn has_image_config(manifest: &Manifest) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        artifact_type: Option<String>,
        config: Option<Descriptor>,
    }
    let image = |d: &Descriptor| {
        matches!(
            d.media_type.as_str(),
            media::IMAGE_CONFIG | media::DOCKER_CONFIG
        )
    };
    serde_json::from_slice::<Head>(&manifest.bytes)
        .is_ok_and(|h| h.artifact_type.is_none() && h.config.as_ref().is_some_and(image))
}

/// All that a tag needs.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Digests and sizes of its manifests: its own first, then parts, children and referrers.
    pub(super) manifests: Vec<(Digest, u64)>,
    /// Configs and layers of them all, each once, in the order in which they are named.
    pub(super) blobs: Vec<Descriptor>,
    /// The parts it is merged from.
    pub(super) parts: Vec<Digest>,
    /// The referrers of its manifests.
    pub(super) referrers: Vec<Digest>,
    /// Descriptions of what cannot be read.
    pub(super) faults: Vec<String>,
    /// There is more than was read.
    is_cut: bool,
    /// Memory for all of it.
    _room: Reservation,
}

impl Needs {
    /// All blobs that it needs, with sizes.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (Digest, u64)> {
        let blobs = self.blobs.iter().map(|d| (d.digest, d.size));
        blobs.chain(self.manifests.iter().copied())
    }
}

impl Needs {
    /// Stored bytes of configs and layers; hostile manifests may claim any size.
    pub(super) fn blob_bytes(&self) -> u64 {
        self.blobs
            .iter()
            .fold(0, |sum, d| sum.saturating_add(d.size))
    }
}

/// Follows everything from a manifest down; `tag` is the tag that points at it.
///
/// # Errors
/// When the store cannot be asked, or there is no memory for what the tag needs (`Memory`); lost or damaged content is among the faults.
pub(super) async fn needs(
    place: &RepoContext,
    tag: Option<&Tag>,
    root: &Manifest,
) -> Result<Needs> {
    let mut walk = Walk {
        place,
        needs: Needs::default(),
        seen: HashSet::from([root.digest]),
        sizes: HashMap::new(),
        left: Vec::new(),
        room: place.ctx.tables.no_room_yet(),
    };
    if let Some(tag) = tag {
        for part in place.parts(tag).await? {
            walk.needs.parts.push(part.digest);
            walk.meet(Next::Known("part", part.digest))?;
        }
    }
    walk.look_into(root).await?;
    // Only one at a time is in memory.
    while let Some(next) = walk.left.pop() {
        if let Some(manifest) = walk.read(next).await? {
            walk.look_into(&manifest).await?;
        }
    }
    Ok(Needs {
        _room: walk.room,
        ..walk.needs
    })
}

/// A manifest to read.
enum Next {
    /// One that the repository has a record of, and its role for the tag.
    Known(&'static str, Digest),
    /// One that an index names.
    Child(Descriptor),
}

struct Walk<'a> {
    place: &'a RepoContext,
    needs: Needs,
    /// Manifests and blobs already seen.
    seen: HashSet<Digest>,
    /// Sizes of the blobs among them.
    sizes: HashMap<Digest, u64>,
    left: Vec<Next>,
    room: Reservation,
}

impl Walk<'_> {
    fn fault(&mut self, why: String) {
        match self.needs.faults.len() {
            0..MAX_FAULTS => self.needs.faults.push(why),
            MAX_FAULTS => self.needs.faults.push("and more".to_owned()),
            _ => {}
        }
    }

    /// Queues a manifest to be read, if it was not seen before.
    fn meet(&mut self, next: Next) -> Result<()> {
        let digest = match &next {
            Next::Known(_, digest) => *digest,
            Next::Child(desc) => desc.digest,
        };
        if self.seen.contains(&digest) {
            return Ok(());
        }
        if self.needs.manifests.len() + self.left.len() < MAX_MANIFESTS {
            counted::grow(&mut self.room, 2)?;
            self.seen.insert(digest);
            self.left.push(next);
        } else if !self.needs.is_cut {
            self.needs.is_cut = true;
            self.fault(format!(
                "it has more than {MAX_MANIFESTS} manifests: not all of them were checked"
            ));
        }
        Ok(())
    }

    /// Records a config or layer; its bytes can have only one size.
    fn meet_blob(&mut self, desc: Descriptor, of: &Digest) -> Result<()> {
        if self.seen.insert(desc.digest) {
            counted::grow(&mut self.room, 3 + desc.media_type.len() / 64)?;
            self.sizes.insert(desc.digest, desc.size);
            self.needs.blobs.push(desc);
            return Ok(());
        }
        let known = self.sizes.get(&desc.digest);
        if let Some(size) = known.filter(|size| **size != desc.size) {
            let Descriptor {
                digest,
                size: other,
                ..
            } = desc;
            self.fault(format!(
                "manifest {of}: blob {digest} has {other} bytes according to it, but {size} according to another manifest"
            ));
        }
        Ok(())
    }

    async fn read(&mut self, next: Next) -> Result<Option<Manifest>> {
        let ctx = &self.place.ctx;
        let why = match next {
            Next::Known(what, digest) => match names::resolve(ctx, &digest.into()).await? {
                Ok(Some(found)) => return Ok(Some(found.manifest)),
                Ok(None) => format!("{what} {digest} is missing"),
                Err(why) => format!("{what} {digest}: {why}"),
            },
            Next::Child(desc) => match transfer::copy::read_manifest(&*ctx.store, &desc).await {
                Ok(Some(child)) => return Ok(Some(child)),
                Ok(None) => format!("manifest {} is missing", desc.digest),
                Err(transfer::Error::Store(e)) => return Err(e.into()),
                Err(e) => e.to_string(),
            },
        };
        self.fault(why);
        Ok(None)
    }

    async fn look_into(&mut self, manifest: &Manifest) -> Result<()> {
        let digest = manifest.digest;
        let size = manifest.bytes.len() as u64;
        self.needs.manifests.push((digest, size));
        match graph::children(manifest).await {
            Ok(children) => {
                for desc in children.manifests {
                    self.meet(Next::Child(desc))?;
                }
                for desc in children.blobs {
                    self.meet_blob(desc, &digest)?;
                }
            }
            Err(why) => self.fault(format!("manifest {digest}: {why}")),
        }
        for referrer in self.place.referrers(&digest).await? {
            self.needs.referrers.push(referrer);
            self.meet(Next::Known("referrer", referrer))?;
        }
        Ok(())
    }
}

/// When a tag or one of its parts was last written; `None` if the store does not report it.
pub(super) async fn pushed(
    place: &RepoContext,
    tag: &Tag,
    written: Option<Time>,
) -> Result<Option<Time>> {
    let parts = place.parts(tag).await?;
    Ok(parts.iter().fold(written, |last, p| last.max(p.modified)))
}

/// How many records and layers the config of a BuildKit cache has; `None` if it is not one, or cannot be read.
pub(super) async fn records(
    place: &RepoContext,
    manifest: &Manifest,
) -> Result<Option<(u64, u64)>> {
    let read = {
        let manifest = manifest.clone();
        task::parse(manifest.bytes.len(), move || CacheManifest::read(&manifest)).await
    };
    let Ok(Some(cache)) = read else {
        return Ok(None);
    };
    if cache.config().size > MAX_CONFIG_BYTES as u64 {
        return Ok(None);
    }
    let size = cache.config().size;
    // Parsed, it takes several times its size in memory.
    let room = place.ctx.tables.room(16 * size);
    let _room = room.map_err(|why| Error::Memory {
        what: format!("config {}", cache.config().digest),
        why,
    })?;
    let read = load::read_blob(&*place.ctx.store, cache.config()).await;
    let Some(config) = corrupt_is_none(read)? else {
        return Ok(None);
    };
    let read = Part::read(cache, &config).ok().map(|p| p.config);
    Ok(read.map(|c| (c.records().len() as u64, c.layers().len() as u64)))
}

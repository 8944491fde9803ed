//! Inspect: shows what one name holds, pack by pack, or blob by blob. Manifests, configs and tables of contents are read, not the data.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{
    Context, Error, LeftOut, Result, dated, foreign,
    head::{self, Current},
    json, list,
    load::{self, Loaded},
    names::{self, Foreign, Found, NameInRepo, Word},
    reach::{self, RepoContext},
    verify,
};
use crate::{
    artifact::{Descriptor, Reference, Tag, name::replaced_at, snapshot},
    digest::Digest,
    entry::Entry,
    source::SourceKind,
    task,
};

/// Most side tags shown for a snapshot: all of them would not fit into one message of a daemon.
const MAX_SHOWN: usize = 10_000;

/// One pack of a snapshot, or a config or layer of a foreign manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackRow {
    /// Digest of the layer.
    pub digest: Digest,
    /// Its media type, from its descriptor; `None` for a pack.
    pub media_type: Option<String>,
    /// Stored bytes.
    pub stored_bytes: u64,
    /// Entries in its table of contents.
    pub entries: u64,
    /// Those of them that are live.
    pub live: u64,
    /// Objects in it that live entries of the snapshot need.
    pub objects_live: u64,
    /// All objects that it has.
    pub objects: u64,
    /// Frames.
    pub frames: u64,
    /// Number of times it was repacked because a store held a damaged copy.
    pub generation: u32,
}

/// A snapshot in detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// As in a listing; the totals are those of head and pending side tags together.
    #[serde(flatten)]
    pub row: list::Row,
    /// Packs, repacked ones first; in JSON they replace the row's number of packs.
    pub packs: Vec<PackRow>,
    /// Side tags that it contains, the latest ten thousand.
    pub folded: Vec<String>,
    /// Which nodes can use it: gate and traits.
    #[serde(serialize_with = "json::object")]
    pub fingerprint: Vec<(String, String)>,
    /// The live entries, if asked for; sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<File>>,
    /// Details of a foreign manifest.
    pub outside: Option<Outside>,
}

/// A live entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct File {
    /// Its path.
    pub path: String,
    /// Bytes of its content.
    pub bytes: u64,
}

/// A foreign manifest in detail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// Its media type.
    pub media_type: String,
    /// Its other manifests: those below an index, parts and referrers.
    pub manifests: Vec<Digest>,
    /// Those of them that its tag is merged from.
    pub parts: Vec<Digest>,
    /// Those of them that refer to it, or to one below it.
    pub referrers: Vec<Digest>,
    /// Records in the config of a BuildKit cache; `None` if it is not such a cache, or the config cannot be read.
    pub records: Option<u64>,
    /// Layers in it.
    pub layers: Option<u64>,
}

impl Snapshot {
    /// An approximate upper bound of the memory it takes.
    fn bytes_in_memory(&self) -> u64 {
        let packs = self
            .packs
            .iter()
            .map(|p| size_of::<PackRow>() + p.media_type.as_ref().map_or(0, String::len));
        let texts = self.folded.iter().map(|t| 32 + t.len());
        let prints = self.fingerprint.iter().map(|(k, v)| 64 + k.len() + v.len());
        let files = self.files.iter().flatten().map(|f| 48 + f.path.len());
        let outside = self
            .outside
            .iter()
            .map(|f| (f.manifests.len() + f.parts.len() + f.referrers.len()) * size_of::<Digest>());
        let all = packs.chain(texts).chain(prints).chain(files).chain(outside);
        all.sum::<usize>() as u64
    }
}

/// Shows every snapshot whose name, tag or digest is `name`; empty if there is none.
///
/// A name or a head's tag is shown as a reader gets it: with the side tags that the head does not contain yet.
///
/// # Errors
/// `Damaged` when nothing of a name can be read; partial losses are warnings.
pub async fn run(ctx: &Context, name: &str, files: bool) -> Result<Vec<Snapshot>> {
    super::within_budget(ctx, "inspecting", Box::pin(inspect(ctx, name, files))).await
}

async fn inspect(ctx: &Context, name: &str, files: bool) -> Result<Vec<Snapshot>> {
    let word = Word::new(Some(name));
    if let Word::Digest(digest) = word {
        for place in reach::places(ctx).await? {
            if let Some(found) = one(&place, &digest.into(), files).await? {
                return Ok(vec![found]);
            }
        }
        return Ok(Vec::new());
    }
    let (mut all, mut room) = (Vec::new(), ctx.tables.no_room_yet());
    for found in names::find(ctx, &word).await? {
        let NameInRepo { place, group, .. } = &found;
        let side = group
            .sides
            .first()
            .filter(|s| s.as_str() == name || place.shown(s.as_str()) == name);
        let snapshot = match side {
            Some(side) => one(place, &side.clone().into(), files).await?,
            None => folded(&found, files).await?,
        };
        let bytes = snapshot.as_ref().map_or(0, Snapshot::bytes_in_memory);
        room.grow(bytes).map_err(|why| Error::Memory {
            what: format!("all that {name} is"),
            why,
        })?;
        all.extend(snapshot);
    }
    Ok(all)
}

/// What one manifest holds, without folding.
async fn one(place: &RepoContext, reference: &Reference, files: bool) -> Result<Option<Snapshot>> {
    let ctx = &place.ctx;
    let damaged = |why: String| Error::Damaged {
        what: match reference {
            Reference::Tag(tag) => place.shown(tag.as_str()),
            Reference::Digest(digest) => digest.to_string(),
        },
        why,
    };
    let ours = match names::look(ctx, reference).await? {
        Found::Ours(ours) => ours,
        Found::Foreign(found) => return outside(place, reference, &found, files).await.map(Some),
        Found::Broken(why) => return Err(damaged(why)),
        Found::Gone => return Ok(None),
    };
    let loaded = load::load(ctx, &ours.manifest, &HashSet::new()).await?;
    let mut loaded = loaded.map_err(|e| damaged(e.text()))?;
    let stands = match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    };
    let now = ctx.store.clock().await?;
    warn(
        ctx,
        dated::leave_out(&mut loaded, stands, ours.written, now).as_slice(),
    );
    let Loaded { snapshot, lost, .. } = loaded;
    warn(ctx, &lost);
    let tag = match reference {
        Reference::Tag(tag) => tag.clone(),
        Reference::Digest(_) => ours.name().tag(),
    };
    let row = list::of_ours(place, &tag, &ours, 0);
    Ok(Some(
        task::blocking(move || detail(row, &snapshot, files)).await,
    ))
}

/// What a reader gets of a name.
async fn folded(name: &NameInRepo, files: bool) -> Result<Option<Snapshot>> {
    let NameInRepo { place, group, .. } = name;
    let ctx = &place.ctx;
    let mut broken = Vec::new();
    let mut known = None;
    // Any readable manifest of the name has the full name.
    for tag in group.tags().collect::<Vec<_>>().into_iter().rev() {
        match names::look(ctx, &tag.clone().into()).await? {
            Found::Ours(ours) => {
                known = Some(ours);
                break;
            }
            Found::Foreign(found) if *tag == group.head => {
                return outside(place, &tag.clone().into(), &found, files)
                    .await
                    .map(Some);
            }
            Found::Broken(why) => broken.push(name.fault(tag, why)),
            Found::Foreign(_) | Found::Gone => {}
        }
    }
    let Some(ours) = known else {
        return broken
            .into_iter()
            .next()
            .map_or(Ok(None), |LeftOut { what, why }| {
                Err(Error::Damaged { what, why })
            });
    };
    if SourceKind::from_name(&ours.config.kind).is_none() {
        return one(place, &group.head.clone().into(), files).await;
    }
    let asked = ours.name();
    let mut row = list::of_ours(place, &group.head, &ours, 0);
    // Its config is read again below, and need not be in memory twice.
    drop(ours);
    let current: Current = head::read(ctx, &asked, &HashSet::new()).await?;
    warn(ctx, &current.lost());
    warn(ctx, &current.ahead);
    let (snapshot, current) = task::blocking(move || (current.folded(), current)).await;
    let Some(snapshot) = snapshot else {
        return match current.broken.into_iter().next() {
            Some(LeftOut { what, why }) => Err(Error::Damaged { what, why }),
            None => Ok(None),
        };
    };
    row.pending = current.sides.len();
    let (entries, bytes) = snapshot.totals();
    row.digest = current.digest().unwrap_or(row.digest);
    row.created = snapshot.created;
    (row.entries, row.bytes) = (entries, bytes);
    (row.packs, row.stored_bytes) = (snapshot.packs.len(), snapshot.stored_bytes());
    drop(current);
    Ok(Some(
        task::blocking(move || detail(row, &snapshot, files)).await,
    ))
}

fn warn(ctx: &Context, lost: &[LeftOut]) {
    for LeftOut { what, why } in lost {
        ctx.progress.warn(&format!("{what}: {why}"));
    }
}

fn detail(row: list::Row, snapshot: &snapshot::Snapshot, files: bool) -> Snapshot {
    let print = &snapshot.fingerprint;
    let gates = print.gates.iter().map(|g| ("gate".to_owned(), g.clone()));
    let traits = print.traits.iter().map(|(k, v)| (k.clone(), v.clone()));
    let files = files.then(|| {
        let file = |e: &Entry| File {
            path: e.path.to_string(),
            bytes: e.kind.content_len(),
        };
        let mut all: Vec<_> = snapshot.live().map(|(_, e)| file(&e.entry)).collect();
        all.sort();
        all
    });
    Snapshot {
        row,
        packs: packs(snapshot),
        folded: side_tags(snapshot),
        fingerprint: gates.chain(traits).collect(),
        files,
        outside: None,
    }
}

/// The latest side tags that it contains, without the marks of replacements.
fn side_tags(snapshot: &snapshot::Snapshot) -> Vec<String> {
    let folded = snapshot.folded.iter().map(|f| &f.tag);
    let mut tags: Vec<String> = folded
        .filter(|tag| replaced_at(tag).is_none())
        .cloned()
        .collect();
    // Their text order is their order in time.
    tags.sort_unstable();
    tags.split_off(tags.len().saturating_sub(MAX_SHOWN))
}

fn packs(snapshot: &snapshot::Snapshot) -> Vec<PackRow> {
    let places = snapshot.objects();
    let mut needed: HashMap<usize, HashSet<usize>> = HashMap::new();
    for (at, _) in snapshot.live() {
        for (pack, object) in snapshot.object_ids(at).filter_map(|id| places.get(&id)) {
            needed.entry(*pack).or_default().insert(*object);
        }
    }
    let row = |(i, p): (usize, &snapshot::Pack)| PackRow {
        digest: p.digest(),
        media_type: None,
        stored_bytes: p.layer.descriptor.size,
        entries: p.toc.entries.len() as u64,
        live: p.live.iter().filter(|l| **l).count() as u64,
        objects_live: needed.get(&i).map_or(0, HashSet::len) as u64,
        objects: p.toc.objects.len() as u64,
        frames: p.toc.frames.len() as u64,
        generation: p.toc.generation,
    };
    snapshot.packs.iter().enumerate().map(row).collect()
}

/// A foreign manifest: its kind and needs. Unreadable parts are warnings.
async fn outside(
    place: &RepoContext,
    reference: &Reference,
    found: &Foreign,
    files: bool,
) -> Result<Snapshot> {
    let manifest = &found.manifest;
    let nameless = || {
        let text = format!("untagged-{}", &manifest.digest.hex()[..12]);
        text.parse::<Tag>()
            .expect("letters, digits and dashes are a valid tag")
    };
    let (tag, stands) = match reference {
        Reference::Tag(tag) => (tag.clone(), Some(tag)),
        Reference::Digest(_) => (nameless(), None),
    };
    let needs = foreign::needs(place, stands, manifest).await?;
    let faults = needs
        .faults
        .iter()
        .map(|why| names::fault(place, &tag, why));
    warn(&place.ctx, &faults.collect::<Vec<_>>());
    let stored = stored(place, &tag, &needs.blobs).await?;
    let one_row = |(d, size): (&Descriptor, &Option<u64>)| PackRow {
        digest: d.digest,
        media_type: Some(d.media_type.clone()).filter(|t| !t.is_empty()),
        stored_bytes: size.unwrap_or(0),
        entries: 0,
        live: 0,
        objects_live: 0,
        objects: 0,
        frames: 0,
        generation: 0,
    };
    let mut row = list::of_foreign(place, &tag, found, &needs).await?;
    row.packs = stored.iter().flatten().count();
    row.stored_bytes = stored.iter().flatten().sum();
    let (records, layers) = foreign::records(place, manifest).await?.unzip();
    Ok(Snapshot {
        row,
        packs: needs.blobs.iter().zip(&stored).map(one_row).collect(),
        folded: Vec::new(),
        fingerprint: Vec::new(),
        // It has no entries.
        files: files.then(Vec::new),
        outside: Some(Outside {
            media_type: manifest.media_type.clone(),
            manifests: needs.manifests.iter().skip(1).map(|(d, _)| *d).collect(),
            parts: needs.parts,
            referrers: needs.referrers,
            records,
            layers,
        }),
    })
}

/// The stored size of each config and layer; `None` for a missing one. A mismatch with its descriptor is a warning.
async fn stored(place: &RepoContext, tag: &Tag, blobs: &[Descriptor]) -> Result<Vec<Option<u64>>> {
    let store = &place.ctx.store;
    let digests: Vec<Digest> = blobs.iter().map(|d| d.digest).collect();
    let sizes = stream::iter(digests)
        .map(|digest| async move { store.stat(&digest).await })
        .buffered(place.ctx.concurrency.max(1));
    let sizes: Vec<Option<u64>> = sizes.try_collect().await?;
    for (desc, size) in blobs.iter().zip(&sizes) {
        if let Some(why) = verify::size_fault(desc, *size) {
            let why = format!("blob {} {why}", desc.digest);
            warn(&place.ctx, &[names::fault(place, tag, &why)]);
        }
    }
    Ok(sizes)
}

//! A snapshot: one cache at one time, as manifest, config and the tables of contents of its packs together.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Descriptor, Manifest, annotations,
    config::{
        self, Config, FORMAT_VERSION, Fingerprint, Folded, MAX_LAYERS_READ, PackState, RootMeta,
    },
    media,
    name::SnapshotName,
    toc::{MAX_STORED_TOC_BYTES, ObjectId, Toc, TocEntry},
    wire::{Malformed, Result, bad},
};
use crate::{digest::Digest, entry::Time};

/// Longest media type or title of a layer.
const MAX_LABEL_BYTES: usize = 255;
/// A number of layers that all registries accept, even old ones.
pub const MAX_PACKS: usize = 127;

/// Location of a pack's table of contents, according to the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TocPlace {
    /// SHA-256 of its stored form.
    pub digest: Digest,
    /// Where it starts in the pack.
    pub offset: u64,
    /// Its stored length.
    pub size: u64,
}

/// A layer of a snapshot and where its table of contents is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The pack as stored.
    pub descriptor: Descriptor,
    /// Its table of contents.
    pub toc: TocPlace,
}

impl Layer {
    /// A pack's layer with all annotations.
    pub fn new(digest: Digest, size: u64, toc: TocPlace) -> Self {
        let mut descriptor = Descriptor::new(media::FULL_PACK, digest, size);
        descriptor.annotations = BTreeMap::from([
            (
                annotations::TITLE.to_owned(),
                format!("{}.tar.zst", &digest.hex()[..12]),
            ),
            (annotations::TOC_DIGEST.to_owned(), toc.digest.to_string()),
            (annotations::TOC_OFFSET.to_owned(), toc.offset.to_string()),
            (annotations::TOC_SIZE.to_owned(), toc.size.to_string()),
        ]);
        Self { descriptor, toc }
    }

    fn from_descriptor(descriptor: Descriptor) -> Result<Self> {
        let field = |key: &str| match descriptor.annotations.get(key) {
            Some(v) => Ok(v.as_str()),
            None => bad(format!(
                "layer {} lacks the annotation {key}",
                descriptor.digest
            )),
        };
        let number = |key: &str| -> Result<u64> {
            field(key)?
                .parse()
                .map_err(|_| Malformed(format!("annotation {key} of a layer is not a number")))
        };
        let digest = field(annotations::TOC_DIGEST)?
            .parse()
            .map_err(|e| Malformed(format!("a layer: {e}")))?;
        let toc = TocPlace {
            digest,
            offset: number(annotations::TOC_OFFSET)?,
            size: number(annotations::TOC_SIZE)?,
        };
        let end = toc.offset.checked_add(toc.size);
        if toc.size > MAX_STORED_TOC_BYTES || end.is_none_or(|end| end > descriptor.size) {
            return bad(format!(
                "the table of contents of layer {} is outside the layer",
                descriptor.digest
            ));
        }
        let title = field(annotations::TITLE).ok().map(str::to_owned);
        if descriptor.media_type.len() > MAX_LABEL_BYTES {
            return bad("a layer has an unknown media type");
        }
        // Only relevant fields, as we would write them: a fold keeps the layers of other writers.
        let mut layer = Self::new(descriptor.digest, descriptor.size, toc);
        layer.descriptor.media_type = descriptor.media_type;
        if let Some(title) = title.filter(|t| t.len() <= MAX_LABEL_BYTES) {
            let key = annotations::TITLE.to_owned();
            layer.descriptor.annotations.insert(key, title);
        }
        Ok(layer)
    }
}

/// The content of a manifest, before its config is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The config blob.
    pub config: Descriptor,
    /// The layers, in order, without checking for tables of contents yet.
    pub layers: Vec<Descriptor>,
    /// When it was created, if stated: its writer's clock, or `SOURCE_DATE_EPOCH`. Informational only; no decision depends on it.
    pub created: Option<Time>,
    /// When it was published, if stated: the store's clock as its writer read it. Decisions use `store::published_at`.
    pub published: Option<Time>,
}

impl Outline {
    /// Reads an image manifest with a cachectl config; `None` for any other manifest.
    ///
    /// # Errors
    /// When it claims to be a cachectl snapshot but is not well-formed.
    pub fn read(manifest: &Manifest) -> Result<Option<Self>> {
        let Ok(parsed) = oci_spec::image::ImageManifest::from_reader(manifest.bytes.as_ref())
        else {
            return Ok(None);
        };
        if parsed.config().media_type().to_string() != media::CONFIG {
            return Ok(None);
        }
        if parsed.layers().len() > MAX_LAYERS_READ {
            return bad(format!("it has more than {MAX_LAYERS_READ} layers"));
        }
        let annotations = parsed.annotations().as_ref();
        let time = |key: &str| {
            let text = annotations.and_then(|a| a.get(key))?;
            humantime::parse_rfc3339(text).ok().map(Time::from)
        };
        Ok(Some(Self {
            digest: manifest.digest,
            config: convert(parsed.config())?,
            layers: parsed.layers().iter().map(convert).collect::<Result<_>>()?,
            created: time(annotations::CREATED),
            published: time(annotations::PUBLISHED),
        }))
    }
}

fn convert(d: &oci_spec::image::Descriptor) -> Result<Descriptor> {
    let digest = d
        .digest()
        .to_string()
        .parse()
        .map_err(|e| Malformed(format!("a descriptor: {e}")))?;
    let mut ours = Descriptor::new(d.media_type().as_ref(), digest, d.size());
    ours.annotations = d
        .annotations()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    Ok(ours)
}

/// A pack as part of a snapshot.
#[derive(Debug, Clone)]
pub struct Pack {
    /// The layer.
    pub layer: Layer,
    /// Its table of contents.
    pub toc: Arc<Toc>,
    /// Which entries of it are live, one flag per entry.
    pub live: Vec<bool>,
    /// Day of last use (0: not recorded), one per entry.
    pub days: Vec<u32>,
    /// Indexes of entries that must not be used, even if marked as live ([`super::fold::barred`]).
    pub barred: HashSet<usize>,
}

impl Pack {
    /// A pack all of whose entries are live, last used on `day`.
    pub fn all_live(layer: Layer, toc: Arc<Toc>, day: u32) -> Self {
        let count = toc.entries.len();
        Self {
            layer,
            toc,
            live: vec![true; count],
            days: vec![day; count],
            barred: HashSet::new(),
        }
    }

    /// Digest of the layer.
    pub fn digest(&self) -> Digest {
        self.layer.descriptor.digest
    }

    /// Sort key of the packs of a snapshot: repacked ones come before the damaged ones that they replace.
    pub fn order(&self) -> (std::cmp::Reverse<u32>, Digest) {
        (std::cmp::Reverse(self.toc.generation), self.digest())
    }
}

/// Position of an entry in a snapshot: which pack, which of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// Index of the pack.
    pub pack: usize,
    /// Index of the entry in its table of contents.
    pub entry: usize,
}

/// Locations of objects: index of the pack, index of the object in its table of contents.
pub type Places = HashMap<ObjectId, (usize, usize)>;

/// One cache at one time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its full name.
    pub name: SnapshotName,
    /// Where it is usable.
    pub fingerprint: Fingerprint,
    /// Sorted by [`Pack::order`], unique.
    pub packs: Vec<Pack>,
    /// A folder exported with `--merge`.
    pub merge: bool,
    /// Side tags that it contains; sorted.
    pub folded: Vec<Folded>,
    /// The carried folder itself.
    pub root: Option<RootMeta>,
    /// When it was created.
    pub created: Option<Time>,
    /// When it was published; for a snapshot that was read, limited to a credible time ([`super::fold::dated`]).
    pub published: Option<Time>,
}

impl Snapshot {
    /// Combines the documents and checks them against each other; `tocs` in the order of the layers.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn assemble(
        outline: &Outline,
        config: Config,
        layers: Vec<Layer>,
        tocs: Vec<Arc<Toc>>,
    ) -> Result<Self> {
        if config.packs.len() != layers.len() || layers.len() != tocs.len() {
            return bad("config and manifest name different packs");
        }
        let mut packs = Vec::with_capacity(layers.len());
        for ((state, layer), toc) in config.packs.iter().zip(layers).zip(tocs) {
            let count = toc.entries.len();
            if state.digest != layer.descriptor.digest || state.entries != count as u64 {
                return bad(format!(
                    "config and pack {} differ",
                    layer.descriptor.digest
                ));
            }
            if toc
                .frames
                .last()
                .is_some_and(|f| f.offset + u64::from(f.len) > layer.toc.offset)
            {
                return bad(format!(
                    "the frames of pack {} overlap its table of contents",
                    state.digest
                ));
            }
            let live = config::decode_live(&state.live, count)?;
            let used = config::decode_days(&state.days, live.iter().filter(|l| **l).count())?;
            let mut used = used.into_iter();
            let days = live
                .iter()
                .map(|l| if *l { used.next().unwrap_or(0) } else { 0 })
                .collect();
            packs.push(Pack {
                layer,
                toc,
                live,
                days,
                barred: HashSet::new(),
            });
        }
        let name = SnapshotName {
            kind: config.kind,
            name: config.name,
            scope: config.scope,
            key: config.key,
        };
        let mut fingerprint = config.fingerprint;
        fingerprint.bound();
        let mut snapshot = Self {
            name,
            fingerprint,
            packs,
            merge: config.merge,
            folded: config.folded,
            root: config.root,
            created: outline.created,
            published: outline.published,
        };
        snapshot.packs.sort_by_key(Pack::order);
        let distinct: HashSet<Digest> = snapshot.packs.iter().map(Pack::digest).collect();
        if distinct.len() != snapshot.packs.len() {
            return bad("it names a pack twice");
        }
        Ok(snapshot)
    }

    /// The layer of each descriptor of an outline.
    pub fn layers(outline: &Outline) -> Result<Vec<Layer>> {
        let packs = outline
            .layers
            .iter()
            .filter(|d| d.media_type != media::EMPTY);
        packs.cloned().map(Layer::from_descriptor).collect()
    }

    /// An entry.
    pub fn entry(&self, at: At) -> &TocEntry {
        &self.packs[at.pack].toc.entries[at.entry]
    }

    /// Day of last use of an entry.
    pub fn day(&self, at: At) -> u32 {
        self.packs[at.pack].days[at.entry]
    }

    /// All live entries, pack by pack.
    pub fn live(&self) -> impl Iterator<Item = (At, &TocEntry)> {
        self.packs.iter().enumerate().flat_map(|(pack, p)| {
            let marked = p
                .toc
                .entries
                .iter()
                .enumerate()
                .filter(|(entry, _)| p.live[*entry]);
            marked.map(move |(entry, e)| (At { pack, entry }, e))
        })
    }

    /// The live entries sorted by path; of one path, in the order of the packs.
    pub fn live_by_path(&self) -> Vec<At> {
        let mut all: Vec<At> = self.live().map(|(at, _)| at).collect();
        let path = |at: &At| &self.entry(*at).entry.path;
        // Packs of a folder are in this order already, which a stable sort finds out in one pass.
        all.sort_by(|a, b| path(a).cmp(path(b)));
        all
    }

    /// The location of each object: pack and index of the object; the first pack that claims to hold it is used.
    pub fn objects(&self) -> Places {
        self.objects_outside(&HashSet::new())
    }

    /// The same, without the packs at the indexes `spent`.
    pub fn objects_outside(&self, spent: &HashSet<usize>) -> Places {
        let mut map = HashMap::with_capacity(self.packs.iter().map(|p| p.toc.objects.len()).sum());
        let packs = self.packs.iter().enumerate();
        for (pack, p) in packs.filter(|(pack, _)| !spent.contains(pack)) {
            for (i, o) in p.toc.objects.iter().enumerate() {
                map.entry(o.id()).or_insert((pack, i));
            }
        }
        map
    }

    /// The locations in other packs of the objects whose first location is in `first`.
    pub fn objects_again(&self, first: &Places) -> HashMap<ObjectId, Vec<(usize, usize)>> {
        let mut again: HashMap<ObjectId, Vec<(usize, usize)>> = HashMap::new();
        for (pack, p) in self.packs.iter().enumerate() {
            for (i, o) in p.toc.objects.iter().enumerate() {
                if first.get(&o.id()).is_some_and(|at| at.0 != pack) {
                    again.entry(o.id()).or_default().push((pack, i));
                }
            }
        }
        again
    }

    /// The ids of an entry's objects, in order.
    pub fn object_ids(&self, at: At) -> impl Iterator<Item = ObjectId> {
        let toc = &self.packs[at.pack].toc;
        toc.entries[at.entry].objects.iter().map(|o| toc.object(*o))
    }

    /// Number and content bytes of the live entries.
    pub fn totals(&self) -> (u64, u64) {
        self.live().fold((0, 0), |(n, sum), (_, e)| {
            (n + 1, u64::saturating_add(sum, e.entry.kind.content_len()))
        })
    }

    /// Number of entries in its packs, live or not, and the bytes of memory for reading their tables.
    pub fn reading_cost(&self) -> (u64, u64) {
        self.packs.iter().fold((0, 0), |(entries, bytes), p| {
            (
                entries + p.toc.entries.len() as u64,
                bytes + p.toc.reading_bytes(),
            )
        })
    }

    /// Stored bytes of all packs.
    pub fn stored_bytes(&self) -> u64 {
        self.packs.iter().map(|p| p.layer.descriptor.size).sum()
    }

    /// Returns true if days of use should be recorded.
    fn records_use(&self) -> bool {
        self.packs.iter().any(|p| p.days.iter().any(|d| *d > 0))
    }

    /// The documents to publish: config blob and manifest.
    ///
    /// They depend only on the snapshot and `created`; packs are written in the order of their digests. The time of publication
    /// is written if there is one.
    pub fn seal(&self, created: Time) -> Sealed {
        let mut packs: Vec<&Pack> = self.packs.iter().collect();
        packs.sort_by_key(|p| p.order());
        let records = self.records_use();
        let state = |p: &&Pack| {
            let used: Vec<u32> = p
                .days
                .iter()
                .zip(&p.live)
                .filter(|(_, l)| **l)
                .map(|(d, _)| *d)
                .collect();
            PackState {
                digest: p.digest(),
                entries: p.toc.entries.len() as u64,
                live: config::encode_live(&p.live),
                days: if records {
                    config::encode_days(&used)
                } else {
                    String::new()
                },
            }
        };
        let (entries, bytes) = self.totals();
        let config = Config {
            format_version: FORMAT_VERSION,
            required_features: Vec::new(),
            kind: self.name.kind.clone(),
            name: self.name.name.clone(),
            scope: self.name.scope.clone(),
            key: self.name.key.clone(),
            fingerprint: self.fingerprint.clone(),
            entries,
            bytes,
            packs: packs.iter().map(state).collect(),
            merge: self.merge,
            folded: self.folded.clone(),
            root: self.root,
        };
        let config_bytes = config.encode();
        let config_descriptor = Descriptor::of(media::CONFIG, &config_bytes);
        let mut annotations = BTreeMap::from([(annotations::CREATED, rfc3339(created))]);
        if let Some(published) = self.published {
            annotations.insert(annotations::PUBLISHED, rfc3339(published));
        }
        let empty = empty_layer();
        let mut layers: Vec<&Descriptor> = packs.iter().map(|p| &p.layer.descriptor).collect();
        if layers.is_empty() {
            layers.push(&empty);
        }
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE_MANIFEST,
            "artifactType": media::artifact_type(&self.name.kind),
            "config": config_descriptor,
            "layers": layers,
            "annotations": annotations,
        });
        let bytes =
            serde_json::to_vec(&document).expect("strings and numbers can always be written");
        Sealed {
            config: config_descriptor,
            config_bytes,
            manifest: Manifest::new(media::IMAGE_MANIFEST, bytes),
            is_empty: packs.is_empty(),
        }
    }
}

fn rfc3339(time: Time) -> String {
    let secs = u64::try_from(time.secs).unwrap_or(0);
    let when = std::time::UNIX_EPOCH + std::time::Duration::new(secs, time.nanos);
    humantime::format_rfc3339_millis(when).to_string()
}

/// The content of [`empty_layer`].
pub const EMPTY_CONTENT: &[u8] = b"{}";

/// The placeholder layer of a snapshot without layers: registries require at least one (image spec, `manifest.md`).
pub fn empty_layer() -> Descriptor {
    Descriptor::of(media::EMPTY, EMPTY_CONTENT)
}

/// The documents of a snapshot, ready to be stored.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Descriptor of the config blob.
    pub config: Descriptor,
    /// Its bytes.
    pub config_bytes: Vec<u8>,
    /// The manifest.
    pub manifest: Manifest,
    /// It has no packs; its one layer is [`empty_layer`].
    pub is_empty: bool,
}

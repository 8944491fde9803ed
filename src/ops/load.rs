//! Reading snapshots: manifest, config, tables of contents, each checked against its digest; never the packs' data.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Context, Error, LeftOut, Result};
use crate::{
    artifact::{
        Descriptor, Manifest,
        config::{Config, MAX_CONFIG_BYTES},
        fold::{barred::bar, contained},
        name::SnapshotName,
        snapshot::{Layer, Outline, Snapshot, TocPlace},
        toc::{MAX_ENTRIES, NotRead, Reading, Toc, TocEntry},
        wire::{Malformed, Result as WireResult},
    },
    digest::Digest,
    memory::{Exhausted, MemoryBudget, Reservation},
    pack::bare,
    source::SourceKind,
    store::{self, ErrorKind, RepoStore},
    task,
};

/// A snapshot as far as it could be read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Digest of its manifest.
    pub digest: Digest,
    /// The readable part: without lost packs, not yet closed.
    pub snapshot: Snapshot,
    /// Packs that are missing, damaged, or known to be damaged, with reasons.
    pub lost: Vec<LeftOut>,
    /// A description, if it had live entries that its kind of cache cannot have; they are barred.
    pub barred: Option<String>,
    /// Memory that it takes besides its tables.
    pub memory: Reservation,
}

/// Why a manifest gives no snapshot.
#[derive(Debug)]
pub enum NotLoaded {
    /// It is a foreign manifest.
    Foreign,
    /// It is a snapshot, but cannot be used: damaged, incomplete, of a later version.
    Broken(String),
}

/// Tables of contents that a verb reads, each decoded once while it is in memory, all within one budget.
///
/// Belongs to one store as one caller sees it: known tables are not requested again.
#[derive(Debug)]
pub struct Tables {
    memory: MemoryBudget,
    decoded: Mutex<Decoded>,
}

/// By pack and place in it.
type Decoded = HashMap<(Digest, TocPlace), Weak<Toc>>;

/// Memory that a tag takes in a listing, with its row.
const BYTES_PER_TAG: u64 = 600;
/// Most remembered tables before dropped ones are purged.
const MAX_REMEMBERED: usize = 8192;

impl Tables {
    /// An empty collection within that budget.
    pub fn within(memory: MemoryBudget) -> Arc<Self> {
        Arc::new(Self {
            memory,
            decoded: Mutex::default(),
        })
    }

    /// An empty collection within the same budget: for another store, or another view of it.
    pub fn afresh(&self) -> Arc<Self> {
        Self::within(self.memory.clone())
    }

    /// A permit to read the manifests of a name; see [`MemoryBudget::turn`].
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        self.memory.turn().await
    }

    /// Reserves memory for `bytes` of other content to be read.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn room(&self, bytes: u64) -> std::result::Result<Reservation, Exhausted> {
        self.memory.reserve(0, bytes)
    }

    /// An empty reservation, for content whose size is unknown before it is read.
    pub(super) fn no_room_yet(&self) -> Reservation {
        self.memory.nothing()
    }

    /// Reserves memory for this many tags, with their details in a listing. Without a daemon, a command may list any number of them.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn room_of_tags(&self, tags: usize) -> std::result::Result<Reservation, Exhausted> {
        if !self.memory.is_shared() {
            return Ok(Reservation::default());
        }
        self.room(BYTES_PER_TAG.saturating_mul(tags as u64))
    }

    fn known(&self, layer: &Layer) -> Option<Arc<Toc>> {
        self.decoded.lock().get(&key(layer))?.upgrade()
    }

    fn remember(&self, layer: &Layer, toc: &Arc<Toc>) {
        let mut decoded = self.decoded.lock();
        if decoded.len() >= MAX_REMEMBERED {
            decoded.retain(|_, toc| toc.strong_count() > 0);
        }
        if decoded.len() < MAX_REMEMBERED {
            decoded.insert(key(layer), Arc::downgrade(toc));
        }
    }
}

fn key(layer: &Layer) -> (Digest, TocPlace) {
    (layer.descriptor.digest, layer.toc)
}

/// Memory for a snapshot's config while it is decoded, as a multiple of its size: its bytes, and a list that grew to hold its content.
const DECODING: u64 = 5;
/// The same after decoding.
const DECODED: u64 = 2;
/// Memory that a snapshot keeps per entry besides its table: whether it is live, and its day.
const ENTRY_BYTES: u64 = 5;
/// Memory that it keeps per pack.
const PACK_BYTES: u64 = 2048;

/// Why the tables of a snapshot are not read.
enum Failed {
    /// The store cannot be asked.
    Store(Error),
    /// There is no memory for them.
    Memory(Exhausted),
    /// The config cannot be used, or nobody waits for the result any more.
    GivenUp,
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

/// Reads the snapshot of a manifest. Packs in `damaged` count as lost, even if the store has them.
///
/// No table is decoded before the config states the number of entries and that number is within the limits.
///
/// # Errors
/// When the store cannot be asked, or other callers use up the daemon's memory; missing, damaged or too large content is in the answer.
pub async fn load(
    ctx: &Context,
    manifest: &Manifest,
    damaged: &HashSet<Digest>,
) -> Result<std::result::Result<Loaded, NotLoaded>> {
    no_room(ctx, within_room(ctx, manifest, damaged).await)
}

/// The outline of a manifest that is a snapshot; `None` for any other. Long manifests are parsed on another thread.
///
/// # Errors
/// When it claims to be a snapshot but is invalid.
pub(super) async fn outline(
    manifest: &Manifest,
) -> std::result::Result<Option<Outline>, Malformed> {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || Outline::read(&manifest)).await
}

/// The same, for a caller that can retry after dropping its other reads.
///
/// # Errors
/// `Memory` if there is no memory for it, otherwise as [`load`].
pub(super) async fn within_room(
    ctx: &Context,
    manifest: &Manifest,
    damaged: &HashSet<Digest>,
) -> Result<std::result::Result<Loaded, NotLoaded>> {
    let broken = |why: String| Ok(Err(NotLoaded::Broken(why)));
    let outline = match outline(manifest).await {
        Ok(Some(outline)) => outline,
        Ok(None) => return Ok(Err(NotLoaded::Foreign)),
        Err(e) => return broken(format!("manifest: {e}")),
    };
    let layers = match Snapshot::layers(&outline) {
        Ok(layers) => layers,
        Err(e) => return broken(e.to_string()),
    };
    let (promise, promised) = watch::channel(None);
    let config = async {
        let read = checked_config(ctx, &outline.config, layers.len()).await;
        if let Ok(Ok((config, _))) = &read {
            let entries = config.packs.iter().map(|p| p.entries).collect();
            // `read_tocs` below waits for it.
            let _ = promise.send(Some(Arc::new(entries)));
        }
        drop(promise);
        read
    };
    let (config, tocs) = tokio::join!(config, read_tocs(ctx, &layers, promised, damaged));
    let (config, mut memory) = match config? {
        Ok(config) => config,
        Err(why) => return broken(why),
    };
    let refused = |why| {
        let what = format!("snapshot {}", manifest.digest);
        Err(Error::Memory { what, why })
    };
    let tocs = match tocs {
        Ok(tocs) => tocs,
        Err(Failed::Store(e)) => return Err(e),
        Err(Failed::Memory(why)) => return refused(why),
        Err(Failed::GivenUp) => return broken("reading it was aborted".to_owned()),
    };
    let entries: u64 = config.packs.iter().map(|p| p.entries).sum();
    let state = ENTRY_BYTES * entries + PACK_BYTES * config.packs.len() as u64;
    if let Err(why) = memory.grow(state) {
        return refused(why);
    }
    let digest = manifest.digest;
    // The reservation moves into the task, which continues even if nobody waits for it any more.
    let put_together = move || {
        let loaded = put_together(digest, &outline, config, layers, tocs)?;
        let texts = texts_of(&loaded.snapshot);
        memory.shrink(memory.bytes().saturating_sub(state + texts));
        Ok(Loaded { memory, ..loaded })
    };
    Ok(task::blocking(put_together)
        .await
        .map_err(NotLoaded::Broken))
}

/// Approximate bytes that a snapshot keeps of its config.
fn texts_of(snapshot: &Snapshot) -> u64 {
    let folded = snapshot.folded.iter().map(|f| f.tag.len());
    let gates = snapshot.fingerprint.gates.iter().map(String::len);
    let traits = snapshot.fingerprint.traits.iter();
    let traits = traits.flat_map(|(k, v)| [k.len(), v.len()]);
    let texts = folded.chain(gates).chain(traits);
    texts.map(|len| len as u64 + 64).sum()
}

/// Content that does not fit is too large for a command; in a daemon it may be read once other calls have ended.
fn no_room(
    ctx: &Context,
    read: Result<std::result::Result<Loaded, NotLoaded>>,
) -> Result<std::result::Result<Loaded, NotLoaded>> {
    match too_large(ctx, read)? {
        Ok(read) => Ok(read),
        Err(why) => Ok(Err(NotLoaded::Broken(why))),
    }
}

/// Distinguishes content too large for a command (in words, inside) from content that a daemon has no memory for now (an error).
pub(super) fn too_large<T>(
    ctx: &Context,
    read: Result<T>,
) -> Result<std::result::Result<T, String>> {
    match read {
        Err(Error::Memory { why, .. }) if !ctx.tables.memory.is_shared() => {
            Ok(Err(why.to_string()))
        }
        read => read.map(Ok),
    }
}

/// A config with its memory reservation.
pub(super) type ReadConfig = (Config, Reservation);

/// Reads a snapshot's config within the budget; the inner error describes why it cannot be used.
///
/// # Errors
/// `Memory` if there is no memory for it, otherwise as [`load`].
pub(super) async fn config(
    ctx: &Context,
    desc: &Descriptor,
) -> Result<std::result::Result<ReadConfig, String>> {
    if desc.size > MAX_CONFIG_BYTES {
        return Ok(Err(format!(
            "its config is too large ({} bytes)",
            desc.size
        )));
    }
    let reserved = ctx.tables.memory.reserve(0, DECODING * desc.size);
    let mut memory = reserved.map_err(|why| Error::Memory {
        what: format!("config {}", desc.digest),
        why,
    })?;
    let bytes = match usable(read_blob(&*ctx.store, desc).await)? {
        Ok(bytes) => bytes,
        Err(why) => return Ok(Err(format!("its config {why}"))),
    };
    // The reservation moves into the task, which continues even if nobody waits for it any more.
    let decode = move || {
        let mut config = Config::decode(&bytes)?;
        let name = name_in(&config);
        contained::drop_strangers(&mut config.folded, &name);
        let size = bytes.len() as u64;
        drop(bytes);
        memory.shrink((DECODING - DECODED) * size);
        Ok((config, memory))
    };
    let decoded: WireResult<ReadConfig> = task::blocking(decode).await;
    Ok(decoded.map_err(|e| e.to_string()))
}

fn name_in(config: &Config) -> SnapshotName {
    SnapshotName {
        kind: config.kind.clone(),
        name: config.name.clone(),
        scope: config.scope.clone(),
        key: config.key.clone(),
    }
}

/// Reads the config of a snapshot with this many layers, and checks that the sizes it states are within the limits.
async fn checked_config(
    ctx: &Context,
    desc: &Descriptor,
    layers: usize,
) -> Result<std::result::Result<ReadConfig, String>> {
    let (config, memory) = match config(ctx, desc).await? {
        Ok(read) => read,
        Err(why) => return Ok(Err(why)),
    };
    if config.packs.len() != layers {
        return Ok(Err("config and manifest name different packs".into()));
    }
    let entries = config.packs.iter().map(|p| p.entries);
    let entries = entries.fold(0, u64::saturating_add);
    if entries > MAX_ENTRIES {
        return Ok(Err(format!(
            "it lists {entries} entries, more than the limit of {MAX_ENTRIES}"
        )));
    }
    Ok(Ok((config, memory)))
}

/// Builds a snapshot from its documents. Blocks.
fn put_together(
    digest: Digest,
    outline: &Outline,
    mut config: Config,
    layers: Vec<Layer>,
    tocs: Vec<TocOrLost>,
) -> std::result::Result<Loaded, String> {
    let mut lost = Vec::new();
    let (mut states, mut kept_layers, mut kept_tocs) = (Vec::new(), Vec::new(), Vec::new());
    for ((state, layer), toc) in config.packs.into_iter().zip(layers).zip(tocs) {
        match toc {
            Ok(toc) => {
                states.push(state);
                kept_layers.push(layer);
                kept_tocs.push(toc);
            }
            Err(why) => {
                let what = format!("pack {}", layer.descriptor.digest);
                lost.push(LeftOut { what, why });
            }
        }
    }
    config.packs = states;
    let stated = (config.entries, config.bytes);
    let mut snapshot =
        Snapshot::assemble(outline, config, kept_layers, kept_tocs).map_err(|e| e.to_string())?;
    if lost.is_empty() && snapshot.totals() != stated {
        return Err("its config states other totals than its packs have".into());
    }
    // In a folder, an entry that cannot be restored does not make the rest less useful.
    let kind = SourceKind::from_name(&snapshot.name.kind).filter(|k| k.is_go());
    let barred = kind.and_then(|kind| {
        let content = |e: &TocEntry| e.entry.kind.is_file().then_some(e.content);
        // These need not be reported.
        bar(&mut snapshot, |e| {
            if kind.was_carried(&e.entry) {
                return Err(String::new());
            }
            Ok(())
        });
        bar(&mut snapshot, |e| kind.admit(&e.entry, content(e).as_ref()))
    });
    Ok(Loaded {
        digest,
        snapshot,
        lost,
        barred,
        memory: Reservation::default(),
    })
}

type TocOrLost = std::result::Result<Arc<Toc>, String>;
/// Number of entries per pack, once the config is read.
type Promised = watch::Receiver<Option<Arc<Vec<u64>>>>;

async fn read_tocs(
    ctx: &Context,
    layers: &[Layer],
    promised: Promised,
    damaged: &HashSet<Digest>,
) -> std::result::Result<Vec<TocOrLost>, Failed> {
    let read = |(i, layer): (usize, Layer)| {
        let mut promised = promised.clone();
        async move {
            if damaged.contains(&layer.descriptor.digest) {
                return Ok(Err("was found damaged by an import on this node".to_owned()));
            }
            if let Some(known) = ctx.tables.known(&layer) {
                return Ok(Ok(known));
            }
            // Stored bytes are asked for while the config is still on its way, and decoded after it.
            let stored = ctx.tables.memory.reserve(0, layer.toc.size);
            let _stored = stored.map_err(Failed::Memory)?;
            let bytes = match stored_toc(&*ctx.store, &layer).await? {
                Ok(bytes) => bytes,
                Err(why) => return Ok(Err(why)),
            };
            let entries = match promised.wait_for(Option::is_some).await {
                Ok(entries) => entries.as_ref().and_then(|e| e.get(i).copied()),
                Err(_) => None,
            };
            let entries = entries.ok_or(Failed::GivenUp)?;
            decode(ctx, layer, bytes, entries).await
        }
    };
    stream::iter(layers.iter().cloned().enumerate())
        .map(read)
        .buffered(ctx.concurrency.max(1))
        .try_collect()
        .await
}

/// The stored form of a table of contents.
async fn stored_toc(
    store: &dyn RepoStore,
    layer: &Layer,
) -> Result<std::result::Result<Bytes, String>> {
    let range = layer.toc.offset..layer.toc.offset + layer.toc.size;
    let bytes = match store.get(&layer.descriptor, range).await {
        Ok(Some(stream)) => store::collect(stream, layer.toc.size).await,
        Ok(None) => return Ok(Err("is missing".into())),
        Err(e) => Err(e),
    };
    usable(bytes.map(Some))
}

async fn decode(
    ctx: &Context,
    layer: Layer,
    bytes: Bytes,
    entries: u64,
) -> std::result::Result<TocOrLost, Failed> {
    let (digest, memory) = (layer.toc.digest, ctx.tables.memory.clone());
    let decoded = task::stoppable(move |stop| {
        let reading = Reading {
            entries,
            memory: &memory,
            stopped: &|| stop.is_set(),
        };
        bare::read_toc(&bytes, &digest, &reading)
    })
    .await;
    match decoded {
        Ok(toc) => {
            let toc = Arc::new(toc);
            ctx.tables.remember(&layer, &toc);
            Ok(Ok(toc))
        }
        Err(NotRead::Memory(why)) => Err(Failed::Memory(why)),
        Err(NotRead::Stopped) => Err(Failed::GivenUp),
        Err(NotRead::Malformed(e)) => Ok(Err(format!("is damaged: {e}"))),
    }
}

/// Distinguishes content that the store lost or damaged (in words, inside) from failures to ask it (an error).
fn usable(read: store::Result<Option<Bytes>>) -> Result<std::result::Result<Bytes, String>> {
    Ok(told(read)?.and_then(|found| found.ok_or_else(|| "is missing".into())))
}

/// Distinguishes damage (in words, inside) from failures to ask (an error).
pub fn told<T>(read: store::Result<T>) -> Result<std::result::Result<T, String>> {
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(e) if e.kind == ErrorKind::Corrupt => Ok(Err(format!("is damaged: {}", e.message))),
        Err(e) => Err(Error::Store(e)),
    }
}

/// Reads a whole small blob and checks it; `None` if it is missing.
pub async fn read_blob(store: &dyn RepoStore, desc: &Descriptor) -> store::Result<Option<Bytes>> {
    let Some(stream) = store.get(desc, 0..desc.size).await? else {
        return Ok(None);
    };
    let bytes = store::collect(stream, desc.size).await?;
    if !desc.digest.matches(&bytes) {
        let why = "its bytes do not match its digest";
        return Err(store::Error::corrupt("read", why).at("", desc.digest));
    }
    Ok(Some(bytes))
}

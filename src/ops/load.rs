//! Reading snapshots: manifest, config, tables of contents, each checked against its digest; never the packs' data.

use std::{collections::HashSet, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Context, Error, LeftOut, Result};
use crate::{
    artifact::{
        Descriptor, Manifest,
        config::{Config, MAX_CONFIG_BYTES},
        snapshot::{Layer, Outline, Snapshot},
        toc::Toc,
    },
    digest::Digest,
    pack::bare,
    store::{self, ErrorKind, Store},
    task,
};

/// A snapshot as far as it could be read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Digest of its manifest.
    pub digest: Digest,
    /// What could be read: without the packs that are lost, not yet closed.
    pub snapshot: Snapshot,
    /// Packs that are missing, damaged, or known to be damaged, with why.
    pub lost: Vec<LeftOut>,
}

/// Why a manifest gives no snapshot.
#[derive(Debug)]
pub enum NotLoaded {
    /// It is none of ours.
    Foreign,
    /// It is, but cannot be used: damaged, incomplete, of a later version.
    Broken(String),
}

/// Reads the snapshot of a manifest. Packs in `damaged` count as lost, whatever the store says.
///
/// # Errors
/// When the store cannot be asked; what is missing or damaged there is in the answer.
pub async fn load(
    ctx: &Context,
    manifest: &Manifest,
    damaged: &HashSet<Digest>,
) -> Result<std::result::Result<Loaded, NotLoaded>> {
    let broken = |why: String| Ok(Err(NotLoaded::Broken(why)));
    let outline = match Outline::read(manifest) {
        Ok(Some(outline)) => outline,
        Ok(None) => return Ok(Err(NotLoaded::Foreign)),
        Err(e) => return broken(format!("manifest: {e}")),
    };
    let layers = match Snapshot::layers(&outline) {
        Ok(layers) => layers,
        Err(e) => return broken(e.to_string()),
    };
    if outline.config.size > MAX_CONFIG_BYTES {
        return broken(format!("its config has {} bytes", outline.config.size));
    }
    let store = &*ctx.opened.store;
    let (config, tocs) = tokio::join!(
        read_blob(store, &outline.config),
        read_tocs(ctx, &layers, damaged)
    );
    let mut config = match usable(config)? {
        Ok(bytes) => match Config::decode(&bytes) {
            Ok(config) => config,
            Err(e) => return broken(e.to_string()),
        },
        Err(why) => return broken(format!("its config {why}")),
    };
    if config.packs.len() != layers.len() {
        return broken("config and manifest name different packs".into());
    }
    let mut lost = Vec::new();
    let (mut states, mut kept_layers, mut kept_tocs) = (Vec::new(), Vec::new(), Vec::new());
    for ((state, layer), toc) in config.packs.into_iter().zip(layers).zip(tocs?) {
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
    match Snapshot::assemble(&outline, config, kept_layers, kept_tocs) {
        Ok(snapshot) if lost.is_empty() && snapshot.totals() != stated => {
            broken("its config counts other entries than its packs have".into())
        }
        Ok(snapshot) => Ok(Ok(Loaded {
            digest: manifest.digest,
            snapshot,
            lost,
        })),
        Err(e) => broken(e.to_string()),
    }
}

type TocOrLost = std::result::Result<Arc<Toc>, String>;

async fn read_tocs(
    ctx: &Context,
    layers: &[Layer],
    damaged: &HashSet<Digest>,
) -> Result<Vec<TocOrLost>> {
    let read = |layer: Layer| async move {
        if damaged.contains(&layer.descriptor.digest) {
            return Ok(Err("was found damaged by an import on this node".to_owned()));
        }
        read_toc(&*ctx.opened.store, &layer).await
    };
    stream::iter(layers.to_vec())
        .map(read)
        .buffered(ctx.concurrency.max(1))
        .try_collect()
        .await
}

async fn read_toc(store: &dyn Store, layer: &Layer) -> Result<TocOrLost> {
    let range = layer.toc.offset..layer.toc.offset + layer.toc.size;
    let bytes = match store.get(&layer.descriptor, range).await {
        Ok(Some(stream)) => collect(stream, layer.toc.size).await,
        Ok(None) => return Ok(Err("is missing".into())),
        Err(e) => Err(e),
    };
    let bytes = match usable(bytes.map(Some))? {
        Ok(bytes) => bytes,
        Err(why) => return Ok(Err(why)),
    };
    let digest = layer.toc.digest;
    let toc = task::blocking(move || bare::read_toc(&bytes, &digest)).await;
    Ok(toc.map(Arc::new).map_err(|e| format!("is damaged: {e}")))
}

/// Tells what the store lost or damaged (in words, inside) from what keeps us from asking it (an error).
fn usable(read: store::Result<Option<Bytes>>) -> Result<std::result::Result<Bytes, String>> {
    Ok(told(read)?.and_then(|found| found.ok_or_else(|| "is missing".into())))
}

/// Tells what is damaged (in words, inside) from what keeps us from asking (an error).
pub fn told<T>(read: store::Result<T>) -> Result<std::result::Result<T, String>> {
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(e) if e.kind == ErrorKind::Corrupt => Ok(Err(format!("is damaged: {}", e.message))),
        Err(e) => Err(Error::Store(e)),
    }
}

/// Reads a whole small blob and checks it; `None` if it is missing.
pub async fn read_blob(store: &dyn Store, desc: &Descriptor) -> store::Result<Option<Bytes>> {
    let Some(stream) = store.get(desc, 0..desc.size).await? else {
        return Ok(None);
    };
    let bytes = collect(stream, desc.size).await?;
    if !desc.digest.matches(&bytes) {
        let why = "its bytes do not match its digest";
        return Err(store::Error::new(ErrorKind::Corrupt, "read", why).at("", desc.digest));
    }
    Ok(Some(bytes))
}

/// Collects a stream of exactly `len` bytes.
pub async fn collect(mut stream: store::ByteStream, len: u64) -> store::Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        if all.is_empty() && piece.len() as u64 == len {
            return Ok(piece);
        }
        all.extend_from_slice(&piece);
        if all.len() as u64 > len {
            break;
        }
    }
    if all.len() as u64 != len {
        let why = format!("{len} bytes expected, {} came", all.len());
        return Err(store::Error::new(ErrorKind::Corrupt, "read", why));
    }
    Ok(all.freeze())
}

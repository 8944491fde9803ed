//! The documents of a merged cache, or of a part of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    CacheConfig, CacheLayer, CacheRecord, CacheResult, Form, Input, MAX_CONFIG_BYTES,
    chains::{ChainId, Chains},
    graph::Graph,
};
use crate::{
    artifact::{Descriptor, Manifest, annotations, media},
    digest::{Digest, Sha256},
    entry::Time,
};

/// A state of a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// When it was created, according to its builder; not after its part was pushed.
    pub(super) created: Time,
    /// Its layers.
    pub(super) chain: ChainId,
}

/// Writes keys of a graph with their results.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    /// The keys.
    pub(super) graph: &'a Graph<'a>,
    /// All chains that results name.
    pub(super) chains: &'a Chains,
    /// All blobs that chains of results name.
    pub(super) blobs: &'a HashMap<Digest, Descriptor>,
    /// The state of each key, if it has one.
    pub(super) results: &'a [Option<State>],
    /// The form of the manifest.
    pub(super) form: Form,
}

/// A manifest and its config.
pub(super) struct Written {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Descriptor,
    pub(super) config_bytes: Vec<u8>,
    pub(super) records: usize,
    pub(super) results: usize,
    /// It is within the limits of our own reader.
    pub(super) is_readable: bool,
}

impl Writer<'_> {
    /// The keys that lead to a result.
    pub(super) fn leading(&self) -> Vec<usize> {
        let nodes = &self.graph.nodes;
        let mut leads: Vec<bool> = self.results.iter().map(Option::is_some).collect();
        // Nodes come after their inputs, so going backwards each is final before it is passed on.
        for (at, node) in nodes.iter().enumerate().rev() {
            if leads[at] {
                for (_, link) in node.inputs.iter().flatten() {
                    leads[*link] = true;
                }
            }
        }
        (0..nodes.len()).filter(|at| leads[*at]).collect()
    }

    /// Bytes of a manifest without layers.
    pub(super) fn empty_manifest_bytes(&self) -> usize {
        let config = Descriptor::of(media::BUILDKIT_CONFIG, b"");
        manifest(self.form, &config, Vec::new()).len()
    }

    /// The documents of all keys that lead to a result.
    pub(super) fn write(&self) -> Written {
        let kept = self.leading();
        let layers = self.layers(&kept);
        let places: HashMap<ChainId, usize> = layers
            .iter()
            .enumerate()
            .map(|(place, id)| (*id, place))
            .collect();
        let layer = |id: &ChainId| {
            let link = self.chains.get(*id);
            CacheLayer {
                blob: link.blob,
                parent: link.parent.map(|p| places[&p]),
                annotations: None,
            }
        };
        let config = CacheConfig::closed(
            layers.iter().map(layer).collect(),
            self.records(&kept, &places),
        );
        // It holds only records that were checked in the parts, in another order.
        let config = config.expect("the merged graph is closed and has no loops");
        let config_bytes = config.write();
        let descriptor = Descriptor::of(media::BUILDKIT_CONFIG, &config_bytes);
        let mut seen = HashSet::new();
        let blobs = config
            .layers()
            .iter()
            .map(|l| l.blob)
            .filter(|blob| seen.insert(*blob));
        let blobs = blobs.map(|blob| &self.blobs[&blob]).collect();
        Written {
            manifest: manifest(self.form, &descriptor, blobs),
            config: descriptor,
            is_readable: config.check_size().is_ok() && config_bytes.len() <= MAX_CONFIG_BYTES,
            config_bytes,
            records: kept.len(),
            results: kept
                .iter()
                .filter(|at| self.results[**at].is_some())
                .count(),
        }
    }

    /// The chains of some keys' results with all chains below them, parents first.
    fn layers(&self, kept: &[usize]) -> Vec<ChainId> {
        let mut layers: HashSet<ChainId> = HashSet::new();
        for state in kept.iter().filter_map(|at| self.results[*at]) {
            let mut next = Some(state.chain);
            while let Some(id) = next.filter(|id| layers.insert(*id)) {
                next = self.chains.get(id).parent;
            }
        }
        let mut layers: Vec<ChainId> = layers.into_iter().collect();
        let key = |id: &ChainId| -> (usize, Digest, Sha256) {
            let link = self.chains.get(*id);
            (link.depth, link.blob, link.hash)
        };
        layers.sort_by_cached_key(key);
        layers
    }

    fn records(&self, kept: &[usize], layers: &HashMap<ChainId, usize>) -> Vec<CacheRecord> {
        let mut places = vec![0; self.graph.nodes.len()];
        for (place, at) in kept.iter().enumerate() {
            places[*at] = place;
        }
        let input = |(selector, link): &(&str, usize)| Input {
            selector: (*selector).to_owned(),
            link: places[*link],
        };
        let record = |at: &usize| {
            let node = &self.graph.nodes[*at];
            let state = self.results[*at].as_ref();
            CacheRecord {
                digest: node.digest.to_owned(),
                inputs: node
                    .inputs
                    .iter()
                    .map(|ways| ways.iter().map(input).collect())
                    .collect(),
                results: state
                    .map(|state| CacheResult {
                        layer: layers[&state.chain],
                        created_at: state.created,
                    })
                    .into_iter()
                    .collect(),
                chains: Vec::new(),
            }
        };
        kept.iter().map(record).collect()
    }
}

/// Returns true if [`super::merge()`] wrote the manifest.
pub fn is_merged(manifest: &Manifest) -> bool {
    #[derive(Deserialize)]
    struct Document {
        annotations: Option<BTreeMap<String, String>>,
    }
    let read: Result<Document, _> = serde_json::from_slice(&manifest.bytes);
    let annotations = read.ok().and_then(|d| d.annotations);
    annotations.is_some_and(|a| a.contains_key(annotations::MERGED))
}

/// A manifest like BuildKit's (`cache/remotecache/export.go`), with each blob once, and our mark.
fn manifest<'a>(form: Form, config: &'a Descriptor, mut blobs: Vec<&'a Descriptor>) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        schema_version: u32,
        media_type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        config: Option<&'a Descriptor>,
        #[serde(skip_serializing_if = "Option::is_none")]
        layers: Option<Vec<&'a Descriptor>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        manifests: Option<Vec<&'a Descriptor>>,
        annotations: BTreeMap<&'a str, &'a str>,
    }
    let mut document = Document {
        schema_version: 2,
        media_type: form.media_type(),
        config: None,
        layers: None,
        manifests: None,
        annotations: [(annotations::MERGED, "true")].into(),
    };
    if form == Form::Image {
        document.config = Some(config);
        document.layers = Some(blobs);
    } else {
        blobs.push(config);
        document.manifests = Some(blobs);
    }
    serde_json::to_vec(&document).expect("strings and numbers can always be written")
}

//! One cache out of several: what a merged tag serves.
//!
//! Each result of each part can be found in the merged cache by the same paths, unless the limit leaves it out. Both documents
//! depend only on the set of parts and the recorded times of their pushes: every replica writes the same bytes.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use super::{
    CacheConfig, Part,
    chains::Chains,
    descriptors,
    graph::Graph,
    trim::trim,
    write::{State, Writer, Written},
};
use crate::{
    artifact::{Descriptor, Manifest},
    digest::Digest,
    entry::Time,
};

/// Minimum bytes of a record with a result in the config, besides its key's digest:
/// `{"layers":[{"layer":0,"createdAt":"0001-01-01T00:00:00Z"}],"digest":""}`.
const LEAST_RECORD_BYTES: usize = 50;

/// How large the documents may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Manifest and config each stay below this many bytes.
    pub max_bytes: usize,
}

impl Default for Limits {
    /// What BuildKit's importer reads: 1 MiB (moby/buildkit `cache/remotecache/import.go`, `readBlob`).
    fn default() -> Self {
        Self { max_bytes: 1 << 20 }
    }
}

/// Several caches merged into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The manifest: an image if one of the parts is, an index otherwise.
    pub manifest: Manifest,
    /// Descriptor of the config blob, which the manifest names.
    pub config: Descriptor,
    /// The config blob.
    pub config_bytes: Vec<u8>,
    /// Records in it.
    pub records: usize,
    /// Results in it; if there are none, there is nothing to serve.
    pub results: usize,
    /// What was left out.
    pub dropped: Dropped,
}

/// What a merged cache lacks of its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Keys that the limit left out.
    pub records: usize,
    /// Results that the limit left out.
    pub results: usize,
    /// Keys that led to no result.
    pub glue: usize,
    /// Results whose blobs no manifest names (or not in a form that BuildKit can use).
    pub unusable: usize,
    /// Links that would have made a loop.
    pub loops: usize,
}

/// Merges `parts`; the result does not depend on their order or on duplicates.
///
/// Keys that BuildKit's reader would treat as equal are joined. Of several results of a key, the result of the part pushed last
/// stays (of the part with the larger digest, if both were pushed at the same time; within a part the newest result, then the
/// chain with the larger hash). The creation time of a result is a claim of its builder, so it does not decide between parts, and
/// no result is written as newer than its part. The same rules apply to descriptors of a layer, and to links that together form a
/// loop. A result whose blobs are not all in the manifests is ignored, so prune first. Above the limit each part gets its share,
/// and the parts pushed last get the rest ([`super::trim`]): a base layer stays as long as something built on it. Takes about
/// n·log(n) steps for n records and their links, and some hundred bytes of memory for each.
///
/// A single part is rewritten too; serve it unchanged instead.
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Part>, limits: Limits) -> Merged {
    let parts = ranked(parts);
    let form = descriptors::form(&parts);
    let blobs = descriptors::usable(&parts, form);
    let configs: Vec<&CacheConfig> = parts.iter().map(|p| &p.config).collect();
    let graph = Graph::fold(&configs);
    let mut chains = Chains::default();
    let (states, unusable) = states(&parts, &graph, &mut chains, &blobs);
    let results = results(&states, &graph, &chains);
    let writer = Writer {
        graph: &graph,
        chains: &chains,
        blobs: &blobs,
        results: &results,
        form,
    };
    let leading = writer.leading().len();
    let written = fitting(&writer, &states, limits);
    Merged {
        dropped: Dropped {
            records: leading - written.records,
            results: results.iter().flatten().count() - written.results,
            glue: graph.nodes.len() - leading,
            unusable,
            loops: graph.loops,
        },
        records: written.records,
        results: written.results,
        manifest: Manifest::new(form.media_type(), written.manifest),
        config: written.config,
        config_bytes: written.config_bytes,
    }
}

/// Each part once, ordered by precedence: the first part's results win.
pub(super) fn ranked<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Vec<&'a Part> {
    let digest = |p: &Part| p.manifest.manifest().digest;
    let mut parts: Vec<&Part> = parts.into_iter().collect();
    parts.sort_by_key(|p| Reverse((p.pushed, digest(p))));
    let mut seen = HashSet::new();
    parts.retain(|p| seen.insert(digest(p)));
    parts
}

/// The usable states of each part, with the nodes whose results they are, and the number of unusable ones.
fn states(
    parts: &[&Part],
    graph: &Graph,
    chains: &mut Chains,
    blobs: &HashMap<Digest, Descriptor>,
) -> (Vec<Vec<(usize, State)>>, usize) {
    let all = parts.iter().zip(&graph.of);
    let mut all: Vec<_> = all
        .map(|(part, nodes)| states_of(part, nodes, chains))
        .collect();
    let whole = chains.whole(|blob| blobs.contains_key(blob));
    let mut unusable = 0;
    for states in &mut all {
        let before = states.len();
        states.retain(|(_, state)| whole[state.chain]);
        unusable += before - states.len();
    }
    (all, unusable)
}

/// The state of each key that has one.
fn results(states: &[Vec<(usize, State)>], graph: &Graph, chains: &Chains) -> Vec<Option<State>> {
    let mut best: Vec<Option<(usize, State)>> = vec![None; graph.nodes.len()];
    let key = |s: &State| (s.created, chains.get(s.chain).hash);
    for (rank, states) in states.iter().enumerate() {
        for (node, state) in states {
            match &mut best[*node] {
                // The same state from another builder: it keeps its newest time, so that the documents do not
                // change when a part is pushed again.
                Some((_, old)) if old.chain == state.chain => {
                    old.created = old.created.max(state.created);
                }
                Some((of, old)) if *of < rank || key(old) > key(state) => {}
                place => *place = Some((rank, *state)),
            }
        }
    }
    let best = best.into_iter().map(|found| found.map(|(_, state)| state));
    best.collect()
}

/// All states of a part, with the nodes whose results they are.
fn states_of(part: &Part, nodes: &[Option<usize>], chains: &mut Chains) -> Vec<(usize, State)> {
    let config = &part.config;
    let layers = chains.of_layers(config.layers());
    let state = |created: Time, chain| State {
        created: part.pushed.map_or(created, |pushed| created.min(pushed)),
        chain,
    };
    let mut states = Vec::new();
    for (record, node) in config.records().iter().zip(nodes) {
        let Some(node) = *node else { continue };
        let results = record.results.iter();
        states.extend(results.map(|r| (node, state(r.created_at, layers[r.layer]))));
        for chain in &record.chains {
            let listed = chain.layers.iter().map(|l| config.layers()[*l].blob);
            // One of no layers brings nothing that could be reused.
            let id = chains.of_list(listed);
            states.extend(id.map(|id| (node, state(chain.created_at, id))));
        }
    }
    states
}

/// The documents of everything, or of as much as fits.
fn fitting(writer: &Writer, states: &[Vec<(usize, State)>], limits: Limits) -> Written {
    if may_fit(writer, limits) {
        let whole = writer.write();
        if fits(&whole, limits) {
            return whole;
        }
    }
    let mut max_bytes = limits.max_bytes;
    loop {
        let (graph, results) = trim(writer, states, max_bytes);
        let trimmed = Writer {
            graph: &graph,
            results: &results,
            ..*writer
        };
        let written = trimmed.write();
        if written.records == 0 || fits(&written, limits) {
            return written;
        }
        // The estimate was too low.
        max_bytes /= 2;
    }
}

/// False if the keys certainly exceed the limit. This avoids writing documents of many times the limit only to discard them.
fn may_fit(writer: &Writer, limits: Limits) -> bool {
    let nodes = writer.graph.nodes.iter().zip(writer.results);
    let least = nodes
        .filter(|(_, result)| result.is_some())
        .map(|(node, _)| LEAST_RECORD_BYTES + node.digest.len());
    least.sum::<usize>() < limits.max_bytes
}

fn fits(written: &Written, limits: Limits) -> bool {
    written.is_readable
        && written.manifest.len() < limits.max_bytes
        && written.config_bytes.len() < limits.max_bytes
}

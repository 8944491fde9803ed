//! One cache out of several: what a merged tag serves.
//!
//! Each result of each part can be found in the merged one by the same ways, unless the limit leaves it out. Both documents are a
//! function of the set of the parts and of the recorded times of their pushes: every replica writes the same bytes.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use super::{
    CacheConfig, Part,
    chains::Chains,
    descriptors,
    graph::Graph,
    write::{State, Writer, Written},
};
use crate::{
    artifact::{Descriptor, Manifest},
    digest::Digest,
    entry::Time,
};

/// Bytes that a record with a result takes at least in the config, besides its key's digest:
/// `{"layers":[{"layer":0,"createdAt":"0001-01-01T00:00:00Z"}],"digest":""}`.
const LEAST_RECORD_BYTES: usize = 50;

/// How large the documents may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Manifest and config each stay under so many bytes.
    pub max_bytes: usize,
}

impl Default for Limits {
    /// What BuildKit's importer reads: 1 MiB (moby/buildkit `cache/remotecache/import.go`, `readBlob`).
    fn default() -> Self {
        Self { max_bytes: 1 << 20 }
    }
}

/// Several caches as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The manifest; of all parts an image if one is, an index otherwise.
    pub manifest: Manifest,
    /// Descriptor of the config blob, which the manifest names.
    pub config: Descriptor,
    /// The config blob.
    pub config_bytes: Vec<u8>,
    /// Records in it.
    pub records: usize,
    /// Results in it; with none there is nothing to serve.
    pub results: usize,
    /// What is not in it.
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
    /// Results whose blobs no manifest names (or as BuildKit cannot use them).
    pub unusable: usize,
    /// Links that would have made a loop.
    pub loops: usize,
}

/// Merges `parts`; the same set in any order, any of them several times, gives the same.
///
/// Keys that BuildKit's reader would take for one become one. Of several results of a key that of the part which was pushed last
/// stays (of the one with the larger digest, where both were pushed at once; within a part the newest, then the chain with the larger
/// hash): when a result was made is what its builder says, so it decides nothing between parts, and no result is written as newer
/// than its part. A result whose blobs are not all in the manifests does not count, so prune first. Over the limit, the keys go
/// whose parts were pushed longest ago, by the newest result that they lead to: a base layer stays as long as something built on
/// it. Takes some n·log(n) steps for n records and their links, and memory of some hundred bytes for each.
///
/// One part alone comes out rewritten too; serve that as it is.
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Part>, limits: Limits) -> Merged {
    let parts = ranked(parts);
    let form = descriptors::form(&parts);
    let blobs = descriptors::usable(&parts, form);
    let configs: Vec<&CacheConfig> = parts.iter().map(|p| &p.config).collect();
    let graph = Graph::fold(&configs);
    let mut chains = Chains::default();
    let (results, unusable) = results(&parts, &graph, &mut chains, &blobs);
    let order = order(&graph, &results);
    let writer = Writer {
        graph: &graph,
        chains: &chains,
        blobs: &blobs,
        results: &results,
        form,
    };
    let written = fitting(&writer, &order, limits);
    let all = order.iter().filter(|at| results[**at].is_some()).count();
    Merged {
        dropped: Dropped {
            records: order.len() - written.records,
            results: all - written.results,
            glue: graph.nodes.len() - order.len(),
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

/// Each part once, the one whose results stay first.
pub(super) fn ranked<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Vec<&'a Part> {
    let digest = |p: &Part| p.manifest.manifest().digest;
    let mut parts: Vec<&Part> = parts.into_iter().collect();
    parts.sort_by_key(|p| Reverse((p.pushed, digest(p))));
    let mut seen = HashSet::new();
    parts.retain(|p| seen.insert(digest(p)));
    parts
}

/// The state of each key that stays, and the count of those that cannot be used. `parts` are ranked.
fn results(
    parts: &[&Part],
    graph: &Graph,
    chains: &mut Chains,
    blobs: &HashMap<Digest, Descriptor>,
) -> (Vec<Option<State>>, usize) {
    let all: Vec<Vec<(usize, State)>> = parts
        .iter()
        .zip(&graph.of)
        .map(|(part, nodes)| states(part, nodes, chains))
        .collect();
    let whole = chains.whole(|blob| blobs.contains_key(blob));
    let mut best: Vec<Option<(usize, State)>> = vec![None; graph.nodes.len()];
    let mut unusable = 0;
    for (rank, (node, state)) in all
        .into_iter()
        .enumerate()
        .flat_map(|(rank, of)| of.into_iter().map(move |found| (rank, found)))
    {
        if !whole[state.chain] {
            unusable += 1;
            continue;
        }
        let key = |s: &State| (s.created, chains.get(s.chain).hash);
        match &mut best[node] {
            // The same state, whoever made it: as new as it ever was, so that the documents stay the same when a part is pushed again.
            Some((_, old)) if old.chain == state.chain => {
                old.created = old.created.max(state.created);
            }
            Some((of, old)) if *of < rank || key(old) > key(&state) => {}
            place => *place = Some((rank, state)),
        }
    }
    let best = best.into_iter().map(|found| found.map(|(_, state)| state));
    (best.collect(), unusable)
}

/// All states of a part, with the nodes that they are results of.
fn states(part: &Part, nodes: &[Option<usize>], chains: &mut Chains) -> Vec<(usize, State)> {
    let config = &part.config;
    let layers = chains.of_layers(config.layers());
    let state = |created: Time, chain| State {
        pushed: part.pushed,
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

/// The keys that lead to a result, the last pushed first; each comes after its inputs, whatever length is taken of it.
fn order(graph: &Graph, results: &[Option<State>]) -> Vec<usize> {
    let time = |r: &Option<State>| r.map(|s| (s.pushed, s.created));
    let mut used: Vec<Option<(Option<Time>, Time)>> = results.iter().map(time).collect();
    // Nodes come after their inputs, so from the end each is known before it is passed on.
    for (at, node) in graph.nodes.iter().enumerate().rev() {
        for (_, link) in node.inputs.iter().flatten() {
            used[*link] = used[*link].max(used[at]);
        }
    }
    let mut order: Vec<usize> = (0..used.len()).filter(|at| used[*at].is_some()).collect();
    order.sort_by_key(|at| (Reverse(used[*at]), *at));
    order
}

/// All of `order`, or as much of its start as fits: more keys never make the documents smaller.
fn fitting(writer: &Writer, order: &[usize], limits: Limits) -> Written {
    let too_many = too_many(writer, order, limits);
    if too_many > order.len() {
        let whole = writer.write(order);
        if fits(&whole, limits) {
            return whole;
        }
    }
    longest(writer, order, too_many.min(order.len()), limits)
}

/// A count of keys that certainly exceed the limit; more than all where that is not certain. Documents of many times the limit
/// would be written only to be thrown away.
fn too_many(writer: &Writer, order: &[usize], limits: Limits) -> usize {
    let mut bytes = 0;
    for (before, at) in order.iter().enumerate() {
        if writer.results[*at].is_some() {
            bytes += LEAST_RECORD_BYTES + writer.graph.nodes[*at].digest.len();
        }
        if bytes >= limits.max_bytes {
            return before + 1;
        }
    }
    order.len() + 1
}

/// As much of the start of `order` as fits, less than `exceeding`.
fn longest(writer: &Writer, order: &[usize], mut exceeding: usize, limits: Limits) -> Written {
    let mut fitting = 0;
    let mut best = writer.write(&[]);
    while fitting + 1 < exceeding {
        let middle = usize::midpoint(fitting, exceeding);
        let written = writer.write(&order[..middle]);
        if fits(&written, limits) {
            (best, fitting) = (written, middle);
        } else {
            exceeding = middle;
        }
    }
    best
}

fn fits(written: &Written, limits: Limits) -> bool {
    written.is_readable
        && written.manifest.len() < limits.max_bytes
        && written.config_bytes.len() < limits.max_bytes
}

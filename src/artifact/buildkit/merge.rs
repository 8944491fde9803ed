//! One cache out of several: what a merged tag serves.
//!
//! Each result of each part can be found in the merged one by the same ways, unless the limit leaves it out. Both documents are a
//! function of the set of the parts: every replica writes the same bytes.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
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
/// Keys that BuildKit's reader would take for one become one. Of several results of a key the newest stays (the chain with the larger
/// hash, of equally old ones); a result whose blobs are not all in the manifests does not count, so prune first. Over the limit,
/// the keys go that were used longest ago, by the newest result that they lead to: a base layer stays as long as something built
/// on it. Takes some n·log(n) steps for n records and their links, and memory of some hundred bytes for each.
///
/// One part alone comes out rewritten too; serve that as it is.
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Part>, limits: Limits) -> Merged {
    let parts: Vec<&Part> = parts.into_iter().collect();
    let form = descriptors::form(&parts);
    let blobs = descriptors::usable(&parts, form);
    let configs: Vec<&CacheConfig> = parts.iter().map(|p| &p.config).collect();
    let graph = Graph::fold(&configs);
    let mut chains = Chains::default();
    let (results, unusable) = results(&configs, &graph, &mut chains, &blobs);
    let order = order(&graph, &results);
    let writer = Writer {
        graph: &graph,
        chains: &chains,
        blobs: &blobs,
        results: &results,
        form,
    };
    let whole = writer.write(&order);
    let written = if fits(&whole, limits) {
        whole
    } else {
        longest(&writer, &order, limits)
    };
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

/// The best state of each key, and the count of those that cannot be used.
fn results(
    configs: &[&CacheConfig],
    graph: &Graph,
    chains: &mut Chains,
    blobs: &HashMap<Digest, Descriptor>,
) -> (Vec<Option<State>>, usize) {
    let mut states: Vec<BTreeSet<State>> = vec![BTreeSet::new(); graph.nodes.len()];
    for (config, nodes) in configs.iter().zip(&graph.of) {
        let layers = chains.of_layers(config.layers());
        for (record, node) in config.records().iter().zip(nodes) {
            let Some(node) = node else { continue };
            states[*node].extend(
                record
                    .results
                    .iter()
                    .map(|r| (r.created_at, layers[r.layer])),
            );
            for chain in &record.chains {
                let listed = chain.layers.iter().map(|l| config.layers()[*l].blob);
                // One of no layers brings nothing that could be reused.
                let id = chains.of_list(listed);
                states[*node].extend(id.map(|id| (chain.created_at, id)));
            }
        }
    }
    let whole = chains.whole(|blob| blobs.contains_key(blob));
    let unusable = states
        .iter()
        .flatten()
        .filter(|(_, id)| !whole[*id])
        .count();
    let best = |of_node: &BTreeSet<State>| {
        let usable = of_node.iter().filter(|(_, id)| whole[*id]);
        usable
            .max_by_key(|(created, id)| (*created, chains.get(*id).hash))
            .copied()
    };
    (states.iter().map(best).collect(), unusable)
}

/// The keys that lead to a result, the last used first; each comes after its inputs, whatever length is taken of it.
fn order(graph: &Graph, results: &[Option<State>]) -> Vec<usize> {
    let created = |r: &Option<State>| r.map(|(created, _)| created);
    let mut used: Vec<Option<Time>> = results.iter().map(created).collect();
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

/// As much of the start of `order` as fits: more keys never make the documents smaller.
fn longest(writer: &Writer, order: &[usize], limits: Limits) -> Written {
    let (mut fitting, mut exceeding) = (0, order.len());
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

//! Whether a pushed cache makes an older one redundant.

use std::collections::HashSet;

use super::{CacheConfig, Part, descriptors, graph::Graph};
use crate::{artifact::Descriptor, digest::Digest};

/// Returns true if all that can be found in `older` can be found in `newer` in the same ways, so that `older` may be dropped.
///
/// Each key of `older` with a usable result must have one in `newer`, by all the alternatives of all its inputs. The results may
/// differ, since they belong to the same key. When in doubt the answer is false, for instance if only `older` shows that two keys
/// of `newer` are equal, or if the two contradict each other about a layer.
pub fn contains(newer: &Part, older: &Part) -> bool {
    // By its own manifest alone: claims of another manifest about its layers do not affect it.
    let of_newer = with_result(newer);
    let of_older = with_result(older);
    let words = descriptors::said(&newer.manifest);
    let contradicts = |(digest, word): (&Digest, &Descriptor)| {
        let other = words.get(digest);
        other.is_some_and(|other| !descriptors::agree(word, other))
    };
    if descriptors::said(&older.manifest).iter().any(contradicts) {
        return false;
    }
    // Equal keys have the same digest: most parts differ here, long before their graphs are folded.
    let known: HashSet<&str> = digests(newer, &of_newer).collect();
    if !digests(older, &of_older).all(|digest| known.contains(digest)) {
        return false;
    }
    let configs = [&newer.config, &older.config];
    let graph = Graph::fold(&configs);
    let alone: HashSet<usize> = graph.of[0].iter().flatten().copied().collect();
    if alone.len() != Graph::fold(&configs[..1]).nodes.len() {
        return false;
    }
    let nodes = |part: usize, records: &[usize]| -> HashSet<usize> {
        records.iter().filter_map(|r| graph.of[part][*r]).collect()
    };
    if !nodes(1, &of_older).is_subset(&nodes(0, &of_newer)) {
        return false;
    }
    let known: HashSet<Way> = (0..newer.config.records().len())
        .flat_map(|r| ways(&graph, 0, &newer.config, r))
        .collect();
    let needed = reached(&older.config, of_older);
    needed.iter().all(|record| {
        let is_known = graph.of[1][*record].is_some_and(|at| alone.contains(&at));
        is_known && ways(&graph, 1, &older.config, *record).all(|way| known.contains(&way))
    })
}

fn digests<'a>(part: &'a Part, records: &[usize]) -> impl Iterator<Item = &'a str> {
    let records = records.iter().map(|at| &part.config.records()[*at]);
    records
        .filter(|r| !r.is_uncacheable())
        .map(|r| r.digest.as_str())
}

/// Key, input, selector, the input's key.
type Way<'a> = (usize, usize, &'a str, usize);

fn ways<'a>(
    graph: &'a Graph,
    part: usize,
    config: &'a CacheConfig,
    record: usize,
) -> impl Iterator<Item = Way<'a>> {
    let node = graph.of[part][record];
    let inputs = config.records()[record].inputs.iter().enumerate();
    inputs.flat_map(move |(at, ways)| {
        let way = move |i: &'a super::Input| {
            Some((node?, at, i.selector.as_str(), graph.of[part][i.link]?))
        };
        ways.iter().filter_map(way)
    })
}

/// The records of `part` that have a result all of whose blobs its manifest names.
fn with_result(part: &Part) -> Vec<usize> {
    let blobs = descriptors::usable(&[part], part.manifest.form());
    let counts = part.usable_results(&blobs).into_iter().enumerate();
    counts.filter(|(_, n)| *n > 0).map(|(at, _)| at).collect()
}

/// These records and all records that lead to them.
fn reached(config: &CacheConfig, mut from: Vec<usize>) -> HashSet<usize> {
    let mut reached: HashSet<usize> = from.iter().copied().collect();
    while let Some(at) = from.pop() {
        for input in config.records()[at].inputs.iter().flatten() {
            if reached.insert(input.link) {
                from.push(input.link);
            }
        }
    }
    reached
}

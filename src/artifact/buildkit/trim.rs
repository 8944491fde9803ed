//! Which results of several caches are kept if all of them would exceed the reader's limit.
//!
//! A result is kept with everything that leads to it, by the links of the part that has it, or not at all; a result that does not
//! fit does not use up space. Parts are processed in their order, so those pushed longest ago are dropped first; but before that,
//! each part gets an equal share of the space, as far as it needs it. So no part displaces another part that fits its share.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use super::{
    chains::{ChainId, Chains},
    graph::{Graph, Link},
    write::{State, Writer},
};
use crate::digest::Digest;

/// Bytes of JSON, besides texts, times and numbers: `{"digest":""},` and `,"inputs":[]`, `[],`, `{"selector":"","link":},`,
/// `"layers":[{"layer":,"createdAt":""}],`, `{"blob":"","parent":},`.
const RECORD_BYTES: usize = 26;
const INPUT_BYTES: usize = 3;
const WAY_BYTES: usize = 24;
const RESULT_BYTES: usize = 37;
const LAYER_BYTES: usize = 22;
/// Maximum bytes of a time.
const TIME_BYTES: usize = 30;
/// Bytes of an empty config, plus the additional bytes in the descriptor of a larger one.
const EMPTY_CONFIG_BYTES: usize = 40;
const SIZE_BYTES: usize = 10;
/// Limit on wasted steps, for all parts together: trying a result that turns out not to fit wastes the steps.
const MAX_STEPS: usize = 32 << 20;

/// Bytes of both documents.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    config: usize,
    manifest: usize,
}

impl Room {
    fn fits(&self, cost: &Self) -> bool {
        cost.config <= self.config && cost.manifest <= self.manifest
    }

    fn take(&mut self, cost: &Self) {
        self.config -= cost.config;
        self.manifest -= cost.manifest;
    }
}

/// An alternative, and whether it is kept.
struct Way {
    bytes: usize,
    kept: bool,
}

/// What is kept so far.
struct Trim<'w> {
    graph: &'w Graph<'w>,
    chains: &'w Chains,
    described: HashMap<Digest, usize>,
    /// Maximum digits of a layer index.
    digits: usize,
    records: Vec<usize>,
    ways: Vec<Vec<Vec<Way>>>,
    nodes: Vec<bool>,
    states: Vec<Option<State>>,
    layers: HashSet<ChainId>,
    blobs: HashSet<Digest>,
    left: Room,
    /// The attempt in which a node was last visited.
    met: Vec<usize>,
    tries: usize,
}

/// What one result adds.
#[derive(Default)]
struct Brought {
    cost: Room,
    nodes: Vec<usize>,
    ways: Vec<Link>,
    layers: Vec<ChainId>,
    blobs: HashSet<Digest>,
    met: Vec<usize>,
}

/// The part of a graph that is kept, and the results in it. `states` are those of the parts, each with its node, the first part's
/// first; all their blobs have descriptors.
pub(super) fn trim<'w>(
    writer: &Writer<'w>,
    states: &[Vec<(usize, State)>],
    max_bytes: usize,
) -> (Graph<'w>, Vec<Option<State>>) {
    let mut trim = Trim::new(writer, max_bytes);
    let waiting = states.iter().filter(|s| !s.is_empty()).count().max(1);
    let mut tried: Vec<Vec<(usize, State)>> = states.to_vec();
    for states in &mut tried {
        let hash = |s: &State| trim.chains.get(s.chain).hash;
        states.sort_by_key(|(node, s)| (Reverse(s.created), *node, Reverse(hash(s))));
    }
    let all = trim.left;
    let share = Room {
        config: all.config / waiting,
        manifest: all.manifest / waiting,
    };
    for most in [share, all] {
        for (states, links) in tried.iter_mut().zip(&writer.graph.links) {
            trim.part(states, links, most, MAX_STEPS / waiting);
        }
    }
    trim.end(states)
}

impl<'w> Trim<'w> {
    fn new(writer: &Writer<'w>, max_bytes: usize) -> Self {
        let graph = writer.graph;
        let described = writer.blobs.iter().map(|(digest, d)| {
            let json = serde_json::to_vec(d).expect("strings and numbers can always be written");
            (*digest, json.len() + 1)
        });
        let record = |node: &super::graph::Node| {
            RECORD_BYTES + text_bytes(node.digest) + INPUT_BYTES * node.inputs.len()
        };
        let digits = digits(graph.nodes.len());
        let way = |(selector, _): &(&str, usize)| Way {
            bytes: WAY_BYTES + digits + text_bytes(selector),
            kept: false,
        };
        let ways = graph.nodes.iter().map(|node| {
            let inputs = node.inputs.iter();
            inputs.map(|w| w.iter().map(way).collect()).collect()
        });
        let count = graph.nodes.len();
        let empty = writer.empty_manifest_bytes() + SIZE_BYTES;
        Self {
            graph,
            chains: writer.chains,
            described: described.collect(),
            digits: self::digits(writer.chains.len()),
            records: graph.nodes.iter().map(record).collect(),
            ways: ways.collect(),
            nodes: vec![false; count],
            states: vec![None; count],
            layers: HashSet::new(),
            blobs: HashSet::new(),
            left: Room {
                config: max_bytes.saturating_sub(EMPTY_CONFIG_BYTES),
                manifest: max_bytes.saturating_sub(empty),
            },
            met: vec![0; count],
            tries: 0,
        }
    }

    /// Adds the results of a part that fit into `most`; the others are left in `states`.
    fn part(
        &mut self,
        states: &mut Vec<(usize, State)>,
        links: &[Link],
        mut most: Room,
        mut steps: usize,
    ) {
        let mut is_in = vec![false; self.nodes.len()];
        states.retain(|(node, state)| {
            let room = Room {
                config: most.config.min(self.left.config),
                manifest: most.manifest.min(self.left.manifest),
            };
            match self.bring(*node, state, links, &is_in, room, &mut steps) {
                Some(brought) => {
                    most.take(&brought.cost);
                    for at in &brought.met {
                        is_in[*at] = true;
                    }
                    self.keep(*node, state, brought);
                    false
                }
                None => true,
            }
        });
    }

    /// What a result adds; `None` if that is more than `room`. Everything needed by nodes that are `is_in` is already there.
    fn bring(
        &mut self,
        node: usize,
        state: &State,
        links: &[Link],
        is_in: &[bool],
        room: Room,
        steps: &mut usize,
    ) -> Option<Brought> {
        if *steps == 0 {
            return None;
        }
        self.tries += 1;
        let mut brought = Brought::default();
        let fits = self.bring_layers(node, state, room, &mut brought)
            && self.bring_nodes(node, links, is_in, room, &mut brought)
            && room.fits(&brought.cost);
        if !fits {
            let taken = brought.met.len() + brought.ways.len() + brought.layers.len();
            *steps = steps.saturating_sub(taken);
        }
        fits.then_some(brought)
    }

    fn bring_layers(&self, node: usize, state: &State, room: Room, to: &mut Brought) -> bool {
        // It is from an earlier part.
        if self.states[node].is_some() {
            return true;
        }
        to.cost.config += RESULT_BYTES + TIME_BYTES + self.digits;
        let mut next = Some(state.chain);
        while let Some(id) = next.filter(|id| !self.layers.contains(id)) {
            let link = self.chains.get(id);
            to.layers.push(id);
            to.cost.config += LAYER_BYTES + self.digits + link.blob.to_string().len();
            if !self.blobs.contains(&link.blob) && to.blobs.insert(link.blob) {
                to.cost.manifest += self.described[&link.blob];
            }
            if !room.fits(&to.cost) {
                return false;
            }
            next = link.parent;
        }
        true
    }

    fn bring_nodes(
        &mut self,
        node: usize,
        links: &[Link],
        is_in: &[bool],
        room: Room,
        to: &mut Brought,
    ) -> bool {
        let graph = self.graph;
        let mut open = vec![node];
        while let Some(at) = open.pop() {
            if is_in[at] || self.met[at] == self.tries {
                continue;
            }
            self.met[at] = self.tries;
            to.met.push(at);
            if !self.nodes[at] {
                to.nodes.push(at);
                to.cost.config += self.records[at];
            }
            let of_part = &links[links.partition_point(|l| l.node < at)..];
            let of_part = &of_part[..of_part.partition_point(|l| l.node == at)];
            for (input, ways) in self.ways[at].iter().enumerate() {
                let own = &of_part[of_part.partition_point(|l| l.input < input)..];
                let own = &own[..own.partition_point(|l| l.input == input)];
                // All alternatives of this part were left out as loops: use those of earlier parts.
                let others = (own.is_empty() && !self.nodes[at]).then_some(0..ways.len());
                let own = own.iter().map(|l| l.way);
                for way in own.chain(others.into_iter().flatten()) {
                    open.push(graph.nodes[at].inputs[input][way].1);
                    if !ways[way].kept {
                        to.cost.config += ways[way].bytes;
                        to.ways.push(Link {
                            node: at,
                            input,
                            way,
                        });
                    }
                    if !room.fits(&to.cost) {
                        return false;
                    }
                }
            }
            if !room.fits(&to.cost) {
                return false;
            }
        }
        true
    }

    fn keep(&mut self, node: usize, state: &State, brought: Brought) {
        self.left.take(&brought.cost);
        self.states[node].get_or_insert(*state);
        for at in brought.nodes {
            self.nodes[at] = true;
        }
        for l in brought.ways {
            self.ways[l.node][l.input][l.way].kept = true;
        }
        self.layers.extend(brought.layers);
        self.blobs.extend(brought.blobs);
    }

    fn end(mut self, all: &[Vec<(usize, State)>]) -> (Graph<'w>, Vec<Option<State>>) {
        // The same state from another builder keeps its newest time.
        for (node, state) in all.iter().flatten() {
            if let Some(kept) = &mut self.states[*node]
                && kept.chain == state.chain
            {
                kept.created = kept.created.max(state.created);
            }
        }
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at]).collect();
        let has_way = |l: Link| self.ways[l.node][l.input][l.way].kept;
        let (graph, places) = self.graph.only(&nodes, has_way);
        let mut states = vec![None; nodes.len()];
        for (node, place) in nodes.iter().zip(places) {
            states[place] = self.states[*node];
        }
        (graph, states)
    }
}

/// Maximum bytes of a text as JSON.
fn text_bytes(text: &str) -> usize {
    let byte = |b: u8| match b {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(byte).sum()
}

/// Maximum digits of an index below `count`, or of -1.
fn digits(count: usize) -> usize {
    count.to_string().len().max(2)
}

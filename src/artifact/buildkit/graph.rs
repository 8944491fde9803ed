//! The cache keys of several configs as one graph in one order, which depends on the keys and not on which config they came from.

use std::collections::{HashMap, HashSet};

use super::{
    CacheConfig, CacheRecord,
    fold::{Fold, Key, Way},
    loops::{self, Said, Ways},
    order::links_first,
};
use crate::digest::{Sha256, Sha256Hasher};

/// A cache key.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// The record's digest.
    pub(super) digest: &'a str,
    /// For each input its alternatives, (selector, index of a node before this one); sorted, unique, never empty.
    pub(super) inputs: Vec<Vec<(&'a str, usize)>>,
}

/// An alternative of a node's input, as one config has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) node: usize,
    /// Which of its inputs.
    pub(super) input: usize,
    /// Which alternative of the input.
    pub(super) way: usize,
}

/// Keys without loops; each comes after its inputs.
///
/// Sorted by length of the longest path to a root, then by digest, then by a hash over everything that leads to the key.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    /// The keys.
    pub(super) nodes: Vec<Node<'a>>,
    /// The node of each record of each config; `None` for a key that can never be found again.
    pub(super) of: Vec<Vec<Option<usize>>>,
    /// The alternatives of each config that were not left out; sorted.
    pub(super) links: Vec<Vec<Link>>,
    /// Alternatives that were left out because they loop.
    pub(super) loops: usize,
}

impl<'a> Graph<'a> {
    /// Folds keys that are equal in any of `configs`; the most important config comes first, and no other config removes its
    /// links.
    pub(super) fn fold(configs: &[&'a CacheConfig]) -> Self {
        let mut names = Names::default();
        let mut fold = Fold::default();
        let keys: Vec<Vec<Option<Key>>> = configs
            .iter()
            .map(|config| add(config, &mut names, &mut fold))
            .collect();
        // Representatives are numbered in the order in which they are first seen.
        let mut places: HashMap<Key, usize> = HashMap::new();
        let mut digests: Vec<u32> = Vec::new();
        let mut of: Vec<Vec<Option<usize>>> = Vec::with_capacity(configs.len());
        for (config, keys) in configs.iter().zip(&keys) {
            let mut place = |(key, record): (&Option<Key>, &'a CacheRecord)| {
                let key = fold.find((*key)?);
                Some(*places.entry(key).or_insert_with(|| {
                    digests.push(names.id(&record.digest));
                    digests.len() - 1
                }))
            };
            of.push(keys.iter().zip(config.records()).map(&mut place).collect());
        }
        let mut ways: Ways = vec![Vec::new(); digests.len()];
        for (key, at) in &places {
            let input = |ways: &HashSet<Way>| {
                let ways = ways.iter().map(|w| (w.selector, places[&w.link]));
                ways.collect()
            };
            ways[*at] = fold.inputs(*key).iter().map(input).collect();
        }
        let mut said: Vec<Vec<Said>> = Vec::with_capacity(configs.len());
        for (config, of) in configs.iter().zip(&of) {
            said.push(said_by(config, of, &mut names));
        }
        let loops = loops::cut(&mut ways, &said);
        let named = |way: &(u32, usize)| (names.text(way.0), way.1);
        let ways: Vec<Inputs> = ways
            .iter()
            .map(|inputs| {
                inputs
                    .iter()
                    .map(|w| w.iter().map(named).collect())
                    .collect()
            })
            .collect();
        let digests: Vec<&str> = digests.iter().map(|d| names.text(*d)).collect();
        let (nodes, order) = arrange(&digests, &ways);
        for node in of.iter_mut().flatten().flatten() {
            *node = order[*node];
        }
        let link = |s: &Said| {
            let way = (order[s.link], names.text(s.selector));
            let node = order[s.key];
            let ways = &nodes[node].inputs[s.input];
            let found = ways.binary_search_by_key(&way, |(selector, link)| (*link, *selector));
            found.ok().map(|way| Link {
                node,
                input: s.input,
                way,
            })
        };
        let links = said.iter().map(|said| {
            let mut links: Vec<Link> = said.iter().filter_map(link).collect();
            links.sort_unstable();
            links
        });
        let links = links.collect();
        Self {
            nodes,
            of,
            links,
            loops,
        }
    }

    /// A graph of only some nodes, sorted, with the alternatives of their inputs that pass the filter; and the position of
    /// each of those nodes in it.
    pub(super) fn only(
        &self,
        nodes: &[usize],
        has_way: impl Fn(Link) -> bool,
    ) -> (Self, Vec<usize>) {
        let places: HashMap<usize, usize> = nodes.iter().copied().zip(0..).collect();
        let digests: Vec<&str> = nodes.iter().map(|at| self.nodes[*at].digest).collect();
        let inputs = |node: &usize| -> Inputs<'a> {
            let inputs = self.nodes[*node].inputs.iter().enumerate();
            let kept = inputs.map(|(input, ways)| {
                let ways = ways.iter().enumerate().filter(|(way, _)| {
                    has_way(Link {
                        node: *node,
                        input,
                        way: *way,
                    })
                });
                ways.map(|(_, (selector, link))| (*selector, places[link]))
                    .collect()
            });
            kept.collect()
        };
        let ways: Vec<Inputs> = nodes.iter().map(inputs).collect();
        let (nodes, places) = arrange(&digests, &ways);
        let only = Self {
            nodes,
            of: Vec::new(),
            links: Vec::new(),
            loops: self.loops,
        };
        (only, places)
    }
}

/// For each input its alternatives as (selector, key).
type Inputs<'a> = Vec<Vec<(&'a str, usize)>>;

/// The alternatives of a config, each once; `of` has the key of each of its records.
fn said_by<'a>(config: &'a CacheConfig, of: &[Option<usize>], names: &mut Names<'a>) -> Vec<Said> {
    let mut said = Vec::new();
    for (record, key) in config.records().iter().zip(of) {
        let Some(key) = *key else { continue };
        for (input, ways) in record.inputs.iter().enumerate() {
            for way in ways {
                // No record links to a key for one use.
                let Some(link) = of[way.link] else { continue };
                let selector = names.id(&way.selector);
                said.push(Said {
                    key,
                    input,
                    selector,
                    link,
                });
            }
        }
    }
    said.sort_unstable();
    said.dedup();
    said
}

fn add<'a>(config: &'a CacheConfig, names: &mut Names<'a>, fold: &mut Fold) -> Vec<Option<Key>> {
    let records = config.records();
    let mut keys: Vec<Option<Key>> = vec![None; records.len()];
    for at in config.inputs_first() {
        let record = &records[at];
        if record.is_uncacheable() {
            continue;
        }
        let mut inputs = Vec::with_capacity(record.inputs.len());
        for ways in &record.inputs {
            let mut way = |i: &'a super::Input| {
                let link = keys[i.link]
                    .expect("inputs come first, and no record links to a key for one use");
                Way {
                    selector: names.id(&i.selector),
                    link,
                }
            };
            inputs.push(ways.iter().map(&mut way).collect());
        }
        keys[at] = Some(fold.add(names.id(&record.digest), inputs));
    }
    keys
}

/// The nodes in the order that [`Graph`] promises, and the position of each key in it.
fn arrange<'a>(digests: &[&'a str], ways: &[Inputs<'a>]) -> (Vec<Node<'a>>, Vec<usize>) {
    let count = digests.len();
    let mut depths = vec![0_usize; count];
    let mut hashes = vec![Sha256([0; 32]); count];
    let inputs_first = links_first(count, |at| ways[at].iter().flatten().map(|(_, link)| *link));
    debug_assert_eq!(inputs_first.len(), count, "loops were cut");
    for at in inputs_first {
        for (_, link) in ways[at].iter().flatten() {
            depths[at] = depths[at].max(depths[*link] + 1);
        }
        hashes[at] = hash(digests[at], &ways[at], &hashes);
    }
    let mut sorted: Vec<usize> = (0..count).collect();
    sorted.sort_by_key(|at| (depths[*at], digests[*at], hashes[*at]));
    let mut places = vec![0; count];
    for (place, at) in sorted.iter().enumerate() {
        places[*at] = place;
    }
    let input = |ways: &Vec<(&'a str, usize)>| {
        let named = ways.iter().map(|(s, link)| (*s, places[*link]));
        let mut named: Vec<_> = named.collect();
        named.sort_unstable_by_key(|(selector, link)| (*link, *selector));
        named
    };
    let node = |at: usize| Node {
        digest: digests[at],
        inputs: ways[at].iter().map(input).collect(),
    };
    (sorted.into_iter().map(node).collect(), places)
}

/// Hash of the digest and all paths to the roots.
fn hash(digest: &str, inputs: &[Vec<(&str, usize)>], hashes: &[Sha256]) -> Sha256 {
    let mut hasher = Sha256Hasher::default();
    let text = |hasher: &mut Sha256Hasher, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(&mut hasher, digest);
    for ways in inputs {
        let mut ways: Vec<_> = ways.iter().map(|(s, link)| (hashes[*link], *s)).collect();
        ways.sort_unstable();
        hasher.update(&(ways.len() as u64).to_le_bytes());
        for (link, selector) in ways {
            hasher.update(&link.0);
            text(&mut hasher, selector);
        }
    }
    hasher.finish()
}

/// Texts and their numbers.
#[derive(Debug, Default)]
struct Names<'a> {
    ids: HashMap<&'a str, u32>,
    texts: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn id(&mut self, text: &'a str) -> u32 {
        *self.ids.entry(text).or_insert_with(|| {
            self.texts.push(text);
            (self.texts.len() - 1) as u32
        })
    }

    fn text(&self, id: u32) -> &'a str {
        self.texts[id as usize]
    }
}

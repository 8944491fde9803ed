//! The cache keys of several configs as one graph in one order, which depends on what they are and not on who brought them.

use std::collections::{HashMap, HashSet};

use super::{
    CacheConfig, CacheRecord,
    fold::{Fold, Key, Way},
    loops::{self, Ways},
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

/// Keys without loops; each comes after its inputs.
///
/// Sorted by length of the longest way to a root, then by digest, then by a hash over all that leads to it.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    /// The keys.
    pub(super) nodes: Vec<Node<'a>>,
    /// The node of each record of each config; `None` for a key that can never be found again.
    pub(super) of: Vec<Vec<Option<usize>>>,
    /// Alternatives that were left out because they loop.
    pub(super) loops: usize,
}

impl<'a> Graph<'a> {
    /// Folds what is one in any of `configs`.
    pub(super) fn fold(configs: &[&'a CacheConfig]) -> Self {
        let mut names = Names::default();
        let mut fold = Fold::default();
        let keys: Vec<Vec<Option<Key>>> = configs
            .iter()
            .map(|config| add(config, &mut names, &mut fold))
            .collect();
        // Those that stand for others are numbered in the order of first sight.
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
        let loops = loops::cut(&mut ways);
        let (nodes, order) = arrange(&names, &digests, &ways);
        for node in of.iter_mut().flatten().flatten() {
            *node = order[*node];
        }
        Self { nodes, of, loops }
    }
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

/// The nodes in the order that [`Graph`] promises, and the place of each key in it.
fn arrange<'a>(names: &Names<'a>, digests: &[u32], ways: &Ways) -> (Vec<Node<'a>>, Vec<usize>) {
    let count = digests.len();
    let mut depths = vec![0_usize; count];
    let mut hashes = vec![Sha256([0; 32]); count];
    let inputs_first = links_first(count, |at| ways[at].iter().flatten().map(|(_, link)| *link));
    debug_assert_eq!(inputs_first.len(), count, "loops were cut");
    for at in inputs_first {
        for (_, link) in ways[at].iter().flatten() {
            depths[at] = depths[at].max(depths[*link] + 1);
        }
        hashes[at] = hash(names, digests[at], &ways[at], &hashes);
    }
    let mut sorted: Vec<usize> = (0..count).collect();
    sorted.sort_by_key(|at| (depths[*at], names.text(digests[*at]), hashes[*at]));
    let mut places = vec![0; count];
    for (place, at) in sorted.iter().enumerate() {
        places[*at] = place;
    }
    let input = |ways: &Vec<(u32, usize)>| {
        let named = ways.iter().map(|(s, link)| (names.text(*s), places[*link]));
        let mut named: Vec<_> = named.collect();
        named.sort_unstable_by_key(|(selector, link)| (*link, *selector));
        named
    };
    let node = |at: usize| Node {
        digest: names.text(digests[at]),
        inputs: ways[at].iter().map(input).collect(),
    };
    (sorted.into_iter().map(node).collect(), places)
}

/// Over the digest and all ways to the roots.
fn hash(names: &Names, digest: u32, inputs: &[Vec<(u32, usize)>], hashes: &[Sha256]) -> Sha256 {
    let mut hasher = Sha256Hasher::default();
    let text = |hasher: &mut Sha256Hasher, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(&mut hasher, names.text(digest));
    for ways in inputs {
        let mut ways: Vec<_> = ways
            .iter()
            .map(|(s, link)| (hashes[*link], names.text(*s)))
            .collect();
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

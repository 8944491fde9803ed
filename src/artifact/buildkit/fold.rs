//! Which cache keys are equal: does for several configs at once what BuildKit's reader does when it reads one.
//!
//! moby/buildkit `cache/remotecache/v1/chains.go` (`CacheChains::Add`): two roots are equal if their digests are equal; two other
//! keys if their digests are equal and **each** of their inputs has an alternative in common. Equal keys are joined; the joined
//! key has the alternatives of both. That may make other keys equal, so it is repeated until nothing changes. The result does not
//! depend on the order: keys that can be joined once can always be joined later, since alternatives only become more equal.
//!
//! Union by weight: an alternative is renamed at most log(n) times. A key is compared only with keys that share an alternative at
//! the input where the fewest do, so n keys take about n·√n steps in the worst case and n in practice.

use std::collections::{HashMap, HashSet};

/// A key, before it is known which others it is equal to.
pub(super) type Key = u32;

/// One alternative of an input. Selectors are numbered by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Way {
    /// Which part of the input is used.
    pub(super) selector: u32,
    /// The input's key.
    pub(super) link: Key,
}

/// An alternative of an input, shared by keys that may be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Door {
    digest: u32,
    inputs: u32,
    input: u32,
    way: Way,
}

#[derive(Debug)]
struct Class {
    digest: u32,
    inputs: Vec<HashSet<Way>>,
    /// The users of this key: key, input, selector.
    users: Vec<(Key, u32, u32)>,
}

impl Class {
    fn weight(&self) -> usize {
        self.users.len() + self.inputs.iter().map(HashSet::len).sum::<usize>()
    }
}

/// Keys, and which of them are equal.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// Leads from each key to its representative, which leads to itself.
    boss: Vec<Key>,
    classes: Vec<Class>,
    roots: HashMap<u32, Key>,
    /// The keys that have this alternative; may list equal keys several times.
    visitors: HashMap<Door, Vec<Key>>,
    /// Alternatives that are new to a key and not processed yet.
    fresh: Vec<(Key, u32, Way)>,
}

/// Fewer candidates than this are compared at once; with more it is worth checking whether another input has fewer.
const FEW: usize = 8;

impl Fold {
    /// Adds a key of that digest (numbered by the caller); `inputs` are the alternatives of each, none of them empty.
    pub(super) fn add(&mut self, digest: u32, inputs: Vec<HashSet<Way>>) -> Key {
        let key = self.boss.len() as Key;
        if inputs.is_empty() {
            let boss = *self.roots.entry(digest).or_insert(key);
            self.boss.push(boss);
            self.classes.push(Class {
                digest,
                inputs,
                users: Vec::new(),
            });
            return key;
        }
        let inputs: Vec<HashSet<Way>> = inputs
            .into_iter()
            .map(|ways| ways.into_iter().map(|w| self.current(w)).collect())
            .collect();
        self.boss.push(key);
        self.classes.push(Class {
            digest,
            inputs: inputs.clone(),
            users: Vec::new(),
        });
        let mut emptiest = (usize::MAX, 0);
        for (input, ways) in inputs.iter().enumerate() {
            let mut met = 0;
            for way in ways {
                self.classes[way.link as usize]
                    .users
                    .push((key, input as u32, way.selector));
                let visitors = self.visitors.entry(self.door(key, input as u32, *way));
                let visitors = visitors.or_default();
                met += visitors.len();
                visitors.push(key);
            }
            emptiest = emptiest.min((met, input));
        }
        let (met, input) = emptiest;
        if met > 0 {
            self.fresh
                .extend(inputs[input].iter().map(|way| (key, input as u32, *way)));
            self.settle();
        }
        key
    }

    /// The representative of all keys that are equal to `key`.
    pub(super) fn find(&mut self, key: Key) -> Key {
        let mut at = key;
        while self.boss[at as usize] != at {
            let above = self.boss[at as usize];
            self.boss[at as usize] = self.boss[above as usize];
            at = above;
        }
        at
    }

    /// The alternatives of each input of a key, which must be a representative.
    pub(super) fn inputs(&self, key: Key) -> &[HashSet<Way>] {
        &self.classes[key as usize].inputs
    }

    fn current(&mut self, way: Way) -> Way {
        Way {
            link: self.find(way.link),
            ..way
        }
    }

    fn door(&self, key: Key, input: u32, way: Way) -> Door {
        let class = &self.classes[key as usize];
        Door {
            digest: class.digest,
            inputs: class.inputs.len() as u32,
            input,
            way,
        }
    }

    fn settle(&mut self) {
        while let Some((key, input, way)) = self.fresh.pop() {
            for other in self.candidates(key, input, way) {
                let (a, b) = (self.find(key), self.find(other));
                if a != b && self.agree(a, b) {
                    self.join(a, b);
                }
            }
        }
    }

    /// All keys that may be equal to `key` now that it has `way`: those that share an alternative with it at the input where
    /// the fewest do.
    fn candidates(&mut self, key: Key, input: u32, way: Way) -> Vec<Key> {
        let (key, way) = (self.find(key), self.current(way));
        let mut doors = vec![self.door(key, input, way)];
        let mut fewest = self.queue(&doors);
        for (other, ways) in self.inputs(key).iter().enumerate() {
            if fewest <= FEW {
                break;
            }
            if other as u32 != input {
                let others: Vec<Door> = ways
                    .iter()
                    .map(|w| self.door(key, other as u32, *w))
                    .collect();
                let queue = self.queue(&others);
                if queue < fewest {
                    (doors, fewest) = (others, queue);
                }
            }
        }
        doors
            .into_iter()
            .flat_map(|door| self.through(door))
            .collect()
    }

    fn queue(&self, doors: &[Door]) -> usize {
        doors
            .iter()
            .filter_map(|d| self.visitors.get(d))
            .map(Vec::len)
            .sum()
    }

    /// The keys that have an alternative, each once.
    fn through(&mut self, door: Door) -> Vec<Key> {
        let Some(mut keys) = self.visitors.remove(&door) else {
            return Vec::new();
        };
        for key in &mut keys {
            *key = self.find(*key);
        }
        keys.sort_unstable();
        keys.dedup();
        self.visitors.insert(door, keys.clone());
        keys
    }

    /// Returns true if each input of two keys of one digest has an alternative in common.
    fn agree(&self, a: Key, b: Key) -> bool {
        let (a, b) = (self.inputs(a), self.inputs(b));
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| !a.is_disjoint(b))
    }

    fn join(&mut self, a: Key, b: Key) {
        let weight = |k: Key| self.classes[k as usize].weight();
        let (light, heavy) = if weight(a) < weight(b) {
            (a, b)
        } else {
            (b, a)
        };
        self.boss[light as usize] = heavy;
        let inputs = std::mem::take(&mut self.classes[light as usize].inputs);
        let users = std::mem::take(&mut self.classes[light as usize].users);
        for (input, ways) in inputs.into_iter().enumerate() {
            for way in ways {
                if self.classes[heavy as usize].inputs[input].insert(way) {
                    self.fresh.push((heavy, input as u32, way));
                }
            }
        }
        for (user, input, selector) in users {
            self.rename(
                user,
                input,
                Way {
                    selector,
                    link: light,
                },
                heavy,
            );
        }
    }

    /// Renames an alternative of `user` that leads to a key which is now equal to `link`.
    fn rename(&mut self, user: Key, input: u32, old: Way, link: Key) {
        let user = self.find(user);
        let new = Way { link, ..old };
        if let Some(moved) = self.visitors.remove(&self.door(user, input, old)) {
            self.visitors
                .entry(self.door(user, input, new))
                .or_default()
                .extend(moved);
        }
        let ways = &mut self.classes[user as usize].inputs[input as usize];
        if ways.remove(&old) {
            ways.insert(new);
            self.fresh.push((user, input, new));
        }
        self.classes[link as usize]
            .users
            .push((user, input, old.selector));
    }
}

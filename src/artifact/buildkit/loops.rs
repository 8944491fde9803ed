//! Removal of loops. A step that changes nothing makes its own output an alternative of its input: once equal keys are joined,
//! links may lead back to where they came from, which BuildKit's parser refuses.
//!
//! BuildKit's own joining leaves such links out as it meets them (`chains.go`: "make sure that none of the deps are children").
//! Which ones it meets depends on its order; here links are processed in the order of the parts, so no part removes a link of an
//! earlier part.

use std::collections::{HashMap, HashSet, VecDeque};

use super::order::links_first;

/// A graph to cut: for each key, for each input, its alternatives as (selector, key).
pub(super) type Ways = Vec<Vec<Vec<(u32, usize)>>>;

/// An alternative that a part has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Said {
    pub(super) key: usize,
    pub(super) input: usize,
    pub(super) selector: u32,
    pub(super) link: usize,
}

/// Removes alternatives until there are no loops; returns how many. `parts` have all alternatives of `keys`, the most important
/// part first.
///
/// If a part would create a loop, only those of its alternatives are removed that lead from a key on a loop (or between loops) to
/// another such key which is not nearer to the roots. Every input of a key keeps an alternative of the first part that has the
/// key, so no key is lost.
pub(super) fn cut(keys: &mut Ways, parts: &[Vec<Said>]) -> usize {
    let mut removed = 0;
    for (at, inputs) in keys.iter_mut().enumerate() {
        for ways in inputs {
            let before = ways.len();
            ways.retain(|(_, link)| *link != at);
            removed += before - ways.len();
        }
    }
    let looping = looping(keys);
    if !looping.contains(&true) {
        return removed;
    }
    let kept = Cut::default().kept(parts, &looping);
    for (key, inputs) in keys.iter_mut().enumerate().filter(|(at, _)| looping[*at]) {
        for (input, ways) in inputs.iter_mut().enumerate() {
            let before = ways.len();
            ways.retain(|(selector, link)| {
                let said = Said {
                    key,
                    input,
                    selector: *selector,
                    link: *link,
                };
                !looping[*link] || kept.contains(&said)
            });
            removed += before - ways.len();
        }
    }
    removed
}

/// Which keys are left after repeatedly removing keys without inputs, and then keys without users.
fn looping(keys: &Ways) -> Vec<bool> {
    let mut left = vec![true; keys.len()];
    let links = |at: usize| keys[at].iter().flatten().map(|(_, link)| *link);
    for at in links_first(keys.len(), links) {
        left[at] = false;
    }
    let mut users = vec![Vec::new(); keys.len()];
    for at in (0..keys.len()).filter(|at| left[*at]) {
        for link in links(at) {
            users[link].push(at);
        }
    }
    for at in links_first(keys.len(), |at| users[at].iter().copied()) {
        left[at] = false;
    }
    left
}

/// Links between looping keys, of the parts processed so far.
#[derive(Default)]
struct Cut {
    kept: HashSet<Said>,
    /// Keys that a part had.
    known: HashSet<usize>,
}

impl Cut {
    fn kept(mut self, parts: &[Vec<Said>], looping: &[bool]) -> HashSet<Said> {
        for said in parts {
            let (mut fresh, mut open) = (Vec::new(), HashSet::new());
            for s in said.iter().filter(|s| looping[s.key] && s.key != s.link) {
                if !looping[s.link] {
                    open.insert((s.key, s.input));
                } else if !self.kept.contains(s) {
                    fresh.push(*s);
                }
            }
            if !self.is_free_with(&fresh, looping.len()) {
                let ranks = self.ranks(&fresh, &open, looping.len());
                fresh.retain(|s| ranks[s.link] < ranks[s.key]);
            }
            self.kept.extend(fresh);
            self.known.extend(said.iter().map(|s| s.key));
        }
        self.kept
    }

    /// Returns true if there are no loops with `fresh` added.
    fn is_free_with(&self, fresh: &[Said], count: usize) -> bool {
        let mut links = vec![Vec::new(); count];
        for said in self.kept.iter().chain(fresh) {
            links[said.key].push(said.link);
        }
        links_first(count, |at| links[at].iter().copied()).len() == count
    }

    /// The distance of each key from the roots: one more than the farthest of its kept links, or, for a new key, of its
    /// inputs, each by its nearest alternative; inputs in `open` have an alternative that leads out of the loops.
    ///
    /// Every key has a rank: the kept links have no loops, and a new key comes from a record of a config without loops, by whose
    /// links it can be reached.
    fn ranks(&self, fresh: &[Said], open: &HashSet<(usize, usize)>, count: usize) -> Vec<usize> {
        // How many links a key still waits for: every kept link, or one link of each input.
        let mut waits: Vec<usize> = vec![0; count];
        let mut slots: Vec<(usize, bool)> = Vec::new();
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); count];
        let mut of_input: HashMap<(usize, usize), usize> = HashMap::new();
        let fresh = fresh.iter().filter(|s| !self.known.contains(&s.key));
        let fresh = fresh.filter(|s| !open.contains(&(s.key, s.input)));
        let waited = self.kept.iter().map(|s| (s, None));
        for (said, input) in waited.chain(fresh.map(|s| (s, Some((s.key, s.input))))) {
            let slot = match input {
                Some(input) => *of_input.entry(input).or_insert(slots.len()),
                None => slots.len(),
            };
            if slot == slots.len() {
                slots.push((said.key, false));
                waits[said.key] += 1;
            }
            users[said.link].push(slot);
        }
        let mut ranks = vec![0; count];
        let mut queue: VecDeque<usize> = (0..count).filter(|at| waits[*at] == 0).collect();
        // First in, first out: keys come in the order of their ranks, so the first alternative that comes is the nearest.
        while let Some(at) = queue.pop_front() {
            for slot in &users[at] {
                let (user, is_met) = &mut slots[*slot];
                if std::mem::replace(is_met, true) {
                    continue;
                }
                waits[*user] -= 1;
                if waits[*user] == 0 {
                    ranks[*user] = ranks[at] + 1;
                    queue.push_back(*user);
                }
            }
        }
        ranks
    }
}

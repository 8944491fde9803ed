//! Ways out of loops. A step that changes nothing makes its own output an alternative of its input: once equal keys are one, links
//! may lead back to where they came from, which BuildKit's parser refuses.
//!
//! BuildKit's own joining leaves such links out as it meets them (`chains.go`: "make sure that none of the deps are children"). Which it
//! meets depends on its order; here it depends on the graph alone.

use std::collections::VecDeque;

use super::order::links_first;

/// A graph to cut: for each key, for each input, its alternatives as (selector, key).
pub(super) type Ways = Vec<Vec<Vec<(u32, usize)>>>;

/// Removes alternatives until nothing loops; returns how many.
///
/// Only those go that lead from a key on a loop (or between loops) to another such key which is not nearer to the roots. Every input
/// keeps the alternative by which its key is nearest, so no key is lost.
pub(super) fn cut(keys: &mut Ways) -> usize {
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
    let ranks = ranks(keys);
    for (at, inputs) in keys.iter_mut().enumerate().filter(|(at, _)| looping[*at]) {
        for ways in inputs {
            let before = ways.len();
            ways.retain(|(_, link)| !looping[*link] || ranks[*link] < ranks[at]);
            removed += before - ways.len();
        }
    }
    removed
}

/// Which keys are left when those without inputs are taken away again and again, and then those without users.
fn looping(keys: &Ways) -> Vec<bool> {
    let mut left = vec![true; keys.len()];
    let links = |at: usize| keys[at].iter().flatten().map(|(_, link)| *link);
    for at in links_first(keys.len(), links) {
        left[at] = false;
    }
    let users = users(keys);
    let alive = left.clone();
    let users = |at: usize| {
        users[at]
            .iter()
            .map(|(user, _)| *user)
            .filter(|user| alive[*user])
    };
    for at in links_first(keys.len(), users) {
        left[at] = false;
    }
    left
}

/// How far from the roots a key is: one more than the farthest of its inputs, each by its nearest alternative.
///
/// Every key has a rank: it comes from a record of a config without loops, by whose links it can be reached.
fn ranks(keys: &Ways) -> Vec<usize> {
    let users = users(keys);
    let mut open: Vec<usize> = keys.iter().map(Vec::len).collect();
    let mut met: Vec<Vec<bool>> = keys
        .iter()
        .map(|inputs| vec![false; inputs.len()])
        .collect();
    let mut ranks = vec![usize::MAX; keys.len()];
    let mut queue: VecDeque<usize> = (0..keys.len()).filter(|at| open[*at] == 0).collect();
    for root in &queue {
        ranks[*root] = 0;
    }
    // First in, first out: keys come in the order of their ranks, so the first alternative that comes is the nearest.
    while let Some(at) = queue.pop_front() {
        for (user, input) in &users[at] {
            if std::mem::replace(&mut met[*user][*input], true) {
                continue;
            }
            open[*user] -= 1;
            if open[*user] == 0 {
                ranks[*user] = ranks[at] + 1;
                queue.push_back(*user);
            }
        }
    }
    ranks
}

/// Who links to each key, and at which input.
fn users(keys: &Ways) -> Vec<Vec<(usize, usize)>> {
    let mut users = vec![Vec::new(); keys.len()];
    for (at, inputs) in keys.iter().enumerate() {
        for (input, ways) in inputs.iter().enumerate() {
            for (_, link) in ways {
                users[*link].push((at, input));
            }
        }
    }
    users
}

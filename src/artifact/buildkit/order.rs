//! Topological order: each item after all items that it needs.

/// The numbers below `count`, each after all numbers that it links to; those on loops, and those that link to them, are missing.
pub(super) fn links_first<L: IntoIterator<Item = usize>>(
    count: usize,
    links: impl Fn(usize) -> L,
) -> Vec<usize> {
    let mut users = vec![Vec::new(); count];
    let mut waits = vec![0_usize; count];
    for (at, wait) in waits.iter_mut().enumerate() {
        for link in links(at) {
            users[link].push(at);
            *wait += 1;
        }
    }
    let mut order: Vec<usize> = (0..count).filter(|at| waits[*at] == 0).collect();
    let mut done = 0;
    while let Some(at) = order.get(done).copied() {
        done += 1;
        for user in &users[at] {
            waits[*user] -= 1;
            if waits[*user] == 0 {
                order.push(*user);
            }
        }
    }
    order
}

//! Times chosen by a writer, compared with the time at which its snapshot was published.
//!
//! Of two action entries the later one wins a fold, and a fold is a union: an entry dated years ahead would win forever. So
//! entries dated after the publication are left out. They are never given a new date, which would make them the newest of all.

use super::{Rules, kill};
use crate::{
    artifact::{
        name,
        snapshot::{At, Snapshot},
    },
    entry::{EntryPath, Time},
};

/// Seconds by which a time may be ahead of its publication: clocks of nodes and stores differ a little.
pub const AHEAD_SECS: i64 = 600;

/// Returns true if `at` is later than anything published at `bound` can be.
pub fn is_ahead(at: Time, bound: Time) -> bool {
    at > latest(bound)
}

fn latest(bound: Time) -> Time {
    Time {
        secs: bound.secs.saturating_add(AHEAD_SECS),
        ..bound
    }
}

/// Leaves out entries dated later than `bound`, the time of the snapshot's publication, caps its days of use by that day, and
/// sets its publication time to `bound`. Returns the entries left out, sorted; the snapshot must then be closed.
///
/// Times matter only in a union; from a tree nothing is left out.
pub fn leave_out_ahead(snapshot: &mut Snapshot, bound: Time, rules: Rules) -> Vec<EntryPath> {
    snapshot.published = Some(bound);
    snapshot
        .folded
        .retain(|f| name::replaced_at(&f.tag).is_none_or(|at| !is_ahead(at, bound)));
    if rules == Rules::Tree {
        return Vec::new();
    }
    let last_day = latest(bound).day();
    for day in snapshot.packs.iter_mut().flat_map(|p| &mut p.days) {
        *day = last_day.min(*day);
    }
    let ahead: Vec<At> = snapshot
        .live()
        .filter(|(_, e)| is_ahead(e.entry.meta.mtime, bound))
        .map(|(at, _)| at)
        .collect();
    let mut paths = Vec::with_capacity(ahead.len());
    for at in ahead {
        paths.push(snapshot.entry(at).entry.path.clone());
        kill(snapshot, at);
    }
    paths.sort_unstable();
    paths
}

//! Replacement: after `export --replace` a name stands for one tree only, and exports that began earlier do not bring the rest
//! back.
//!
//! A replacement leaves a mark among the side tags that its snapshot contains (`<head>.r<time><random>`). Snapshots built on it
//! keep the mark, even those of programs that do not know its meaning. A snapshot without the newest mark was made from the
//! earlier content: next to one with the mark, it contributes nothing.
//!
//! Programs that do not know marks drop them after [`super::FOLDED_DAYS`]. So a snapshot counts as made before a replacement only
//! if it was published before then.

use super::{FOLDED_DAYS, Rules};
use crate::{
    artifact::{name, snapshot::Snapshot},
    entry::Time,
};

/// Longest time from the first read of an export to its publication. Shorter than the time for which every program keeps marks,
/// minus a day for clock differences.
const LONGEST_EXPORT_SECS: i64 = (FOLDED_DAYS as i64 - 1) * 86_400;

/// The newest replacement of its own name (with any key) that precedes a snapshot.
pub fn newest_mark(snapshot: &Snapshot) -> Option<&str> {
    marks(snapshot).max().map(|(_, mark)| mark)
}

/// All marks of its own name, with their times.
pub(super) fn marks(snapshot: &Snapshot) -> impl Iterator<Item = (Time, &str)> {
    let prefix = snapshot.name.replacement_prefix();
    let own = snapshot
        .folded
        .iter()
        .filter(move |f| f.tag.starts_with(&prefix));
    own.filter_map(|f| Some((name::replaced_at(&f.tag)?, f.tag.as_str())))
}

/// Returns true if `old` was made from content older than the replacement that precedes `by`.
pub fn is_replaced(old: &Snapshot, by: &Snapshot, rules: Rules) -> bool {
    let newest = marks(by).max();
    // A folder's content is its last writer's tree, whatever there was before.
    let Some(newest) = newest.filter(|_| rules != Rules::Tree) else {
        return false;
    };
    let known = marks(old).max();
    let ended = newest.0.secs.saturating_add(LONGEST_EXPORT_SECS);
    known < Some(newest) && old.published.is_none_or(|at| at.secs < ended)
}

//! Entries of this node that are dated later than the store's clock: every reader would leave them out.

use std::collections::HashSet;

use super::{Diff, LeftOut};
use crate::{
    artifact::fold::dated::{AHEAD_SECS, is_ahead},
    entry::{EntryPath, Time},
    ops::dated::count,
};

/// Removes from the items to pack the action entries that are ahead of `now`, the store's clock, and the outputs that only these need.
pub(super) fn leave_out(diff: &mut Diff, now: Time) -> Option<LeftOut> {
    let mut ahead: HashSet<EntryPath> = HashSet::new();
    let mut first = None;
    let mut dropped = 0;
    diff.new.retain(|n| {
        let entry = &n.pack.entry;
        let stays = entry.needs.is_none() || !is_ahead(entry.meta.mtime, now);
        if !stays {
            ahead.extend(entry.needs.clone());
            first.get_or_insert_with(|| entry.path.clone());
            dropped += 1;
        }
        stays
    });
    let first = first?;
    for needed in diff.new.iter().filter_map(|n| n.pack.entry.needs.as_ref()) {
        ahead.remove(needed);
    }
    diff.new.retain(|n| !ahead.contains(&n.pack.entry.path));
    Some(LeftOut {
        what: "clock".to_owned(),
        why: format!(
            "{} dated more than {} minutes ahead of the store's clock, such as {first}; {}",
            count(dropped),
            AHEAD_SECS / 60,
            remedy(Time::now(), now),
        ),
    })
}

/// What to do about it, given the node's clock `here` and the store's clock `now`.
fn remedy(here: Time, now: Time) -> String {
    if is_ahead(here, now) {
        let minutes = here.secs.saturating_sub(now.secs) / 60;
        return format!(
            "this node's clock is {minutes} minutes ahead of it: correct it, then run `go clean -cache`"
        );
    }
    "this node's clock is correct now, so it was ahead when the entries were written: run `go clean -cache` and build again"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_about_the_clock_only_while_that_is_ahead() {
        let now = Time {
            secs: 1_796_083_200,
            nanos: 0,
        };
        let later = Time {
            secs: now.secs + 7200,
            ..now
        };
        assert!(remedy(later, now).starts_with("this node's clock is 120 minutes ahead"));
        for here in [
            now,
            Time {
                secs: now.secs - 7200,
                ..now
            },
        ] {
            assert!(remedy(here, now).starts_with("this node's clock is correct now"));
        }
    }
}

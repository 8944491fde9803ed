//! The publication time of a manifest, and the entries that are left out because they are dated later ([`fold::dated`]) or are not allowed
//! in that kind of cache ([`fold::barred`]).

use super::{LeftOut, load::Loaded, rules};
use crate::{
    artifact::{
        Tag,
        fold::{
            self,
            dated::{AHEAD_SECS, leave_out_ahead},
        },
        name,
        snapshot::Outline,
    },
    digest::Digest,
    entry::Time,
    store::{PublishedAt, published_at},
};

/// When a manifest was published, for "newest" and ages; `modified` is when the store wrote its tag, `now` the store's clock.
///
/// Manifests of older releases record no time: for those the store's time counts or, if it keeps none, the time of creation.
pub fn publication(
    outline: Option<&Outline>,
    digest: Digest,
    modified: Option<Time>,
    now: Time,
) -> PublishedAt {
    let recorded = outline.and_then(|o| o.published);
    let created = outline.and_then(|o| o.created).map(|c| c.min(now));
    PublishedAt {
        time: published_at(recorded, modified, now).or(created),
        digest,
    }
}

/// Removes from a snapshot the entries that were barred when it was read, and those dated later than its publication. The publication time
/// is the first available of: its record, the time `modified` at which the store wrote its tag, the time in a side tag, the store's clock
/// `now`.
///
/// The time of creation does not count: `SOURCE_DATE_EPOCH` may be long before anything in it. For an honest writer the bound does not
/// depend on `now`, so every reader that folds the snapshot leaves out the same entries.
pub fn leave_out(
    loaded: &mut Loaded,
    tag: Option<&Tag>,
    modified: Option<Time>,
    now: Time,
) -> Option<LeftOut> {
    let snapshot = &mut loaded.snapshot;
    let claimed = || Some(tag.and_then(name::side_time)?.min(now));
    let bound = published_at(snapshot.published, modified, now)
        .or_else(claimed)
        .unwrap_or(now);
    let rules = rules::of_name(&snapshot.name.kind);
    let ahead = leave_out_ahead(snapshot, bound, rules);
    let ahead = ahead.first().map(|first| {
        format!(
            "{} dated more than {} minutes after its publication, such as {first}",
            count(ahead.len()),
            AHEAD_SECS / 60
        )
    });
    let why: Vec<String> = loaded.barred.take().into_iter().chain(ahead).collect();
    if why.is_empty() {
        return None;
    }
    fold::close(snapshot, rules);
    Some(LeftOut {
        what: tag.map_or_else(|| loaded.digest.to_string(), |tag| format!("tag {tag}")),
        why: format!(
            "{}; an export of this name removes it from the store",
            why.join("; ")
        ),
    })
}

/// The number of these entries.
pub(super) fn count(entries: usize) -> String {
    match entries {
        1 => "an entry is".to_owned(),
        n => format!("{n} entries are"),
    }
}

//! When what was read was published, and what of it is left out: what is dated later than that ([`fold::dated`]), and what its kind
//! of cache cannot have ([`fold::barred`]).

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
/// What older programs wrote has no recorded time: there the store's word counts, and where it keeps none the time of
/// creation.
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

/// Leaves out of a snapshot what was barred when it was read, and what is dated later than it was published: by its record, the time `modified` at which the store
/// wrote its tag, the time in a side tag, or the store's clock `now`, in this order as far as there is one.
///
/// The time of creation does not count: `SOURCE_DATE_EPOCH` may be long before anything in it. The bound of what an honest
/// writer published does not depend on `now`, so whoever folds it leaves out the same.
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

/// How many entries that are.
pub(super) fn count(entries: usize) -> String {
    match entries {
        1 => "an entry is".to_owned(),
        n => format!("{n} entries are"),
    }
}

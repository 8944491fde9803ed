//! The side tags that a snapshot claims to contain: a writer may claim anything, so only relevant ones are kept.

use std::collections::HashSet;

use super::{
    FOLDED_DAYS,
    dated::is_ahead,
    replaced::{self, marks},
};
use crate::{
    artifact::{
        Tag,
        config::Folded,
        name::{self, SnapshotName, is_base32},
        snapshot::Snapshot,
    },
    entry::Time,
};

/// Days for which it remembers those that are listed.
const LISTED_DAYS: u32 = 30;
/// Number of unlisted side tags, the latest, that are remembered anyway: a listing may lag behind.
const MAX_UNLISTED: usize = 1000;
/// Characters of the time and random part at the end of side tags and marks.
const MOMENT_CHARS: usize = 16;

/// Records side tags that a snapshot contains, and forgets old ones, but never the last replacement.
pub fn remember(snapshot: &mut Snapshot, more: impl IntoIterator<Item = Folded>, today: u32) {
    snapshot.folded.extend(more);
    snapshot.folded.sort();
    snapshot
        .folded
        .dedup_by(|later, first| later.tag == first.tag);
    let mark = replaced::newest_mark(snapshot).map(str::to_owned);
    snapshot
        .folded
        .retain(|f| f.day.saturating_add(LISTED_DAYS) >= today || Some(&f.tag) == mark.as_ref());
}

/// Returns true if a snapshot published at `published` need not remember a side tag, since its writers listed and folded it long
/// ago.
pub fn is_settled(tag: &Tag, published: Time) -> bool {
    let secs = i64::from(LISTED_DAYS) * 86_400;
    name::side_time(tag).is_some_and(|at| at.secs.saturating_add(secs) <= published.secs)
}

/// Drops everything that is neither a side tag of `name` nor a mark of its replacement.
pub fn drop_strangers(folded: &mut Vec<Folded>, name: &SnapshotName) {
    let prefixes = [name.side_prefix(), name.replacement_prefix()];
    let is_own = |tag: &str| {
        let moment = prefixes.iter().find_map(|p| tag.strip_prefix(p.as_str()));
        moment.is_some_and(|m| m.len() == MOMENT_CHARS && is_base32(m))
    };
    folded.retain(|f| is_own(&f.tag));
    folded.shrink_to_fit();
}

/// Keeps the side tags that are `listed`, the latest thousand of the others (of the last week and since the last replacement),
/// and the mark of that replacement. `now` is the store's clock: nothing was folded after it.
pub fn keep_listed(snapshot: &mut Snapshot, listed: &HashSet<&str>, now: Time) {
    let name = snapshot.name.clone();
    drop_strangers(&mut snapshot.folded, &name);
    let all: HashSet<String> = marks(snapshot).map(|(_, mark)| mark.to_owned()).collect();
    let newest = replaced::newest_mark(snapshot).map(str::to_owned);
    let is_kept = |f: &Folded| listed.contains(f.tag.as_str()) || Some(&f.tag) == newest.as_ref();
    let replaced = newest.as_deref().and_then(name::replaced_at);
    let time = |f: &Folded| name::side_time(&f.tag.parse::<Tag>().ok()?);
    let mut others: Vec<(Time, String)> = snapshot
        .folded
        .iter()
        .filter(|f| !is_kept(f) && !all.contains(&f.tag))
        .filter(|f| f.day.saturating_add(FOLDED_DAYS) >= now.day())
        .filter_map(|f| Some((time(f)?, f.tag.clone())))
        .filter(|(at, _)| !is_ahead(*at, now) && Some(*at) > replaced)
        .collect();
    others.sort_unstable_by(|a, b| b.cmp(a));
    others.truncate(MAX_UNLISTED);
    let others: HashSet<String> = others.into_iter().map(|(_, tag)| tag).collect();
    snapshot
        .folded
        .retain(|f| is_kept(f) || others.contains(&f.tag));
    snapshot.folded.shrink_to_fit();
    for f in &mut snapshot.folded {
        f.day = f.day.min(now.day());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::config::Fingerprint;

    const NOW: Time = Time {
        secs: 1_800_000_000,
        nanos: 0,
    };

    fn name() -> SnapshotName {
        SnapshotName {
            kind: "gobuild".into(),
            name: "n".into(),
            scope: "s".into(),
            key: "k".into(),
        }
    }

    fn snapshot(tags: impl IntoIterator<Item = String>) -> Snapshot {
        let mut folded: Vec<Folded> = tags.into_iter().map(|t| Folded::new(t, u32::MAX)).collect();
        drop_strangers(&mut folded, &name());
        Snapshot {
            name: name(),
            fingerprint: Fingerprint::default(),
            packs: Vec::new(),
            merge: false,
            folded,
            root: None,
            created: None,
            published: None,
        }
    }

    fn side(secs: i64) -> String {
        let at = Time {
            secs: NOW.secs + secs,
            nanos: 0,
        };
        name().side_tag(at, 7).to_string()
    }

    #[test]
    fn what_is_no_side_tag_and_no_mark_of_the_name_is_not_kept() {
        let other = SnapshotName {
            name: "other".into(),
            ..name()
        };
        let mark = name().replacement_mark(NOW, 1);
        let own = [side(0), mark];
        let strange = [
            String::new(),
            "x".into(),
            other.side_tag(NOW, 1).to_string(),
            other.replacement_mark(NOW, 1),
            format!("{}A", side(0)),
            name().side_prefix() + "----------------",
        ];
        let kept = snapshot(own.iter().chain(&strange).cloned());
        let tags: Vec<_> = kept.folded.into_iter().map(|f| f.tag).collect();
        assert_eq!(tags, own);
    }

    #[test]
    fn a_tag_is_settled_before_a_snapshot_forgets_it() {
        let day = 86_400;
        for days in 25..40 {
            let tag = side(-i64::from(days) * day);
            let mut s = snapshot([tag.clone()]);
            s.folded[0].day = NOW.day() - days;
            remember(&mut s, [], NOW.day());
            keep_listed(&mut s, &HashSet::from([tag.as_str()]), NOW);
            let is_settled = is_settled(&tag.parse().unwrap(), NOW);
            assert!(is_settled || !s.folded.is_empty(), "{days}");
            assert!(days >= 30 || !is_settled, "{days}");
        }
        // Not listed any more it is kept for a week.
        let mut s = snapshot([side(-7 * day), side(-8 * day)]);
        s.folded[0].day = NOW.day() - 7;
        s.folded[1].day = NOW.day() - 8;
        keep_listed(&mut s, &HashSet::new(), NOW);
        assert_eq!(s.folded.len(), 1);
    }

    #[test]
    fn all_listed_tags_stay_with_the_latest_of_the_others_and_the_last_mark() {
        let others = (1..=3000).map(|i| side(-i));
        let replaced = Time {
            secs: NOW.secs - 2000,
            nanos: 0,
        };
        let marks = [0, 1].map(|i| name().replacement_mark(replaced, i));
        let listed = [side(-5000), side(-6000)];
        let ahead = side(86_400);
        let all = others.chain(marks).chain(listed.clone()).chain([ahead]);
        let mut s = snapshot(all);
        keep_listed(&mut s, &listed.iter().map(String::as_str).collect(), NOW);
        assert_eq!(s.folded.len(), MAX_UNLISTED + 2 + 1);
        let has = |tag: &str| s.folded.iter().any(|f| f.tag == tag);
        assert!(listed.iter().all(|tag| has(tag)));
        assert!(has(&side(-1)) && has(&side(-1000)) && !has(&side(-1001)));
        assert!(s.folded.iter().all(|f| f.day == NOW.day()));
        let none = HashSet::new();
        let mark = name().replacement_mark(NOW, 1);
        s.folded.push(Folded::new(mark.clone(), 0));
        keep_listed(&mut s, &none, NOW);
        assert_eq!(s.folded.len(), 1);
        assert_eq!(s.folded[0].tag, mark);
    }
}

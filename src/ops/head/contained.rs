//! Finds the side tags that need not be read: a listing may hold all that ever existed.

use std::collections::HashSet;

use super::{super::names::Ours, Current};
use crate::{
    artifact::{
        Tag,
        config::Folded,
        fold::{self, contained::is_settled, dated::is_ahead},
        name,
        snapshot::Snapshot,
    },
    entry::Time,
    store::published_at,
};

/// An empty side tag is never written again once its name is this old: a writer chooses the name just before writing.
const NAMED_SECS: i64 = 3600;

/// The side tags that a head contains.
pub struct Contained<'a> {
    folded: HashSet<&'a str>,
    published: Option<Time>,
}

impl<'a> Contained<'a> {
    /// Those of a head published at `published`, if recorded ([`recorded`]).
    fn new(folded: impl Iterator<Item = &'a Folded>, published: Option<Time>) -> Self {
        Self {
            folded: folded.map(|f| f.tag.as_str()).collect(),
            published,
        }
    }

    /// Those of a head of which manifest and config were read; `now` is the store's clock.
    pub(in crate::ops) fn by(head: &'a Ours, now: Time) -> Self {
        let published = recorded(head.outline.published, head.written, now);
        Self::new(head.config.folded.iter(), published)
    }

    /// Returns true if a tag is one of them: the head names it, or was published so long after it that it need not name it.
    pub fn has(&self, tag: &Tag) -> bool {
        self.folded.contains(tag.as_str()) || self.published.is_some_and(|at| is_settled(tag, at))
    }
}

/// When a head was published, if its writer recorded it: the store's time may be that of a copy.
pub(super) fn recorded(recorded: Option<Time>, modified: Option<Time>, now: Time) -> Option<Time> {
    recorded.and_then(|at| published_at(Some(at), modified, now))
}

impl Current {
    /// The side tags that the head contains.
    pub fn contained(&self) -> Contained<'_> {
        let folded = self.head.iter().flat_map(|h| &h.snapshot.folded);
        Contained::new(folded, self.published)
    }

    /// Returns true if a side tag has nothing left to fold.
    pub fn is_done(&self, tag: &Tag, contained: &Contained<'_>) -> bool {
        contained.has(tag) || self.gone.contains(tag) || self.unfit.contains(tag)
    }

    /// Records side tags that contribute nothing, now or later, so that the next reader skips them.
    pub fn remember_untaken(&self, all: &mut Snapshot) {
        let is_over = |at: Time| at.secs + NAMED_SECS < self.now.secs || is_ahead(at, self.now);
        // Older ones are skipped anyway once a head is published now.
        let gone = self.gone.iter().filter(|t| !is_settled(t, self.now));
        let gone = gone.filter(|t| name::side_time(t).is_some_and(is_over));
        let untaken = self.refused.iter().chain(gone).map(|tag| Folded {
            refused: true,
            ..Folded::new(tag.as_str(), self.today())
        });
        let untaken: Vec<Folded> = untaken.collect();
        if !untaken.is_empty() {
            fold::remember(all, untaken, self.today());
        }
    }
}

//! The result for one snapshot of an export or import.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use super::output::{bytes, count, printable, seconds, short};
use crate::{
    digest::Digest,
    ops::{
        LeftOut, Moved, PhaseTime,
        export::{self, Dropped},
        import, json,
    },
    source::SourceKind,
};

/// Most left-out items that a warning names; `--json` has all of them.
const MAX_LEFT_OUT_NAMED: usize = 3;

/// Which of the two verbs ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Export,
    Import,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Import => "import",
        }
    }
}

/// The outcome of one snapshot.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Part {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) scope: Option<String>,
    pub(crate) key: Option<String>,
    /// Import: something was restored. Export: nothing was new.
    pub(crate) hit: bool,
    /// Import: it was found under the requested key.
    #[serde(skip)]
    pub(crate) exact: bool,
    /// Import: it was found under another key than the requested one, or without a key.
    #[serde(skip)]
    pub(crate) by_other_key: bool,
    #[serde(skip)]
    pub(crate) partial: bool,
    /// Import: something in the target blocked entries, which were left out.
    #[serde(skip)]
    pub(crate) blocked: bool,
    /// It is a miss because something stored is lost or damaged.
    #[serde(skip)]
    pub(crate) damaged: bool,
    /// There is nothing to transfer: nothing is stored (import), or nothing is on this node (export).
    #[serde(skip)]
    pub(crate) absent: bool,
    pub(crate) digest: Option<Digest>,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Entries packed or restored now.
    #[serde(skip)]
    pub(crate) entries_moved: u64,
    #[serde(flatten)]
    pub(crate) moved: Moved,
    /// Why it is a miss, or was not exported.
    pub(crate) miss: Option<String>,
    pub(crate) left_out: Vec<LeftOut>,
    /// Export: what the limits dropped.
    #[serde(skip)]
    pub(crate) dropped: Dropped,
    pub(crate) phases: Vec<PhaseTime>,
    #[serde(rename = "elapsed_ms", serialize_with = "json::millis")]
    pub(crate) elapsed: Duration,
}

/// In the report of an import or export, only packs are named by a digest.
fn is_pack(l: &LeftOut) -> bool {
    l.what.starts_with("pack sha256:")
}

impl Part {
    /// One without a result.
    pub(crate) fn nothing(kind: &'static str, name: &str, why: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            miss: Some(why.into()),
            ..Self::default()
        }
    }

    pub(crate) fn exported(r: export::Report) -> Self {
        Self {
            kind: r.kind,
            name: r.target.name,
            scope: Some(r.target.scope),
            key: Some(r.target.key),
            hit: r.unchanged,
            exact: r.unchanged,
            digest: Some(r.digest),
            entries: r.entries,
            bytes: r.bytes,
            entries_moved: r.entries_packed,
            moved: r.moved,
            left_out: r.left_out,
            dropped: r.dropped,
            phases: r.phases,
            elapsed: r.elapsed,
            ..Self::default()
        }
    }

    /// `asked`: the requested key; an import by digest has no key.
    pub(crate) fn imported(r: import::Report, asked: &str, by_digest: bool) -> Self {
        let hit = r.hit.is_some();
        let is_asked = match &r.found {
            Some((_, key)) => key == asked,
            None => r.hit == Some(import::Hit::Exact),
        };
        let by_other_key = hit && !by_digest && !is_asked;
        let (scope, key) = r.found.unzip();
        Self {
            kind: r.kind,
            name: r.name,
            scope,
            key,
            hit,
            exact: hit && !r.partial && !r.blocked && !by_other_key,
            by_other_key,
            partial: r.partial,
            blocked: r.blocked,
            damaged: r.damaged && !hit,
            absent: r.absent,
            digest: r.digest,
            entries: r.entries,
            bytes: r.bytes,
            entries_moved: r.entries_restored,
            moved: r.moved,
            miss: r
                .miss
                .or_else(|| (!hit).then(|| "nothing was found".to_owned())),
            left_out: r.left_out,
            dropped: Dropped::default(),
            phases: r.phases,
            elapsed: r.elapsed,
        }
    }

    /// Something was restored, but not everything.
    pub(super) fn is_partial(&self) -> bool {
        self.partial || self.blocked
    }

    /// Its absence is not a miss: a project without dependencies has no module cache. Folders are requested by name, so theirs is.
    pub(super) fn is_excused(&self) -> bool {
        self.absent && self.kind != SourceKind::Dir.name()
    }

    /// What was left out, for a warning: the number, and the first ones.
    pub(super) fn left_out_line(&self) -> String {
        let (packs, others): (Vec<_>, Vec<_>) = self.left_out.iter().partition(|l| is_pack(l));
        let named = |all: &[&LeftOut]| {
            let named = all.iter().take(MAX_LEFT_OUT_NAMED);
            let mut named: Vec<String> = named.map(|l| format!("{}: {}", l.what, l.why)).collect();
            if all.len() > named.len() {
                named.push(format!("and {} more", all.len() - named.len()));
            }
            named.join("; ")
        };
        let mut lines = Vec::new();
        if !others.is_empty() && self.blocked {
            lines.push(format!("not restored: {}", named(&others)));
        } else if !others.is_empty() {
            let items = count(others.len() as u64, "item", "items");
            lines.push(format!("{items} left out: {}", named(&others)));
        }
        if !packs.is_empty() {
            let found = count(packs.len() as u64, "damaged pack", "damaged packs");
            lines.push(format!(
                "{found} found, whose entries came from other packs: {}",
                named(&packs)
            ));
        }
        format!("{} {}: {}", self.kind, self.name, lines.join("; "))
    }

    /// What a Go cache lost, for a warning. Its paths are hashes, which mean nothing to people: a damaged pack says more.
    pub(super) fn lost_line(&self) -> String {
        let packs = self.left_out.iter().filter(|l| is_pack(l)).count();
        let entries = self.left_out.len() - packs;
        let lost = match entries {
            0 => count(packs as u64, "pack", "packs"),
            n => count(n as u64, "entry", "entries"),
        };
        let cause = self.left_out.iter().find(|l| is_pack(l));
        let cause = cause.or(self.left_out.first());
        let cause = cause.map_or_else(String::new, |l| format!(" ({}: {})", l.what, l.why));
        format!(
            "partial hit: {} {}: {lost} could not be restored{cause}",
            self.kind, self.name
        )
    }

    /// A warning that limits left out more than half of a cache, or all of it.
    pub(super) fn dropped_line(&self) -> Option<String> {
        let Dropped {
            by_age,
            by_size,
            of,
            max_age_days,
            max_size,
        } = self.dropped;
        let all = || count(of.0, "entry", "entries");
        let (kind, name) = (self.kind, &self.name);
        if by_size.0 > of.0 / 2 {
            return Some(format!(
                "{kind} {name}: {} of {} ({} of {}) left out, the least recently used first, to stay within max_size ({}); \
                 raise --max-size",
                by_size.0,
                all(),
                bytes(by_size.1),
                bytes(of.1),
                bytes(max_size.unwrap_or_default()),
            ));
        }
        (by_age.0 > 0 && by_age.0 + by_size.0 == of.0).then(|| {
            format!(
                "{kind} {name}: everything is left out: none of its {} was used in the last {} (max_age); export after the build that uses them, or raise --max-age",
                all(),
                count(max_age_days.into(), "day", "days"),
            )
        })
    }

    /// The same in a few words, for any amount.
    fn dropped_words(&self) -> String {
        let Dropped {
            by_age,
            by_size,
            of,
            max_age_days,
            ..
        } = self.dropped;
        let mut text = String::new();
        if by_size.0 > 0 {
            let _ = write!(text, "; {} of {} left out (max_size)", by_size.0, of.0);
        }
        if by_age.0 > 0 {
            let days = count(max_age_days.into(), "day", "days");
            let _ = write!(
                text,
                "; {} of {} dropped (unused for {days})",
                by_age.0, of.0
            );
        }
        text
    }

    pub(super) fn json(&self, verb: Verb) -> Value {
        let mut value = json!(self);
        match verb {
            Verb::Export => {
                value["unchanged"] = json!(self.hit);
                value["entries_packed"] = json!(self.entries_moved);
                value["dropped"] = json!({
                    "max_size_entries": self.dropped.by_size.0,
                    "max_size_bytes": self.dropped.by_size.1,
                    "max_age_entries": self.dropped.by_age.0,
                    "max_age_bytes": self.dropped.by_age.1,
                });
            }
            Verb::Import => {
                value["exact"] = json!(self.exact);
                value["partial"] = json!(self.is_partial());
                value["entries_restored"] = json!(self.entries_moved);
            }
        }
        value
    }

    /// One line for people: result, size and cost.
    pub(super) fn line(&self, verb: Verb) -> String {
        let head = format!("{} {} {}", verb.name(), self.kind, printable(&self.name));
        let why = || printable(self.miss.as_deref().unwrap_or_default());
        let Some(digest) = &self.digest else {
            return match verb {
                Verb::Import => format!("{head}: miss: {}\n", why()),
                Verb::Export => format!("{head}: not exported: {}\n", why()),
            };
        };
        let what = match (verb, self.hit) {
            (Verb::Export, true) => "unchanged".to_owned(),
            (Verb::Export, false) => format!("{} new", self.entries_moved),
            (Verb::Import, false) => "miss".to_owned(),
            (Verb::Import, true) => self.how_it_hit(),
        };
        let moved = bytes(self.moved.bytes_moved);
        let cost = match (verb, self.hit) {
            (Verb::Export, true) => String::new(),
            (Verb::Export, false) => format!("; {moved} sent"),
            (Verb::Import, _) => format!("; {} restored, {moved} fetched", self.entries_moved),
        };
        let mut place = String::new();
        if let Some(scope) = &self.scope {
            let _ = write!(place, "scope {}, ", printable(scope));
        }
        if let Some(key) = self.key.as_deref().filter(|key| !key.is_empty()) {
            let _ = write!(place, "key {}, ", printable(key));
        }
        // Left-out items are reported as a warning.
        format!(
            "{head}: {what}: {}, {}{}{cost} in {} ({place}{})\n",
            count(self.entries, "entry", "entries"),
            bytes(self.bytes),
            self.dropped_words(),
            seconds(self.elapsed),
            short(digest)
        )
    }

    fn how_it_hit(&self) -> String {
        let hit = if self.is_partial() {
            "partial hit"
        } else {
            "hit"
        };
        match self.key.as_deref().filter(|_| self.by_other_key) {
            None => hit.to_owned(),
            Some(from) => {
                let from = match from {
                    "" => "the cache without a key".to_owned(),
                    key => format!("key {}", printable(key)),
                };
                let how = if self.is_partial() {
                    "partly restored"
                } else {
                    "restored"
                };
                format!("{how} from {from}")
            }
        }
    }
}

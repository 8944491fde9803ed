//! What came of an export or import, over all its snapshots: for people, for `--json`, for the exit code.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    args,
    error::{CommandError, Kind, Result},
    json,
    output::{bytes, count, printable, seconds, short},
    sources::Job,
};
use crate::{
    digest::Digest,
    ops::{LeftOut, Moved, PhaseTime, export, import},
    source::SourceKind,
};

/// Left-out things that a warning names; `--json` has all of them.
const MAX_LEFT_OUT_NAMED: usize = 3;

/// Which of the two verbs it was.
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
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) scope: Option<String>,
    pub(crate) key: Option<String>,
    /// Import: something was restored. Export: nothing was new.
    pub(crate) hit: bool,
    /// Import: it was found under the key that was asked for.
    pub(crate) exact: bool,
    pub(crate) partial: bool,
    /// It is a miss because something stored is lost or damaged.
    pub(crate) damaged: bool,
    /// There is nothing to carry: nothing is stored (import), nothing is on this node (export).
    pub(crate) absent: bool,
    pub(crate) digest: Option<Digest>,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Entries packed or restored now.
    pub(crate) entries_moved: u64,
    pub(crate) moved: Moved,
    /// Why it is a miss, or was not exported.
    pub(crate) miss: Option<String>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) phases: Vec<PhaseTime>,
    pub(crate) elapsed: Duration,
}

impl Part {
    /// One of which nothing came.
    pub(crate) fn nothing(kind: &'static str, name: &str, why: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            scope: None,
            key: None,
            hit: false,
            exact: false,
            partial: false,
            damaged: false,
            absent: false,
            digest: None,
            entries: 0,
            bytes: 0,
            entries_moved: 0,
            moved: Moved::default(),
            miss: Some(why.into()),
            left_out: Vec::new(),
            phases: Vec::new(),
            elapsed: Duration::ZERO,
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
            partial: false,
            damaged: false,
            absent: false,
            digest: Some(r.digest),
            entries: r.entries,
            bytes: r.bytes,
            entries_moved: r.entries_packed,
            moved: r.moved,
            miss: None,
            left_out: r.left_out,
            phases: r.phases,
            elapsed: r.elapsed,
        }
    }

    /// `asked`: the key that was asked for; by digest there is no question of keys.
    pub(crate) fn imported(r: import::Report, asked: &str, by_digest: bool) -> Self {
        let hit = r.hit.is_some();
        let exact = hit
            && !r.partial
            && (by_digest
                || r.found
                    .as_ref()
                    .map_or(r.hit == Some(import::Hit::Exact), |(_, key)| key == asked));
        let (scope, key) = r.found.unzip();
        Self {
            kind: r.kind,
            name: r.name,
            scope,
            key,
            hit,
            exact,
            partial: r.partial,
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
            phases: r.phases,
            elapsed: r.elapsed,
        }
    }

    /// It is no miss that this one is not there: a project without dependencies has no module cache. Folders are asked for by name.
    fn is_excused(&self) -> bool {
        self.absent && self.kind != SourceKind::Dir.name()
    }

    /// What was left out, for a warning: how many, and the first ones.
    fn left_out_line(&self) -> String {
        let named = self.left_out.iter().take(MAX_LEFT_OUT_NAMED);
        let named: Vec<String> = named.map(|l| format!("{}: {}", l.what, l.why)).collect();
        let more = if self.left_out.len() > named.len() {
            "; …"
        } else {
            ""
        };
        format!(
            "{} {}: {} left out: {}{more}",
            self.kind,
            self.name,
            count(self.left_out.len() as u64, "thing", "things"),
            named.join("; "),
        )
    }

    fn json(&self, verb: Verb) -> Value {
        let mut value = json!({
            "kind": self.kind,
            "name": self.name,
            "scope": self.scope,
            "key": self.key,
            "hit": self.hit,
            "digest": self.digest.as_ref().map(Digest::to_string),
            "entries": self.entries,
            "bytes": self.bytes,
            "blobs_moved": self.moved.blobs_moved,
            "bytes_moved": self.moved.bytes_moved,
            "bytes_saved": self.moved.bytes_saved,
            "elapsed_ms": json::ms(self.elapsed),
            "miss": self.miss,
            "left_out": json::left_out(&self.left_out),
            "phases": json::phases(&self.phases),
        });
        match verb {
            Verb::Export => {
                value["unchanged"] = json!(self.hit);
                value["entries_packed"] = json!(self.entries_moved);
            }
            Verb::Import => {
                value["exact"] = json!(self.exact);
                value["partial"] = json!(self.partial);
                value["entries_restored"] = json!(self.entries_moved);
            }
        }
        value
    }

    fn line(&self, verb: Verb) -> String {
        let head = format!("{} {} {}", verb.name(), self.kind, printable(&self.name));
        let Some(digest) = &self.digest else {
            let why = printable(self.miss.as_deref().unwrap_or_default());
            return match verb {
                // Said on standard error, once for all.
                Verb::Import => String::new(),
                Verb::Export => format!("{head}: not exported: {why}\n"),
            };
        };
        let holds = format!(
            "{}, {}",
            count(self.entries, "entry", "entries"),
            bytes(self.bytes)
        );
        let what = match (verb, self.hit) {
            (Verb::Export, true) => "unchanged".to_owned(),
            (Verb::Export, false) => format!("{} new", self.entries_moved),
            (Verb::Import, false) => "miss".to_owned(),
            (Verb::Import, true) if self.partial => {
                format!("partial hit, {} restored", self.entries_moved)
            }
            (Verb::Import, true) => format!("hit, {} restored", self.entries_moved),
        };
        let place = match (&self.scope, &self.key) {
            (Some(scope), Some(key)) if !key.is_empty() => {
                format!(", scope {} key {}", printable(scope), printable(key))
            }
            (Some(scope), _) => format!(", scope {}", printable(scope)),
            _ => String::new(),
        };
        // What was left out is a warning.
        format!("{head}: {what} ({holds}{place}, {})\n", short(digest))
    }
}

/// The outcome of the whole command.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) verb: Verb,
    /// URL of the store, without secrets; `None` where none is set.
    pub(crate) store: Option<String>,
    /// In the order in which they were worked on; `gobuild` before `gomod`.
    pub(crate) parts: Vec<Part>,
    /// Trouble with the cache, in order.
    pub(crate) troubles: Vec<CommandError>,
    pub(crate) elapsed: Duration,
}

impl Summary {
    /// Import: all that is stored was restored, and something was. Export: nothing was new.
    pub(crate) fn hit(&self) -> bool {
        self.all(|p| p.hit)
    }

    /// A hit of which every snapshot was found under the key that was asked for.
    pub(crate) fn exact(&self) -> bool {
        self.all(|p| p.exact)
    }

    fn all(&self, good: impl Fn(&Part) -> bool) -> bool {
        self.parts.iter().any(&good) && self.parts.iter().all(|p| p.is_excused() || good(p))
    }

    /// Something was restored, but not everything.
    fn partial(&self) -> bool {
        self.parts.iter().any(|p| p.partial) || (!self.hit() && self.parts.iter().any(|p| p.hit))
    }

    /// Digest of the first snapshot that there is.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.parts.iter().find_map(|p| p.digest.as_ref())
    }

    fn moved(&self) -> Moved {
        self.parts.iter().fold(Moved::default(), |a, p| Moved {
            blobs_moved: a.blobs_moved + p.moved.blobs_moved,
            bytes_moved: a.bytes_moved + p.moved.bytes_moved,
            bytes_saved: a.bytes_saved + p.moved.bytes_saved,
        })
    }

    /// Time by phase over all snapshots, in the order in which phases first came.
    fn phases(&self) -> Vec<PhaseTime> {
        let mut all: Vec<PhaseTime> = Vec::new();
        for part in self.parts.iter().flat_map(|p| &p.phases) {
            match all.iter_mut().find(|t| t.phase == part.phase) {
                Some(sum) => sum.elapsed += part.elapsed,
                None => all.push(*part),
            }
        }
        all
    }

    /// Why it is a miss (import) or was not exported, in one line; `None` where nothing is amiss.
    fn miss(&self) -> Option<String> {
        if self.hit() {
            return None;
        }
        self.reasons(|_| true)
    }

    fn reasons(&self, of: impl Fn(&Part) -> bool) -> Option<String> {
        let mut reasons: Vec<&str> = Vec::new();
        for part in self.parts.iter().filter(|p| !p.hit && of(p)) {
            if let Some(why) = part.miss.as_deref().filter(|w| !reasons.contains(w)) {
                reasons.push(why);
            }
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Forgives that one cache of several is not there, as the module cache of a project without dependencies.
    pub(crate) fn settle(&mut self) {
        if self.parts.iter().any(|p| p.digest.is_some()) {
            self.troubles.retain(|e| !e.nothing_there);
        }
    }

    /// What the user should know of, though the command goes on; `strict` ends it with the troubles instead.
    pub(crate) fn warnings(&self, strict: bool) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(line) = self.trouble_line().filter(|_| !strict) {
            all.push(match self.verb {
                Verb::Export => format!("not exported: {line}"),
                // What was changed is there to stay.
                Verb::Import if self.troubles.iter().any(|e| e.partly) => {
                    format!("partly restored: {line}")
                }
                Verb::Import => format!("miss: {line}; continuing without the cache"),
            });
        }
        for part in self
            .parts
            .iter()
            .filter(|p| !p.left_out.is_empty() && !p.partial)
            .filter(|p| self.verb == Verb::Export || p.hit)
        {
            all.push(part.left_out_line());
        }
        for part in self.parts.iter().filter(|p| p.partial) {
            let first = part.left_out.first();
            let example =
                first.map_or_else(String::new, |l| format!(", such as {}: {}", l.what, l.why));
            all.push(format!(
                "partial hit: {} {}: {} could not be had{example}",
                part.kind,
                part.name,
                count(part.left_out.len() as u64, "thing", "things"),
            ));
        }
        all
    }

    /// A miss that is nobody's fault and was not warned of.
    pub(crate) fn plain_miss(&self) -> Option<String> {
        let quiet = self.verb == Verb::Import && self.trouble_line().is_none();
        self.miss().filter(|_| quiet)
    }

    /// Notes a failure before it was known what there is to carry.
    ///
    /// # Errors
    /// Usage errors are no cache trouble and come back.
    pub(crate) fn trouble_before(&mut self, e: CommandError, source: args::Source) -> Result<()> {
        if e.is_usage() {
            return Err(e);
        }
        let kinds: &[&'static str] = match source {
            args::Source::Go => &["gobuild", "gomod"],
            args::Source::Gobuild => &["gobuild"],
            args::Source::Gomod => &["gomod"],
            args::Source::Dir => &["dir"],
        };
        self.parts = kinds
            .iter()
            .map(|k| Part::nothing(k, "", e.line()))
            .collect();
        self.troubles.push(e);
        Ok(())
    }

    /// Notes a failure with one cache; the others may still succeed.
    pub(crate) fn trouble(&mut self, e: CommandError, job: &Job) {
        let mut part = Part::nothing(job.kind().name(), &job.name, e.line());
        part.absent = e.nothing_there;
        self.parts.push(part);
        self.troubles.push(e);
    }

    /// Notes that the store is out of reach, for all caches that were not worked on yet.
    ///
    /// # Errors
    /// Usage errors are no cache trouble and come back.
    pub(crate) fn store_is_lost(&mut self, e: CommandError, jobs: &[Job]) -> Result<()> {
        if e.is_usage() {
            return Err(e);
        }
        for job in jobs.iter().skip(self.parts.len()) {
            self.parts
                .push(Part::nothing(job.kind().name(), &job.name, e.line()));
        }
        self.troubles.push(e);
        Ok(())
    }

    /// All troubles in one line.
    pub(crate) fn trouble_line(&self) -> Option<String> {
        let mut lines: Vec<String> = self.troubles.iter().map(CommandError::line).collect();
        lines.extend(self.reasons(|p| p.damaged));
        lines.dedup();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    pub(crate) fn json(&self, warnings: &[String]) -> Value {
        let moved = self.moved();
        let left_out: Vec<LeftOut> = self.parts.iter().flat_map(|p| p.left_out.clone()).collect();
        let parts: Vec<Value> = self.parts.iter().map(|p| p.json(self.verb)).collect();
        let mut value = json!({
            "command": self.verb.name(),
            "store": self.store,
            "hit": self.hit(),
            "digest": self.digest().map(Digest::to_string),
            "entries": self.parts.iter().map(|p| p.entries).sum::<u64>(),
            "bytes": self.parts.iter().map(|p| p.bytes).sum::<u64>(),
            "blobs_moved": moved.blobs_moved,
            "bytes_moved": moved.bytes_moved,
            "bytes_saved": moved.bytes_saved,
            "elapsed_ms": json::ms(self.elapsed),
            "miss": self.miss(),
            "trouble": self.trouble_line(),
            "left_out": json::left_out(&left_out),
            "phases": json::phases(&self.phases()),
            "warnings": warnings,
            "snapshots": parts,
        });
        match self.verb {
            Verb::Export => value["unchanged"] = json!(self.hit()),
            Verb::Import => {
                value["exact"] = json!(self.exact());
                value["partial"] = json!(self.partial());
            }
        }
        value
    }

    /// For people: a line a snapshot, then what it cost.
    pub(crate) fn text(&self) -> String {
        let lines = self
            .parts
            .iter()
            .filter(|p| p.digest.is_some() || self.troubles.is_empty());
        let mut text: String = lines.map(|p| p.line(self.verb)).collect();
        if self.parts.iter().all(|p| p.digest.is_none()) {
            return text;
        }
        let moved = self.moved();
        let went = match self.verb {
            Verb::Export => "sent",
            Verb::Import => "fetched",
        };
        let _ = write!(
            text,
            "{} {went} ({}), {} saved, {} in all",
            bytes(moved.bytes_moved),
            count(moved.blobs_moved, "blob", "blobs"),
            bytes(moved.bytes_saved),
            seconds(self.elapsed)
        );
        let phases: Vec<String> = self
            .phases()
            .iter()
            .map(|t| format!("{} {}", t.phase.name(), seconds(t.elapsed)))
            .collect();
        if !phases.is_empty() {
            let _ = write!(text, " ({})", phases.join(", "));
        }
        text.push('\n');
        text
    }

    /// How the command ends.
    pub(crate) fn verdict(&mut self, strict: bool, require_hit: bool) -> Result<()> {
        if strict && !self.troubles.is_empty() {
            return Err(self.troubles.remove(0));
        }
        if strict && let Some(why) = self.reasons(|p| p.damaged) {
            return Err(CommandError::failed(why)
                .hint("the next export of this cache packs anew what is damaged"));
        }
        if require_hit && self.verb == Verb::Import && !self.hit() {
            let why = self.miss().unwrap_or_default();
            return Err(CommandError::new(Kind::Miss, format!("miss: {why}")));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;

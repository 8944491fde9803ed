//! The result of an export or import over all its snapshots: for people, for `--json`, for the exit code.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    args,
    error::{CommandError, Kind, Result},
    json::Object,
    output::{bytes, count, seconds},
    part::{Part, Verb},
    sources::NamedSource,
};
use crate::{
    digest::Digest,
    ops::{LeftOut, Moved, PhaseTime},
};

/// The outcome of the whole command.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) verb: Verb,
    /// URL of the store, without secrets; `None` if none is set.
    pub(crate) store: Option<String>,
    /// In the order of processing; `gobuild` before `gomod`.
    pub(crate) parts: Vec<Part>,
    /// Cache problems, in order.
    pub(crate) troubles: Vec<CommandError>,
    pub(crate) elapsed: Duration,
}

impl Summary {
    /// Import: everything stored was restored, and there was something. Export: nothing was new.
    pub(crate) fn hit(&self) -> bool {
        self.all(|p| p.hit)
    }

    /// A hit with every snapshot found under the requested key.
    pub(crate) fn exact(&self) -> bool {
        self.all(|p| p.exact)
    }

    fn all(&self, good: impl Fn(&Part) -> bool) -> bool {
        self.parts.iter().any(&good) && self.parts.iter().all(|p| p.is_excused() || good(p))
    }

    /// Something was restored, but not everything.
    fn partial(&self) -> bool {
        self.parts.iter().any(Part::is_partial) || (!self.hit() && self.parts.iter().any(|p| p.hit))
    }

    /// Digest of the first snapshot with one.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.parts.iter().find_map(|p| p.digest.as_ref())
    }

    /// Key from which the first snapshot was restored: the requested one or another. `None` on a miss, and without a key.
    pub(crate) fn matched_key(&self) -> Option<&str> {
        let key = self.parts.iter().find(|p| p.hit)?.key.as_deref()?;
        Some(key).filter(|key| self.verb == Verb::Import && !key.is_empty())
    }

    fn moved(&self) -> Moved {
        self.parts.iter().fold(Moved::default(), |a, p| Moved {
            blobs_moved: a.blobs_moved + p.moved.blobs_moved,
            bytes_moved: a.bytes_moved + p.moved.bytes_moved,
            bytes_saved: a.bytes_saved + p.moved.bytes_saved,
        })
    }

    /// Time by phase over all snapshots, in order of first occurrence.
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

    /// Why it is a miss (import) or was not exported, in one line; `None` if nothing went wrong.
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

    /// Tolerates that one of several caches is missing, such as the module cache of a project without dependencies.
    pub(crate) fn settle(&mut self) {
        if self.parts.iter().any(|p| p.digest.is_some()) {
            self.troubles.retain(|e| !e.nothing_there);
        }
    }

    /// Warnings for the user while the command continues; with `strict` the problems are an error instead, with `require_hit` a miss is.
    pub(crate) fn warnings(&self, strict: bool, require_hit: bool) -> Vec<String> {
        let mut all = Vec::new();
        let is_partly = self.troubles.iter().any(|e| e.partly);
        let is_error = strict || self.is_refused(require_hit) && !is_partly;
        if let Some(line) = self.trouble_line().filter(|_| !is_error) {
            all.push(match self.verb {
                Verb::Export => format!("not exported: {line}"),
                // Restored files stay in place.
                Verb::Import if is_partly => format!("partly restored: {line}"),
                Verb::Import => format!("miss: {line}; continuing without the cache"),
            });
        }
        for part in self
            .parts
            .iter()
            // Under `strict` it is the error, if something blocked entries.
            .filter(|p| !(p.left_out.is_empty() || p.partial || p.blocked && strict))
            .filter(|p| self.verb == Verb::Export || p.hit)
        {
            all.push(part.left_out_line());
        }
        all.extend(self.parts.iter().filter_map(Part::dropped_line));
        // Under `strict` it is the error.
        let partial = self.parts.iter().filter(|p| p.partial && !strict);
        all.extend(partial.map(Part::lost_line));
        all
    }

    /// It is a miss, which `require_hit` does not allow.
    fn is_refused(&self, require_hit: bool) -> bool {
        require_hit && self.verb == Verb::Import && !self.hit()
    }

    /// A miss without a problem, about which no warning was printed.
    pub(crate) fn plain_miss(&self) -> Option<String> {
        let quiet = self.verb == Verb::Import && self.trouble_line().is_none();
        self.miss().filter(|_| quiet)
    }

    /// Records a failure that occurred before the caches were known.
    ///
    /// # Errors
    /// Usage errors are not cache problems and are returned.
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

    /// Records a failure with one cache; the others may still succeed.
    pub(crate) fn trouble(&mut self, e: CommandError, job: &NamedSource) {
        let mut part = Part::nothing(job.kind().name(), &job.name, e.line());
        part.absent = e.nothing_there;
        self.parts.push(part);
        self.troubles.push(e);
    }

    /// Records that the store is unreachable, for all caches not processed yet.
    ///
    /// # Errors
    /// Usage errors are not cache problems and are returned.
    pub(crate) fn store_is_lost(&mut self, e: CommandError, jobs: &[NamedSource]) -> Result<()> {
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

    /// All problems in one line.
    pub(crate) fn trouble_line(&self) -> Option<String> {
        let mut lines: Vec<String> = self.troubles.iter().map(CommandError::line).collect();
        lines.extend(self.reasons(|p| p.damaged));
        lines.dedup();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    pub(crate) fn json(&self, warnings: &[String]) -> Value {
        let left_out: Vec<&LeftOut> = self.parts.iter().flat_map(|p| &p.left_out).collect();
        let parts: Vec<Value> = self.parts.iter().map(|p| p.json(self.verb)).collect();
        let object = Object::new(self.verb.name(), self.hit(), self.elapsed);
        let object = object.with(self.moved()).with(json!({
            "store": self.store,
            "digest": self.digest(),
            "entries": self.parts.iter().map(|p| p.entries).sum::<u64>(),
            "bytes": self.parts.iter().map(|p| p.bytes).sum::<u64>(),
            "miss": self.miss(),
            "trouble": self.trouble_line(),
            "left_out": left_out,
            "phases": self.phases(),
            "warnings": warnings,
            "snapshots": parts,
        }));
        let own = match self.verb {
            Verb::Export => json!({"unchanged": self.hit()}),
            Verb::Import => json!({
                "exact": self.exact(),
                "partial": self.partial(),
                "matched_key": self.matched_key(),
            }),
        };
        object.with(own).into()
    }

    /// For people: one line per snapshot; with `detail` also the total cost, by phase.
    pub(crate) fn text(&self, detail: bool) -> String {
        let nothing = self.parts.iter().all(|p| p.digest.is_none());
        let lines = self.parts.iter().filter(|p| match (p.digest, self.verb) {
            (Some(_), _) => true,
            (None, Verb::Export) => self.troubles.is_empty(),
            // Other misses are on standard error, in one line for all.
            (None, Verb::Import) => !nothing && p.is_excused() && self.hit(),
        });
        let mut text: String = lines.map(|p| p.line(self.verb)).collect();
        if detail && !nothing {
            text.push_str(&self.cost());
        }
        text
    }

    fn cost(&self) -> String {
        let moved = self.moved();
        let went = match self.verb {
            Verb::Export => "sent",
            Verb::Import => "fetched",
        };
        let phases: Vec<String> = self
            .phases()
            .iter()
            .map(|t| format!("{} {}", t.phase.name(), seconds(t.elapsed)))
            .collect();
        let phases = if phases.is_empty() {
            String::new()
        } else {
            format!(" ({})", phases.join(", "))
        };
        format!(
            "{} {went} ({}), {} saved, {} in all{phases}\n",
            bytes(moved.bytes_moved),
            count(moved.blobs_moved, "blob", "blobs"),
            bytes(moved.bytes_saved),
            seconds(self.elapsed)
        )
    }

    /// How the command ends.
    pub(crate) fn verdict(&mut self, strict: bool, require_hit: bool) -> Result<()> {
        if strict && !self.troubles.is_empty() {
            return Err(self.troubles.remove(0));
        }
        if strict && let Some(why) = self.reasons(|p| p.damaged) {
            return Err(CommandError::failed(why)
                .hint("the next export of this cache packs the damaged entries again"));
        }
        if strict && let Some(part) = self.parts.iter().find(|p| p.partial) {
            return Err(CommandError::failed(part.lost_line())
                .hint("the next export of this cache packs the damaged entries again"));
        }
        if strict && let Some(part) = self.parts.iter().find(|p| p.blocked) {
            return Err(CommandError::failed(part.left_out_line()));
        }
        if self.is_refused(require_hit) {
            let why = self.miss().unwrap_or_default();
            return Err(CommandError::new(Kind::Miss, format!("miss: {why}")));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;

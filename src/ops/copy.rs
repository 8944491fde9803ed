//! Copy: names with all they need, from store to store.
//!
//! - A tag that is already equal is skipped; one that the target lacks is copied unchanged, including its digest. Side tags that the
//!   source's head does not contain are copied too, before the head: until they are folded, an export exists only in them.
//! - A name that differs in the target is treated as if this node exported the source's snapshot there: Go caches are merged, a folder is
//!   replaced, both under the target's own protocol for concurrent writers, so neither side's exports are lost.
//! - A foreign manifest replaces only a foreign manifest, never a cache. Its referrers are copied with it. A tag that is merged from parts
//!   is copied as the one manifest that it points at.
//! - Repositories keep their names. Repositories that the target cannot hold, because it holds only one, are skipped with a warning.

use std::{collections::HashSet, sync::Arc};

use serde::Serialize;

use super::{
    Context, Error, LeftOut, Moved, Result, dated,
    head::{self, Contained},
    names::{self, Foreign, Found, Group, NameInRepo, Word},
    publish::{self, Limits, Publication},
    reach::{self, RepoContext},
    rules,
};
use crate::{
    artifact::{
        Manifest, Tag,
        fold::{self, replaced::is_replaced},
        name::{SnapshotName, replaced_at},
        snapshot::{Pack, Snapshot},
    },
    digest::Digest,
    entry::Time,
    progress::Phase,
    source::SourceKind,
    store::{Expect, Published},
    transfer::{self, CopyReport},
};

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Tags copied, or digests of untagged manifests.
    pub tags: Vec<String>,
    /// The source has something under that name, even if the target already has it.
    #[serde(skip)]
    pub found: bool,
    /// What was transferred.
    #[serde(flatten)]
    pub moved: Moved,
    /// Items that could not be copied because of the content of the source or the target; everything else was copied. Each was also
    /// reported as a warning.
    pub left_out: Vec<LeftOut>,
}

/// Copies all names within reach (or those matching `name`: a name, tag or digest) of `from` to `to`; tags that are equal already are
/// skipped.
///
/// A digest stands for the tags that point at it; without any, the manifest is copied without a tag.
///
/// # Errors
/// When one of the stores cannot be asked or written. Items copied before the error stay, and are skipped the next time.
pub async fn run(from: &Context, to: &Context, name: Option<&str>) -> Result<Report> {
    super::within_budget(to, "copying", Box::pin(copy(from, to, name))).await
}

/// Copies the content of one repository.
struct RepoCopier<'a> {
    place: &'a RepoContext,
    from: &'a Context,
    to: &'a Context,
    transfer: transfer::Options,
    report: Report,
}

impl<'a> RepoCopier<'a> {
    fn new(place: &'a RepoContext, to: &'a Context, report: Report) -> Self {
        let from = &place.ctx;
        Self {
            place,
            from,
            to,
            transfer: transfer::Options {
                from: from.store.contents().clone(),
                to: to.store.contents().clone(),
                spool_dir: to.spool_dir(),
                concurrency: to.concurrency,
                progress: to.progress.clone(),
            },
            report,
        }
    }
}

async fn copy(from: &Context, to: &Context, name: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    to.progress.begin(Phase::Upload, None);
    let word = Word::new(name);
    if let Word::Digest(digest) = word {
        report = Box::pin(by_digest(from, to, digest)).await?;
    } else {
        let found = names::find(from, &word).await?;
        report.found = !found.is_empty();
        for names in found.chunk_by(|a, b| Arc::ptr_eq(&a.place, &b.place)) {
            let place = &names[0].place;
            let Some(target) = reach::counterpart(to, place) else {
                no_room(to, names, &mut report);
                continue;
            };
            let mut job = RepoCopier::new(place, &target, report);
            for name in names {
                job.group(&name.group).await?;
            }
            report = job.report;
        }
    }
    to.progress.end(Phase::Upload);
    Ok(report)
}

/// Copies the tags that point at `digest`, wherever they are; without any, the manifest alone.
async fn by_digest(from: &Context, to: &Context, digest: Digest) -> Result<Report> {
    let mut report = Report::default();
    let places = reach::places(from).await?;
    for place in &places {
        if let Some(target) = reach::counterpart(to, place) {
            let mut job = RepoCopier::new(place, &target, report);
            job.tagged(digest).await?;
            report = job.report;
        }
    }
    if report.found {
        return Ok(report);
    }
    for place in &places {
        if let Some(target) = reach::counterpart(to, place) {
            let mut job = RepoCopier::new(place, &target, report);
            job.untagged(digest).await?;
            report = job.report;
        }
        if report.found {
            break;
        }
    }
    Ok(report)
}

/// Warns that the target cannot hold these repositories.
fn no_room(to: &Context, names: &[NameInRepo], report: &mut Report) {
    let repository = names[0].place.repository();
    let left = LeftOut {
        what: format!("repository {repository}"),
        why: match &to.store.facts().control {
            Some(_) => format!(
                "through the registry API of {}, only repository `cachectl` can be written; run the copy in that daemon (--by daemon)",
                to.store.url()
            ),
            None => format!("{} holds one repository only", to.store.url()),
        },
    };
    to.progress
        .warn(&format!("not copied: {}: {}", left.what, left.why));
    report.left_out.push(left);
}

impl RepoCopier<'_> {
    /// Copies the tags that point at `digest`.
    async fn tagged(&mut self, digest: Digest) -> Result<()> {
        for tag in self.from.store.tags("").await? {
            let resolved = names::resolve(self.from, &tag.clone().into()).await?;
            let Ok(Some(resolved)) = resolved else {
                continue;
            };
            if resolved.manifest.digest == digest {
                self.report.found = true;
                self.head(&tag).await?;
            }
        }
        Ok(())
    }

    /// Copies a manifest that no tag points at.
    async fn untagged(&mut self, digest: Digest) -> Result<()> {
        match names::resolve(self.from, &digest.into()).await? {
            Ok(Some(resolved)) => {
                self.report.found = true;
                let shown = digest.to_string();
                self.verbatim(&resolved.manifest, None, &shown)
                    .await
                    .map(drop)
            }
            Ok(None) => Ok(()),
            Err(why) => {
                self.leave_out(digest.to_string(), why);
                Ok(())
            }
        }
    }

    /// The displayed name of a tag of the source.
    fn shown(&self, tag: &Tag) -> String {
        self.place.shown(tag.as_str())
    }

    async fn group(&mut self, group: &Group) -> Result<()> {
        for side in self.open_sides(group).await? {
            self.side(group, &side).await?;
        }
        if group.is_there {
            self.head(&group.head).await?;
        }
        Ok(())
    }

    /// Side tags that are not contained in the source's head.
    async fn open_sides(&self, group: &Group) -> Result<Vec<Tag>> {
        if group.sides.is_empty() {
            return Ok(Vec::new());
        }
        let open = group.sides.iter();
        Ok(match names::snapshot_at(self.from, &group.head).await? {
            None => open.cloned().collect(),
            Some(head) => {
                let now = self.from.store.clock().await?;
                let contained = Contained::by(&head, now);
                open.filter(|s| !contained.has(s)).cloned().collect()
            }
        })
    }

    async fn side(&mut self, group: &Group, side: &Tag) -> Result<()> {
        let manifest = match names::look(self.from, &side.clone().into()).await? {
            Found::Ours(ours) => ours.manifest,
            Found::Broken(why) => {
                self.leave_out(format!("tag {}", self.shown(side)), why);
                return Ok(());
            }
            // Where a registry cannot remove a tag, an empty manifest takes its place.
            Found::Foreign(_) | Found::Gone => return Ok(()),
        };
        // Skip what the target's head already contains.
        if let Some(head) = names::snapshot_at(self.to, &group.head).await? {
            if head.config.folded.iter().any(|f| f.tag == side.as_str()) {
                return Ok(());
            }
            let now = self.to.store.clock().await?;
            if Contained::by(&head, now).has(side) {
                let why = "the target's snapshot is so much newer that readers would ignore it";
                self.leave_out(format!("tag {}", self.shown(side)), why.to_owned());
                return Ok(());
            }
        }
        match names::resolve(self.to, &side.clone().into()).await? {
            Ok(Some(there)) if there.manifest.digest == manifest.digest => Ok(()),
            _ => {
                let shown = self.shown(side);
                self.verbatim(&manifest, Some((side, &Expect::Anything)), &shown)
                    .await?;
                Ok(())
            }
        }
    }

    async fn head(&mut self, tag: &Tag) -> Result<()> {
        let shown = self.shown(tag);
        let found = names::look(self.from, &tag.clone().into()).await?;
        let mut written = None;
        let (manifest, ours) = match found {
            Found::Ours(ours) => {
                written = ours.written;
                (ours.manifest.clone(), Some(ours))
            }
            Found::Foreign(Foreign { manifest, .. }) => {
                self.referrers(&manifest.digest).await?;
                (manifest, None)
            }
            Found::Broken(why) => {
                self.leave_out(format!("tag {shown}"), why);
                return Ok(());
            }
            Found::Gone => return Ok(()),
        };
        let there = names::look(self.to, &tag.clone().into()).await?;
        if digest_of(&there) == Some(manifest.digest) {
            return Ok(());
        }
        let name = ours.map(|o| o.name()).filter(|n| n.tag() == *tag);
        let kind = name.as_ref().and_then(|n| SourceKind::from_name(&n.kind));
        match (&there, name.zip(kind)) {
            (Found::Gone, None) => {
                let expect = (tag, &Expect::Absent);
                if self.verbatim(&manifest, Some(expect), &shown).await?
                    == Some(Published::Conflict)
                {
                    self.leave_out(
                        format!("tag {shown}"),
                        "another writer was faster".to_owned(),
                    );
                }
                Ok(())
            }
            (Found::Gone, Some((name, kind))) => {
                let expect = (tag, &Expect::Absent);
                if self.verbatim(&manifest, Some(expect), &shown).await?
                    == Some(Published::Conflict)
                {
                    return self.merge(&manifest, written, tag, &name, kind).await;
                }
                Ok(())
            }
            (_, Some((name, kind))) => self.merge(&manifest, written, tag, &name, kind).await,
            (Found::Foreign(_) | Found::Broken(_), None) => {
                self.verbatim(&manifest, Some((tag, &Expect::Anything)), &shown)
                    .await?;
                Ok(())
            }
            (Found::Ours(_), None) => {
                self.leave_out(
                    format!("tag {shown}"),
                    "the target already has a cache under this tag".to_owned(),
                );
                Ok(())
            }
        }
    }

    /// Publishes the source's snapshot in the target as an export would. It keeps the time at which it was published in the
    /// source, where its tag was written at `written`.
    async fn merge(
        &mut self,
        manifest: &Manifest,
        written: Option<Time>,
        tag: &Tag,
        name: &SnapshotName,
        kind: SourceKind,
    ) -> Result<()> {
        let rules = rules::of(kind);
        let shown = self.shown(tag);
        let mut loaded = match super::load::load(self.from, manifest, &HashSet::new()).await? {
            Ok(loaded) if loaded.lost.is_empty() => loaded,
            Ok(loaded) => {
                for LeftOut { what, why } in loaded.lost {
                    self.leave_out(format!("{what} of tag {shown}"), why);
                }
                return Ok(());
            }
            Err(why) => {
                self.leave_out(format!("tag {shown}"), why.text());
                return Ok(());
            }
        };
        let now = self.from.store.clock().await?;
        if let Some(LeftOut { what, why }) = dated::leave_out(&mut loaded, Some(tag), written, now)
        {
            let text = format!("left out of the copy: {what}: {why}");
            self.to.progress.warn(&text);
        }
        let mut mine = loaded.snapshot;
        fold::close(&mut mine, rules);
        let current = head::read(self.to, name, &HashSet::new()).await?;
        let there = current.folded();
        only_replacements_of(&mut mine, there.as_ref());
        if let Some(there) = there {
            if is_replaced(&mine, &there, rules) {
                let why =
                    "the name was replaced in the target by `export --replace` after this export";
                self.leave_out(format!("tag {shown}"), why.to_owned());
                return Ok(());
            }
            let both = fold::fold(&there, &mine, None, current.today(), rules);
            if current.sides.is_empty()
                && current.broken.is_empty()
                && holds_the_same(&both, &there)
            {
                return Ok(());
            }
        }
        let moved = match transfer::copy::copy_below(&self.transfer, manifest).await {
            Ok(moved) => moved,
            Err(e) => return self.source_fault(&format!("tag {shown}"), e),
        };
        self.add(moved);
        let publication = Publication {
            mine: &mine,
            // Their contents were not checked.
            own: &HashSet::new(),
            base: &current,
            built_on_base: false,
            rules,
            limits: Limits {
                max_age_days: u32::MAX,
                max_bytes: None,
            },
            damaged: &HashSet::new(),
            created: mine.created.unwrap_or_else(Time::now),
            copied: mine.published,
        };
        match publish::publish(self.to, &publication).await {
            Ok(_) => self.report.tags.push(shown),
            Err(e @ Error::Replaced { .. }) => {
                self.leave_out(format!("tag {shown}"), e.to_string());
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Copies the referrers of a manifest, before the manifest itself.
    async fn referrers(&mut self, subject: &Digest) -> Result<()> {
        for digest in self.place.referrers(subject).await? {
            match names::resolve(self.from, &digest.into()).await? {
                Ok(Some(found)) => {
                    let there = names::resolve(self.to, &digest.into()).await?;
                    if !matches!(there, Ok(Some(_))) {
                        let shown = digest.to_string();
                        self.verbatim(&found.manifest, None, &shown).await?;
                    }
                }
                Ok(None) => {}
                Err(why) => self.leave_out(format!("referrer {digest}"), why),
            }
        }
        Ok(())
    }

    /// Copies a manifest unchanged; `None` if the source lacks some of its content.
    async fn verbatim(
        &mut self,
        manifest: &Manifest,
        tag: Option<(&Tag, &Expect)>,
        shown: &str,
    ) -> Result<Option<Published>> {
        match transfer::copy(&self.transfer, manifest, tag).await {
            Ok(copied) => {
                self.add(copied.report);
                for digest in copied.unknown {
                    let why = "its type is unknown, and it contains digests outside of descriptors: copied without the blobs of these digests";
                    self.leave_out(format!("manifest {digest}"), why.to_owned());
                }
                if copied.published == Published::Done {
                    self.report.tags.push(shown.to_owned());
                }
                Ok(Some(copied.published))
            }
            Err(e) => self.source_fault(shown, e).map(|()| None),
        }
    }

    /// Missing content concerns one name only; an unreachable store ends the copy.
    fn source_fault(&mut self, shown: &str, e: transfer::Error) -> Result<()> {
        match Error::from(e) {
            Error::Damaged { what, why } => {
                self.leave_out(shown.to_owned(), format!("{what}: {why}"));
                Ok(())
            }
            other => Err(other),
        }
    }

    fn leave_out(&mut self, what: String, why: String) {
        self.to.progress.warn(&format!("not copied: {what}: {why}"));
        self.report.left_out.push(LeftOut { what, why });
    }

    fn add(&mut self, moved: CopyReport) {
        let sum = &mut self.report.moved;
        sum.blobs_moved += moved.blobs_moved;
        sum.bytes_moved += moved.bytes_moved;
        sum.bytes_saved += moved.bytes_saved;
    }
}

fn digest_of(found: &Found) -> Option<Digest> {
    match found {
        Found::Ours(ours) => Some(ours.manifest.digest),
        Found::Foreign(foreign) => Some(foreign.manifest.digest),
        Found::Broken(_) | Found::Gone => None,
    }
}

/// A replacement applies only to the store in which it was made: a copy does not replace the target's content.
fn only_replacements_of(mine: &mut Snapshot, there: Option<&Snapshot>) {
    let known: HashSet<&str> = there
        .iter()
        .flat_map(|t| &t.folded)
        .map(|f| f.tag.as_str())
        .collect();
    mine.folded
        .retain(|f| replaced_at(&f.tag).is_none() || known.contains(f.tag.as_str()));
}

/// Returns true if two snapshots have the same live entries in the same packs.
fn holds_the_same(a: &Snapshot, b: &Snapshot) -> bool {
    let same =
        |(a, b): (&Pack, &Pack)| a.digest() == b.digest() && a.live == b.live && a.days == b.days;
    a.packs.len() == b.packs.len() && a.packs.iter().zip(&b.packs).all(same)
}

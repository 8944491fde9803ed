//! Copy: names with all they need, from store to store.
//!
//! - A tag that is equal already is skipped, one that the target does not have is copied as it is, digest and all. Side tags that
//!   the source's head does not contain travel too, before the head: until then they are all there is of an export.
//! - A name that differs in the target is treated as if this node exported the source's snapshot there: Go caches are merged, a
//!   folder is replaced, both under the target's own protocol for writers that meet, so neither side's exports are lost.
//! - A manifest that is not ours replaces one that is not ours; it never replaces a cache.

use std::collections::HashSet;

use super::{
    Context, Error, LeftOut, Moved, Result, head,
    names::{self, Found, Group, Word},
    publish::{self, Limits, Publication},
};
use crate::{
    artifact::{
        Manifest, Reference, Tag, fold,
        name::SnapshotName,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Tags copied, or digests of what has no tag.
    pub tags: Vec<String>,
    /// The source has something of that name, be it at the target already.
    pub found: bool,
    /// What was moved.
    pub moved: Moved,
    /// What could not be copied because of what the source or the target holds; everything else was. Each was a warning too.
    pub left_out: Vec<LeftOut>,
}

/// Copies all names (or those matching `name`: a name, tag or digest) of `from` to `to`; tags that are equal already are skipped.
///
/// A digest stands for the tags that point at it; without any, the manifest is copied without a tag.
///
/// # Errors
/// When one of the stores cannot be asked or written. What was copied before stays, and is skipped the next time.
pub async fn run(from: &Context, to: &Context, name: Option<&str>) -> Result<Report> {
    super::within_budget(to, "copying", copy(from, to, name)).await
}

struct Job<'a> {
    from: &'a Context,
    to: &'a Context,
    transfer: transfer::Options,
    report: Report,
}

async fn copy(from: &Context, to: &Context, name: Option<&str>) -> Result<Report> {
    let spool_dir = to
        .opened
        .spool_dir
        .clone()
        .unwrap_or_else(|| to.temp_dir.clone());
    let mut job = Job {
        from,
        to,
        transfer: transfer::Options {
            from: from.opened.store.clone(),
            to: to.opened.store.clone(),
            spool_dir,
            concurrency: to.concurrency,
            progress: to.progress.clone(),
        },
        report: Report::default(),
    };
    to.progress.begin(Phase::Upload, None);
    let word = Word::new(name);
    if let Word::Digest(digest) = word {
        job.digest(digest).await?;
    } else {
        for group in names::groups(from, &word).await? {
            job.report.found = true;
            job.group(&group).await?;
        }
    }
    to.progress.end(Phase::Upload);
    Ok(job.report)
}

impl Job<'_> {
    /// Copies the tags that point at `digest`, or the manifest alone.
    async fn digest(&mut self, digest: Digest) -> Result<()> {
        let mut tagged = false;
        for tag in self.from.opened.store.tags("").await? {
            let resolved = names::resolve(self.from, &tag.clone().into()).await?;
            let Ok(Some(resolved)) = resolved else {
                continue;
            };
            if resolved.manifest.digest == digest {
                tagged = true;
                self.report.found = true;
                self.head(&tag).await?;
            }
        }
        if tagged {
            return Ok(());
        }
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
        let contained = folded_in(self.from, &group.head).await?;
        let open = group
            .sides
            .iter()
            .filter(|s| !contained.contains(s.as_str()));
        Ok(open.cloned().collect())
    }

    async fn side(&mut self, group: &Group, side: &Tag) -> Result<()> {
        let manifest = match names::look(self.from, &side.clone().into()).await? {
            Found::Ours(ours) => ours.manifest,
            Found::Broken(why) => {
                self.leave_out(format!("tag {side}"), why);
                return Ok(());
            }
            // Where a registry cannot remove a tag, a manifest of nothing stands in its place.
            Found::Foreign(_) | Found::Gone => return Ok(()),
        };
        // What the target's head contains need not come a second time.
        if folded_in(self.to, &group.head)
            .await?
            .contains(side.as_str())
        {
            return Ok(());
        }
        match names::resolve(self.to, &side.clone().into()).await? {
            Ok(Some(there)) if there.manifest.digest == manifest.digest => Ok(()),
            _ => {
                self.verbatim(&manifest, Some((side, &Expect::Anything)), side.as_str())
                    .await?;
                Ok(())
            }
        }
    }

    async fn head(&mut self, tag: &Tag) -> Result<()> {
        let found = names::look(self.from, &tag.clone().into()).await?;
        let (manifest, ours) = match found {
            Found::Ours(ours) => (ours.manifest.clone(), Some(ours)),
            Found::Foreign(manifest) => (manifest, None),
            Found::Broken(why) => {
                self.leave_out(format!("tag {tag}"), why);
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
                if self.verbatim(&manifest, Some(expect), tag.as_str()).await?
                    == Some(Published::Conflict)
                {
                    self.leave_out(format!("tag {tag}"), "another writer was faster".to_owned());
                }
                Ok(())
            }
            (Found::Gone, Some((name, kind))) => {
                let expect = (tag, &Expect::Absent);
                if self.verbatim(&manifest, Some(expect), tag.as_str()).await?
                    == Some(Published::Conflict)
                {
                    return self.merge(&manifest, tag, &name, kind).await;
                }
                Ok(())
            }
            (_, Some((name, kind))) => self.merge(&manifest, tag, &name, kind).await,
            (Found::Foreign(_) | Found::Broken(_), None) => {
                self.verbatim(&manifest, Some((tag, &Expect::Anything)), tag.as_str())
                    .await?;
                Ok(())
            }
            (Found::Ours(_), None) => {
                self.leave_out(
                    format!("tag {tag}"),
                    "the target has a cache under this tag".to_owned(),
                );
                Ok(())
            }
        }
    }

    /// Publishes the source's snapshot in the target as an export would.
    async fn merge(
        &mut self,
        manifest: &Manifest,
        tag: &Tag,
        name: &SnapshotName,
        kind: SourceKind,
    ) -> Result<()> {
        let rules = head::rules(kind);
        let loaded = match super::load::load(self.from, manifest, &HashSet::new()).await? {
            Ok(loaded) if loaded.lost.is_empty() => loaded,
            Ok(loaded) => {
                for LeftOut { what, why } in loaded.lost {
                    self.leave_out(format!("{what} of tag {tag}"), why);
                }
                return Ok(());
            }
            Err(why) => {
                self.leave_out(format!("tag {tag}"), why.text());
                return Ok(());
            }
        };
        let mut mine = loaded.snapshot;
        fold::close(&mut mine, rules);
        let current = head::read(self.to, name, &HashSet::new()).await?;
        let today = head::today();
        if let Some(there) = current.folded(rules, today) {
            let both = fold::fold(&there, &mine, None, today, rules);
            if current.sides.is_empty()
                && current.broken.is_empty()
                && holds_the_same(&both, &there)
            {
                return Ok(());
            }
        }
        let moved = match transfer::copy::copy_below(&self.transfer, manifest).await {
            Ok(moved) => moved,
            Err(e) => return self.source_fault(&format!("tag {tag}"), e),
        };
        self.add(moved);
        let publication = Publication {
            mine: &mine,
            base: &current,
            built_on_base: false,
            rules,
            limits: Limits {
                max_age_days: u32::MAX,
                max_bytes: None,
            },
            damaged: &HashSet::new(),
            created: mine.created.unwrap_or_else(Time::now),
        };
        publish::publish(self.to, &publication).await?;
        self.report.tags.push(tag.to_string());
        Ok(())
    }

    /// Copies a manifest as it is; `None` if the source lacks some of it.
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
                    let why = "is of a type that is not understood: copied without what it names";
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

    /// What the source lacks concerns one name; what keeps us from asking ends the copy.
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
        Found::Foreign(manifest) => Some(manifest.digest),
        Found::Broken(_) | Found::Gone => None,
    }
}

/// Side tags that the head under a tag contains.
async fn folded_in(ctx: &Context, head: &Tag) -> Result<HashSet<String>> {
    Ok(
        match names::look(ctx, &Reference::Tag(head.clone())).await? {
            Found::Ours(ours) => ours.config.folded.into_iter().map(|f| f.tag).collect(),
            _ => HashSet::new(),
        },
    )
}

/// Says whether two snapshots have the same live entries in the same packs.
fn holds_the_same(a: &Snapshot, b: &Snapshot) -> bool {
    let same =
        |(a, b): (&Pack, &Pack)| a.digest() == b.digest() && a.live == b.live && a.days == b.days;
    a.packs.len() == b.packs.len() && a.packs.iter().zip(&b.packs).all(same)
}

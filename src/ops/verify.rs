//! Verify: checks whether a name can be imported, to the requested depth.
//!
//! Every tag is checked, including side tags; for foreign manifests everything that a tag needs ([`foreign`]). What [`Depth::Structure`]
//! finds follows the chain of trust from the manifest down; the deeper checks read the packs as streams: some frames for each thread are in
//! memory at a time, whatever the size of a pack. A pack that several names share is read once.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{
    Context, LeftOut, Result, counted, damage, foreign,
    load::{self, NotLoaded},
    names::{self, Word},
    reach::{self, RepoContext},
    rules,
};
use crate::{
    artifact::{
        Descriptor, Manifest, Reference, Tag,
        fold::{self, Rules},
        name,
        snapshot::{Layer, Pack, Snapshot},
        toc::TocEntry,
    },
    digest::{ContentId, Digest},
    entry::Kind,
    pack::bare,
    progress::Phase,
    source::SourceKind,
    store::corrupt_is_none,
    task,
};

mod behind;
pub(super) mod contents;
mod data;
mod named;
#[cfg(test)]
pub(in crate::ops) use behind::digests;

/// Most entries of one snapshot that are reported for one reason.
const MAX_WRONG: usize = 1000;

/// How deep to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Manifest, config, tables of contents, closure, and that every pack is there with its size.
    Structure,
    /// Every pack hashed whole.
    Digests,
    /// Every frame decoded, every object hashed, and every live file's content.
    Data,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Manifests checked: snapshots and foreign ones.
    pub snapshots: u64,
    /// Digest of the first of them.
    pub digest: Option<Digest>,
    /// Live entries in them.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Packs checked, and configs and layers of foreign manifests; each once.
    pub packs: u64,
    /// Stored bytes read from these.
    pub bytes_read: u64,
    /// The faults found; empty: everything is intact.
    pub faults: Vec<LeftOut>,
    /// Packs with wrong bytes, with reasons.
    #[serde(skip)]
    pub damaged: Vec<(Digest, String)>,
}

/// Verifies every snapshot whose name, tag or digest is `name` (all with `None`).
///
/// # Errors
/// When the store cannot be asked; faults in its content are in the report.
pub async fn run(ctx: &Context, name: Option<&str>, depth: Depth) -> Result<Report> {
    super::within_budget(ctx, "verifying", verify(ctx, name, depth)).await
}

async fn verify(ctx: &Context, name: Option<&str>, depth: Depth) -> Result<Report> {
    let mut job = Verifier {
        depth,
        report: Report::default(),
        faults: counted::Faults::within(ctx),
        manifests: HashMap::new(),
        packs: HashMap::new(),
        blobs: HashMap::new(),
        contents: HashSet::new(),
        behind: HashMap::new(),
        is_away: false,
    };
    ctx.progress.begin(Phase::Restore, None);
    let word = Word::new(name);
    if let Word::Digest(digest) = word {
        for place in reach::places(ctx).await? {
            job.reference(&place, &digest.into(), &digest.to_string())
                .await?;
            if job.report.snapshots > 0 {
                break;
            }
        }
    }
    for found in names::find(ctx, &word).await? {
        job.name(&found).await?;
    }
    ctx.progress.end(Phase::Restore);
    let damaged = job.packs.into_iter();
    job.report.damaged = damaged
        .filter_map(|(digest, faults)| Some((digest, faults.into_iter().next()?)))
        .collect();
    job.report.faults = job.faults.into_all();
    remember(ctx, &job.report).await;
    Ok(job.report)
}

/// Records the damaged packs on this node, whichever process found them: its next export repacks their content.
pub async fn remember(ctx: &Context, report: &Report) {
    damage::note(ctx, &report.damaged).await;
}

/// Faults of one item, in words; empty: none.
type Faults = Vec<String>;

/// The findings about a manifest.
#[derive(Clone, Default)]
struct Looked {
    is_faulty: bool,
    /// The head tag of the name that it holds.
    holds: Option<Tag>,
    /// The place where it was checked.
    repository: String,
}

struct Verifier {
    depth: Depth,
    /// The report, except for the faults.
    report: Report,
    faults: counted::Faults,
    /// Checked manifests, with the faults below them.
    manifests: HashMap<Digest, Looked>,
    /// Checked packs.
    packs: HashMap<Digest, Faults>,
    /// Checked configs and layers of foreign manifests.
    blobs: HashMap<(Digest, u64), Faults>,
    /// Contents of several objects that were hashed and found intact.
    contents: HashSet<contents::Id>,
    /// Blobs requested from the store behind a daemon's folder, with their faults.
    behind: HashMap<Digest, Option<String>>,
    /// That store could not be asked.
    is_away: bool,
}

impl Verifier {
    async fn reference(
        &mut self,
        place: &RepoContext,
        reference: &Reference,
        shown: &str,
    ) -> Result<()> {
        let manifest = match names::resolve(&place.ctx, reference).await? {
            Ok(Some(resolved)) => resolved.manifest,
            Ok(None) => return Ok(()),
            Err(why) => {
                self.report.snapshots += 1;
                self.fault(shown, why);
                return Ok(());
            }
        };
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let looked = if let Some(known) = self.known(place, tag, &manifest).await? {
            if known.is_faulty {
                self.fault(shown, "has the same manifest as an earlier one with faults");
            }
            known
        } else {
            let before = self.faults.len();
            self.report.snapshots += 1;
            self.report.digest.get_or_insert(manifest.digest);
            let holds = self.manifest(place, tag, &manifest, shown).await?;
            let is_faulty = self.faults.len() > before;
            let looked = Looked {
                is_faulty,
                holds,
                repository: place.repository().to_owned(),
            };
            self.manifests.insert(manifest.digest, looked.clone());
            looked
        };
        if let (Some(tag), Some(holds)) = (tag, looked.holds)
            && (name::is_head(tag) || name::side_time(tag).is_some())
            && name::head_of(tag).as_ref().unwrap_or(tag) != &holds
        {
            self.fault(
                shown,
                format!("holds another name, which belongs to tag {holds}"),
            );
        }
        self.faults.check()
    }

    fn fault(&mut self, what: &str, why: impl Into<String>) {
        self.faults.push(LeftOut {
            what: what.to_owned(),
            why: why.into(),
        });
    }

    /// Earlier findings about a manifest. Another tag, or another repository, may need more of a foreign manifest.
    async fn known(
        &self,
        place: &RepoContext,
        tag: Option<&Tag>,
        manifest: &Manifest,
    ) -> Result<Option<Looked>> {
        let Some(known) = self.manifests.get(&manifest.digest) else {
            return Ok(None);
        };
        let more = known.holds.is_none()
            && (place.repository() != known.repository
                || match tag {
                    Some(tag) => !place.parts(tag).await?.is_empty(),
                    None => false,
                });
        Ok((!more).then(|| known.clone()))
    }

    async fn manifest(
        &mut self,
        place: &RepoContext,
        tag: Option<&Tag>,
        manifest: &Manifest,
        shown: &str,
    ) -> Result<Option<Tag>> {
        let ctx = &place.ctx;
        let loaded = match load::load(ctx, manifest, &HashSet::new()).await? {
            Ok(loaded) => loaded,
            Err(NotLoaded::Foreign) => {
                self.foreign(place, tag, manifest, shown).await?;
                return Ok(None);
            }
            Err(why @ NotLoaded::Broken(_)) => {
                self.fault(shown, why.text());
                return Ok(None);
            }
        };
        self.behind(ctx, behind::digests(manifest).await, shown)
            .await?;
        for LeftOut { what, why } in &loaded.lost {
            self.fault(&format!("{what} of {shown}"), why.clone());
        }
        if let Some(why) = loaded.barred {
            self.fault(shown, why);
        }
        let mut snapshot = loaded.snapshot;
        let whole = loaded.lost.is_empty();
        self.names(&snapshot, shown);
        if let Some(kind) = SourceKind::from_name(&snapshot.name.kind) {
            let (closed, died, is_same) =
                task::blocking(move || close(snapshot, rules::of(kind))).await;
            snapshot = closed;
            for died in died {
                self.fault(&format!("`{}` of {shown}", died.path), died.why);
            }
            if whole && !is_same {
                self.fault(shown, "it lists entries that no reader can use");
            }
        } else {
            let kind = &snapshot.name.kind;
            let why =
                format!("kind `{kind}` is unknown to this program: its structure was not checked");
            ctx.progress.warn(&format!("{shown}: {why}"));
        }
        let (entries, bytes) = snapshot.totals();
        self.report.entries += entries;
        self.report.bytes += bytes;
        self.packs(ctx, &snapshot, shown).await?;
        Ok(Some(snapshot.name.tag()))
    }

    /// A fault in an entry's own metadata, visible without reading data.
    fn names(&mut self, snapshot: &Snapshot, shown: &str) {
        let wrong = |at: usize, e: &TocEntry| match (&e.entry.kind, e.objects.len()) {
            (Kind::File { .. }, 1) => snapshot.packs[at].toc.object(e.objects[0]).0 != e.content,
            (Kind::File { .. }, 0) => e.content != ContentId::OF_NOTHING,
            _ => false,
        };
        let wrong: Vec<String> = snapshot
            .live()
            .filter(|(at, e)| wrong(at.pack, e))
            .take(MAX_WRONG)
            .map(|(_, e)| format!("`{}` of {shown}", e.entry.path))
            .collect();
        for what in wrong {
            self.fault(&what, "its content does not match its objects");
        }
    }

    async fn packs(&mut self, ctx: &Context, snapshot: &Snapshot, shown: &str) -> Result<()> {
        let mut contents = contents::Contents::default();
        if self.depth == Depth::Data {
            contents = contents::Contents::of(snapshot, &self.contents);
        }
        let new: Vec<&Pack> = snapshot
            .packs
            .iter()
            .filter(|p| !self.packs.contains_key(&p.digest()))
            .collect();
        let layers: Vec<Layer> = new.iter().map(|p| p.layer.clone()).collect();
        let mut found: Vec<(Digest, Faults)> = stream::iter(layers)
            .map(|layer| outline(ctx, layer))
            .buffered(ctx.concurrency.max(1))
            .try_collect()
            .await?;
        for (pack, (_, faults)) in new.iter().zip(&mut found) {
            // A pack that is missing or has the wrong size is not read; the size is the fault.
            if faults.is_empty() {
                let read = match self.depth {
                    Depth::Structure => continue,
                    Depth::Digests => data::hash(ctx, &pack.layer.descriptor).await?,
                    Depth::Data => data::decode(ctx, pack, &mut contents).await?,
                };
                self.report.bytes_read += read.bytes;
                faults.extend(read.faults);
            }
        }
        self.report.packs += found.len() as u64;
        self.packs.extend(found);
        if self.depth == Depth::Structure {
            self.noted(ctx, snapshot, shown).await;
        }
        for pack in &snapshot.packs {
            for why in self.packs.get(&pack.digest()).cloned().unwrap_or_default() {
                self.fault(&format!("pack {} of {shown}", pack.digest()), why);
            }
        }
        let (bytes, wrong) = contents.finish(ctx, snapshot, &mut self.contents).await?;
        self.report.bytes_read += bytes;
        for (path, why) in wrong {
            self.fault(&format!("`{path}` of {shown}"), why);
        }
        Ok(())
    }

    /// Packs that look intact from outside, but that an import here found damaged.
    async fn noted(&mut self, ctx: &Context, snapshot: &Snapshot, shown: &str) {
        let noted = damage::known(ctx).await;
        for digest in snapshot.packs.iter().map(Pack::digest) {
            if noted.contains(&digest) && self.packs.get(&digest).is_some_and(Vec::is_empty) {
                let why = "was found damaged on this node before; `verify --data` reads it again";
                self.fault(&format!("pack {digest} of {shown}"), why);
            }
        }
    }

    /// A foreign manifest: everything that its tag needs must exist.
    async fn foreign(
        &mut self,
        place: &RepoContext,
        tag: Option<&Tag>,
        root: &Manifest,
        shown: &str,
    ) -> Result<()> {
        let needs = foreign::needs(place, tag, root).await;
        let needs = match load::too_large(&place.ctx, needs)? {
            Ok(needs) => needs,
            Err(why) => {
                self.fault(shown, why);
                return Ok(());
            }
        };
        let manifests = needs.manifests.iter().map(|(digest, _)| *digest);
        let all = needs
            .blobs
            .iter()
            .map(|d| d.digest)
            .chain(manifests)
            .collect();
        self.behind(&place.ctx, all, shown).await?;
        for why in &needs.faults {
            self.fault(shown, why.clone());
        }
        let mut new = needs.blobs.clone();
        new.retain(|d| !self.blobs.contains_key(&(d.digest, d.size)));
        let (ctx, depth) = (&place.ctx, self.depth);
        let mut looked = stream::iter(new)
            .map(|desc| blob(ctx, depth, desc))
            .buffered(ctx.concurrency.max(1));
        while let Some(looked) = looked.next().await {
            let (desc, read) = looked?;
            self.report.packs += 1;
            self.report.bytes_read += read.bytes;
            self.blobs.insert((desc.digest, desc.size), read.faults);
        }
        let looked = |d: &Descriptor| self.blobs.get(&(d.digest, d.size));
        let faults = needs.blobs.iter().flat_map(|desc| {
            let faults = looked(desc).into_iter().flatten();
            faults.map(|why| (desc.digest, format!("blob {} {why}", desc.digest)))
        });
        let faults: Vec<(Digest, String)> = faults.collect();
        let mut served = None;
        if !faults.is_empty() && !needs.parts.is_empty() {
            // For a merged tag, builders get only the merged manifest, which does not name what only a part names.
            drop(needs);
            let all = foreign::needs(place, None, root).await;
            if let Ok(all) = load::too_large(&place.ctx, all)? {
                let digests = all.blobs.iter().map(|d| d.digest);
                served = Some(digests.collect::<HashSet<_>>());
            }
        }
        for (digest, why) in faults {
            match &served {
                Some(served) if !served.contains(&digest) => ctx.progress.warn(&format!(
                    "{shown}: {why}; only an earlier push refers to it, and builders are served without it"
                )),
                _ => self.fault(shown, why),
            }
        }
        Ok(())
    }
}

/// Closes a snapshot: returns the entries dropped with a reason, and whether closing dropped no others. It silently drops one of two
/// entries of the same path, and outputs that no action names. Blocks.
fn close(mut snapshot: Snapshot, rules: Rules) -> (Snapshot, Vec<fold::Died>, bool) {
    let before: HashMap<Digest, Vec<bool>> = snapshot
        .packs
        .iter()
        .map(|p| (p.digest(), p.live.clone()))
        .collect();
    let died = fold::close(&mut snapshot, rules);
    let same = |p: &Pack| before.get(&p.digest()) == Some(&p.live);
    let is_same = snapshot.packs.iter().all(same);
    (snapshot, died, is_same)
}

/// Checks a config or layer: its size and, if it is to be read, its bytes.
async fn blob(ctx: &Context, depth: Depth, desc: Descriptor) -> Result<(Descriptor, data::Read)> {
    let faults = stat(ctx, &desc).await?;
    let mut read = data::Read { bytes: 0, faults };
    if read.faults.is_empty() && depth > Depth::Structure {
        read = data::hash(ctx, &desc).await?;
    }
    Ok((desc, read))
}

/// Checks that it exists with the right size.
async fn stat(ctx: &Context, desc: &Descriptor) -> Result<Faults> {
    let size = ctx.store.stat(&desc.digest).await?;
    Ok(size_fault(desc, size).into_iter().collect())
}

/// The fault of a blob of which `size` bytes are stored; `None`: it is not stored.
pub(super) fn size_fault(desc: &Descriptor, size: Option<u64>) -> Option<String> {
    match size {
        Some(size) if size == desc.size => None,
        Some(size) => Some(format!("has {size} bytes, not {}", desc.size)),
        None => Some("is missing".to_owned()),
    }
}

/// Checks a pack from outside: its size, and that its footer agrees with the manifest.
async fn outline(ctx: &Context, layer: Layer) -> Result<(Digest, Faults)> {
    let faults = look_at(ctx, &layer).await?;
    Ok((layer.descriptor.digest, faults))
}

async fn look_at(ctx: &Context, layer: &Layer) -> Result<Faults> {
    let (desc, toc) = (&layer.descriptor, &layer.toc);
    let faults = stat(ctx, desc).await?;
    if !faults.is_empty() {
        return Ok(faults);
    }
    let Some(from) = desc.size.checked_sub(bare::FOOTER_BYTES) else {
        return Ok(vec!["is too short for a pack".to_owned()]);
    };
    let read = match ctx.store.get(desc, from..desc.size).await {
        Ok(Some(stream)) => crate::store::collect(stream, bare::FOOTER_BYTES)
            .await
            .map(Some),
        Ok(None) => Ok(None),
        Err(e) => Err(e),
    };
    let Some(last) = corrupt_is_none(read)? else {
        return Ok(vec!["cannot be read to its end".to_owned()]);
    };
    let ends_right = toc.offset + toc.size + bare::FOOTER_BYTES == desc.size;
    Ok(match bare::read_footer(&last, desc.size) {
        Err(e) => vec![e.to_string()],
        Ok(at)
            if (at.digest, at.offset, at.size) == (toc.digest, toc.offset, toc.size)
                && ends_right =>
        {
            Faults::new()
        }
        Ok(_) => vec![
            "its footer and the manifest disagree about the position of its table of contents"
                .to_owned(),
        ],
    })
}

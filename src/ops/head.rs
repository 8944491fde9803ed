//! What a name stands for now: its head and the side tags that the head does not contain yet, folded.

use std::{collections::HashSet, time::Instant};

use super::{
    Context, LeftOut, Result, dated,
    load::{Loaded, NotLoaded, load, told},
    rules,
};
use crate::{
    artifact::{
        Manifest, Tag,
        fold::{self, Rules, contained::keep_listed, dated::is_ahead},
        name::{self, SnapshotName},
        snapshot::Snapshot,
    },
    digest::Digest,
    entry::Time,
    store::{self, Known, Resolved, Version},
};

mod contained;
mod sides;

pub use contained::Contained;

/// Most lost or damaged items reported for the side tags of one name.
const MAX_NOTED: usize = 10_000;
/// Most flaws reported for one tree.
const MAX_FLAWS: usize = 10;

/// A side tag with its snapshot.
#[derive(Debug, Clone)]
pub struct Side {
    /// The tag.
    pub tag: Tag,
    /// What it points at.
    pub loaded: Loaded,
}

/// What is kept of a folded side tag.
#[derive(Debug, Clone)]
pub struct FoldedSide {
    /// The tag.
    pub tag: Tag,
    /// Digest of what it points at.
    pub digest: Digest,
    /// The highest generation of its packs.
    pub generation: u32,
    /// The last replacement it was made after.
    pub mark: Option<String>,
}

/// What a name stands for at the moment of reading.
///
/// Side tags are folded as they are read and not kept: there is no limit to how many someone may push under a name.
#[derive(Debug, Clone)]
pub struct Current {
    /// The head, as far as it could be read.
    pub head: Option<Loaded>,
    /// The head's manifest, even if what it names cannot be read.
    pub manifest: Option<Manifest>,
    /// Version of the head's tag, for a conditional write; set even where the head cannot be read.
    pub version: Option<Version>,
    /// All side tags that are listed, contained or not.
    pub side_tags: Vec<Tag>,
    /// Those that were read and have no content: a registry that does not delete tags lists them forever.
    pub gone: HashSet<Tag>,
    /// Side tags that the head does not contain and that were folded, sorted by name.
    pub sides: Vec<FoldedSide>,
    /// Side tags of a folder that the head does not contain and that claim a time in the future: they are ignored.
    pub refused: Vec<Tag>,
    /// Side tags that the head does not contain and that cannot be folded: damaged, or over the limits together with those folded before.
    pub unfit: Vec<Tag>,
    /// Existing but unreadable items, the first ten thousand.
    pub broken: Vec<LeftOut>,
    /// Entries left out because they are dated later than their publication.
    pub ahead: Vec<LeftOut>,
    /// The store's clock at the time of reading.
    pub now: Time,
    /// When the store was asked, by this node's monotonic clock.
    pub asked: Instant,
    /// When the head was published, if recorded.
    published: Option<Time>,
    rules: Rules,
    /// Head and side tags folded; `None` where there was nothing to fold.
    united: Option<Snapshot>,
    /// Lost content of the side tags.
    lost: Vec<LeftOut>,
    /// Flaws of each of their trees by itself.
    flaws: Vec<fold::Died>,
}

impl Current {
    fn new(name: &SnapshotName, asked: Instant, now: Time) -> Self {
        Self {
            head: None,
            manifest: None,
            version: None,
            side_tags: Vec::new(),
            gone: HashSet::new(),
            sides: Vec::new(),
            refused: Vec::new(),
            unfit: Vec::new(),
            broken: Vec::new(),
            ahead: Vec::new(),
            now,
            asked,
            published: None,
            rules: rules::of_name(&name.kind),
            united: None,
            lost: Vec::new(),
            flaws: Vec::new(),
        }
    }

    /// Head and uncontained side tags folded and closed; `None` if there is neither. Blocks.
    pub fn folded(&self) -> Option<Snapshot> {
        self.united.clone().or_else(|| {
            let mut snapshot = self.head.as_ref()?.snapshot.clone();
            fold::close(&mut snapshot, self.rules);
            self.remember_untaken(&mut snapshot);
            Some(snapshot)
        })
    }

    /// The head, for those who read the name again.
    pub fn known_head(&self) -> Option<KnownHead> {
        let loaded = self.head.clone()?;
        let manifest = self.manifest.clone()?;
        Some(KnownHead { manifest, loaded })
    }

    /// Days since 1970 by the store's clock.
    pub fn today(&self) -> u32 {
        self.now.day()
    }

    /// Why an existing side tag cannot be folded.
    pub fn why_unfit(&self, tag: &Tag) -> Option<String> {
        let what = format!("tag {tag}");
        let is_unfit = self.unfit.contains(tag);
        let said = self.broken.iter().find(|b| b.what == what);
        is_unfit.then(|| said.map_or(what.clone(), |b| format!("{what} {}", b.why)))
    }

    /// All side tags as a listing has them.
    pub fn listed(&self) -> HashSet<&str> {
        self.side_tags.iter().map(Tag::as_str).collect()
    }

    /// Invalid entries in the published trees, each checked by itself: cachectl never publishes them. Lists some for the head and some for
    /// the side tags; one is enough to refuse the snapshot. Blocks.
    pub fn flaws(&self) -> Vec<fold::Died> {
        let of_head = self.head.iter().flat_map(|h| flaws_of(&h.snapshot));
        of_head.chain(self.flaws.iter().cloned()).collect()
    }

    /// Digest to report for what [`Current::folded`] gives: the head's, or the last side tag's.
    pub fn digest(&self) -> Option<Digest> {
        let side = self.sides.last().map(|s| s.digest);
        side.or(self.head.as_ref().map(|h| h.digest))
    }

    /// Everything that is lost in what could be read.
    pub fn lost(&self) -> Vec<LeftOut> {
        let head = self.head.iter().flat_map(|h| &h.lost);
        head.chain(&self.lost)
            .chain(&self.broken)
            .cloned()
            .collect()
    }
}

/// Records a problem, up to a limit: the number of side tags under a name is not limited.
fn note(list: &mut Vec<LeftOut>, what: String, why: String) {
    if list.len() < MAX_NOTED {
        list.push(LeftOut { what, why });
    }
}

fn flaws_of(snapshot: &Snapshot) -> Vec<fold::Died> {
    let mut seen = HashSet::new();
    let mut flaws = Vec::new();
    for (_, e) in snapshot.live() {
        if !seen.insert(&e.entry.path) {
            if flaws.len() == MAX_FLAWS {
                return flaws;
            }
            flaws.push(fold::Died {
                path: e.entry.path.clone(),
                why: "it is listed twice",
            });
        }
    }
    drop(seen);
    flaws.extend(fold::close(&mut snapshot.clone(), Rules::Tree));
    flaws.truncate(MAX_FLAWS);
    flaws
}

/// Folds one side tag into what was folded before.
///
/// For folders the later publication wins: a side tag older than what the head already contains is only recorded, or, with `--merge`, adds
/// what the head lacks. `now` is the store's clock.
pub fn fold_side(
    head: Option<&Snapshot>,
    side: &Snapshot,
    tag: &Tag,
    now: Time,
    rules: Rules,
) -> Snapshot {
    let today = now.day();
    let Some(head) = head else {
        let mut empty = side.clone();
        empty.packs.clear();
        empty.folded.clear();
        let mut first = fold::fold(&empty, side, Some(tag.as_str()), today, rules);
        first.merge = side.merge;
        return first;
    };
    // Tags that claim a time in the future were refused; a program that accepts them anyway records them without that flag.
    let newest = head
        .folded
        .iter()
        .filter(|f| !f.refused)
        .filter_map(|f| name::side_time(&f.tag.parse().ok()?))
        .filter(|at| !is_ahead(*at, now))
        .max();
    let late = rules == Rules::Tree && newest > name::side_time(tag);
    if !late {
        return fold::fold(head, side, Some(tag.as_str()), today, rules);
    }
    let mut over = head.clone();
    over.merge = side.merge;
    let mut out = fold::fold(side, &over, Some(tag.as_str()), today, rules);
    out.name.clone_from(&head.name);
    out
}

/// What a reader of a name has already, so that it need not be requested.
#[derive(Debug, Clone, Copy, Default)]
pub struct AtHand<'a> {
    /// The side tag that this writer has just written.
    pub own: Option<&'a Side>,
    /// Snapshots that may be the head: the one read before, the one written last.
    pub heads: &'a [KnownHead],
    /// Digest of the snapshot that is probably the head, since this node imported or exported it.
    pub guess: Option<Digest>,
}

/// A head that was read, or written.
#[derive(Debug, Clone)]
pub struct KnownHead {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its content.
    pub loaded: Loaded,
}

/// Reads what `name` stands for now. Packs in `damaged` count as lost.
///
/// # Errors
/// When the store cannot be asked.
pub async fn read(
    ctx: &Context,
    name: &SnapshotName,
    damaged: &HashSet<Digest>,
) -> Result<Current> {
    read_with(ctx, name, damaged, AtHand::default()).await
}

/// The same for a reader that has some of it.
pub(super) async fn read_with(
    ctx: &Context,
    name: &SnapshotName,
    damaged: &HashSet<Digest>,
    at_hand: AtHand<'_>,
) -> Result<Current> {
    let answers = ask(ctx, name, at_hand).await;
    read_answers(ctx, name, damaged, at_hand, answers).await
}

/// What the store says of a name: its head's manifest, and the listing of its side tags.
pub(super) struct Answers {
    asked: Instant,
    head: store::Result<Option<Resolved>>,
    listed: store::Result<Vec<Tag>>,
}

/// Asks for what a name points at, without reading it yet: several names can be asked for at once, while their contents are read one by
/// one, within one budget of memory.
pub(super) async fn ask(ctx: &Context, name: &SnapshotName, at_hand: AtHand<'_>) -> Answers {
    let (store, asked) = (&ctx.store, Instant::now());
    let (tag, side_prefix) = (name.tag(), name.side_prefix());
    let heads = at_hand.heads.iter();
    let manifests: Vec<Manifest> = heads.map(|h| h.manifest.clone()).collect();
    let known = Known {
        manifests: &manifests,
        guess: at_hand.guess,
    };
    let (head, listed) = tokio::join!(store.resolve_known(&tag, known), store.tags(&side_prefix));
    Answers {
        asked,
        head,
        listed,
    }
}

/// As [`read_with`], after [`ask`].
pub(super) async fn read_answers(
    ctx: &Context,
    name: &SnapshotName,
    damaged: &HashSet<Digest>,
    at_hand: AtHand<'_>,
    answers: Answers,
) -> Result<Current> {
    let tag = name.tag();
    // A writer treats a damaged tag as absent: the next publication replaces it.
    let head = told(answers.head)?;
    let listed = answers.listed?;
    // After the first answers, which carry the store's clock.
    let mut current = Current::new(name, answers.asked, ctx.store.clock().await?);
    current.side_tags = listed
        .into_iter()
        .filter(|t| name::head_of(t).as_ref() == Some(&tag))
        .collect();
    let what = || format!("tag {tag}");
    match head {
        Ok(Some(resolved)) => {
            current.version.clone_from(&resolved.version);
            current.manifest = Some(resolved.manifest.clone());
            let digest = resolved.manifest.digest;
            let known = at_hand.heads.iter().find(|h| h.manifest.digest == digest);
            let loaded = match known {
                Some(known) => Ok(known.loaded.clone()),
                None => load(ctx, &resolved.manifest, damaged).await?,
            };
            match loaded {
                Ok(loaded) if loaded.snapshot.name != *name => {
                    let why = format!("holds `{}`, another name", loaded.snapshot.name.name);
                    note(&mut current.broken, what(), why);
                }
                Ok(mut loaded) => {
                    let modified = resolved.modified;
                    let said = loaded.snapshot.published;
                    current.published = contained::recorded(said, modified, current.now);
                    let left_out = dated::leave_out(&mut loaded, Some(&tag), modified, current.now);
                    current.ahead.extend(left_out);
                    keep_listed(&mut loaded.snapshot, &current.listed(), current.now);
                    current.head = Some(loaded);
                }
                Err(why) => note(&mut current.broken, what(), why.text()),
            }
        }
        Ok(None) => {}
        Err(why) => note(&mut current.broken, what(), why),
    }
    sides::fold_all(ctx, name, damaged, at_hand.own, &mut current).await?;
    Ok(current)
}

impl NotLoaded {
    /// In words.
    pub fn text(self) -> String {
        match self {
            Self::Foreign => "is not a cachectl snapshot".into(),
            Self::Broken(why) => why,
        }
    }
}

//! What a name stands for now: its head and the side tags that the head does not contain yet, folded (design §5, side tags).

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Context, LeftOut, Result, dated,
    load::{Loaded, NotLoaded, load, told},
};
use crate::{
    artifact::{
        Tag,
        config::Folded,
        fold::{
            self, Rules,
            dated::{AHEAD_SECS, is_ahead},
        },
        name::{self, SnapshotName},
        snapshot::Snapshot,
    },
    digest::Digest,
    entry::Time,
    source::SourceKind,
    store::{Resolved, Version},
};

/// How snapshots of a kind behave.
pub fn rules(kind: SourceKind) -> Rules {
    match kind {
        SourceKind::GoBuild => Rules::Union {
            outputs_by_need: true,
        },
        SourceKind::GoMod => Rules::Union {
            outputs_by_need: false,
        },
        SourceKind::Dir => Rules::Tree,
    }
}

/// A side tag with its snapshot.
#[derive(Debug, Clone)]
pub struct Side {
    /// The tag.
    pub tag: Tag,
    /// What it points at.
    pub loaded: Loaded,
}

/// What a name stands for at the moment of reading.
#[derive(Debug, Clone, Default)]
pub struct Current {
    /// The head, as far as it could be read.
    pub head: Option<Loaded>,
    /// Version of the head's tag, for a conditional write; set even where the head cannot be read.
    pub version: Option<Version>,
    /// All side tags, contained or not.
    pub side_tags: Vec<Tag>,
    /// Side tags that the head does not contain, sorted by name.
    pub sides: Vec<Side>,
    /// Side tags of a folder that the head does not contain and that claim to be of the future: nothing is taken from them.
    pub refused: Vec<Tag>,
    /// What is there and cannot be read.
    pub broken: Vec<LeftOut>,
    /// What was left out because it is dated later than it was published.
    pub ahead: Vec<LeftOut>,
    /// The store's clock when it was read.
    pub now: Time,
}

impl Current {
    /// Head and uncontained side tags folded and closed; `None` where there is neither.
    pub fn folded(&self, rules: Rules) -> Option<Snapshot> {
        let mut all = self.head.as_ref().map(|head| {
            let mut snapshot = head.snapshot.clone();
            fold::close(&mut snapshot, rules);
            snapshot
        });
        for side in &self.sides {
            all = Some(fold_side(
                all.as_ref(),
                &side.loaded.snapshot,
                &side.tag,
                self.now,
                rules,
            ));
        }
        if let Some(all) = all.as_mut().filter(|_| !self.refused.is_empty()) {
            let refused = self.refused.iter().map(|tag| Folded {
                refused: true,
                ..Folded::new(tag.as_str(), self.today())
            });
            fold::remember(all, refused, self.today());
        }
        all
    }

    /// Days since 1970 by the store's clock.
    pub fn today(&self) -> u32 {
        self.now.day()
    }

    /// The side tags that the head contains.
    pub fn contained(&self) -> HashSet<&str> {
        let folded = self.head.iter().flat_map(|h| &h.snapshot.folded);
        folded.map(|f| f.tag.as_str()).collect()
    }

    /// What cannot be in the trees that were published, each for itself: no writer of ours publishes such.
    pub fn flaws(&self) -> Vec<fold::Died> {
        let sides = self.sides.iter().map(|s| &s.loaded);
        let flaws = |l: &Loaded| {
            let mut seen = HashSet::new();
            let mut flaws = Vec::new();
            for (_, e) in l.snapshot.live() {
                if !seen.insert(&e.entry.path) {
                    flaws.push(fold::Died {
                        path: e.entry.path.clone(),
                        why: "it is listed twice",
                    });
                }
            }
            flaws.extend(fold::close(&mut l.snapshot.clone(), Rules::Tree));
            flaws
        };
        self.head.iter().chain(sides).flat_map(flaws).collect()
    }

    /// Digest to report for what [`Current::folded`] gives: the head's, or the last side tag's.
    pub fn digest(&self) -> Option<Digest> {
        let side = self.sides.last().map(|s| s.loaded.digest);
        side.or(self.head.as_ref().map(|h| h.digest))
    }

    /// Everything lost of what could be read.
    pub fn lost(&self) -> Vec<LeftOut> {
        let sides = self.sides.iter().flat_map(|s| &s.loaded.lost);
        let head = self.head.iter().flat_map(|h| &h.lost);
        head.chain(sides).chain(&self.broken).cloned().collect()
    }
}

/// Folds one side tag into what was folded before.
///
/// Of folders the later publication wins: a side tag older than what the head contains already is only remembered, or,
/// with `--merge`, gives what the head does not have. `now` is the store's clock.
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
    // What claims to be of the future was refused; programs that take it all the same note it without saying so.
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

/// Reads what `name` stands for now. Packs in `damaged` count as lost.
///
/// # Errors
/// When the store cannot be asked.
pub async fn read(
    ctx: &Context,
    name: &SnapshotName,
    damaged: &HashSet<Digest>,
) -> Result<Current> {
    read_beside(ctx, name, damaged, None).await
}

/// The same for who has just written a side tag: its own is not read back.
pub(super) async fn read_beside(
    ctx: &Context,
    name: &SnapshotName,
    damaged: &HashSet<Digest>,
    own: Option<&Side>,
) -> Result<Current> {
    let store = &ctx.opened.store;
    let tag = name.tag();
    let (as_reference, side_prefix) = (tag.clone().into(), name.side_prefix());
    let (head, listed) = tokio::join!(store.resolve(&as_reference), store.tags(&side_prefix));
    let mut current = Current::default();
    let head = match told(head)? {
        Ok(found) => found,
        // To a writer a damaged tag is as one that is not there: what is published next takes its place.
        Err(why) => {
            let what = format!("tag {tag}");
            current.broken.push(LeftOut { what, why });
            None
        }
    };
    let listed = listed?;
    // After the first answers, which tell it.
    current.now = store.clock().await?;
    if let Some(Resolved {
        manifest,
        version,
        modified,
    }) = head
    {
        current.version = version;
        match load(ctx, &manifest, damaged).await? {
            Ok(loaded) if loaded.snapshot.name != *name => {
                let why = format!("holds `{}`, another name", loaded.snapshot.name.name);
                current.broken.push(LeftOut {
                    what: format!("tag {tag}"),
                    why,
                });
            }
            Ok(mut loaded) => {
                let left_out = dated::leave_out(&mut loaded, Some(&tag), modified, current.now);
                current.ahead.extend(left_out);
                current.head = Some(loaded);
            }
            Err(why) => current.broken.push(LeftOut {
                what: format!("tag {tag}"),
                why: why.text(),
            }),
        }
    }
    current.side_tags = listed
        .into_iter()
        .filter(|t| name::head_of(t).as_ref() == Some(&tag))
        .collect();
    let contained = current.contained();
    let open = current
        .side_tags
        .iter()
        .filter(|t| !contained.contains(t.as_str()))
        .cloned();
    let read_side = |tag: Tag| async move {
        if let Some(own) = own.filter(|own| own.tag == tag) {
            return Ok((tag, Some(Ok((own.loaded.clone(), None)))));
        }
        let side = read_side(ctx, name, &tag, damaged).await?;
        Ok::<_, super::Error>((tag, side))
    };
    let read: Vec<_> = stream::iter(open.collect::<Vec<_>>())
        .map(read_side)
        .buffered(ctx.concurrency.max(1))
        .try_collect()
        .await?;
    for (tag, side) in read {
        match side {
            Some(Ok((mut loaded, modified))) => {
                if is_of_the_future(&tag, &loaded, modified, current.now) {
                    current.ahead.push(LeftOut {
                        what: format!("tag {tag}"),
                        why: format!(
                            "claims to be published more than {} minutes later than it was",
                            AHEAD_SECS / 60
                        ),
                    });
                    current.refused.push(tag);
                    continue;
                }
                let left_out = dated::leave_out(&mut loaded, Some(&tag), modified, current.now);
                current.ahead.extend(left_out);
                current.sides.push(Side { tag, loaded });
            }
            Some(Err(why)) => current.broken.push(LeftOut {
                what: format!("tag {tag}"),
                why,
            }),
            None => {}
        }
    }
    Ok(current)
}

/// Says whether the tag of a folder's publication says a later time than it can have been written at: the latest counts, so it
/// would stand above all others.
fn is_of_the_future(tag: &Tag, loaded: &Loaded, modified: Option<Time>, now: Time) -> bool {
    let is_tree = dated::rules_of(&loaded.snapshot) == Rules::Tree;
    let written = modified.unwrap_or(now);
    is_tree && name::side_time(tag).is_some_and(|at| is_ahead(at, written))
}

type SideRead = std::result::Result<(Loaded, Option<Time>), String>;

/// Reads a side tag, and when the store wrote it; `None` if it is gone meanwhile.
async fn read_side(
    ctx: &Context,
    name: &SnapshotName,
    tag: &Tag,
    damaged: &HashSet<Digest>,
) -> Result<Option<SideRead>> {
    let resolved = match told(ctx.opened.store.resolve(&tag.clone().into()).await)? {
        Ok(Some(resolved)) => resolved,
        Ok(None) => return Ok(None),
        Err(why) => return Ok(Some(Err(why))),
    };
    Ok(Some(match load(ctx, &resolved.manifest, damaged).await? {
        Ok(loaded) if loaded.snapshot.name != *name => Err("holds another name".into()),
        Ok(loaded) => Ok((loaded, resolved.modified)),
        Err(why) => Err(why.text()),
    }))
}

impl NotLoaded {
    /// In words.
    pub fn text(self) -> String {
        match self {
            Self::Foreign => "is no snapshot of ours".into(),
            Self::Broken(why) => why,
        }
    }
}

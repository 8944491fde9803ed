//! Resolves a user's word to tags, and reads what the manifest under a tag is: for the verbs that manage a store.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Context, Error, LeftOut, Result, load,
    reach::{self, RepoContext},
};
use crate::{
    artifact::{
        Manifest, Reference, Tag,
        config::Config,
        name::{self, SnapshotName},
        snapshot::Outline,
    },
    digest::Digest,
    entry::Time,
    memory::Reservation,
    source::SourceKind,
    store::Resolved,
    transfer::graph,
};

/// A name and its place.
#[derive(Clone)]
pub(super) struct NameInRepo {
    /// Its repository.
    pub(super) place: Arc<RepoContext>,
    /// Its tags there.
    pub(super) group: Group,
    /// Shared by all names of its repository, until the last one is dropped.
    _room: Arc<Reservation>,
}

impl NameInRepo {
    /// The displayed name of its head.
    pub(super) fn shown(&self) -> String {
        self.place.shown(self.group.head.as_str())
    }

    /// The displayed names of its tags, in the order in which they may be removed.
    pub(super) fn tags(&self) -> impl Iterator<Item = String> {
        self.group.tags().map(|t| self.place.shown(t.as_str()))
    }

    /// A problem with one of its tags.
    pub(super) fn fault(&self, tag: &Tag, why: impl Into<String>) -> LeftOut {
        fault(&self.place, tag, why)
    }
}

/// A head's tag with its side tags, or a foreign tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The head's tag, whether or not it exists.
    pub(super) head: Tag,
    /// Whether the tag `head` was listed.
    pub(super) is_there: bool,
    /// Its side tags, sorted.
    pub(super) sides: Vec<Tag>,
}

impl Group {
    /// Side tags, then the head: the order in which they may be removed.
    pub(super) fn tags(&self) -> impl Iterator<Item = &Tag> {
        let head = Some(&self.head).filter(|_| self.is_there);
        self.sides.iter().chain(head)
    }
}

/// What the user requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// Everything.
    All,
    /// One manifest.
    Digest(Digest),
    /// A name or a tag.
    Name(String),
}

impl Word {
    pub(super) fn new(word: Option<&str>) -> Self {
        match word {
            None => Self::All,
            Some(word) => match word.parse() {
                Ok(digest) => Self::Digest(digest),
                Err(_) => Self::Name(word.to_owned()),
            },
        }
    }
}

/// The tags that `word` selects, grouped, sorted by repository and the head's tag; none for a digest.
///
/// A full tag selects itself, a head's tag also its side tags; any other word is a full name, in any kind, scope and key. A word of the
/// form `REPO:WORD` that selects nothing in the command line's own repository is looked up in that repository.
///
/// # Errors
/// When the store cannot be asked.
pub(super) async fn find(ctx: &Context, word: &Word) -> Result<Vec<NameInRepo>> {
    match word {
        Word::Digest(_) => Ok(Vec::new()),
        Word::All => {
            let places = reach::places(ctx).await?;
            let found = reach::each(ctx, places, |place| within(place, Word::All)).await?;
            Ok(found.into_iter().flatten().collect())
        }
        Word::Name(name) => {
            if let Some(own) = reach::own(ctx) {
                let found = within(own, word.clone()).await?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            match reach::named(ctx, name) {
                Some((place, name)) => within(place, Word::Name(name.to_owned())).await,
                None => Ok(Vec::new()),
            }
        }
    }
}

/// The tags of one repository that `word` selects.
pub(super) async fn within(place: Arc<RepoContext>, word: Word) -> Result<Vec<NameInRepo>> {
    let tags = place.ctx.store.tags("").await?;
    let room = place.ctx.tables.room_of_tags(tags.len());
    let room = Arc::new(room.map_err(|why| Error::Memory {
        what: format!("the {} tags of {}", tags.len(), place.repository()),
        why,
    })?);
    let named = |group| NameInRepo {
        place: place.clone(),
        group,
        _room: room.clone(),
    };
    Ok(select(tags, &word).into_iter().map(named).collect())
}

fn select(tags: Vec<Tag>, word: &Word) -> Vec<Group> {
    let exact = |tag: &Tag| matches!(word, Word::Name(w) if w == tag.as_str());
    if let Some(side) = tags.iter().find(|t| exact(t) && name::head_of(t).is_some()) {
        return vec![Group {
            head: name::head_of(side).expect("it was just found to be a side tag"),
            is_there: false,
            sides: vec![side.clone()],
        }];
    }
    let mut groups: BTreeMap<Tag, Group> = BTreeMap::new();
    for tag in tags {
        let head = name::head_of(&tag);
        let group = groups
            .entry(head.clone().unwrap_or_else(|| tag.clone()))
            .or_insert_with_key(|head| Group {
                head: head.clone(),
                is_there: false,
                sides: Vec::new(),
            });
        match head {
            Some(_) => group.sides.push(tag),
            None => group.is_there = true,
        }
    }
    let all: Vec<Group> = groups.into_values().collect();
    let Word::Name(word) = word else { return all };
    if let Some(found) = all.iter().find(|g| exact(&g.head)) {
        return vec![found.clone()];
    }
    let named = |g: &Group| is_ours(&g.head) && name::is_named(&g.head, word);
    all.into_iter().filter(named).collect()
}

/// Returns true if a tag has the form of a cachectl tag: a foreign image's tag may have four fields too, but hardly one of these kinds.
pub(super) fn is_ours(head: &Tag) -> bool {
    let kind = head.as_str().split('.').next().unwrap_or_default();
    name::is_head(head) && SourceKind::from_name(kind).is_some()
}

/// What a tag points at, by manifest and config alone.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A snapshot.
    Ours(Box<Ours>),
    /// Some other manifest.
    Foreign(Foreign),
    /// It cannot be read, with the reason.
    Broken(String),
    /// The tag does not exist, or no longer.
    Gone,
}

/// A manifest that is not a snapshot.
#[derive(Debug, Clone)]
pub(super) struct Foreign {
    pub(super) manifest: Manifest,
    /// When its tag was written, if the store reports it.
    pub(super) written: Option<Time>,
}

/// A snapshot by manifest and config alone.
#[derive(Debug, Clone)]
pub(super) struct Ours {
    pub(super) manifest: Manifest,
    /// When its tag was written, if the store reports it.
    pub(super) written: Option<Time>,
    pub(super) outline: Outline,
    pub(super) config: Config,
    /// Memory that the config takes.
    pub(super) _memory: Reservation,
}

impl Ours {
    /// The full name in the config.
    pub(super) fn name(&self) -> SnapshotName {
        let config = &self.config;
        SnapshotName {
            kind: config.kind.clone(),
            name: config.name.clone(),
            scope: config.scope.clone(),
            key: config.key.clone(),
        }
    }
}

/// Reads manifest and config of a tag or digest.
///
/// # Errors
/// When the store cannot be asked, or other calls use up the daemon's memory; damaged or too large content is in the answer.
pub(super) async fn look(ctx: &Context, reference: &Reference) -> Result<Found> {
    Ok(
        match load::too_large(ctx, look_within_room(ctx, reference).await)? {
            Ok(found) => found,
            Err(why) => Found::Broken(format!("its config cannot be read: {why}")),
        },
    )
}

/// The same, for a caller that can retry after dropping its other reads.
///
/// # Errors
/// `Memory` if there is no memory for it, otherwise as [`look`].
pub(super) async fn look_within_room(ctx: &Context, reference: &Reference) -> Result<Found> {
    let Resolved {
        manifest,
        modified: written,
        ..
    } = match resolve(ctx, reference).await? {
        Ok(Some(resolved)) => resolved,
        Ok(None) => return Ok(Found::Gone),
        Err(why) => return Ok(Found::Broken(why)),
    };
    let outline = match load::outline(&manifest).await {
        Ok(Some(outline)) => outline,
        Ok(None) => return Ok(Found::Foreign(Foreign { manifest, written })),
        Err(e) => return Ok(Found::Broken(format!("manifest: {e}"))),
    };
    Ok(match load::config(ctx, &outline.config).await? {
        Ok((config, memory)) => Found::Ours(Box::new(Ours {
            manifest,
            written,
            outline,
            config,
            _memory: memory,
        })),
        Err(why) => Found::Broken(why),
    })
}

/// The snapshot under a tag; `None` if there is none, or it cannot be read.
///
/// # Errors
/// As [`look`].
pub(super) async fn snapshot_at(ctx: &Context, tag: &Tag) -> Result<Option<Box<Ours>>> {
    Ok(match look(ctx, &tag.clone().into()).await? {
        Found::Ours(ours) => Some(ours),
        Found::Foreign(_) | Found::Broken(_) | Found::Gone => None,
    })
}

/// Resolves; distinguishes content that the store lost or damaged (in words, inside) from failures to ask it (an error).
pub(super) async fn resolve(
    ctx: &Context,
    reference: &Reference,
) -> Result<std::result::Result<Option<Resolved>, String>> {
    match ctx.store.resolve(reference).await {
        Ok(Some(r)) if !r.manifest.digest.matches(&r.manifest.bytes) => {
            Ok(Err("its bytes do not match its digest".to_owned()))
        }
        Ok(resolved) => Ok(Ok(resolved)),
        Err(e) if e.is_unreadable() => Ok(Err(e.message)),
        Err(e) => Err(Error::Store(e)),
    }
}

/// Asks the store for a tag that cannot exist, to check that it answers and may be read.
///
/// # Errors
/// When it cannot be asked.
pub async fn ask(ctx: &Context) -> Result<()> {
    let tag: Tag = "cachectl-check"
        .parse()
        .expect("letters and a dash are a valid tag");
    ctx.store.resolve(&tag.into()).await?;
    Ok(())
}

/// The blobs that a manifest needs, itself first, with their sizes.
pub(super) async fn needed(manifest: &Manifest) -> impl Iterator<Item = (Digest, u64)> + use<> {
    let own = (manifest.digest, manifest.bytes.len() as u64);
    // For anything below another index, the index states only the sizes of manifests.
    let children = graph::children(manifest).await.unwrap_or_default();
    let below = children.blobs.into_iter().chain(children.manifests);
    std::iter::once(own).chain(below.map(|d| (d.digest, d.size)))
}

/// A problem with a tag.
pub(super) fn fault(place: &RepoContext, tag: &Tag, why: impl Into<String>) -> LeftOut {
    LeftOut {
        what: format!("tag {}", place.shown(tag.as_str())),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;

    fn named(kind: &str, name: &str, key: &str) -> SnapshotName {
        SnapshotName {
            kind: kind.into(),
            name: name.into(),
            scope: "s".into(),
            key: key.into(),
        }
    }

    fn tags() -> Vec<Tag> {
        let (a, b) = (named("dir", "a", ""), named("gobuild", "a", "k"));
        let mut all = vec![
            a.tag(),
            a.side_tag(Time::default(), 1),
            a.side_tag(Time::default(), 2),
            b.tag(),
            named("dir", "b", "").side_tag(Time::default(), 3),
            "latest".parse().unwrap(),
            "v1.a.2.3".parse().unwrap(),
        ];
        all.sort();
        all
    }

    fn heads(word: Option<&str>) -> Vec<(String, bool, usize)> {
        let groups = select(tags(), &Word::new(word)).into_iter();
        groups
            .map(|g| (g.head.to_string(), g.is_there, g.sides.len()))
            .collect()
    }

    #[test]
    fn side_tags_stand_with_their_head_even_if_that_is_not_there() {
        let all = heads(None);
        assert_eq!(all.len(), 5, "{all:?}");
        assert!(all.contains(&("dir.a.s.".into(), true, 2)));
        assert!(all.contains(&("dir.b.s.".into(), false, 1)));
        assert!(all.contains(&("latest".into(), true, 0)));
    }

    #[test]
    fn a_name_means_all_kinds_and_keys_and_nothing_foreign() {
        let want = [
            ("dir.a.s.".to_owned(), true, 2),
            ("gobuild.a.s.k".to_owned(), true, 0),
        ];
        assert_eq!(heads(Some("a")), want);
        assert_eq!(heads(Some("nothing")), []);
    }

    #[test]
    fn a_tag_means_itself_with_its_side_tags() {
        assert_eq!(heads(Some("dir.a.s.")), [("dir.a.s.".into(), true, 2)]);
        assert_eq!(heads(Some("v1.a.2.3")), [("v1.a.2.3".into(), true, 0)]);
        let side = named("dir", "a", "").side_tag(Time::default(), 1);
        let one = select(tags(), &Word::new(Some(side.as_str())));
        assert_eq!(one.len(), 1);
        assert_eq!((one[0].is_there, &one[0].sides), (false, &vec![side]));
    }
}

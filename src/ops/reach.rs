//! Which repositories of a store a verb concerns, and what the tags there are called.
//!
//! The repository of the command line keeps its plain names; a tag of any other one is written `REPO:TAG`, and a name of ours
//! there `REPO:NAME`. A store that holds one repository only (a registry's, an image layout) has plain names alone.

use std::{fmt, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use globset::{GlobBuilder, GlobSet};

use super::{
    Context, Error, Result,
    sight::{Sights, View},
};
use crate::{
    artifact::Tag,
    digest::Digest,
    store::{self, ErrorKind, Repository, Untag, keys::Repo, repository::TagPart},
};

/// Says of a repository whether it may be looked at, or changed.
type Admits = Arc<dyn Fn(&Repo) -> bool + Send + Sync>;

/// Some repositories, and what is seen in them.
#[derive(Clone)]
struct Granted {
    admits: Admits,
    sights: Arc<Sights>,
}

/// The repositories that a verb may concern: by right, and by what was asked for.
#[derive(Clone, Default)]
pub struct Reach {
    /// `None`: all there are or will be.
    granted: Option<Granted>,
    /// `None`: all that are granted.
    wanted: Option<GlobSet>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("is_whole", &self.is_whole())
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl Reach {
    /// Every repository.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Those that `admits` says yes to, and nothing that does not stop at one repository: of the common blobs only what `sights`
    /// shows there.
    pub fn granted(
        admits: impl Fn(&Repo) -> bool + Send + Sync + 'static,
        sights: Arc<Sights>,
    ) -> Self {
        Self {
            granted: Some(Granted {
                admits: Arc::new(admits),
                sights,
            }),
            wanted: None,
        }
    }

    /// The same, of which only those are wanted that match one of `patterns`, as grants spell them: `*` stops at a `/`, `**` does
    /// not. Without any, all are.
    ///
    /// # Errors
    /// `Usage` for what is no pattern.
    pub fn wanting(mut self, patterns: &[String]) -> Result<Self> {
        if patterns.is_empty() {
            return Ok(self);
        }
        let mut set = GlobSet::builder();
        for pattern in patterns {
            let refused = |why: String| {
                Error::Usage(format!("`{pattern}` is no pattern of repositories: {why}"))
            };
            if pattern.is_empty() {
                return Err(refused("it is empty; `**` is every repository".to_owned()));
            }
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            set.add(glob.map_err(|e| refused(e.kind().to_string()))?);
        }
        let built = set.build().map_err(|e| Error::Usage(e.to_string()))?;
        self.wanted = Some(built);
        Ok(self)
    }

    /// The same, of which everything is wanted.
    pub(super) fn wanting_all(mut self) -> Self {
        self.wanted = None;
        self
    }

    /// Says whether it has every repository by right: then what concerns the whole store may be told and done too.
    pub fn is_whole(&self) -> bool {
        self.granted.is_none()
    }

    fn admits(&self, repo: &Repo) -> bool {
        let wanted = |wanted: &GlobSet| wanted.is_match(repo.as_str());
        self.is_granted(repo) && self.wanted.as_ref().is_none_or(wanted)
    }

    fn is_granted(&self, repo: &Repo) -> bool {
        self.granted.as_ref().is_none_or(|g| (g.admits)(repo))
    }
}

/// One repository that a verb works in.
pub(super) struct Place {
    repo: Repo,
    /// Its records; `None` where the store holds one repository only.
    records: Option<Repository>,
    /// The verb's context, with the store of this repository.
    pub(super) ctx: Context,
}

impl Place {
    /// The repository that the store was opened at; `None` where only some repositories are in reach and the store cannot tell what
    /// belongs to which.
    fn own(ctx: &Context) -> Option<Self> {
        let repo = Repo::cli();
        let records = ctx.store.repository(&repo);
        let ctx = match (&ctx.reach.granted, &records) {
            (None, _) => ctx.clone(),
            (Some(granted), Some(records)) => Self::seen(ctx, granted, records),
            (Some(_), None) => return None,
        };
        Some(Self { repo, records, ctx })
    }

    /// A context whose store answers only for what is seen in a repository.
    fn seen(ctx: &Context, granted: &Granted, repository: &Repository) -> Context {
        let view = View::new(repository.clone(), granted.sights.clone());
        Context {
            store: ctx.store.seen_through(Arc::new(view)),
            // What one caller sees another may not.
            tables: ctx.tables.afresh(),
            ..ctx.clone()
        }
    }

    /// The repository of that name; `None` where there are no others than the command line's own.
    fn of(ctx: &Context, repo: &Repo) -> Option<Self> {
        if *repo == Repo::cli() {
            return Self::own(ctx);
        }
        Self::other(ctx, repo)
    }

    /// Another one; `None` where there are no others.
    fn other(ctx: &Context, repo: &Repo) -> Option<Self> {
        let repository = ctx.store.repository(repo)?;
        let inside = Context {
            store: ctx.store.within(&repository),
            // What one repository has another may not have, or not show.
            tables: ctx.tables.afresh(),
            ..ctx.clone()
        };
        let ctx = match &ctx.reach.granted {
            None => inside,
            Some(granted) => Self::seen(&inside, granted, &repository),
        };
        Some(Self {
            repo: repo.clone(),
            records: Some(repository),
            ctx,
        })
    }

    /// Whether its names are plain.
    pub(super) fn is_own(&self) -> bool {
        self.repo == Repo::cli()
    }

    /// Its repository's name; empty where the store holds one only.
    pub(super) fn repository(&self) -> &str {
        self.records.as_ref().map_or("", |_| self.repo.as_str())
    }

    /// What a tag or name of it is called.
    pub(super) fn shown(&self, name: &str) -> String {
        if self.is_own() {
            name.to_owned()
        } else {
            format!("{}:{name}", self.repo)
        }
    }

    /// The parts that a tag is merged from.
    pub(super) async fn parts(&self, tag: &Tag) -> store::Result<Vec<TagPart>> {
        match &self.records {
            Some(repository) => repository.parts(tag).await,
            None => Ok(Vec::new()),
        }
    }

    /// The manifests that refer to one.
    pub(super) async fn referrers(&self, subject: &Digest) -> store::Result<Vec<Digest>> {
        match &self.records {
            Some(repository) => repository.referrers(subject).await,
            None => Ok(Vec::new()),
        }
    }

    /// Takes a tag away, with the parts it is merged from; `false` if there was none.
    pub(super) async fn remove(&self, tag: &Tag) -> store::Result<bool> {
        let untag = untag_of(&self.ctx)?;
        match &self.records {
            Some(repository) => repository.delete_tag(tag).await,
            None => untag.untag(tag).await,
        }
    }

    /// Its records, where it has any.
    pub(super) fn records(&self) -> Option<&Repository> {
        self.records.as_ref()
    }
}

/// The ability, or why there is none.
fn untag_of(ctx: &Context) -> store::Result<&dyn Untag> {
    ctx.store.untag().map(|u| &**u).ok_or_else(|| {
        let why = "nothing can be removed: the store cannot, or it was opened read-only";
        store::Error::new(ErrorKind::Unsupported, "remove tags", why)
            .at(&ctx.store.url().to_string(), "")
    })
}

/// All repositories within reach, sorted by name; the command line's own is there even if it holds nothing yet.
///
/// # Errors
/// `Usage` where repositories are chosen and the store holds one only.
pub(super) async fn places(ctx: &Context) -> Result<Vec<Arc<Place>>> {
    let Some(repositories) = &ctx.store.facts().repositories else {
        return match &ctx.reach.wanted {
            // Through a daemon's door only ours is known.
            _ if ctx.store.facts().control.is_some() => Ok(own(ctx).into_iter().collect()),
            None => Ok(own(ctx).into_iter().collect()),
            Some(_) => Err(Error::Usage(format!(
                "repositories cannot be chosen: {} holds one only",
                ctx.store.url()
            ))),
        };
    };
    let mut all = repositories.records().repositories().await?;
    if !all.contains(&Repo::cli()) {
        all.push(Repo::cli());
        all.sort_unstable();
    }
    all.retain(|repo| ctx.reach.admits(repo));
    let places = all.iter().filter_map(|repo| Place::of(ctx, repo));
    Ok(places.map(Arc::new).collect())
}

/// The command line's own repository; `None` where it is out of reach.
pub(super) fn own(ctx: &Context) -> Option<Arc<Place>> {
    let alone = ctx.store.facts().repositories.is_none() && ctx.store.facts().control.is_none();
    let reached = alone || ctx.reach.admits(&Repo::cli());
    Place::own(ctx).filter(|_| reached).map(Arc::new)
}

/// The repository in `REPO:NAME`, with the name; `None` for a word that is no such thing, or where it is out of reach.
pub(super) fn named<'a>(ctx: &Context, word: &'a str) -> Option<(Arc<Place>, &'a str)> {
    let (repo, name) = word.rsplit_once(':').filter(|(_, name)| !name.is_empty())?;
    let repo: Repo = repo.parse().ok()?;
    if !ctx.reach.admits(&repo) {
        return None;
    }
    Some((Arc::new(Place::of(ctx, &repo)?), name))
}

/// The same repository at another store; `None` where that holds one only, and this is not the command line's own.
pub(super) fn counterpart(to: &Context, place: &Place) -> Option<Context> {
    if place.is_own() {
        return Some(to.clone());
    }
    Place::other(to, &place.repo).map(|p| p.ctx)
}

/// What `ask` says of every place, in their order.
pub(super) async fn each<T, F>(
    ctx: &Context,
    places: Vec<Arc<Place>>,
    ask: impl Fn(Arc<Place>) -> F,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    stream::iter(places)
        .map(ask)
        .buffered(ctx.concurrency.max(1))
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(name: &str) -> Repo {
        name.parse().unwrap()
    }

    #[test]
    fn what_is_wanted_is_within_what_is_granted() {
        let team = Reach::granted(|repo| repo.as_str().starts_with("team/"), Arc::default());
        assert!(team.admits(&repo("team/a")) && !team.admits(&repo("other")));
        assert!(!team.is_whole() && Reach::everything().is_whole());
        let some = team.wanting(&["*/a".into(), "other".into()]).unwrap();
        assert!(some.admits(&repo("team/a")) && !some.admits(&repo("team/b")));
        assert!(!some.admits(&repo("other")));
    }

    #[test]
    fn patterns_are_those_of_grants() {
        let one = Reach::everything().wanting(&["team/*".into()]).unwrap();
        assert!(one.admits(&repo("team/a")) && !one.admits(&repo("team/a/b")));
        assert!(one.is_whole());
        for bad in ["", "a{"] {
            let e = Reach::everything().wanting(&[bad.into()]).unwrap_err();
            assert!(matches!(e, Error::Usage(_)), "{e}");
        }
    }
}

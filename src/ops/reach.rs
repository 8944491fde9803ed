//! The repositories of a store that a verb works on, and the displayed names of their tags.
//!
//! The repository of the command line keeps its plain names; a tag of any other one is written `REPO:TAG`, and a cachectl name there
//! `REPO:NAME`. A store that holds only one repository (one in a registry, an image layout) has only plain names.

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
    store::{self, Repository, Untag, keys::Repo, repository::TagPart},
};

/// Decides whether a repository may be read, or changed.
type Admits = Arc<dyn Fn(&Repo) -> bool + Send + Sync>;

/// Some repositories, and what is visible in them.
#[derive(Clone)]
struct Granted {
    admits: Admits,
    sights: Arc<Sights>,
}

/// The repositories that a verb may work on: limited by rights, and by the request.
#[derive(Clone, Default)]
pub struct Reach {
    /// `None`: all, including future ones.
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

    /// Only those that `admits` allows, and nothing beyond a single repository: of the shared blobs only those that `sights` shows there.
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

    /// The same, limited to repositories that match one of `patterns`, in the syntax of grants: `*` stops at a `/`, `**` does not. Without
    /// patterns, all match.
    ///
    /// # Errors
    /// `Usage` for an invalid pattern.
    pub fn wanting(mut self, patterns: &[String]) -> Result<Self> {
        if patterns.is_empty() {
            return Ok(self);
        }
        let mut set = GlobSet::builder();
        for pattern in patterns {
            let refused = |why: String| {
                Error::Usage(format!("invalid repository pattern `{pattern}`: {why}"))
            };
            if pattern.is_empty() {
                return Err(refused(
                    "it is empty; `**` matches every repository".to_owned(),
                ));
            }
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            set.add(glob.map_err(|e| refused(e.kind().to_string()))?);
        }
        let built = set.build().map_err(|e| Error::Usage(e.to_string()))?;
        self.wanted = Some(built);
        Ok(self)
    }

    /// The same, without the limit to requested patterns.
    pub(super) fn wanting_all(mut self) -> Self {
        self.wanted = None;
        self
    }

    /// Returns true if the caller has rights to every repository: then operations on the whole store are allowed too.
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
pub(super) struct RepoContext {
    repo: Repo,
    /// Its records; `None` if the store holds only one repository.
    records: Option<Repository>,
    /// The verb's context, with the store of this repository.
    pub(super) ctx: Context,
}

impl RepoContext {
    /// The repository that the store was opened at; `None` if only some repositories are within reach and the store cannot tell which blobs
    /// belong to which.
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

    /// A context whose store shows only what is visible in a repository.
    fn seen(ctx: &Context, granted: &Granted, repository: &Repository) -> Context {
        let view = View::new(repository.clone(), granted.sights.clone());
        Context {
            store: ctx.store.seen_through(Arc::new(view)),
            // Other callers may see less.
            tables: ctx.tables.afresh(),
            ..ctx.clone()
        }
    }

    /// The repository of that name; `None` if there is only the command line's own.
    fn of(ctx: &Context, repo: &Repo) -> Option<Self> {
        if *repo == Repo::cli() {
            return Self::own(ctx);
        }
        Self::other(ctx, repo)
    }

    /// Another repository; `None` if there are no others.
    fn other(ctx: &Context, repo: &Repo) -> Option<Self> {
        let repository = ctx.store.repository(repo)?;
        let inside = Context {
            store: ctx.store.within(&repository),
            // Another repository may not have, or not show, what this one has.
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

    /// Its repository's name; empty if the store holds only one.
    pub(super) fn repository(&self) -> &str {
        self.records.as_ref().map_or("", |_| self.repo.as_str())
    }

    /// The displayed form of one of its tags or names.
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

    /// The referrers of a manifest.
    pub(super) async fn referrers(&self, subject: &Digest) -> store::Result<Vec<Digest>> {
        match &self.records {
            Some(repository) => repository.referrers(subject).await,
            None => Ok(Vec::new()),
        }
    }

    /// Removes a tag, with the parts it is merged from; `false` if it did not exist.
    pub(super) async fn remove(&self, tag: &Tag) -> store::Result<bool> {
        let untag = untag_of(&self.ctx)?;
        match &self.records {
            Some(repository) => repository.delete_tag(tag).await,
            None => untag.untag(tag).await,
        }
    }

    /// Its records, if it has any.
    pub(super) fn records(&self) -> Option<&Repository> {
        self.records.as_ref()
    }
}

/// The capability, or an error that states why it is missing.
fn untag_of(ctx: &Context) -> store::Result<&dyn Untag> {
    ctx.store.untag().map(|u| &**u).ok_or_else(|| {
        let why = "nothing can be deleted: the store does not support it, or was opened read-only";
        store::Error::unsupported("remove tags", why).at(&ctx.store.url().to_string(), "")
    })
}

/// All repositories within reach, sorted by name; the command line's own is included even if it is still empty.
///
/// # Errors
/// `Usage` if repositories were selected and the store holds only one.
pub(super) async fn places(ctx: &Context) -> Result<Vec<Arc<RepoContext>>> {
    let Some(repositories) = &ctx.store.facts().repositories else {
        return match &ctx.reach.wanted {
            // Through a daemon's door only cachectl's own is known.
            _ if ctx.store.facts().control.is_some() => Ok(own(ctx).into_iter().collect()),
            None => Ok(own(ctx).into_iter().collect()),
            Some(_) => Err(Error::Usage(format!(
                "repositories cannot be selected: {} holds only one",
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
    let places = all.iter().filter_map(|repo| RepoContext::of(ctx, repo));
    Ok(places.map(Arc::new).collect())
}

/// The command line's own repository; `None` if it is out of reach.
pub(super) fn own(ctx: &Context) -> Option<Arc<RepoContext>> {
    let alone = ctx.store.facts().repositories.is_none() && ctx.store.facts().control.is_none();
    let reached = alone || ctx.reach.admits(&Repo::cli());
    RepoContext::own(ctx).filter(|_| reached).map(Arc::new)
}

/// The repository in `REPO:NAME`, with the name; `None` for a word of another form, or if it is out of reach.
pub(super) fn named<'a>(ctx: &Context, word: &'a str) -> Option<(Arc<RepoContext>, &'a str)> {
    let (repo, name) = word.rsplit_once(':').filter(|(_, name)| !name.is_empty())?;
    let repo: Repo = repo.parse().ok()?;
    if !ctx.reach.admits(&repo) {
        return None;
    }
    Some((Arc::new(RepoContext::of(ctx, &repo)?), name))
}

/// The same repository at another store; `None` if that store holds only one and this is not the command line's own.
pub(super) fn counterpart(to: &Context, place: &RepoContext) -> Option<Context> {
    if place.is_own() {
        return Some(to.clone());
    }
    RepoContext::other(to, &place.repo).map(|p| p.ctx)
}

/// The answers of `ask` for all places, in order.
pub(super) async fn each<T, F>(
    ctx: &Context,
    places: Vec<Arc<RepoContext>>,
    ask: impl Fn(Arc<RepoContext>) -> F,
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

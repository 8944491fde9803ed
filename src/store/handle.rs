//! An opened store: its blobs and tags, its abilities, and facts about it.

use std::{ops::Deref, path::PathBuf, sync::Arc};

use super::{
    Meet, PushCheck, Records, RepoStore, Repository, StoreUrl, Sweep, Untag, behind::Hides,
    error::Result, keys::Repo, marked::MarkedBlobs, registry::ControlWay, scrub::Scrubber,
    wrap::counters::Counters,
};

/// Ability: many repositories over one set of blobs.
pub trait Repositories: Send + Sync {
    /// One of them; sends no request and creates nothing yet.
    fn repository(&self, name: &Repo) -> Repository;

    /// The records of all of them.
    fn records(&self) -> Arc<dyn Records>;
}

/// An opened store, seen from one of its repositories: that of the command line, unless [`Self::within`] selects another. It
/// provides blobs and tags ([`RepoStore`]); other abilities are optional. Cheap to clone; a folder's lock is held while any
/// clone lives.
#[derive(Clone)]
pub struct Store {
    contents: Arc<dyn RepoStore>,
    untag: Option<Arc<dyn Untag>>,
    sweep: Option<Arc<dyn Sweep>>,
    facts: Arc<Facts>,
}

/// Facts about a store, and abilities that do not depend on the repository.
#[derive(Clone)]
pub struct Facts {
    /// Its URL; folders absolute.
    pub url: StoreUrl,
    /// How concurrent writers of one name are handled.
    pub meet: Meet,
    /// Checks whether blobs may be written; `None` if simply trying costs nothing.
    pub push_check: Option<Arc<dyn PushCheck>>,
    /// Folder for spools on the store's own file system.
    pub spool_dir: Option<PathBuf>,
    /// Counts of requests; separate ones for a local cache directory and the store behind it.
    pub metrics: Vec<Arc<Counters>>,
    /// Whole blobs are hashed when they are read.
    pub is_verified: bool,
    /// Its repositories, which may be read only where the store is; `None` if it holds a single one.
    pub repositories: Option<Arc<dyn Repositories>>,
    /// What a prune has marked; `None` unless doors will be open beside it.
    pub marked: Option<Arc<MarkedBlobs>>,
    /// Hashes blobs in the background; `None` unless the store checks its blobs itself.
    pub scrubber: Option<Scrubber>,
    /// Access to the control API; `None` if the store is not a daemon.
    pub control: Option<ControlWay>,
    /// Asks the store behind a local cache directory directly; `None` without such a directory.
    pub hides: Option<Arc<dyn Hides>>,
}

impl Facts {
    /// The facts of a store without further abilities.
    pub(super) fn of(url: StoreUrl, meet: Meet) -> Self {
        Self {
            url,
            meet,
            push_check: None,
            spool_dir: None,
            metrics: Vec::new(),
            is_verified: false,
            repositories: None,
            marked: None,
            scrubber: None,
            control: None,
            hides: None,
        }
    }
}

impl Deref for Store {
    type Target = dyn RepoStore;

    fn deref(&self) -> &Self::Target {
        &*self.contents
    }
}

impl Store {
    pub(super) fn new(
        contents: Arc<dyn RepoStore>,
        untag: Option<Arc<dyn Untag>>,
        sweep: Option<Arc<dyn Sweep>>,
        facts: Facts,
    ) -> Self {
        Self {
            contents,
            untag,
            sweep,
            facts: Arc::new(facts),
        }
    }

    /// The same store, seen from another of its repositories.
    #[must_use]
    pub fn within(&self, repository: &Repository) -> Self {
        let untag = self.untag.as_ref().map(|_| repository.untag().clone());
        Self {
            contents: repository.store().clone(),
            untag,
            ..self.clone()
        }
    }

    /// The same store for a caller that sees only what `view` shows, not the blobs of all repositories.
    #[must_use]
    pub fn seen_through(&self, view: Arc<dyn RepoStore>) -> Self {
        Self {
            contents: view,
            sweep: None,
            ..self.clone()
        }
    }

    /// Its blobs and tags: bytes are verified, temporary errors are retried, limits apply.
    pub fn contents(&self) -> &Arc<dyn RepoStore> {
        &self.contents
    }

    /// Removes names; `None` if they cannot be removed, or nothing may be written.
    pub fn untag(&self) -> Option<&Arc<dyn Untag>> {
        self.untag.as_ref()
    }

    /// Sweeps blobs; `None` if they cannot be swept, or nothing may be written.
    pub fn sweep(&self) -> Option<&Arc<dyn Sweep>> {
        self.sweep.as_ref()
    }

    /// Facts about it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The repository with that name; `None` if the store holds a single one.
    pub fn repository(&self, name: &Repo) -> Option<Repository> {
        let all = self.facts.repositories.as_ref();
        all.map(|all| all.repository(name))
    }

    /// All non-empty repositories, sorted by name; empty if the store holds a single one.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn all_repositories(&self) -> Result<Vec<Repository>> {
        let Some(all) = &self.facts.repositories else {
            return Ok(Vec::new());
        };
        let names = all.records().repositories().await?;
        Ok(names.iter().map(|name| all.repository(name)).collect())
    }

    /// Its URL; folders absolute.
    pub fn url(&self) -> &StoreUrl {
        &self.facts.url
    }
}

#[cfg(test)]
mod tests;

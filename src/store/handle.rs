//! A store as it was opened: its blobs and tags, what else can be done with it, and what is known of it.

use std::{ops::Deref, path::PathBuf, sync::Arc};

use super::{
    Meet, PushCheck, RepoStore, Repository, Sweep, Untag,
    behind::Hides,
    error::Result,
    keys::Repo,
    marked::Marked,
    open::{Repositories, StoreUrl},
    registry::ControlWay,
    scrub::Scrubber,
    wrap::counters::Counters,
};

/// An opened store, seen from one of its repositories: that of the command line, unless [`Self::within`] says another. It is its blobs
/// and tags ([`RepoStore`]); what else it can do is asked for. Cheap to clone; a folder's lock is held while any clone lives.
#[derive(Clone)]
pub struct Store {
    contents: Arc<dyn RepoStore>,
    untag: Option<Arc<dyn Untag>>,
    sweep: Option<Arc<dyn Sweep>>,
    facts: Arc<Facts>,
}

/// What is known of a store, and can be done with it, in whichever repository.
#[derive(Clone)]
pub struct Facts {
    /// Where it is; folders absolute.
    pub url: StoreUrl,
    /// How writers of one name meet.
    pub meet: Meet,
    /// Whether blobs may be written can be asked; `None` where trying costs nothing.
    pub push_check: Option<Arc<dyn PushCheck>>,
    /// Folder for spools on the store's own file system.
    pub spool_dir: Option<PathBuf>,
    /// Counts of what it was asked; of a folder in front and the store behind it, each.
    pub metrics: Vec<Arc<Counters>>,
    /// Whole blobs are hashed when they are read.
    pub is_verified: bool,
    /// Its repositories, to be read only where the store is; `None` where it holds one only.
    pub repositories: Option<Arc<dyn Repositories>>,
    /// What a prune has marked; `None` unless doors are to be open beside it.
    pub marked: Option<Arc<Marked>>,
    /// Hashes blobs that nobody asked for; `None` unless the store looks at them itself.
    pub scrubber: Option<Scrubber>,
    /// The way to the control API; `None` where the store is no daemon.
    pub control: Option<ControlWay>,
    /// The store behind can be asked itself; `None` where no folder answers for it.
    pub hides: Option<Arc<dyn Hides>>,
}

impl Facts {
    /// Those of a store without any more abilities.
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

    /// The same store for a caller who sees only what `view` shows: blobs of all repositories are none of its business.
    #[must_use]
    pub fn seen_through(&self, view: Arc<dyn RepoStore>) -> Self {
        Self {
            contents: view,
            sweep: None,
            ..self.clone()
        }
    }

    /// Its blobs and tags: bytes are checked, temporary trouble is tried again, limits hold.
    pub fn contents(&self) -> &Arc<dyn RepoStore> {
        &self.contents
    }

    /// Names can be taken away; `None` where they cannot, or nothing may be written.
    pub fn untag(&self) -> Option<&Arc<dyn Untag>> {
        self.untag.as_ref()
    }

    /// Blobs can be swept; `None` where they cannot, or nothing may be written.
    pub fn sweep(&self) -> Option<&Arc<dyn Sweep>> {
        self.sweep.as_ref()
    }

    /// What is known of it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The repository of that name; `None` where the store holds one only.
    pub fn repository(&self, name: &Repo) -> Option<Repository> {
        let all = self.facts.repositories.as_ref();
        all.map(|all| all.repository(name))
    }

    /// All repositories with anything in them, sorted by name; none where the store holds one only.
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

    /// Where it is; folders absolute.
    pub fn url(&self) -> &StoreUrl {
        &self.facts.url
    }
}

#[cfg(test)]
mod tests;

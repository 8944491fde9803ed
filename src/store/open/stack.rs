//! The wrappers around a backend, and the only place that defines their order.

use std::sync::Arc;

use super::Repositories;
use crate::store::{
    Records, RepoStore, Repository, Sweep, Untag,
    keys::Repo,
    marked::MarkedBlobs,
    wrap::{
        DamagedBlobs, Guard, Guarded, ReadOnly, Renewing, Retrying, Verified,
        retrying::{Contact, Policy},
    },
};

/// A repository of a store, with its abilities.
pub(super) struct Parts {
    /// Its blobs and tags.
    pub(super) store: Arc<dyn RepoStore>,
    /// Its tags can be removed.
    pub(super) untag: Arc<dyn Untag>,
    /// The records of all repositories; `None` if they are kept elsewhere, or the store has no other repositories.
    pub(super) records: Option<Arc<dyn Records>>,
}

impl Parts {
    /// A repository without the records.
    pub(super) fn of<S: RepoStore + Untag + 'static>(repository: Arc<S>) -> Self {
        Self {
            store: repository.clone(),
            untag: repository,
            records: None,
        }
    }
}

/// The wrappers of a store, shared by all of its repositories.
pub(super) struct Stack {
    /// `None`: problems with a folder do not disappear by themselves.
    pub(super) retries: Option<(Policy, Contact)>,
    /// Whole blobs are hashed when they are read.
    pub(super) verified: bool,
    /// Blobs that were read damaged; `None` if they are not remembered.
    pub(super) damaged: Option<DamagedBlobs>,
    /// What a prune has marked, and how to renew it; `None` if nothing prunes beside open doors.
    pub(super) renewing: Option<(Arc<MarkedBlobs>, Arc<dyn Sweep>)>,
    /// Tags and records can be changed.
    pub(super) writable: bool,
    /// Name, limits and counts.
    pub(super) guard: Arc<Guard>,
}

impl Stack {
    /// Puts the wrappers around a repository, from the backend outwards:
    ///
    /// 1. `Retrying` is next to the backend: each attempt is a separate request, and the layers above see one operation.
    /// 2. `Verified` checks the final result, to which several attempts may have contributed. Damaged content is absent for the layers
    ///    above.
    /// 3. `Renewing` renews what was found there.
    /// 4. `Guarded` is outermost: a permit is held over all attempts, every error from below gets the store's name, and the counts
    ///    are those that the caller sees. Forbidden changes of tags and records are refused before anything is attempted.
    pub(super) fn around(&self, repository: Parts) -> Parts {
        let Parts {
            mut store,
            mut untag,
            mut records,
        } = repository;
        if let Some((policy, contact)) = &self.retries {
            let (policy, contact) = (*policy, || contact.clone());
            store = Arc::new(Retrying::sharing(store, policy, contact()));
            untag = Arc::new(Retrying::sharing(untag, policy, contact()));
            records = records.map(|r| Arc::new(Retrying::sharing(r, policy, contact())) as _);
        }
        if self.verified {
            store = Arc::new(match &self.damaged {
                Some(damaged) => Verified::remembering(store, damaged.clone()),
                None => Verified::new(store),
            });
        }
        if let Some((marked, sweep)) = &self.renewing {
            store = Arc::new(Renewing::new(store, sweep.clone(), marked.clone()));
        }
        if !self.writable {
            untag = Arc::new(ReadOnly::new(untag));
            records = records.map(|r| Arc::new(ReadOnly::new(r)) as _);
        }
        Parts {
            store: Arc::new(Guarded::new(store, self.guard.clone())),
            untag,
            records,
        }
    }
}

/// Opens one repository of a backend; sends no request and creates nothing yet.
pub(super) type InRepo = Arc<dyn Fn(Repo) -> Parts + Send + Sync>;

/// The repositories of a backend, each with its wrappers.
pub(super) struct StackedRepos {
    pub(super) in_repo: InRepo,
    pub(super) records: Arc<dyn Records>,
    pub(super) stack: Arc<Stack>,
}

impl Repositories for StackedRepos {
    fn repository(&self, name: &Repo) -> Repository {
        let Parts { store, untag, .. } = self.stack.around((self.in_repo)(name.clone()));
        Repository::new(name.clone(), store, untag, self.records.clone())
    }

    fn records(&self) -> Arc<dyn Records> {
        self.records.clone()
    }
}

//! Which blobs of the common store a request may see.
//!
//! Bytes are stored once for all repositories, so whoever may read all of them sees all blobs in each ("one trust domain").
//! Whoever may read some only sees in a repository what was pushed or mounted there by such as him, and what its manifests
//! name; and may not push a manifest that names anything else, or the digest alone would open every blob.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use crate::{
    artifact::{Reference, outline::Outline},
    digest::Digest,
    store::{ErrorKind, Repository, Result, keys::Repo},
};

/// Manifests that are read at once.
const AT_ONCE: usize = 16;
/// How long what a repository's manifests name is remembered for what is among it, and for what is not.
const KNOWN_FOR: Duration = Duration::from_secs(30);
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Repositories that are remembered.
const MAX_REPOS: usize = 256;

/// How much a principal sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Every blob of the store.
    All,
    /// What belongs to the repository.
    Own,
}

/// What the manifests of a repository named at a time.
type Read = (Instant, Arc<HashSet<Digest>>);

/// What the manifests of repositories name.
#[derive(Default)]
pub(super) struct Named(Mutex<HashMap<Repo, Read>>);

impl Named {
    /// Says whether a principal may see a blob in a repository.
    pub(super) async fn sees(
        &self,
        repository: &Repository,
        digest: &Digest,
        sight: Sight,
    ) -> Result<bool> {
        if sight == Sight::All || repository.is_linked(digest).await? {
            return Ok(true);
        }
        let remembered = self.remembered(repository.name());
        if let Some((age, named)) = remembered {
            let known = named.contains(digest);
            if (known && age < KNOWN_FOR) || (!known && age < UNKNOWN_FOR) {
                return Ok(known);
            }
        }
        let named = Arc::new(read(repository).await?);
        let known = named.contains(digest);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REPOS {
            all.clear();
        }
        all.insert(repository.name().clone(), (Instant::now(), named));
        Ok(known)
    }

    fn remembered(&self, repo: &Repo) -> Option<(Duration, Arc<HashSet<Digest>>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(repo)
            .map(|(at, named)| (at.elapsed(), named.clone()))
    }
}

/// Everything that the manifests of a repository name, and they themselves.
async fn read(repository: &Repository) -> Result<HashSet<Digest>> {
    let manifests = repository.manifests().await?;
    let children = stream::iter(manifests).map(|digest| async move {
        let found = match repository.manifest(&Reference::Digest(digest)).await {
            Ok(found) => found,
            Err(e) if e.kind == ErrorKind::Corrupt => None,
            Err(e) => return Err(e),
        };
        let outline = found.and_then(|f| Outline::of(&f.manifest).ok());
        let named = outline.map(|o| o.named).unwrap_or_default();
        let granting = named.iter().filter(|n| n.grants_sight());
        let mut all: Vec<Digest> = granting.map(|n| n.digest).collect();
        all.push(digest);
        Ok(all)
    });
    let all: Vec<Vec<Digest>> = children.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

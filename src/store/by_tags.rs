//! Many repositories, and their records, in a store with one flat list of tags: a registry's repository, an image layout.
//!
//! - Holds: the place of each record ([`names`]), its representation there ([`card`]), the records, one repository of many.
//! - Enters: a store with blobs, manifests and tags.
//! - Leaves: what a daemon needs ([`Records`](super::Records), a store for each repository).
//! - Deliberately absent: retries, limits, names in errors (wrappers, see [`super::open`]).
//!
//! Everything is stored in *one* repository: many registries do not create repositories on push, or do not accept nested names
//! (Amazon's, Docker Hub), and blobs remain one set for all repositories, as the tiers and the doors expect. A tag of a
//! repository other than the CLI's is a tag too, whose name includes the repository (`_c.t.<repository>.<tag>`), and points at
//! the image itself, so that any tool can pull it there and the store's own garbage collection sees that it is in use. The
//! CLI's own tags are as the CLI writes them.
//!
//! A manifest that a registry does not accept as such (other media types, manifests that name missing digests) is stored as a
//! blob, and its tag is a record that points at it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use self::{card::Card, repo::InRepo};
use super::{
    Body, Expect, Published, RepoStore, Untag,
    error::{Error, ErrorKind, Result},
    keys::Repo,
    record::Manifested,
};
use crate::{
    artifact::{Descriptor, Tag},
    digest::Digest,
    lately::Lately,
};

mod card;
pub(super) mod names;
mod records;
mod repo;

/// Records that are read concurrently.
const AT_ONCE: usize = 16;
/// Manifests of the CLI's own tags that are remembered.
const MAX_BY_TAG: usize = 4096;

/// What the underlying store must provide.
#[async_trait]
pub trait Flat: RepoStore + Untag {
    /// Returns true if the bytes of a manifest are also a blob.
    fn manifests_are_blobs(&self) -> bool;

    /// As [`TagStore::tags`](super::TagStore::tags), without those whose manifest is gone.
    async fn standing(&self, prefix: &str) -> Result<Vec<Tag>>;
}

/// Many repositories in one flat store; cheap to clone.
pub struct ByTags<S>(Arc<Inner<S>>);

struct Inner<S> {
    flat: S,
    /// The empty config of our records was stored there by this process.
    has_empty: AtomicBool,
    /// Manifests that tags of the CLI were seen to point at. The command line writes directly to the store without recording
    /// its manifests, and a digest alone proves nothing, since the manifests of all repositories share one. Clients first ask
    /// for a tag, then for the digest that it had.
    by_tag: Lately<Digest, Manifested>,
}

impl<S> Clone for ByTags<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Flat> ByTags<S> {
    /// The repositories in `flat`; sends no request and writes nothing yet.
    pub fn new(flat: S) -> Self {
        Self(Arc::new(Inner {
            flat,
            has_empty: AtomicBool::new(false),
            by_tag: Lately::new(MAX_BY_TAG, Duration::MAX),
        }))
    }

    /// One of them.
    pub fn in_repo(&self, repo: Repo) -> InRepo<S> {
        InRepo::new(self.clone(), repo)
    }

    fn flat(&self) -> &S {
        &self.0.flat
    }

    /// Writes a record to its place; `keeps` is the manifest that it keeps alive.
    async fn write(
        &self,
        place: &Tag,
        card: &Card,
        keeps: Option<&Descriptor>,
        expect: &Expect,
    ) -> Result<Published> {
        let flat = self.flat();
        if let Some(other) = keeps {
            let manifest = card.naming(other);
            match flat.publish(&manifest, Some(place), expect).await {
                // To the registry, what it should keep alive is not a manifest.
                Err(e) if is_refusal(&e) => {
                    tracing::debug!(error = %e, key = card.key, "Record stored without a reference to its manifest");
                }
                done => return done,
            }
        }
        let manifest = card.manifest();
        let has_empty = self.0.has_empty.load(Ordering::Relaxed);
        if has_empty {
            match flat.publish(&manifest, Some(place), expect).await {
                // The registry's garbage collection may have removed the empty blob before anything referred to it.
                Err(e) if is_refusal(&e) => {}
                done => return done,
            }
        }
        flat.put(&card::empty(), &Body::from(Bytes::from_static(card::EMPTY)))
            .await?;
        let done = flat.publish(&manifest, Some(place), expect).await?;
        self.0.has_empty.store(true, Ordering::Relaxed);
        Ok(done)
    }
}

/// Returns true if a store does not accept a manifest in this form, so that a retry is useless.
fn is_refusal(e: &Error) -> bool {
    matches!(
        e.kind,
        ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::Corrupt
    )
}

/// The error for a key that does not belong to a record of a repository.
fn no_place(op: &'static str, key: &str) -> Error {
    let why = "only records of repositories can be stored here, under the names of keys.rs";
    Error::unsupported(op, why).at("", key)
}

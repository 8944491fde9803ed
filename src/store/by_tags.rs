//! Many repositories, and their records, in a store that has one flat list of tags: a registry's repository, an image layout.
//!
//! - Holds: where each record lies ([`names`]), what it looks like there ([`card`]), the records, one repository of many.
//! - Enters: a store with blobs, manifests and tags.
//! - Leaves: what a daemon needs ([`Records`](super::Records), a store for each repository).
//! - Deliberately absent: trying again, limits, names in errors (wrappers, see [`super::open`]).
//!
//! Everything lies in *one* repository: many registries make none when they are pushed to, or take no nested names (Amazon's, Docker
//! Hub), and blobs stay what the tiers and the doors take them for, one set for all repositories. A tag of another repository
//! than the CLI's own is a tag too, spelled with its repository (`_c.t.<repository>.<tag>`), and leads to the image itself, so that any
//! tool can pull it there and the store's own collection of garbage sees that it is needed. The CLI's own tags are as the CLI writes them.
//!
//! What a registry does not take as a manifest (other media types, manifests that name what is not there) is kept as a blob, and its tag is a
//! record that points at it.

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

/// Records that are read at once.
const AT_ONCE: usize = 16;
/// Manifests of the CLI's own tags that are remembered.
const MAX_BY_TAG: usize = 4096;

/// What a store has to have for it.
#[async_trait]
pub trait Flat: RepoStore + Untag {
    /// Says whether the bytes of a manifest are a blob too.
    fn manifests_are_blobs(&self) -> bool;

    /// As [`TagStore::tags`](super::TagStore::tags), without those that lead nowhere any more.
    async fn standing(&self, prefix: &str) -> Result<Vec<Tag>>;
}

/// Many repositories in one flat store; cheap to clone.
pub struct ByTags<S>(Arc<Inner<S>>);

struct Inner<S> {
    flat: S,
    /// The empty config of our records was put there by this process.
    has_empty: AtomicBool,
    /// Manifests that the CLI's own tags were seen to lead to. The command line writes straight to the store and leaves no record of
    /// its manifests, and a digest alone proves nothing: every repository's manifests lie in one. Clients ask for a tag first, then
    /// for the digest that it had.
    by_tag: Lately<Digest, Manifested>,
}

impl<S> Clone for ByTags<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Flat> ByTags<S> {
    /// Those in `flat`; nothing is asked or made yet.
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

    /// Writes a record where it belongs; `keeps` is the manifest that it keeps alive.
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
                // What it should keep alive is none to the registry.
                Err(e) if is_refusal(&e) => {
                    tracing::debug!(error = %e, key = card.key, "Record stands alone");
                }
                done => return done,
            }
        }
        let manifest = card.manifest();
        let has_empty = self.0.has_empty.load(Ordering::Relaxed);
        if has_empty {
            match flat.publish(&manifest, Some(place), expect).await {
                // The registry's collection of garbage may have taken the empty blob, as long as nothing named it.
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

/// Says whether a store does not take a manifest as it is, so that asking again is of no use.
fn is_refusal(e: &Error) -> bool {
    matches!(
        e.kind,
        ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::Corrupt
    )
}

/// What is no key of a record of a repository.
fn no_place(op: &'static str, key: &str) -> Error {
    let why = "only records of repositories are kept here, by the names of keys.rs";
    Error::new(ErrorKind::Unsupported, op, why).at("", key)
}

//! State that all operations of one registry store share.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

use super::{cleanups::Cleanups, once::Once, scopes::Scopes, transport::Transport};

/// The transport, the repository, and what was learned about the registry's behaviour.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) transport: Transport,
    pub(super) repository: String,
    /// The store's URL, for messages.
    pub(super) shown: String,
    pub(super) chunk_bytes: u64,
    pub(super) mount_from: Vec<String>,
    /// The way of sending a whole blob that this registry accepts: see `outcome::Way`.
    pub(super) way: AtomicU8,
    /// The registry answers a blob in one POST with an upload session: sending the blob in it is useless.
    pub(super) no_single_post: AtomicBool,
    /// Size of a piece at a registry that loses an upload when its connection breaks: see `upload`. 0: none was lost yet.
    pub(super) careful_bytes: AtomicU64,
    /// The registry cannot remove tags, and a tag in the repository records that: see `tags`.
    pub(super) overwrites: AtomicBool,
    pub(super) cleanups: Cleanups,
    pub(super) clockless: Once,
}

impl Shared {
    /// A URL below the repository.
    pub(super) fn url(&self, path: &str) -> reqwest::Url {
        self.transport.url(&format!("{}/{path}", self.repository))
    }

    pub(super) fn pull(&self) -> Scopes {
        Scopes::pull(&self.repository)
    }

    pub(super) fn push(&self) -> Scopes {
        Scopes::push(&self.repository)
    }
}

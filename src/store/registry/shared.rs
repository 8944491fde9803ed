//! What all operations of one registry store share.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

use super::{cleanups::Cleanups, once::Once, scopes::Scopes, transport::Transport};

/// The way to the registry, the repository, and what was found out about how it takes things.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) transport: Transport,
    pub(super) repository: String,
    /// The store's URL, for messages.
    pub(super) shown: String,
    pub(super) chunk_bytes: u64,
    pub(super) mount_from: Vec<String>,
    /// Which way of sending a whole blob this registry takes: see `outcome::Way`.
    pub(super) way: AtomicU8,
    /// The registry answers a blob in one POST with an upload session: not worth sending it there.
    pub(super) no_single_post: AtomicBool,
    /// Bytes of a piece at a registry that loses an upload when its connection breaks: see `upload`. 0: none was lost yet.
    pub(super) careful_bytes: AtomicU64,
    /// The registry cannot remove tags, and the repository says so: see `tags`.
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

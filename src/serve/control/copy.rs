//! The stores of a copy: the daemon's own, and others that the request names.
//!
//! The daemon uses its credentials for their hosts. A name and password that are configured for *the* registry of its own store
//! are not used: a request could send them anywhere.

use std::sync::atomic::Ordering;

use tonic::Status;

use super::{Settings, Shared, error::Asked};
use crate::store::{
    Store, StoreUrl,
    open::{self, Options},
    registry,
};

/// Which side of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    From,
    To,
}

/// A store of a copy that may be opened, but is not yet.
pub(super) enum Other {
    /// The daemon's own.
    Own,
    /// A store elsewhere.
    At(Box<StoreUrl>, Side),
}

impl Other {
    /// The store at `url`; the daemon's own for an empty one. Sends no request yet.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid URL, `PermissionDenied` for a path of this machine.
    pub(super) fn parse(shared: &Shared, url: &str, side: Side) -> Result<Self, Status> {
        if url.is_empty() {
            return Ok(Self::Own);
        }
        let parsed: StoreUrl = url
            .parse()
            .map_err(|e: crate::store::Error| Status::invalid_argument(e.to_string()))?;
        if names_a_path(&parsed) && !shared.allow_path.load(Ordering::Relaxed) {
            return Err(Status::permission_denied(format!(
                "this daemon does not open paths on its machine (`{parsed}`): start it with --allow-path, or copy with --by here"
            )));
        }
        Ok(Self::At(Box::new(parsed), side))
    }

    /// Opens it.
    ///
    /// # Errors
    /// By the kind of the store's error.
    pub(super) async fn open(self, shared: &Shared, asked: &Asked) -> Result<Store, Status> {
        let (url, side) = match self {
            Self::Own => return Ok(shared.store.clone()),
            Self::At(url, side) => (url, side),
        };
        let options = options(&shared.settings, side);
        let opened = Box::pin(open::open(&url, &options)).await;
        let own = shared.store.url().to_string();
        opened.map_err(|e| asked.status(&e.into(), &own))
    }
}

fn names_a_path(url: &StoreUrl) -> bool {
    match url {
        StoreUrl::Disk(_) | StoreUrl::Layout(_) => true,
        StoreUrl::Daemon(location) => location.is_socket(),
        StoreUrl::S3(_) | StoreUrl::Registry(_) => false,
    }
}

fn options(settings: &Settings, side: Side) -> Options {
    let own = &settings.options;
    Options {
        read_only: side == Side::From,
        concurrency: settings.concurrency,
        // Copied data is hashed, even if the daemon does not hash what it serves.
        verified: true,
        beside_doors: false,
        registry: registry::Config {
            username: None,
            password: None,
            password_file: None,
            mount_from: Vec::new(),
            ..own.registry.clone()
        },
        ..own.clone()
    }
}

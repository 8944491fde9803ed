//! Opens stores according to the settings.

use std::path::PathBuf;

use super::error::{CommandError, Result};
pub(crate) use crate::store::unfilled;
use crate::store::{
    Store, StoreUrl,
    open::{self, Options},
};

/// Opens the store at `url`; sends no request to remotes yet.
pub(crate) async fn open(url: &str, options: &Options) -> Result<Store> {
    Ok(open::open(&url.parse()?, options).await?)
}

/// Checks that a store of that kind answers at `url`.
pub(crate) async fn ping(url: &str, options: &Options) -> Result<()> {
    Ok(open::ping(&url.parse()?, options).await?)
}

/// Where a store is, as far as it decides which process does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locality {
    /// In a folder of this node.
    Folder,
    /// At a server that any client with credentials can reach.
    Remote,
    /// Behind a daemon.
    Daemon,
}

/// Where the store at `url` is.
pub(crate) fn place(url: &str) -> Result<Locality> {
    Ok(match url.parse()? {
        StoreUrl::Disk(_) | StoreUrl::Layout(_) => Locality::Folder,
        StoreUrl::S3(_) | StoreUrl::Registry(_) => Locality::Remote,
        StoreUrl::Daemon(_) => Locality::Daemon,
    })
}

/// The folder of the store at `url`, if it is in one; `None` also for an invalid URL.
pub(crate) fn folder(url: &str) -> Option<PathBuf> {
    match url.parse().ok()? {
        StoreUrl::Disk(path) | StoreUrl::Layout(path) => Some(path),
        _ => None,
    }
}

/// Returns true if the store at `url` is a folder, existing or not, in which nothing was ever stored; opening it would create a store
/// there.
pub(crate) fn is_unmade(url: &str) -> bool {
    let (root, marks): (_, &[&str]) = match url.parse() {
        Ok(StoreUrl::Disk(root)) => (root, &["blobs", "meta", "r"]),
        Ok(StoreUrl::Layout(root)) => (root, &["blobs", "index.json", "oci-layout"]),
        _ => return false,
    };
    // A folder that cannot be read may be a store.
    marks
        .iter()
        .all(|mark| matches!(root.join(mark).try_exists(), Ok(false)))
}

/// Refuses a missing folder; nothing is known about a remote store before the first request.
pub(crate) fn must_be_there(url: &str) -> Result<()> {
    let (StoreUrl::Disk(path) | StoreUrl::Layout(path)) = url.parse()? else {
        return Ok(());
    };
    if path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    Err(
        CommandError::failed(format!("there is no store at `{}`", path.display()))
            .hint("it will be created by the first export"),
    )
}

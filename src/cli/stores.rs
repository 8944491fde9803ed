//! Opens stores as the settings say; one of two files here that know the rooms below `ops`.

use std::path::PathBuf;

use super::{
    error::{CommandError, Result},
    session::Session,
};
pub(crate) use crate::store::unfilled;
use crate::store::{
    Store,
    open::{self, Options, StoreUrl},
};

/// Opens the store at `url`; remotes are not asked anything yet.
pub(crate) async fn open(url: &str, session: &Session, read_only: bool) -> Result<Store> {
    Ok(open::open(&url.parse()?, &options(session, read_only)).await?)
}

/// Asks whether a store of that kind answers at `url`.
pub(crate) async fn ping(url: &str, session: &Session) -> Result<()> {
    Ok(open::ping(&url.parse()?, &options(session, true)).await?)
}

fn options(session: &Session, read_only: bool) -> Options {
    let config = session.config();
    Options {
        read_only,
        concurrency: config.concurrency,
        trouble: session.trouble.clone(),
        ..config.remote.clone()
    }
}

/// Where a store is, as far as it matters to who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a folder of this node.
    Folder,
    /// At a server that anybody with credentials may ask.
    Remote,
    /// Behind a daemon.
    Daemon,
}

/// Where the store at `url` is.
pub(crate) fn place(url: &str) -> Result<Place> {
    Ok(match url.parse()? {
        StoreUrl::Disk(_) | StoreUrl::Layout(_) => Place::Folder,
        StoreUrl::S3(_) | StoreUrl::Registry(_) => Place::Remote,
        StoreUrl::Daemon(_) => Place::Daemon,
    })
}

/// The folder of the store at `url`, if it is in one; `None` also for what is no URL.
pub(crate) fn folder(url: &str) -> Option<PathBuf> {
    match url.parse().ok()? {
        StoreUrl::Disk(path) | StoreUrl::Layout(path) => Some(path),
        _ => None,
    }
}

/// Says whether the store at `url` is a folder in which nothing was ever stored, there or not; to open it would make it one.
pub(crate) fn is_unmade(url: &str) -> bool {
    let (root, marks): (_, &[&str]) = match url.parse() {
        Ok(StoreUrl::Disk(root)) => (root, &["blobs", "meta", "r"]),
        Ok(StoreUrl::Layout(root)) => (root, &["blobs", "index.json", "oci-layout"]),
        _ => return false,
    };
    // What cannot be looked at is no store that nobody made.
    marks
        .iter()
        .all(|mark| matches!(root.join(mark).try_exists(), Ok(false)))
}

/// Refuses a folder that is not there; of what is remote nothing is known before it is asked.
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

//! `@v/list`: rewritten as Go does after each `.mod` it writes (`rewriteVersionList` in `cmd/go/internal/modfetch/cache.go`).

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::versions;
use crate::{
    entry::EntryPath,
    fs::{self, Dir},
    source::stable::{open_parent, replace_small},
};

/// How long to wait for a `go` command that writes the same list; it needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Longest list that is compared with the new one.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// Rewrites the list in `folder` (`…/@v`) if it is not right, under the lock that Go takes.
///
/// If another process holds the lock for long, the list is left to it: the list is only needed to list versions offline.
pub(super) fn rewrite(root: &Dir, folder: &EntryPath) -> fs::Result<()> {
    let dir = open_parent(root, folder)?.open_dir(folder.name())?;
    let failed = |what, e: std::io::Error| fs::Error::new(what, dir.at(b"list"), e);
    // Edited in place, as Go does: a rename would take the file from under its lock.
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file: File = rustix::fs::openat(dir.as_fd(), "list", flags, Mode::from_raw_mode(0o666))
        .map_err(|e| failed("open", e.into()))?
        .into();
    let end = Instant::now() + LOCK_PATIENCE;
    while let Err(e) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if !matches!(e, rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) {
            return Err(failed("lock", e.into()));
        }
        if Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let names = dir.list()?;
    let list = versions::list(names.iter().map(|n| &*n.name));
    let mut old = Vec::new();
    (&file)
        .take(MAX_LIST_BYTES)
        .read_to_end(&mut old)
        .map_err(|e| failed("read", e))?;
    if old == list {
        return Ok(());
    }
    let stat = fs::stat_file(&file).map_err(|e| failed("stat", e))?;
    if stat.nlink > 1 {
        // Do not change its other names. Another user may use the list later: if owner or mode cannot be kept, that user's `go`
        // copes with the existing list.
        replace_small(&dir, b"list", &list)?;
        let _ = dir.set_owner(b"list", stat.uid, stat.gid);
        let _ = dir.set_mode(b"list", stat.mode() & 0o777);
        return Ok(());
    }
    // Zeroes first, as Go does: a truncated write can be detected.
    let mut write = || {
        file.set_len(0)?;
        file.set_len(list.len() as u64)?;
        file.rewind()?;
        file.write_all(&list)
    };
    write().map_err(|e| failed("write", e))
}

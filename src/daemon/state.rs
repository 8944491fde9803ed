//! The state folder, which only one daemon at a time can use.

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::error::{Error, Result};
use crate::fs::{self, Durability, Lock, LockMode};

/// The file that is locked.
const LOCK: &str = "lock";
/// The file with the id of the process that holds the lock; only for messages.
const PID: &str = "pid";

/// A state folder that is locked until this is dropped, or the process ends.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: Lock,
}

impl StateDir {
    /// Creates the folder if missing, accessible to this user only, and locks it. Blocks.
    ///
    /// # Errors
    /// Another daemon uses it; it cannot be created or written to.
    pub(super) fn claim(path: &Path) -> Result<Self> {
        let unusable = |e: fs::Error| {
            let why = super::error::with_causes(&e);
            Error::failed(format!(
                "cannot use the state folder {}: {why}",
                path.display()
            ))
            .hint("set CACHECTLD_STATE_DIR or --state to a folder writable by this user")
        };
        let path =
            &std::path::absolute(path).map_err(|e| unusable(fs::Error::new("find", path, e)))?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| unusable(fs::Error::new("create folder", path, e)))?;
        check_mode(path)?;
        let lock = Lock::try_now(&path.join(LOCK), LockMode::Exclusive).map_err(unusable)?;
        let pid = path.join(PID);
        let Some(lock) = lock else {
            let other = fs::read_if_there(&pid, 64).ok().flatten();
            let other = other.and_then(|b| String::from_utf8(b).ok());
            let other = other.map_or_else(String::new, |pid| format!(" (pid {})", pid.trim()));
            return Err(Error::failed(format!(
                "another cachectld{other} uses the state folder {}",
                path.display()
            ))
            .hint("stop that one, or use another folder with --state"));
        };
        fs::make_own_dirs(path).map_err(unusable)?;
        let own = format!("{}\n", std::process::id());
        if let Err(error) = fs::write_atomic(&pid, own.as_bytes(), Durability::Rename) {
            // The disk may be full: a running daemon is what frees it.
            tracing::warn!(%error, "Could not write the process id file (only used in the error message of a second daemon)");
        }
        Ok(Self {
            path: path.clone(),
            _lock: lock,
        })
    }

    /// The folder, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a folder in which every user could replace the token key or the queue.
fn check_mode(path: &Path) -> Result<()> {
    let stat = fs::Dir::open(path).and_then(|dir| dir.stat_self());
    let mode = stat.map_err(|e| Error::failed(e.to_string()))?.mode();
    if mode & 0o002 == 0 {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the state folder {} is world-writable (mode {mode:o}), but contains the key that signs tokens",
        path.display()
    ))
    .hint(format!(
        "chmod o-w {0}, or set --state to a folder in it, such as {0}/cachectld",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_claimed_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = StateDir::claim(&path).unwrap();
        let e = StateDir::claim(&path).unwrap_err();
        let pid = format!("another cachectld (pid {})", std::process::id());
        assert!(e.message.starts_with(&pid), "{}", e.message);
        drop(first);
        assert!(StateDir::claim(&path).is_ok());
    }

    #[test]
    fn a_disk_without_room_for_the_process_id_is_no_reason_not_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        drop(StateDir::claim(&path).unwrap());
        std::fs::remove_file(path.join(PID)).unwrap();
        // It cannot be overwritten.
        std::fs::create_dir_all(path.join(PID).join("x")).unwrap();
        StateDir::claim(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_and_a_new_one_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        StateDir::claim(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        for (mode, taken) in [
            (0o777, false),
            (0o1777, false),
            (0o702, false),
            (0o775, true),
            (0o755, true),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(StateDir::claim(&path).is_ok(), taken, "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_folder_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let e = StateDir::claim(&file.path().join("state")).unwrap_err();
        assert!(e.message.contains("cannot use the state folder"));
        assert!(e.hint.unwrap().contains("--state"));
    }
}

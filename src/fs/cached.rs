//! Files in the kernel's caches: looked up and read without waiting for a disk, so without a thread for blocking work.
//!
//! Such a thread costs more than everything else in the lookup of a small file. If the kernel would have to wait, or cannot tell
//! whether it would, the answer is [`Cached::Unknown`], and a blocking call is needed.

use std::{
    fs::File,
    io::IoSliceMut,
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::{Errno, ReadWriteFlags, preadv2},
};

use super::Stat;

/// Set once the kernel (before 5.12) or a seccomp filter has refused `RESOLVE_CACHED`; openat2(2).
static NOT_HERE: AtomicBool = AtomicBool::new(false);

/// File systems that never ask another machine or process to open a file; magic numbers of statfs(2): ext2 to ext4, XFS, Btrfs,
/// tmpfs, overlayfs, ZFS, F2FS, bcachefs.
const LOCAL: [u32; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0xca45_1a4e,
];

/// What the kernel knows without waiting.
#[derive(Debug)]
pub enum Cached<T> {
    /// It exists.
    There(T),
    /// It does not exist.
    Missing,
    /// Only a call that may wait can tell.
    Unknown,
}

impl<T> Cached<T> {
    /// Applies `what` if it exists.
    pub fn and_then<U>(self, what: impl FnOnce(T) -> Cached<U>) -> Cached<U> {
        match self {
            Self::There(it) => what(it),
            Self::Missing => Cached::Missing,
            Self::Unknown => Cached::Unknown,
        }
    }
}

/// Opens the regular file `below` the folder `root` for reading; links are followed in `root` only.
pub fn open_cached(root: &Path, below: &str) -> Cached<(File, Stat)> {
    if NOT_HERE.load(Ordering::Relaxed) {
        return Cached::Unknown;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, root, flags, Mode::empty(), ResolveFlags::CACHED);
    let root = match opened {
        Ok(root) => root,
        Err(e) => {
            let refused = matches!(e, Errno::NOSYS | Errno::PERM | Errno::INVAL);
            NOT_HERE.fetch_or(refused, Ordering::Relaxed);
            return Cached::Unknown;
        }
    };
    if !is_local(&root) {
        return Cached::Unknown;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let how = ResolveFlags::CACHED | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(&root, below, flags, Mode::empty(), how) {
        Ok(fd) => match rustix::fs::fstat(&fd).map(|s| Stat::from_raw(&s)) {
            Ok(stat) if stat.is_file() => Cached::There((fd.into(), stat)),
            _ => Cached::Unknown,
        },
        Err(Errno::NOENT) => Cached::Missing,
        Err(_) => Cached::Unknown,
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "magic numbers have 32 bits, in a type that differs between machines"
)]
fn is_local(folder: &OwnedFd) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|fs| LOCAL.contains(&(fs.f_type as u32)))
}

/// Reads bytes that are already in memory; 0 if there are none, or the file system cannot tell.
pub fn read_cached(file: &File, into: &mut [u8], at: u64) -> usize {
    let into = &mut [IoSliceMut::new(into)];
    preadv2(file, into, at, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_hand_is_what_is_there() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(temp.path().join("d/f"), b"content").unwrap();
        std::os::unix::fs::symlink("f", temp.path().join("d/l")).unwrap();
        std::os::unix::fs::symlink("d", temp.path().join("link")).unwrap();
        // The kernel may always say that it does not know.
        match open_cached(temp.path(), "d/f") {
            Cached::There((file, stat)) => {
                assert_eq!(stat.size, 7);
                let mut bytes = [0; 9];
                let count = read_cached(&file, &mut bytes, 0);
                assert!(count == 0 || &bytes[..count] == b"content");
            }
            Cached::Missing => panic!("it is there"),
            Cached::Unknown => {}
        }
        for name in ["d/missing", "no/f"] {
            // The first look may be what brings the name to hand.
            let _ = std::fs::metadata(temp.path().join(name));
            let found = open_cached(temp.path(), name);
            assert!(!matches!(found, Cached::There(_)), "{name}");
        }
        for name in ["d", "d/l", "link/f", "../f"] {
            let found = open_cached(temp.path(), name);
            assert!(matches!(found, Cached::Unknown), "{name}: {found:?}");
        }
        let found = open_cached(&temp.path().join("not"), "d/f");
        assert!(matches!(found, Cached::Unknown));
    }
}

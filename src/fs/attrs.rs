//! Owner, mode and extended attributes of open files and folders.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{Gid, Mode, Uid, XattrFlags},
    io::Errno,
};

/// Sets the permission bits of an open file or folder.
pub fn set_open_mode(fd: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?)
}

/// Sets owner and group of an open file or folder; clears setuid and setgid bits of files.
pub fn set_open_owner(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(
        fd,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

/// Names of the extended attributes of an open file or folder, sorted; empty if the file system does not support them.
pub fn xattr_names(fd: impl AsFd) -> io::Result<Vec<Box<[u8]>>> {
    let mut list = Vec::with_capacity(1024);
    loop {
        list.clear();
        match rustix::fs::flistxattr(&fd, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => break,
            // The kernel's own limit for a list is 64 KiB.
            Err(Errno::RANGE) if list.capacity() < 1 << 17 => list.reserve(list.capacity() * 4),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
    }
    let mut names: Vec<Box<[u8]>> = list
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(Into::into)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The value of an extended attribute; `None` if it does not exist.
pub fn xattr(fd: impl AsFd, name: &[u8]) -> io::Result<Option<Box<[u8]>>> {
    let mut value = Vec::with_capacity(256);
    loop {
        value.clear();
        match rustix::fs::fgetxattr(&fd, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => return Ok(Some(value.into())),
            // The kernel's own limit for a value is 64 KiB.
            Err(Errno::RANGE) if value.capacity() < 1 << 17 => {
                value.reserve(value.capacity() * 4);
            }
            Err(Errno::NODATA) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sets an extended attribute.
pub fn set_xattr(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

/// Removes an extended attribute; its absence is no error.
pub fn remove_xattr(fd: impl AsFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::fremovexattr(fd, name) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Returns true if this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The effective user of this process.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

//! Which extended attributes are carried: `user.*` always; `security.*`, `trusted.*` and ACLs only for root and with `--owner`,
//! since they grant rights. Attributes of symbolic links are not carried.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use crate::{entry::Xattr, fs};

/// Longest name (`XATTR_NAME_MAX`) and value (`XATTR_SIZE_MAX`) of one attribute, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// See [`MAX_NAME_BYTES`].
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// Maximum bytes of all names and values of one entry.
pub const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Name and value, as in [`crate::entry::Entry::xattrs`].
pub type Xattrs = Vec<Xattr>;

/// Returns true if an attribute is carried; `privileged`: root, and owners are carried.
pub fn travels(name: &[u8], privileged: bool) -> bool {
    name.starts_with(b"user.") || privileged
}

/// Reads the carried attributes, sorted by name; counts the others in `left` by name.
///
/// # Errors
/// System errors, and more than [`MAX_ENTRY_BYTES`] (`InvalidData`).
pub fn read(
    fd: impl AsFd,
    privileged: bool,
    left: &mut BTreeMap<Box<[u8]>, u64>,
) -> io::Result<Xattrs> {
    let mut all = Vec::new();
    let mut bytes = 0;
    for name in fs::xattr_names(&fd)? {
        if !travels(&name, privileged) {
            *left.entry(name).or_default() += 1;
            continue;
        }
        let Some(value) = fs::xattr(&fd, &name)? else {
            continue;
        };
        bytes += name.len() + value.len();
        if bytes > MAX_ENTRY_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its extended attributes are longer than 1 MiB",
            ));
        }
        all.push((name, value));
    }
    Ok(all)
}

/// Makes the carried attributes equal to `wanted`; all others are left unchanged.
pub fn write(fd: impl AsFd, wanted: &[Xattr], privileged: bool) -> io::Result<()> {
    let have = read(&fd, privileged, &mut BTreeMap::new())?;
    for (name, _) in &have {
        if !wanted.iter().any(|(n, _)| n == name) {
            fs::remove_xattr(&fd, name)?;
        }
    }
    for item in wanted.iter().filter(|(n, _)| travels(n, privileged)) {
        if !have.contains(item) {
            fs::set_xattr(&fd, &item.0, &item.1)?;
        }
    }
    Ok(())
}

/// Checks that a list of attributes may be restored from a snapshot; the error is the reason why not.
pub fn admit(xattrs: &[Xattr]) -> Result<(), String> {
    let mut bytes = 0;
    for (name, value) in xattrs {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(&0) {
            return Err("it has an extended attribute with an invalid name".to_owned());
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err("it has an extended attribute longer than 64 KiB".to_owned());
        }
        bytes += name.len() + value.len();
    }
    if bytes > MAX_ENTRY_BYTES {
        return Err("its extended attributes are longer than 1 MiB".to_owned());
    }
    if !xattrs.windows(2).all(|w| w[0].0 < w[1].0) {
        return Err("its extended attributes are not in order".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[(&[u8], &[u8])]) -> Xattrs {
        items
            .iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_back_and_the_rest_removed() {
        // Not every file system has them: the machine's /tmp may be a tmpfs of an old kernel.
        let file = tempfile::tempfile_in(".").unwrap();
        if fs::set_xattr(&file, b"user.old", b"x").is_err() {
            return;
        }
        let big = vec![b'v'; 3000];
        let wanted = list(&[(b"user.a", b""), (b"user.b", &big)]);
        write(&file, &wanted, false).unwrap();
        let mut left = BTreeMap::new();
        assert_eq!(read(&file, false, &mut left).unwrap(), wanted);
        write(&file, &list(&[]), false).unwrap();
        assert_eq!(read(&file, false, &mut left).unwrap(), []);
    }

    #[test]
    fn only_user_attributes_travel_without_privilege() {
        assert!(travels(b"user.x", false));
        for name in [
            &b"security.capability"[..],
            b"trusted.x",
            b"system.posix_acl_access",
        ] {
            assert!(!travels(name, false));
            assert!(travels(name, true));
        }
    }

    #[test]
    fn impossible_lists_are_refused() {
        assert!(admit(&list(&[(b"user.a", b"x"), (b"user.b", b"")])).is_ok());
        let long = vec![0; MAX_VALUE_BYTES + 1];
        for bad in [
            list(&[(b"", b"x")]),
            list(&[(b"user.\0", b"x")]),
            list(&[(b"user.b", b""), (b"user.a", b"")]),
            list(&[(b"user.a", b""), (b"user.a", b"")]),
            list(&[(b"user.a", &long)]),
        ] {
            assert!(admit(&bad).is_err());
        }
    }
}

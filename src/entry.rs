//! One file of a cache in transit: a relative path, its kind, its metadata.
//!
//! Paths are bytes, as on Unix: they need not be UTF-8.

use std::{ffi::OsStr, fmt, io::Read, os::unix::ffi::OsStrExt as _, path::Path, sync::Arc};

/// Longest path of an entry, in bytes (`PATH_MAX` of Linux, its NUL included).
pub const MAX_PATH_BYTES: usize = 4095;
/// Longest name of one file, in bytes (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;

/// The path of an entry below its root: `/`-separated names, none of them empty, `.` or `..`, no NUL byte.
///
/// Ordered by bytes, so a folder comes before its contents, but not always directly before. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Arc<[u8]>);

/// Why bytes are not the path of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{path}` is refused: {why}")]
pub struct PathRefused {
    /// The path in printable form, at most some 200 characters of it.
    pub path: String,
    /// The violated rule.
    pub why: &'static str,
}

impl EntryPath {
    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// When the path is empty, absolute, too long, or holds a NUL, an empty name, `.` or `..`.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Result<Self, PathRefused> {
        let bytes = bytes.into();
        match Self::fault(&bytes) {
            None => Ok(Self(bytes)),
            Some(why) => {
                let path = String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
                    .escape_debug()
                    .to_string();
                Err(PathRefused { path, why })
            }
        }
    }

    fn fault(bytes: &[u8]) -> Option<&'static str> {
        if bytes.is_empty() {
            return Some("it is empty");
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Some("it is longer than 4095 bytes");
        }
        if bytes[0] == b'/' {
            return Some("it is absolute");
        }
        bytes.split(|b| *b == b'/').find_map(Self::fault_of_name)
    }

    fn fault_of_name(name: &[u8]) -> Option<&'static str> {
        match name {
            b"" => Some("it has an empty name"),
            b"." | b".." => Some("it has a `.` or `..` name"),
            n if n.len() > MAX_NAME_BYTES => Some("a name in it is longer than 255 bytes"),
            n if n.contains(&0) => Some("it has a NUL byte"),
            _ => None,
        }
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a relative [`Path`].
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The last name.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or(&self.0)
    }

    /// The folder that holds this entry; `None` at the top.
    pub fn parent(&self) -> Option<EntryPath> {
        let folder = self.folder();
        (!folder.is_empty()).then(|| Self(folder.into()))
    }

    /// The bytes of the path of the folder that holds this entry; empty at the top.
    pub fn folder(&self) -> &[u8] {
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        &self.0[..end]
    }

    /// The names from the top down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// This path with `name` below it.
    ///
    /// # Errors
    /// As [`EntryPath::new`].
    pub fn join(&self, name: &[u8]) -> Result<EntryPath, PathRefused> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        // The rest is checked already: trees are scanned name by name.
        let is_one_good_name = !name.contains(&b'/') && Self::fault_of_name(name).is_none();
        if is_one_good_name && bytes.len() <= MAX_PATH_BYTES {
            return Ok(Self(bytes.into()));
        }
        Self::new(bytes)
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0).escape_debug(), f)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// A file's timestamp: seconds from 1970 (negative before) and nanoseconds from 0 to 999,999,999.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// The rest, below one second.
    pub nanos: u32,
}

impl Time {
    /// The node's clock.
    pub fn now() -> Self {
        std::time::SystemTime::now().into()
    }

    /// Nanoseconds from 1970.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// The time this many nanoseconds from 1970; `None` if it does not fit.
    pub fn from_nanos(nanos: i128) -> Option<Self> {
        let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
        Some(Self {
            secs,
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
        })
    }

    /// Whole days from 1970 (UTC).
    pub fn day(self) -> u32 {
        u32::try_from(self.secs.div_euclid(86_400)).unwrap_or(0)
    }
}

impl From<std::time::SystemTime> for Time {
    fn from(t: std::time::SystemTime) -> Self {
        match t.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Self {
                secs: d.as_secs() as i64,
                nanos: d.subsec_nanos(),
            },
            Err(e) => Self::from_nanos(-(e.duration().as_nanos() as i128)).unwrap_or_default(),
        }
    }
}

/// Permissions and owner of an entry, and when it was last changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change of the content.
    pub mtime: Time,
}

/// A run of bytes of a file that contains data; between two of them is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length; never 0.
    pub len: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// The file's size, including holes.
        size: u64,
        /// For a sparse file its data in ascending order, disjoint; `None` for an ordinary one.
        ///
        /// The content (what is packed, hashed and cut into objects) is the data runs one after the other.
        extents: Option<Box<[Extent]>>,
    },
    /// A folder.
    Dir,
    /// A symbolic link, with its unmodified target.
    Symlink(Box<[u8]>),
    /// Another name of the regular file at that path, which must be an entry of the same tree.
    Hardlink(EntryPath),
}

impl Kind {
    /// Bytes of content: what is packed.
    pub fn content_len(&self) -> u64 {
        match self {
            Self::File {
                extents: Some(runs),
                ..
            } => runs.iter().map(|r| r.len).sum(),
            Self::File {
                size,
                extents: None,
            } => *size,
            _ => 0,
        }
    }

    /// Returns true if it is a regular file with its own content.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }
}

/// Name and value of an extended attribute.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// One file, folder or link of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place below the root.
    pub path: EntryPath,
    /// Its kind.
    pub kind: Kind,
    /// Permissions, owner, time.
    pub meta: Meta,
    /// Extended attributes, sorted by name; empty unless requested.
    pub xattrs: Box<[Xattr]>,
    /// The one other entry without which this one is useless (a Go action entry names its output).
    pub needs: Option<EntryPath>,
}

impl Entry {
    /// A regular file without holes, attributes or needs.
    pub fn file(path: EntryPath, size: u64, meta: Meta) -> Self {
        Self {
            path,
            kind: Kind::File {
                size,
                extents: None,
            },
            meta,
            xattrs: Box::default(),
            needs: None,
        }
    }
}

/// The content of one file as it is packed, to be read once to its end.
///
/// Yields exactly `entry.kind.content_len()` bytes, unless the file changed.
pub trait Content: Read + Send {
    /// To be called after the end: checks that what was read is one consistent state of the file.
    ///
    /// # Errors
    /// Why not, as text: the file changed while it was read, or it is damaged.
    fn settle(self: Box<Self>) -> std::result::Result<(), String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_refuses_what_could_leave_the_root() {
        for bad in [
            &b""[..],
            b"/etc",
            b"..",
            b"a/../b",
            b"a//b",
            b"a/",
            b"./a",
            b"a\0b",
            &[b'x'; 256],
            &[b'/'; 5000],
        ] {
            assert!(EntryPath::new(bad).is_err(), "{bad:?}");
        }
        for good in [
            &b"a"[..],
            b"a/b",
            b"...",
            b"..a",
            b"\xff\xfe",
            b"a\\b",
            b"C:",
        ] {
            assert!(EntryPath::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn time_round_trips_before_1970() {
        let t = Time {
            secs: -2,
            nanos: 999_999_999,
        };
        assert_eq!(Time::from_nanos(t.as_nanos()), Some(t));
    }

    #[test]
    fn parent_and_name_split_the_path() {
        let p = EntryPath::new(*b"a/b/c").unwrap();
        assert_eq!(p.name(), b"c");
        assert_eq!(p.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(EntryPath::new(*b"a").unwrap().parent(), None);
    }

    #[test]
    fn joined_paths_are_checked_like_others() {
        let folder = EntryPath::new(*b"a/b").unwrap();
        assert_eq!(folder.join(b"c").unwrap().as_bytes(), b"a/b/c");
        assert_eq!(folder.join(b"c/d").unwrap().as_bytes(), b"a/b/c/d");
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"c/../d",
            b"c/",
            b"a\0b",
            &[b'x'; 256],
        ] {
            assert!(folder.join(bad).is_err(), "{bad:?}");
        }
        let long = EntryPath::new(vec!["x"; 2040].join("/").into_bytes()).unwrap();
        assert!(long.join(&[b'y'; 15]).is_ok() && long.join(&[b'y'; 16]).is_err());
    }
}

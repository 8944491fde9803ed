//! A regular file read once from start to end, with proof that it did not change meanwhile.

use std::{
    fs::File,
    io::{self, Read, Write as _},
};

use crate::{
    entry::EntryPath,
    fs::{self, Dir, Stat, stat_file},
    source::Content,
};

/// What must stay the same while a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Inode, size, time of change of content and of metadata.
    All,
    /// Inode and size: for content that a digest proves, whose times its tool touches at will.
    Size,
}

/// A file opened in the state that the scan saw, which can tell at the end whether it has changed.
///
/// Yields at most the `len` bytes that the scan saw; a shrinking file yields fewer.
#[derive(Debug)]
pub struct StableFile {
    file: File,
    seen: Stat,
    watch: Watch,
    read: u64,
}

impl StableFile {
    /// Opens `name`, which a scan saw as `seen`; links are not followed, and a fifo that replaced the file does not block.
    ///
    /// # Errors
    /// A message: it cannot be opened, or has changed since the scan.
    pub fn open(dir: &Dir, name: &[u8], seen: &Stat, watch: Watch) -> Result<Self, String> {
        let file = dir.open_file(name).map_err(|e| e.to_string())?;
        let opened = Self {
            file,
            seen: *seen,
            watch,
            read: 0,
        };
        opened.unchanged()?;
        Ok(opened)
    }

    /// The open file, for reads at arbitrary offsets (which are not counted).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Checks that the file has not changed since the scan.
    ///
    /// # Errors
    /// A message about what changed.
    pub fn unchanged(&self) -> Result<(), String> {
        let now = stat_file(&self.file).map_err(|e| format!("it cannot be examined: {e}"))?;
        match difference(&self.seen, &now, self.watch) {
            None => Ok(()),
            Some(what) => Err(format!("it changed while it was read: {what}")),
        }
    }
}

/// The first difference between two states of a file.
fn difference(a: &Stat, b: &Stat, watch: Watch) -> Option<&'static str> {
    if !b.is_file() {
        return Some("it is no longer a regular file");
    }
    if (a.dev, a.ino) != (b.dev, b.ino) {
        return Some("it was replaced by another file");
    }
    if a.size != b.size {
        return Some("its size");
    }
    if watch == Watch::Size {
        return None;
    }
    if a.mtime != b.mtime {
        return Some("its time of change");
    }
    (a.ctime != b.ctime).then_some("its metadata")
}

impl Read for StableFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.seen.size - self.read;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read(&mut buf[..want])?;
        self.read += n as u64;
        Ok(n)
    }
}

impl Content for StableFile {
    fn settle(self: Box<Self>) -> Result<(), String> {
        if self.read != self.seen.size {
            return Err(format!(
                "{} bytes of it were read, {} expected",
                self.read, self.seen.size
            ));
        }
        self.unchanged()
    }
}

/// A small content that was already read completely and checked.
#[derive(Debug)]
pub struct HeldContent(io::Cursor<Vec<u8>>);

impl HeldContent {
    /// Yields `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(io::Cursor::new(bytes))
    }
}

impl Read for HeldContent {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Content for HeldContent {
    fn settle(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}

/// Opens the folder that contains `path` below `root`, name by name, without following links.
pub fn open_parent(root: &Dir, path: &EntryPath) -> fs::Result<Dir> {
    let mut dir: Option<Dir> = None;
    if let Some(parent) = path.parent() {
        for name in parent.names() {
            dir = Some(dir.as_ref().unwrap_or(root).open_dir(name)?);
        }
    }
    match dir {
        Some(dir) => Ok(dir),
        None => root.try_clone(),
    }
}

/// Replaces `name` in `dir` by this small content so that a reader sees either the old or the new content; links are not
/// followed.
///
/// Survives a kill, but not a power failure.
pub fn replace_small(dir: &Dir, name: &[u8], bytes: &[u8]) -> fs::Result<()> {
    let temp = format!(
        "{}.{:016x}.tmp",
        String::from_utf8_lossy(name),
        fastrand::u64(..)
    );
    let temp = temp.as_bytes();
    let mut file = dir.create_file(temp, 0o666)?;
    let done = file
        .write_all(bytes)
        .map_err(|e| fs::Error::new("write", dir.at(name), e))
        .and_then(|()| dir.rename(temp, dir, name));
    if done.is_err() {
        // The original error is reported; a leftover file does not justify a second one.
        let _ = dir.remove_file(temp);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("f"), b"hello").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    fn open(dir: &Dir, watch: Watch) -> Result<Box<StableFile>, String> {
        let seen = dir.stat(b"f").unwrap().unwrap();
        StableFile::open(dir, b"f", &seen, watch).map(Box::new)
    }

    #[test]
    fn a_quiet_file_settles() {
        let (_temp, dir) = folder();
        let mut f = open(&dir, Watch::All).unwrap();
        let mut text = String::new();
        f.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        f.settle().unwrap();
    }

    #[test]
    fn growth_shrinking_and_half_reads_do_not_settle() {
        for (new, watch) in [
            (&b"hello!"[..], Watch::Size),
            (b"hel", Watch::Size),
            (b"HELLO", Watch::All),
        ] {
            let (temp, dir) = folder();
            // Back in time, so that a rewrite within one tick of the clock still shows.
            dir.set_mtime(b"f", crate::entry::Time { secs: 1, nanos: 0 })
                .unwrap();
            let mut f = open(&dir, watch).unwrap();
            std::fs::write(temp.path().join("f"), new).unwrap();
            let mut bytes = Vec::new();
            f.read_to_end(&mut bytes).unwrap();
            assert!(bytes.len() <= 5);
            assert!(f.settle().is_err(), "{new:?}");
        }
        let (_temp, dir) = folder();
        let mut f = open(&dir, Watch::All).unwrap();
        f.read_exact(&mut [0; 2]).unwrap();
        assert!(f.settle().unwrap_err().contains("2 bytes"));
    }

    #[test]
    fn touching_counts_only_where_times_are_watched() {
        for (watch, settles) in [(Watch::All, false), (Watch::Size, true)] {
            let (_temp, dir) = folder();
            let mut f = open(&dir, watch).unwrap();
            dir.set_mtime(b"f", crate::entry::Time { secs: 1, nanos: 0 })
                .unwrap();
            f.read_to_end(&mut Vec::new()).unwrap();
            assert_eq!(f.settle().is_ok(), settles);
        }
    }

    #[test]
    fn what_is_not_the_seen_file_is_not_opened() {
        let (temp, dir) = folder();
        let seen = dir.stat(b"f").unwrap().unwrap();
        let path = temp.path().join("f");
        std::fs::write(temp.path().join("other"), b"hello").unwrap();
        std::fs::rename(temp.path().join("other"), &path).unwrap();
        assert!(StableFile::open(&dir, b"f", &seen, Watch::Size).is_err());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(StableFile::open(&dir, b"f", &seen, Watch::Size).is_err());
    }

    #[test]
    fn parent_is_opened_without_following_links() {
        let (temp, dir) = folder();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("l")).unwrap();
        let path = |p: &str| EntryPath::new(p.as_bytes()).unwrap();
        open_parent(&dir, &path("a/b/f")).unwrap();
        open_parent(&dir, &path("f")).unwrap();
        assert!(open_parent(&dir, &path("l/b/f")).is_err());
        assert!(open_parent(&dir, &path("x/f")).is_err());
    }
}

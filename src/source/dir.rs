//! Any folder: files, folders, symbolic and hard links, permissions, times to the nanosecond, holes, names of any bytes.
//!
//! - Devices, fifos and sockets are left out and reported. Unreadable files are detected when they are opened.
//! - If a file has several names in the tree, the first by bytes is the file, the others are links to it.
//! - Owners, and the setuid, setgid and sticky bits, are carried only with [`Options::owner`]: without it the same tree is the
//!   same snapshot for every exporting user. They are restored only with it, owners by root only.
//! - Extended attributes travel with [`Options::xattrs`] (see [`super::xattr`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::FileType;

use super::{
    Content, Error, Fingerprint, Item, Known, Result, Scan, Source, SourceKind, Standing,
    exclude::Excludes,
    meta::{Carry, give_meta},
    own::{OwnFolders, OwnWithin},
    sparse::{Data, SparseFile},
    stable::{StableFile, Watch},
    walk::{self, Found, Gathered, is_temp},
    xattr,
};
use crate::{
    digest::ContentId,
    entry::{Entry, EntryPath, Kind, Meta, Time},
    fs::{self, Stat},
};

/// Longest target of a symbolic link, in bytes (`PATH_MAX` of Linux without its NUL).
const MAX_TARGET_BYTES: usize = 4095;

/// Which parts of a folder are carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Patterns of excluded paths ([`super::exclude`]).
    pub exclude: Vec<String>,
    /// Carry extended attributes.
    pub xattrs: bool,
    /// Carry owners and the setuid, setgid and sticky bits.
    pub owner: bool,
    /// Cachectl's own folders in use: never carried, wherever they are.
    pub own: OwnFolders,
}

/// A folder as a source.
#[derive(Debug)]
pub struct Dir {
    root: PathBuf,
    excludes: Excludes,
    own: OwnFolders,
    carry: Carry,
    /// The root as the last scan opened it.
    opened: Mutex<Option<Arc<fs::Dir>>>,
    /// The folder of the item that was opened last: contents are mostly read folder by folder.
    reading: Mutex<Option<Opened>>,
}

/// An open folder and its path below the root.
type Opened = (Box<[u8]>, Arc<fs::Dir>);

impl Dir {
    /// The folder `root`, which need not exist.
    ///
    /// # Errors
    /// `Invalid` for an invalid pattern.
    pub fn new(root: impl Into<PathBuf>, options: &Options) -> Result<Self> {
        Ok(Self {
            root: root.into(),
            excludes: Excludes::new(&options.exclude)?,
            own: options.own.clone(),
            carry: Carry::new(options.xattrs, options.owner),
            opened: Mutex::new(None),
            reading: Mutex::new(None),
        })
    }

    /// Paths that are not carried, and not removed by a mirroring import.
    pub fn excludes(&self) -> &Excludes {
        &self.excludes
    }

    /// Which metadata is carried.
    pub fn carry(&self) -> Carry {
        self.carry
    }

    fn open_root(&self) -> Result<Option<Arc<fs::Dir>>> {
        let root = match fs::Dir::open(&self.root) {
            Ok(root) => Arc::new(root),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let shown = self.root.display();
                return Err(Error::Invalid(format!("`{shown}` is not a folder")));
            }
            Err(e) => return Err(e.into()),
        };
        *self.opened.lock() = Some(Arc::clone(&root));
        *self.reading.lock() = None;
        Ok(Some(root))
    }

    /// The root as opened by the last scan, or opened now.
    fn root_handle(&self) -> std::result::Result<Arc<fs::Dir>, String> {
        let last = self.opened.lock().clone();
        match last {
            Some(root) => Ok(root),
            None => self
                .open_root()
                .map_err(|e| e.to_string())?
                .ok_or_else(|| "its folder does not exist any more".to_owned()),
        }
    }

    /// The folder that contains `path`. An item in it is compared with what the scan saw, so it does not matter when it was opened.
    fn folder_of(&self, path: &EntryPath) -> std::result::Result<Arc<fs::Dir>, String> {
        let folder = path.folder();
        if let Some((last, dir)) = &*self.reading.lock()
            && **last == *folder
        {
            return Ok(Arc::clone(dir));
        }
        let root = self.root_handle()?;
        let dir = Arc::new(root.open_parent(path).map_err(|e| e.to_string())?);
        *self.reading.lock() = Some((folder.into(), Arc::clone(&dir)));
        Ok(dir)
    }

    /// The entry for the file at `path`; `Err` with the reason why it is left out.
    fn entry(
        &self,
        dir: &fs::Dir,
        path: &EntryPath,
        stat: &Stat,
        left: &mut Left,
    ) -> io::Result<std::result::Result<Entry, String>> {
        let name = path.name();
        let kind = match stat.file_type() {
            FileType::RegularFile => Kind::File {
                size: stat.size,
                extents: None,
            },
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink(dir.read_link(name).map_err(|e| e.source)?),
            other => return Ok(Err(format!("it is a {}", name_of(other)))),
        };
        let mut entry = Entry {
            path: path.clone(),
            kind,
            meta: Meta {
                mode: self.carry.mode(stat.mode()),
                uid: if self.carry.owner { stat.uid } else { 0 },
                gid: if self.carry.owner { stat.gid } else { 0 },
                mtime: stat.mtime,
            },
            xattrs: Box::default(),
            needs: None,
        };
        let sparse = fs::may_be_sparse(stat);
        if stat.is_file() && (sparse || self.carry.xattrs) {
            let file = dir.open_file(name).map_err(|e| e.source)?;
            if sparse {
                entry.kind = Kind::File {
                    size: stat.size,
                    extents: fs::data_runs(&file, stat.size)?,
                };
            }
            if self.carry.xattrs {
                entry.xattrs = xattr::read(&file, self.carry.gives_away(), left)?.into();
            }
        } else if stat.is_dir() && self.carry.xattrs {
            let opened = dir.open_dir(name).map_err(|e| e.source)?;
            entry.xattrs = xattr::read(opened.as_fd(), self.carry.gives_away(), left)?.into();
        }
        Ok(Ok(entry))
    }

    fn visit(&self, found: &Found<'_>, out: &mut Gathered<Item>, left: &mut Left) -> Result<()> {
        match self.entry(found.dir, found.path, found.stat, left) {
            Ok(Ok(entry)) => out.items.push(Item {
                entry,
                stat: *found.stat,
                claim: None,
                complete: true,
            }),
            Ok(Err(why)) => out.skip(found.path, why),
            Err(e) if walk::is_fatal(&e) => {
                let path = found.dir.at(found.path.name());
                return Err(fs::Error::new("read", path, e).into());
            }
            // It vanished since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => out.skip(found.path, format!("it cannot be read: {e}")),
        }
        Ok(())
    }

    fn same_meta(&self, entry: &Entry, stat: &Stat) -> bool {
        let owned =
            !self.carry.gives_away() || (stat.uid, stat.gid) == (entry.meta.uid, entry.meta.gid);
        stat.mtime == entry.meta.mtime
            && self.carry.mode(stat.mode()) == self.carry.mode(entry.meta.mode)
            && owned
    }

    /// Returns true if the carried attributes equal those of `entry`.
    fn same_xattrs(&self, entry: &Entry, fd: impl std::os::fd::AsFd) -> io::Result<bool> {
        let privileged = self.carry.gives_away();
        let have = xattr::read(fd, privileged, &mut BTreeMap::new())?;
        let wanted = entry
            .xattrs
            .iter()
            .filter(|(n, _)| xattr::travels(n, privileged));
        Ok(have.iter().eq(wanted))
    }

    /// Returns true if the file's content is the entry's, according to the node index or by reading it.
    fn same_content(
        parent: &fs::Dir,
        entry: &Entry,
        stat: &Stat,
        content: &ContentId,
        known: &dyn Known,
    ) -> io::Result<bool> {
        let Kind::File { size, extents } = &entry.kind else {
            return Ok(false);
        };
        if stat.size != *size {
            return Ok(false);
        }
        let open = || parent.open_file(entry.path.name()).map_err(|e| e.source);
        let holes = |file: &std::fs::File| {
            if fs::may_be_sparse(stat) {
                fs::data_runs(file, *size)
            } else {
                Ok(None)
            }
        };
        if let Some(k) = known.content(&entry.path, stat) {
            // The known identity covers the data between the holes: the content is equal only if the holes are equal too.
            let same = k.content == *content && k.len == entry.kind.content_len();
            return match (same, extents.is_some() || fs::may_be_sparse(stat)) {
                (false, _) => Ok(false),
                (true, false) => Ok(true),
                (true, true) => Ok(holes(&open()?)? == *extents),
            };
        }
        let file = open()?;
        if holes(&file)? != *extents {
            return Ok(false);
        }
        let mut hasher = content.hasher();
        let mut data = Data::new(&file, *size, extents.as_deref());
        let mut buf = vec![0; 128 << 10];
        loop {
            match data.read(&mut buf)? {
                0 => break,
                n => hasher.update(&buf[..n]),
            }
        }
        Ok(data.is_done() && hasher.finish() == *content)
    }
}

type Left = BTreeMap<Box<[u8]>, u64>;

fn name_of(t: FileType) -> &'static str {
    match t {
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "file of unknown type",
    }
}

/// Makes later names of one file links to its first; `items` are sorted by path.
fn join_hard_links(items: &mut [Item]) {
    let mut first: HashMap<(u64, u64), usize> = HashMap::new();
    for i in 0..items.len() {
        let stat = &items[i].stat;
        if !stat.is_file() || stat.nlink < 2 {
            continue;
        }
        let at = *first.entry((stat.dev, stat.ino)).or_insert(i);
        if at != i {
            items[i].entry.kind = Kind::Hardlink(items[at].entry.path.clone());
        }
    }
}

/// Refuses entries that no folder can have, with the reason.
pub(super) fn admit(entry: &Entry) -> std::result::Result<(), String> {
    if entry.path.names().any(is_temp) {
        return Err("its name is one of cachectl's own temporary files".to_owned());
    }
    if entry.meta.mode & !0o7777 != 0 || entry.meta.mtime.nanos > 999_999_999 {
        return Err("its permissions or times are invalid".to_owned());
    }
    xattr::admit(&entry.xattrs)?;
    match &entry.kind {
        Kind::Symlink(to) if to.is_empty() || to.len() > MAX_TARGET_BYTES || to.contains(&0) => {
            Err("the target of the link is invalid".to_owned())
        }
        Kind::Hardlink(to) if *to == entry.path => Err("it is a link to itself".to_owned()),
        Kind::Dir | Kind::Symlink(_) | Kind::Hardlink(_) => Ok(()),
        Kind::File { size, .. } if i64::try_from(*size).is_err() => {
            Err("its size is invalid".to_owned())
        }
        Kind::File { size, extents } => {
            let mut end = 0;
            for r in extents.iter().flatten() {
                let stop = r.offset.checked_add(r.len).filter(|stop| stop <= size);
                let (Some(stop), true) = (stop, r.len > 0 && r.offset >= end) else {
                    return Err("its holes are invalid".to_owned());
                };
                end = stop;
            }
            Ok(())
        }
    }
}

impl Source for Dir {
    fn kind(&self) -> SourceKind {
        SourceKind::Dir
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn carry(&self) -> Carry {
        self.carry
    }

    fn keeps(&self, path: &[u8], is_dir: bool) -> bool {
        self.excludes.leaves_out(path, is_dir)
    }

    fn excludes(&self, path: &EntryPath, is_dir: bool) -> bool {
        self.excludes.covers(path, is_dir)
    }

    fn root_meta(&self) -> Option<Meta> {
        let stat = self.root_handle().ok()?.stat_self().ok()?;
        Some(Meta {
            mode: self.carry.mode(stat.mode()),
            mtime: stat.mtime,
            ..Meta::default()
        })
    }

    fn own(&self) -> OwnWithin {
        self.own.within(&self.root)
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::default()
    }

    fn scan(&self, _known: &dyn Known) -> Result<Scan> {
        let Some(root) = self.open_root()? else {
            return Ok(Scan::default());
        };
        let left_all = Mutex::new(Left::new());
        let wanted = |path: &[u8], is_dir: bool| !self.excludes.leaves_out(path, is_dir);
        let visit = |found: &Found<'_>, out: &mut Gathered<Item>| {
            let mut left = Left::new();
            let result = self.visit(found, out, &mut left);
            if !left.is_empty() {
                let mut all = left_all.lock();
                for (name, n) in left {
                    *all.entry(name).or_default() += n;
                }
            }
            result
        };
        let Gathered {
            mut items,
            mut skipped,
            unlisted,
        } = walk::walk(&root, &self.own(), &wanted, &visit)?;
        if !unlisted.is_empty() {
            // Storing it as an empty folder would be wrong.
            let unlisted: HashSet<EntryPath> = unlisted.into_iter().collect();
            items.retain(|item| !unlisted.contains(&item.entry.path));
            let unlisted: HashSet<String> = unlisted.iter().map(ToString::to_string).collect();
            for skipped in skipped.iter_mut().filter(|s| unlisted.contains(&s.path)) {
                skipped.why.push_str(
                    "; `import --mirror` of what is exported removes what others have in it",
                );
            }
        }
        items.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
        join_hard_links(&mut items);
        skipped.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        for (name, n) in left_all.into_inner() {
            skipped.push(super::Skipped {
                path: String::from_utf8_lossy(&name).escape_debug().to_string(),
                why: format!("this extended attribute of {n} files is for root with owners only"),
            });
        }
        Ok(Scan { items, skipped })
    }

    /// Reads an item's metadata again if it is marked as incomplete, for a second attempt at a file that changed.
    fn complete(&self, item: &mut Item) -> std::result::Result<(), String> {
        if item.complete {
            return Ok(());
        }
        let parent = self
            .root_handle()?
            .open_parent(&item.entry.path)
            .map_err(|e| e.to_string())?;
        let stat = parent
            .stat(item.entry.path.name())
            .map_err(|e| e.to_string())?
            .ok_or("it is gone")?;
        let fresh = self
            .entry(&parent, &item.entry.path, &stat, &mut Left::new())
            .map_err(|e| format!("it cannot be read: {e}"))??;
        let link = match &item.entry.kind {
            Kind::Hardlink(to) => Some(Kind::Hardlink(to.clone())),
            _ => None,
        };
        item.entry = fresh;
        if let Some(kind) = link {
            item.entry.kind = kind;
        }
        item.stat = stat;
        item.complete = true;
        Ok(())
    }

    fn falls_with(&self, _: &EntryPath) -> Option<EntryPath> {
        None
    }

    fn open(&self, item: &Item) -> std::result::Result<Box<dyn Content>, String> {
        let Kind::File { extents, size } = &item.entry.kind else {
            return Err("it is not a regular file".to_owned());
        };
        let parent = self.folder_of(&item.entry.path)?;
        let file = StableFile::open(&parent, item.entry.path.name(), &item.stat, Watch::All)?;
        match extents {
            None => Ok(Box::new(file)),
            Some(runs) => Ok(Box::new(SparseFile::new(file, *size, runs))),
        }
    }

    fn used(&self, _: &Item, _: Option<Time>) -> bool {
        true
    }

    fn standing(
        &self,
        places: &mut fs::Parents<'_>,
        entry: &Entry,
        content: Option<&ContentId>,
        known: &dyn Known,
    ) -> Result<Standing> {
        let root = places.root();
        let Some(parent) = places.of(&entry.path)? else {
            return Ok(Standing::Absent);
        };
        let name = entry.path.name();
        let Some(stat) = parent.stat(name)? else {
            return Ok(Standing::Absent);
        };
        let same = match &entry.kind {
            Kind::Dir => stat.is_dir(),
            Kind::Symlink(to) => {
                stat.file_type() == FileType::Symlink && parent.read_link(name)? == *to
            }
            Kind::Hardlink(to) => {
                let Some(folder) = root.open_parent_if_there(to)? else {
                    return Ok(Standing::Other);
                };
                let other = folder.stat(to.name())?;
                let one =
                    stat.is_file() && other.is_some_and(|o| (o.dev, o.ino) == (stat.dev, stat.ino));
                return Ok(if one { Standing::Same } else { Standing::Other });
            }
            Kind::File { .. } => {
                // Unreadable files are replaced.
                stat.is_file()
                    && content.is_some_and(|digest| {
                        Self::same_content(parent, entry, &stat, digest, known).unwrap_or(false)
                    })
            }
        };
        if !same {
            return Ok(Standing::Other);
        }
        let mut meta = self.same_meta(entry, &stat);
        if meta && self.carry.xattrs {
            meta = match entry.kind {
                Kind::File { .. } => parent
                    .open_file(name)
                    .is_ok_and(|f| self.same_xattrs(entry, f).unwrap_or(false)),
                Kind::Dir => parent
                    .open_dir(name)
                    .is_ok_and(|d| self.same_xattrs(entry, d.as_fd()).unwrap_or(false)),
                _ => true,
            };
        }
        Ok(if meta {
            Standing::Same
        } else {
            Standing::SameContent
        })
    }

    fn restored_mtime(&self, entry: &Entry, _: Time) -> Time {
        entry.meta.mtime
    }

    fn rank(&self, _: &EntryPath) -> u8 {
        0
    }

    fn check_staged(&self, _: &fs::Dir, _: &[EntryPath]) -> Result<Vec<(EntryPath, String)>> {
        Ok(Vec::new())
    }

    fn adjust(&self, root: &fs::Dir, entry: &Entry, _: Time) -> Result<()> {
        let parent = root.open_parent(&entry.path)?;
        give_meta(&parent, entry, entry.meta.mtime, self.carry)?;
        Ok(())
    }

    fn finish(&self, _: &fs::Dir, _: &[EntryPath], _: Time) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;

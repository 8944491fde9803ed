//! Go's build and test cache: action entries and the outputs that they name.
//!
//! Layout (`cmd/go/internal/cache/cache.go`): `<xx>/<64 hex>-a` is an action entry ([`Action`]), `<xx>/<64 hex>-d` an output
//! whose name is its SHA-256; `<xx>` is the first byte of the name. Nothing else is carried: `trim.txt` and `testexpire.txt`
//! refer to this node's clock, `fuzz/` is not a cache, a `-d` folder holds a program that `go run` links again.
//!
//! This module checks what the `go` command does not: an output is compared with its name whenever it is read or restored. Go
//! itself links a damaged archive without an error.

pub mod action;
mod shards;

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    digest::{ContentId, Sha256, Sha256Hasher},
    entry::{Entry, EntryPath, Meta, Time},
    fs::{self, Dir, Parents, Stat, missing_is_none},
    source::{
        Content, Error, Fingerprint, Item, Known, Result, Scan, Source, SourceKind, Standing,
        meta::Carry,
        size_of_go_file,
        stable::{HeldContent, StableFile, Watch, open_parent, replace_small},
        threads::in_threads,
    },
};
use action::{Action, ENTRY_LEN};
use shards::Shards;

/// Go refreshes the time of a file that it uses if the time is at least this old (`mtimeInterval`).
const MTIME_INTERVAL: Duration = Duration::from_hours(1);

/// Restored files are backdated by this much: twice the age at which Go records a use, so that clocks may differ by an hour.
const DATED_BACK: Duration = Duration::from_hours(2);

/// A file that was last used within this time needs no new date: Go trims files older than five days (`trimLimit`).
const RECENT: Duration = Duration::from_hours(24);

/// A stamp of the last trim older than this is meaningless (`trimLimit` and `mtimeInterval`).
const TRIM_LIMIT: Duration = Duration::from_hours(5 * 24 + 1);

/// Permissions of carried files, regardless of this node's umask.
const MODE: u32 = 0o644;

/// The two kinds of carried files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// `-a`
    Action,
    /// `-d`
    Output,
}

/// Go's build cache in one folder.
#[derive(Debug)]
pub struct GoBuild {
    root: PathBuf,
    fingerprint: Fingerprint,
}

impl GoBuild {
    /// The cache at `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>, fingerprint: Fingerprint) -> Self {
        Self {
            root: root.into(),
            fingerprint,
        }
    }

    fn open_root(&self) -> std::result::Result<Dir, String> {
        Dir::open(&self.root).map_err(|e| e.to_string())
    }
}

/// The order in which new items of a build cache are packed: action entries first, each sort by time of change, then by path.
///
/// Files created together are packed together: 4 % smaller than by name (design.md, 10).
pub fn pack_order_key(item: &Item) -> (bool, Time, &EntryPath) {
    let is_output = item.entry.path.as_bytes().ends_with(b"-d");
    (is_output, item.stat.mtime, &item.entry.path)
}

/// Parses `xx/<64 hex>-a` or `-d`; `None` for every other path, and if the folder is not the name's first byte.
fn parse(path: &[u8]) -> Option<(Which, Sha256)> {
    let (shard, name) = path.split_at_checked(3)?;
    let (id, which) = parse_name(name)?;
    (shard[..2] == name[..2] && shard[2] == b'/').then_some((which, id))
}

fn parse_name(name: &[u8]) -> Option<(Sha256, Which)> {
    let (hex, end) = name.split_at_checked(64)?;
    let which = match end {
        b"-a" => Which::Action,
        b"-d" => Which::Output,
        _ => return None,
    };
    Some((Sha256::from_hex(hex)?, which))
}

/// The path of the output with that digest.
fn output_path(output: Sha256) -> EntryPath {
    let hex = output.to_hex();
    EntryPath::new(format!("{}/{hex}-d", &hex[..2]).into_bytes())
        .expect("hex digits are a valid path")
}

/// `t` minus `by`.
fn earlier(t: Time, by: Duration) -> Time {
    Time::from_nanos(t.as_nanos() - by.as_nanos() as i128).unwrap_or_default()
}

/// Returns true if a file with that time needs no new one: Go would record its next use, and would not trim it soon.
fn rests(mtime: Time, now: Time) -> bool {
    mtime <= earlier(now, DATED_BACK) && mtime >= earlier(now, RECENT)
}

/// Reads an action entry; of a longer file only the first 176 bytes, which is enough to refuse it.
fn read_action(dir: &Dir, name: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let file = dir.open_file(name).map_err(|e| e.to_string())?;
    let mut bytes = Vec::with_capacity(ENTRY_LEN + 1);
    file.take(ENTRY_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("it cannot be read: {e}"))?;
    Ok(bytes)
}

/// Checks by the size that `found` can be the output that `action` names.
fn is_output_of(action: &Action, found: Option<&Stat>) -> std::result::Result<(), String> {
    match found {
        Some(s) if s.is_file() && s.size == action.size => Ok(()),
        Some(s) if s.is_file() => Err(format!(
            "its output has {} bytes, {} expected",
            s.size, action.size
        )),
        Some(_) => Err("its output is not a regular file".into()),
        None => Err("its output is missing".into()),
    }
}

/// Returns true if the folder at an output's path holds that output as a program, as `go run` caches it: as its only file
/// (`PutExecutable` in `cmd/go/internal/cache/cache.go`).
fn is_program(dir: &Dir, output: &Entry) -> bool {
    let only_file = || -> fs::Result<Option<Stat>> {
        let folder = dir.open_dir(output.path.name())?;
        match &folder.list()?[..] {
            [only] => folder.stat(&only.name),
            _ => Ok(None),
        }
    };
    let found = only_file().ok().flatten();
    found.is_some_and(|s| s.is_file() && s.size == output.kind.content_len())
}

/// The SHA-256 of a file.
fn hash(dir: &Dir, name: &[u8]) -> Result<Sha256> {
    let mut file = dir.open_file(name)?;
    let mut hasher = Sha256Hasher::default();
    let mut buf = vec![0; 256 << 10];
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buf[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(fs::Error::new("read", dir.at(name), e).into()),
        }
    }
}

/// The item for a name in a shard; `None` for files that are not carried.
fn item(shard: &[u8], name: &[u8], dir: &Dir) -> fs::Result<Option<Item>> {
    let Some((id, which)) = parse_name(name).filter(|_| name[..2] == *shard) else {
        return Ok(None);
    };
    let Some(stat) = dir.stat(name)?.filter(Stat::is_file) else {
        return Ok(None);
    };
    // For Go such an entry is a miss, too.
    if which == Which::Action && stat.size != ENTRY_LEN as u64 {
        return Ok(None);
    }
    let path = EntryPath::new([shard, b"/", name].concat()).expect("hex digits are a valid path");
    let meta = Meta {
        mode: MODE,
        ..Meta::default()
    };
    Ok(Some(Item {
        entry: Entry::file(path, stat.size, meta),
        stat,
        claim: (which == Which::Output).then_some(id.into()),
        complete: which == Which::Output,
    }))
}

/// Refuses entries that are not files of a Go build cache, and outputs whose content does not match their name, with the reason.
pub(super) fn admit(entry: &Entry, content: Option<&ContentId>) -> std::result::Result<(), String> {
    let Some((which, id)) = parse(entry.path.as_bytes()) else {
        return Err("its name is not one of a Go build cache (`xx/<64 hex>-a` or `-d`)".into());
    };
    let size = size_of_go_file(entry)?;
    match (which, &entry.needs) {
        (Which::Output, None) if content == Some(&id.into()) => Ok(()),
        // No content was hashed at all.
        (Which::Output, None) if size == 0 && id == Sha256::OF_NOTHING => Ok(()),
        (Which::Output, None) => Err("its content does not match its name".into()),
        (Which::Output, Some(_)) => Err("an output needs no other entry".into()),
        (Which::Action, _) if size != ENTRY_LEN as u64 => {
            Err(format!("an action entry has 175 bytes, not {size}"))
        }
        (Which::Action, Some(needs)) => match parse(needs.as_bytes()) {
            Some((Which::Output, _)) => Ok(()),
            _ => Err("the entry that it needs is not an output".into()),
        },
        (Which::Action, None) => Err("an action entry must name its output".into()),
    }
}

impl Source for GoBuild {
    fn kind(&self) -> SourceKind {
        SourceKind::GoBuild
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn carry(&self) -> Carry {
        Carry::new(false, false)
    }

    /// Only what could be exported is ever removed.
    fn keeps(&self, path: &[u8], is_dir: bool) -> bool {
        if is_dir {
            !shards::is_shard(path)
        } else {
            parse(path).is_none()
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn scan(&self, _: &dyn Known) -> Result<Scan> {
        let Some(root) = Dir::open_if_there(&self.root)? else {
            return Ok(Scan::default());
        };
        let names: Vec<Box<[u8]>> = root
            .list()?
            .into_iter()
            .filter(|n| n.is_dir != Some(false) && shards::is_shard(&n.name))
            .map(|n| n.name)
            .collect();
        let found = in_threads(&names, 16, |names| {
            let mut items = Vec::new();
            for shard in names {
                // Deleted meanwhile, or a file with that name: not Go's.
                let Some(dir) = missing_is_none(root.open_dir(shard))? else {
                    continue;
                };
                for name in dir.list()? {
                    items.extend(item(shard, &name.name, &dir)?);
                }
            }
            Ok(items)
        })?;
        // Shards are in order, and so are the names in each.
        Ok(Scan {
            items: found,
            skipped: Vec::new(),
        })
    }

    fn complete(&self, item: &mut Item) -> std::result::Result<(), String> {
        let Some((Which::Action, id)) = parse(item.entry.path.as_bytes()) else {
            return Ok(());
        };
        let root = self.open_root()?;
        let dir = open_parent(&root, &item.entry.path).map_err(|e| e.to_string())?;
        let action = Action::parse(&read_action(&dir, item.entry.path.name())?, id)?;
        let output = output_path(action.output);
        let found = shards::stat(&root, &output).map_err(|e| e.to_string())?;
        if found.is_some_and(|stat| stat.is_dir()) {
            // A program that `go run` or `go tool` keeps (Go 1.24): it would be reported by each export, and the user could not
            // fix it.
            return Err(String::new());
        }
        is_output_of(&action, found.as_ref())?;
        item.entry.meta.mtime = action.time;
        item.entry.needs = Some(output);
        item.complete = true;
        Ok(())
    }

    fn falls_with(&self, _: &EntryPath) -> Option<EntryPath> {
        None
    }

    fn open(&self, item: &Item) -> std::result::Result<Box<dyn Content>, String> {
        let path = &item.entry.path;
        let dir = open_parent(&self.open_root()?, path).map_err(|e| e.to_string())?;
        match parse(path.as_bytes()) {
            Some((Which::Action, id)) => {
                let bytes = read_action(&dir, path.name())?;
                let action = Action::parse(&bytes, id)?;
                // Go overwrites it in place; the packed content must match what `complete` found.
                if item.entry.needs != Some(output_path(action.output))
                    || item.entry.meta.mtime != action.time
                {
                    return Err("it changed while it was read".into());
                }
                Ok(Box::new(HeldContent::new(bytes)))
            }
            // Go changes file times at any time; the content is verified against the name.
            Some((Which::Output, _)) => Ok(Box::new(StableFile::open(
                &dir,
                path.name(),
                &item.stat,
                Watch::Size,
            )?)),
            None => Err("it is not a file of Go's build cache".into()),
        }
    }

    /// Go refreshes the time of a used file if it is an hour old or more; restored files are backdated by two hours. So a file
    /// whose time is less than an hour before the import was used after it, or shortly before it by another job on this node.
    fn used(&self, item: &Item, imported: Option<Time>) -> bool {
        imported.is_none_or(|at| item.stat.mtime > earlier(at, MTIME_INTERVAL))
    }

    fn standing(
        &self,
        places: &mut Parents<'_>,
        entry: &Entry,
        content: Option<&ContentId>,
        known: &dyn Known,
    ) -> Result<Standing> {
        let (root, path, name) = (places.root(), &entry.path, entry.path.name());
        let Some((which, id)) = parse(path.as_bytes()) else {
            return Err(Error::Invalid(format!(
                "{path} is not a file of Go's build cache"
            )));
        };
        let Some(dir) = places.of(path)? else {
            return Ok(Standing::Absent);
        };
        let Some(stat) = dir.stat(name)? else {
            return Ok(Standing::Absent);
        };
        if which == Which::Output && stat.is_dir() && is_program(dir, entry) {
            // No rename can replace it by a file, and Go can use it.
            return Ok(Standing::Keep);
        }
        if !stat.is_file() {
            return Ok(Standing::Other);
        }
        let same = if rests(stat.mtime, Time::now()) {
            Standing::Same
        } else {
            Standing::SameContent
        };
        if let (Some(known), Some(want)) = (known.content(path, &stat), content)
            && known.content == *want
        {
            return Ok(same);
        }
        if which == Which::Output {
            let right = stat.size == entry.kind.content_len() && hash(dir, name)? == id;
            return Ok(if right { same } else { Standing::Other });
        }
        let Ok(bytes) = read_action(dir, name) else {
            return Ok(Standing::Other);
        };
        if content.is_some_and(|c| c.matches(&bytes)) {
            return Ok(same);
        }
        let Ok(action) = Action::parse(&bytes, id) else {
            return Ok(Standing::Other);
        };
        let output = shards::stat(root, &output_path(action.output))?;
        let usable = is_output_of(&action, output.as_ref()).is_ok();
        Ok(if usable && action.time >= entry.meta.mtime {
            Standing::Keep
        } else {
            Standing::Other
        })
    }

    fn restored_mtime(&self, _: &Entry, now: Time) -> Time {
        earlier(now, DATED_BACK)
    }

    fn rank(&self, path: &EntryPath) -> u8 {
        u8::from(path.as_bytes().ends_with(b"-a"))
    }

    /// Reads each staged action entry as Go would: its output must be staged or already in the cache, with the stated size.
    fn check_staged(&self, staged: &Dir, paths: &[EntryPath]) -> Result<Vec<(EntryPath, String)>> {
        let root = Dir::open_if_there(&self.root)?;
        in_threads(paths, 256, |paths| {
            let mut here = Shards::new(staged);
            let mut there = root.as_ref().map(Shards::new);
            let mut refused = Vec::new();
            for path in paths {
                let why = match parse(path.as_bytes()) {
                    Some((Which::Output, _)) => continue,
                    Some((Which::Action, id)) => check_action(&mut here, there.as_mut(), path, id)?,
                    None => Some("it is not a file of Go's build cache".into()),
                };
                refused.extend(why.map(|why| (path.clone(), why)));
            }
            Ok(refused)
        })
    }

    fn adjust(&self, root: &Dir, entry: &Entry, now: Time) -> Result<()> {
        let name = entry.path.name();
        let dir = open_parent(root, &entry.path)?;
        match dir.stat(name)? {
            Some(stat) if stat.is_file() && !rests(stat.mtime, now) => {}
            _ => return Ok(()),
        }
        match dir.set_mtime(name, self.restored_mtime(entry, now)) {
            // Another user's file: it can be used, but its next use may not be recorded.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            other => Ok(other?),
        }
    }

    /// Writes `trim.txt`, as Go does: seconds, no line break. A stamp that Go would use is left unchanged; otherwise a node on
    /// which every job starts with an import would never trim.
    fn finish(&self, root: &Dir, _: &[EntryPath], now: Time) -> Result<()> {
        let stamp = match missing_is_none(root.open_file(b"trim.txt"))? {
            None => None,
            Some(file) => {
                let mut text = String::new();
                // If it is not a number, treat it as a missing file.
                match file.take(64).read_to_string(&mut text) {
                    Ok(_) => text.trim().parse::<i64>().ok(),
                    Err(_) => None,
                }
            }
        };
        let heeded = stamp.is_some_and(|secs| {
            let age = i128::from(now.secs) - i128::from(secs);
            age > -i128::from(MTIME_INTERVAL.as_secs()) && age < i128::from(TRIM_LIMIT.as_secs())
        });
        if heeded {
            return Ok(());
        }
        replace_small(root, b"trim.txt", now.secs.to_string().as_bytes())?;
        Ok(())
    }
}

/// The reason why a staged action entry must not be placed, if any.
fn check_action(
    here: &mut Shards<'_>,
    there: Option<&mut Shards<'_>>,
    path: &EntryPath,
    id: Sha256,
) -> Result<Option<String>> {
    let Some(dir) = here.of(path)? else {
        return Ok(Some("it is not staged".into()));
    };
    let action = match read_action(dir, path.name())
        .and_then(|bytes| Action::parse(&bytes, id).map_err(str::to_owned))
    {
        Ok(action) => action,
        Err(why) => return Ok(Some(why)),
    };
    let output = output_path(action.output);
    let mut found = here.stat(&output)?;
    if found.is_none()
        && let Some(there) = there
    {
        found = there.stat(&output)?;
    }
    Ok(is_output_of(&action, found.as_ref()).err())
}

#[cfg(test)]
mod tests;

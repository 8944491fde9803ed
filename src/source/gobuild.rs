//! Go's build and test cache: action entries and the outputs that they name.
//!
//! Layout (`cmd/go/internal/cache/cache.go`): `<xx>/<64 hex>-a` is an action entry ([`Action`]), `<xx>/<64 hex>-d` an output
//! whose name is its SHA-256; `<xx>` is the first byte of the name. A program that `go run` or `go tool` linked is an output in
//! a folder of its own, `<xx>/<64 hex>-d/<name>`. Nothing else is carried: `trim.txt` and `testexpire.txt` refer to this node's
//! clock, `fuzz/` is not a cache.
//!
//! This module checks what the `go` command does not: an output is compared with its name whenever it is read or restored. Go
//! itself links a damaged archive, and runs a damaged program, without an error.

pub mod action;
mod output;
mod path;
mod shards;
mod standing;

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    digest::{ContentId, Sha256},
    entry::{Entry, EntryPath, Meta, Time},
    fs::{self, Dir, Parents, missing_is_none},
    source::{
        Content, Fingerprint, Item, Known, Result, Scan, Source, SourceKind, Standing,
        meta::Carry,
        size_of_go_file,
        stable::{HeldContent, StableFile, Watch, open_parent, replace_small},
        threads::in_threads,
    },
};
use action::{Action, ENTRY_LEN};
use output::Found;
use path::{Which, is_action, parse, parse_name};
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

/// The same of programs.
const PROGRAM_MODE: u32 = 0o755;

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

    /// Returns true for a folder that holds a program and nothing else, so that it could be exported.
    fn is_program_folder(&self, path: &[u8]) -> bool {
        let Some((Which::Output, id)) = parse(path) else {
            return false;
        };
        let found = Dir::open(&self.root).and_then(|root| Found::below(&root, id));
        matches!(found, Ok(Found::Program(_)))
    }
}

/// The order in which new items of a build cache are packed: action entries first, each sort by time of change, then by path.
///
/// Files created together are packed together: 4 % smaller than by name (design.md, 10).
pub fn pack_order_key(item: &Item) -> (bool, Time, &EntryPath) {
    let is_output = !is_action(&item.entry.path);
    (is_output, item.stat.mtime, &item.entry.path)
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

/// The item for a name in a shard; `None` for files that are not carried.
fn item(shard: &[u8], name: &[u8], dir: &Dir) -> fs::Result<Option<Item>> {
    let Some((which, id)) = parse_name(name).filter(|_| name[..2] == *shard) else {
        return Ok(None);
    };
    let mut path =
        EntryPath::new([shard, b"/", name].concat()).expect("hex digits are a valid path");
    let mut mode = MODE;
    let stat = match Found::at(dir, name)? {
        Found::File(stat) => stat,
        Found::Program(program) if which == Which::Output => {
            match path.join(&program.name) {
                Ok(below) if parse(below.as_bytes()).is_some() => path = below,
                _ => return Ok(None),
            }
            mode = PROGRAM_MODE;
            program.stat
        }
        // The action entry that names it says what is wrong.
        _ => return Ok(None),
    };
    // For Go such an entry is a miss, too.
    if which == Which::Action && stat.size != ENTRY_LEN as u64 {
        return Ok(None);
    }
    let meta = Meta {
        mode,
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
        return Err(
            "its name is not one of a Go build cache (`xx/<64 hex>-a`, `-d`, or a program in `-d`)"
                .into(),
        );
    };
    let mode = match which {
        Which::Action | Which::Output => MODE,
        Which::Program => PROGRAM_MODE,
    };
    let size = size_of_go_file(entry, |m| m == mode)?;
    match (which, &entry.needs) {
        (Which::Action, _) if size != ENTRY_LEN as u64 => {
            Err(format!("an action entry has 175 bytes, not {size}"))
        }
        (Which::Action, Some(needs)) => match parse(needs.as_bytes()) {
            Some((Which::Output | Which::Program, _)) => Ok(()),
            _ => Err("the entry that it needs is not an output".into()),
        },
        (Which::Action, None) => Err("an action entry must name its output".into()),
        (_, Some(_)) => Err("an output needs no other entry".into()),
        (_, None) if content == Some(&id.into()) => Ok(()),
        // No content was hashed at all.
        (_, None) if size == 0 && id == Sha256::OF_NOTHING => Ok(()),
        (_, None) => Err("its content does not match its name".into()),
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
            !shards::is_shard(path) && !self.is_program_folder(path)
        } else {
            parse(path).is_none()
        }
    }

    /// A folder that holds a program may hold nothing else.
    fn place<'p>(&self, path: &'p EntryPath) -> &'p [u8] {
        path::place(path)
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
        let found = Found::below(&root, action.output).map_err(|e| e.to_string())?;
        item.entry.needs = Some(found.path_for(&action)?);
        item.entry.meta.mtime = action.time;
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
                let needs = item.entry.needs.as_ref();
                let needed = needs.and_then(|n| Some(parse(n.as_bytes())?.1));
                if needed != Some(action.output) || item.entry.meta.mtime != action.time {
                    return Err("it changed while it was read".into());
                }
                Ok(Box::new(HeldContent::new(bytes)))
            }
            // Go changes file times at any time; the content is verified against the name.
            Some((Which::Output | Which::Program, _)) => Ok(Box::new(StableFile::open(
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
    ///
    /// A program shows no use, since Go refreshes its folder; it stays as long as the action entries that name it.
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
        standing::standing(places, entry, content, known)
    }

    fn restored_mtime(&self, _: &Entry, now: Time) -> Time {
        earlier(now, DATED_BACK)
    }

    fn rank(&self, path: &EntryPath) -> u8 {
        u8::from(is_action(path))
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
                    Some((Which::Output | Which::Program, _)) => continue,
                    Some((Which::Action, id)) => check_action(&mut here, there.as_mut(), path, id)?,
                    None => Some("it is not a file of Go's build cache".into()),
                };
                refused.extend(why.map(|why| (path.clone(), why)));
            }
            Ok(refused)
        })
    }

    fn adjust(&self, root: &Dir, entry: &Entry, now: Time) -> Result<()> {
        date(root, &entry.path, now)
    }

    /// Writes `trim.txt`, as Go does: seconds, no line break. A stamp that Go would use is left unchanged; otherwise a node on
    /// which every job starts with an import would never trim.
    ///
    /// Also backdates the folders of new programs: by their times Go records uses, and trims.
    fn finish(&self, root: &Dir, placed: &[EntryPath], now: Time) -> Result<()> {
        for path in placed {
            if matches!(parse(path.as_bytes()), Some((Which::Program, _))) {
                date(root, path, now)?;
            }
        }
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
    let mut found = here.output(action.output)?;
    if matches!(found, Found::Nothing)
        && let Some(there) = there
    {
        found = there.output(action.output)?;
    }
    Ok(found.path_for(&action).err())
}

/// Backdates a restored file, or the folder of a program, unless its time is right for Go.
fn date(root: &Dir, path: &EntryPath, now: Time) -> Result<()> {
    let place = EntryPath::new(path::place(path)).expect("the beginning of a valid path");
    let dir = open_parent(root, &place)?;
    match dir.stat(place.name())? {
        Some(stat) if (stat.is_file() || stat.is_dir()) && !rests(stat.mtime, now) => {}
        _ => return Ok(()),
    }
    match dir.set_mtime(place.name(), earlier(now, DATED_BACK)) {
        // Another user's file: it can be used, but its next use may not be recorded.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;

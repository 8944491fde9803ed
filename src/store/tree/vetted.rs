//! The blobs of a tree that were hashed since their files last changed.
//!
//! Disks lose and corrupt data, and others write to folders: after a crash, a full disk or a mistake, a blob's file may not
//! match its name. A store that returns blobs unchecked keeps a table of the files that were hashed, with their state at that
//! time. A file that differs from its entry, or has none, is hashed before it is reported to exist; if its bytes are wrong it
//! is removed, so that the blob is absent and can be uploaded again.
//!
//! The table survives the process, but not a reboot, after which every blob is hashed again before its first use.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::Tree;
use crate::{
    digest::Digest,
    entry::Time,
    fs,
    store::{
        error::{Error, Result},
        keys,
    },
};

/// First word of the table's file; the number is its format.
const FORMAT: &str = "cachectl-vetted-1";
/// Maximum size of a line, and of the whole table, that is read.
const MAX_LINE: u64 = 512;
const MAX_TABLE: u64 = 256 << 20;
/// Maximum number of files that are remembered: about 80 bytes of memory each.
const MAX_KNOWN: usize = 500_000;
/// How much is read and hashed at once.
const PIECE_BYTES: usize = 1 << 20;
/// Changes whenever the machine boots; Linux, proc(5).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The state of a file when it was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    ino: u64,
    size: u64,
    mtime: Time,
    /// Changes with everything but reading, and cannot be set: writing and restoring the old time is detected.
    ctime: Time,
    /// Our own links, of temporary spools, change `ctime` too.
    nlink: u64,
    /// When it was hashed, in seconds since 1970.
    at: i64,
}

impl Seen {
    fn now(stat: &fs::Stat) -> Self {
        Self {
            ino: stat.ino,
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
            nlink: stat.nlink,
            at: Time::now().secs,
        }
    }

    /// Returns true if the file was not written since.
    fn is_of(&self, stat: &fs::Stat) -> bool {
        (self.ino, self.size, self.mtime) == (stat.ino, stat.size, stat.mtime)
            && (self.ctime == stat.ctime || self.nlink != stat.nlink)
    }

    fn follow(&mut self, stat: &fs::Stat) {
        (self.mtime, self.ctime, self.nlink) = (stat.mtime, stat.ctime, stat.nlink);
    }
}

pub(in crate::store) struct Vetted {
    file: PathBuf,
    known: Mutex<HashMap<Digest, Seen>>,
    /// Blobs that are being hashed.
    busy: Mutex<HashSet<Digest>>,
    done: Condvar,
    hashed: AtomicU64,
    damaged: AtomicU64,
}

impl fmt::Debug for Vetted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vetted({})", self.file.display())
    }
}

/// Results so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Bytes that were read again and hashed.
    pub bytes: u64,
    /// Blobs that were removed because their bytes were wrong.
    pub damaged: u64,
}

/// Exclusive use of a digest; others wait until it is dropped.
struct HashingClaim<'a>(&'a Vetted, Digest);

impl Drop for HashingClaim<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().remove(&self.1);
        self.0.done.notify_all();
    }
}

impl Vetted {
    /// The table that was saved to `file` since the machine booted; empty if there is no trustworthy one.
    pub(in crate::store) fn open(file: PathBuf) -> Self {
        let known = read(&file).unwrap_or_else(|why| {
            tracing::debug!(file = %file.display(), why, "Could not read which blobs are already hashed; they will be hashed before their first use");
            HashMap::new()
        });
        Self {
            file,
            known: Mutex::new(known),
            busy: Mutex::default(),
            done: Condvar::new(),
            hashed: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// Writes the table to its file.
    ///
    /// # Errors
    /// The file system's.
    pub(in crate::store) fn save(&self) -> Result<()> {
        let boot = boot_id().unwrap_or_default();
        let mut text = format!("{FORMAT} {boot}\n");
        for (digest, s) in self.known.lock().iter() {
            let (m, c) = (s.mtime, s.ctime);
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                text,
                "{digest} {} {} {} {} {} {} {} {}",
                s.ino, s.size, m.secs, m.nanos, c.secs, c.nanos, s.nlink, s.at
            );
        }
        fs::write_atomic(&self.file, text.as_bytes(), fs::Durability::Rename)
            .map_err(|e| Error::io("save", e))
    }

    /// The results since this was opened.
    pub(in crate::store) fn findings(&self) -> Findings {
        Findings {
            bytes: self.hashed.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }

    pub(super) fn knows(&self, digest: &Digest, stat: &fs::Stat) -> bool {
        Self::is_in(&mut self.known.lock(), digest, stat)
    }

    /// As [`Self::knows`], but returns false rather than wait while the table is being saved.
    pub(super) fn knows_now(&self, digest: &Digest, stat: &fs::Stat) -> bool {
        let known = self.known.try_lock();
        known.is_some_and(|mut known| Self::is_in(&mut known, digest, stat))
    }

    fn is_in(known: &mut HashMap<Digest, Seen>, digest: &Digest, stat: &fs::Stat) -> bool {
        let seen = known.get_mut(digest).filter(|s| s.is_of(stat));
        let is_known = seen.is_some();
        if let Some(seen) = seen {
            seen.follow(stat);
        }
        is_known
    }

    /// Remembers a file whose bytes were just hashed, or written as they were hashed.
    pub(super) fn learn(&self, digest: &Digest, stat: &fs::Stat) {
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(*digest, Seen::now(stat));
    }

    /// Keeps a file in the table whose time alone was changed.
    pub(super) fn renewed(&self, digest: &Digest, before: &fs::Stat, after: &fs::Stat) {
        if let Some(seen) = self.known.lock().get_mut(digest)
            && seen.is_of(before)
        {
            seen.follow(after);
        }
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.known.lock().remove(digest);
    }

    /// Returns true if a file is due to be hashed again although it did not change.
    fn is_due(&self, digest: &Digest, not_since: i64) -> bool {
        self.known
            .lock()
            .get(digest)
            .is_none_or(|s| s.at <= not_since)
    }

    fn turn(&self, digest: &Digest) -> HashingClaim<'_> {
        let mut busy = self.busy.lock();
        while !busy.insert(*digest) {
            self.done.wait(&mut busy);
        }
        HashingClaim(self, *digest)
    }
}

fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

fn read(file: &Path) -> std::result::Result<HashMap<Digest, Seen>, String> {
    let boot = boot_id().ok_or("the machine does not report its boot ID")?;
    let is = std::fs::metadata(file).map_err(|e| e.to_string())?;
    if !is.is_file() || is.len() > MAX_TABLE {
        return Err("it is not a table of hashed blobs".to_owned());
    }
    let opened = File::open(file).map_err(|e| e.to_string())?;
    let mut table = BufReader::new(opened);
    if line(&mut table)? != Some(format!("{FORMAT} {boot}")) {
        return Err("the table was written before the machine was restarted".to_owned());
    }
    let mut known = HashMap::new();
    while let Some(line) = line(&mut table)? {
        let (digest, seen) = parse(&line).ok_or("the table is damaged")?;
        if known.len() >= MAX_KNOWN {
            break;
        }
        known.insert(digest, seen);
    }
    Ok(known)
}

/// The next line; `None` at the end.
fn line(table: &mut impl BufRead) -> std::result::Result<Option<String>, String> {
    let mut line = String::new();
    let read = table.take(MAX_LINE).read_line(&mut line);
    match read.map_err(|e| e.to_string())? {
        0 => Ok(None),
        _ if line.ends_with('\n') => {
            line.pop();
            Ok(Some(line))
        }
        _ => Err("the table is damaged".to_owned()),
    }
}

fn parse(line: &str) -> Option<(Digest, Seen)> {
    let mut words = line.split(' ');
    let digest = words.next()?.parse().ok()?;
    let ino = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let mut time = || {
        Some(Time {
            secs: words.next()?.parse().ok()?,
            nanos: words.next()?.parse().ok()?,
        })
    };
    let (mtime, ctime) = (time()?, time()?);
    let nlink = words.next()?.parse().ok()?;
    let at = words.next()?.parse().ok()?;
    let seen = Seen {
        ino,
        size,
        mtime,
        ctime,
        nlink,
        at,
    };
    words.next().is_none().then_some((digest, seen))
}

/// The maximum speed of background checks.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Pace {
    /// Pause after each piece of [`PIECE_BYTES`].
    pub(in crate::store) pause: Duration,
}

impl Tree {
    /// A blob's file if its bytes match its name, according to the table or after hashing them now.
    pub(super) fn vet(
        &self,
        op: &'static str,
        digest: &Digest,
    ) -> Result<Option<(File, fs::Stat)>> {
        let found = self.open_blob(op, digest)?;
        let (Some((file, stat)), Some(vetted)) = (&found, self.vetted()) else {
            return Ok(found);
        };
        if vetted.knows(digest, stat) {
            return Ok(found);
        }
        let _turn = vetted.turn(digest);
        if vetted.knows(digest, stat) {
            return Ok(found);
        }
        let never = AtomicBool::new(false);
        Ok(
            match self.examine(vetted, digest, file, stat, None, &never)? {
                Verdict::Right => found,
                Verdict::Wrong | Verdict::Unknown => None,
            },
        )
    }

    /// Hashes a blob again, at a limited speed, if that was not done since `not_since` (seconds since 1970).
    pub(in crate::store) fn look_again(
        &self,
        digest: &Digest,
        not_since: i64,
        pace: Pace,
        stop: &AtomicBool,
    ) -> Result<bool> {
        let Some(vetted) = self.vetted() else {
            return Ok(false);
        };
        if !vetted.is_due(digest, not_since) {
            return Ok(false);
        }
        // Without exclusive use: requests for the blob would have to wait at this speed.
        let Some((file, stat)) = self.open_blob("scrub", digest)? else {
            vetted.forget(digest);
            return Ok(false);
        };
        self.examine(vetted, digest, &file, &stat, Some(pace), stop)?;
        Ok(true)
    }

    fn examine(
        &self,
        vetted: &Vetted,
        digest: &Digest,
        file: &File,
        stat: &fs::Stat,
        pace: Option<Pace>,
        stop: &AtomicBool,
    ) -> Result<Verdict> {
        let path = || self.path(&keys::blob(digest));
        let hashed = match hash(digest, file, pace, stop) {
            Ok(Some(hashed)) => hashed,
            Ok(None) => return Ok(Verdict::Unknown),
            // The disk cannot read it, now or ever: it counts as missing, and may be written again.
            Err(error) => {
                tracing::warn!(%digest, path = %path().display(), %error, "Could not read a blob; treating it as missing");
                return Ok(Verdict::Unknown);
            }
        };
        vetted.hashed.fetch_add(stat.size, Ordering::Relaxed);
        let now = fs::stat_file(file)
            .map_err(|e| Error::io("scrub", fs::Error::new("stat", path(), e)))?;
        if hashed == *digest && Seen::now(stat).is_of(&now) {
            vetted.learn(digest, &now);
            return Ok(Verdict::Right);
        }
        if hashed == *digest {
            // Written to, or renewed, meanwhile: still right, but to be hashed again.
            return Ok(Verdict::Right);
        }
        vetted.damaged.fetch_add(1, Ordering::Relaxed);
        vetted.forget(digest);
        tracing::error!(%digest, bytes = stat.size, path = %path().display(), "Removed a damaged blob");
        // Unless it was replaced meanwhile.
        let current = self.stat_blob("remove", digest)?;
        if current.is_some_and(|c| Seen::now(stat).is_of(&c)) {
            self.remove("remove", &keys::blob(digest))?;
        }
        Ok(Verdict::Wrong)
    }
}

/// The result of hashing a blob.
enum Verdict {
    Right,
    Wrong,
    /// It could not be read to its end.
    Unknown,
}

/// Hashes all of a file; `None` if it was aborted.
fn hash(
    digest: &Digest,
    file: &File,
    pace: Option<Pace>,
    stop: &AtomicBool,
) -> std::io::Result<Option<Digest>> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = digest.hasher();
    let (mut buf, mut at) = (vec![0; PIECE_BYTES], 0);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let n = file.read_at(&mut buf, at)?;
        if n == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&buf[..n]);
        at += n as u64;
        if let Some(pace) = pace {
            std::thread::sleep(pace.pause);
        }
    }
}

//! What stands where a file of a module would be restored, and whether it stays.
//!
//! A version's files never change, so what stands is kept unless it is damaged or the project's `go.sum` speaks against it.

use super::{
    MAX_MOD_BYTES, MAX_SMALL_BYTES, fits,
    gosum::{Sums, Verdict},
    path::{self, ModFile, ModVersion, Part},
    read_small, read_ziphash, wrong_info, wrong_mod,
    zip::Directory,
};
use crate::{
    digest::Sha256,
    entry::Entry,
    fs::{Dir, Stat, missing_is_none},
    source::{Error, Known, Result, Standing, stable::open_parent},
};

pub(super) fn standing(
    sums: &Sums,
    root: &Dir,
    entry: &Entry,
    content: Option<&Sha256>,
    known: &dyn Known,
) -> Result<Standing> {
    let path = &entry.path;
    let Some(file) = path::parse(path.as_bytes()) else {
        return Err(Error::Invalid(format!(
            "{path} is not a file of Go's module cache"
        )));
    };
    let Some(dir) = missing_is_none(open_parent(root, path))? else {
        return Ok(Standing::Absent);
    };
    let Some(stat) = dir.stat(path.name())? else {
        return Ok(Standing::Absent);
    };
    if stat.is_dir() {
        // None of Go's, and no rename can put a file in its place.
        return Ok(Standing::Keep);
    }
    if !stat.is_file() {
        return Ok(Standing::Other);
    }
    if let (Some(known), Some(want)) = (known.content(path, &stat), content)
        && known.digest == *want
    {
        return Ok(Standing::Same);
    }
    let keep = match file {
        ModFile::Version(v, Part::Zip) => zip_stays(sums, &dir, path.name(), &stat, &v)?,
        other => {
            let limit = MAX_MOD_BYTES.max(MAX_SMALL_BYTES);
            let Some(bytes) = read_small(&dir, path.name(), limit)? else {
                return Ok(Standing::Other);
            };
            if content.is_some_and(|c| *c == Sha256::of(&bytes)) {
                return Ok(Standing::Same);
            }
            small_stays(sums, &dir, path.name(), &other, &bytes)?
        }
    };
    Ok(if keep {
        Standing::Keep
    } else {
        Standing::Other
    })
}

/// A zip stays that has a readable table of contents and a `.ziphash` that `go.sum` does not contradict. It is not read whole.
fn zip_stays(sums: &Sums, dir: &Dir, name: &[u8], stat: &Stat, v: &ModVersion) -> Result<bool> {
    let Some(h1) = read_ziphash(dir, name)? else {
        return Ok(false);
    };
    if matches!(sums.of_zip(&v.module, &v.version, h1), Verdict::Wrong(_)) {
        return Ok(false);
    }
    let Some(file) = missing_is_none(dir.open_file(name))? else {
        return Ok(false);
    };
    Ok(Directory::read(&file, stat.size, v).is_ok())
}

fn small_stays(sums: &Sums, dir: &Dir, name: &[u8], file: &ModFile, bytes: &[u8]) -> Result<bool> {
    if bytes.is_empty() || !fits(file, bytes.len() as u64) {
        return Ok(false);
    }
    Ok(match file {
        ModFile::Version(v, Part::ZipHash) => {
            let zip = &name[..name.len() - b"hash".len()];
            match read_ziphash(dir, name)? {
                Some(h1) if dir.stat(zip)?.is_some_and(|s| s.is_file()) => {
                    !matches!(sums.of_zip(&v.module, &v.version, h1), Verdict::Wrong(_))
                }
                _ => false,
            }
        }
        ModFile::Version(v, Part::Mod) => wrong_mod(sums, v, bytes).is_none(),
        ModFile::Version(v, Part::Info) => wrong_info(v, bytes).is_none(),
        // Go checks what a database said against its tiles whenever it reads it.
        _ => true,
    })
}

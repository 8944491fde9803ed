//! What exists at the path of a module's file that would be restored, and whether it is kept.
//!
//! A version's files never change, so an existing file is kept unless it is damaged or contradicts the project's `go.sum`. Zips
//! are read for that, unless the node index proves that they are unchanged.

use std::{fs::File, io::Read as _, sync::Arc};

use super::{
    MAX_MOD_BYTES, MAX_SMALL_BYTES,
    dirhash::H1,
    fits,
    gosum::{Sums, Verdict},
    path::{self, ModFile, ModVersion, Part},
    read_small, read_ziphash, wrong_info, wrong_mod,
    zip::{Directory, StoredZip},
};
use crate::{
    digest::{ContentHasher, ContentId},
    entry::Entry,
    fs::{Dir, Parents, Stat, missing_is_none},
    source::{Error, Known, NOT_OF_GO, Result, Standing},
};

pub(super) fn standing(
    sums: &Sums,
    places: &mut Parents<'_>,
    entry: &Entry,
    content: Option<&ContentId>,
    known: &dyn Known,
) -> Result<Standing> {
    let path = &entry.path;
    let Some(file) = path::parse(path.as_bytes()) else {
        return Err(Error::Invalid(format!(
            "{path} is not a file of Go's module cache"
        )));
    };
    let Some(dir) = places.of(path)? else {
        return Ok(Standing::Absent);
    };
    let Some(stat) = dir.stat(path.name())? else {
        return Ok(Standing::Absent);
    };
    if stat.is_dir() {
        return Ok(Standing::Blocked(NOT_OF_GO));
    }
    if !stat.is_file() {
        return Ok(Standing::Other);
    }
    if let (Some(known), Some(want)) = (known.content(path, &stat), content)
        && known.content == *want
    {
        return Ok(Standing::Same);
    }
    let keep = match file {
        ModFile(v, Part::Zip) => {
            return zip_stands(sums, dir, path.name(), &stat, &v, content);
        }
        other => {
            let limit = MAX_MOD_BYTES.max(MAX_SMALL_BYTES);
            let Some(bytes) = read_small(dir, path.name(), limit)? else {
                return Ok(Standing::Other);
            };
            if content.is_some_and(|c| c.matches(&bytes)) {
                return Ok(Standing::SameAsRead(stat.mtime));
            }
            small_stays(sums, dir, path.name(), &other, &bytes)?
        }
    };
    Ok(if keep {
        Standing::Keep
    } else {
        Standing::Other
    })
}

/// A zip is kept if its contents match its `.ziphash` and `go.sum` does not contradict them. Go itself would not check again
/// (go-caches.md 3.3), so a zip that the node index cannot prove is read completely, once: it is remembered if it equals the one
/// to be restored.
fn zip_stands(
    sums: &Sums,
    dir: &Dir,
    name: &[u8],
    stat: &Stat,
    v: &ModVersion,
    content: Option<&ContentId>,
) -> Result<Standing> {
    let Some(h1) = read_ziphash(dir, name)? else {
        return Ok(Standing::Other);
    };
    if matches!(sums.of_zip(&v.module, &v.version, h1), Verdict::Wrong(_)) {
        return Ok(Standing::Other);
    }
    let Some(file) = missing_is_none(dir.open_file(name))? else {
        return Ok(Standing::Other);
    };
    let file = Arc::new(file);
    Ok(match packed(&file, stat.size, v) {
        Ok((found, _)) if found != h1 => Standing::Other,
        Ok((_, packed)) if packed.is_some() && packed.as_ref() == content => {
            Standing::SameAsRead(stat.mtime)
        }
        Ok(_) => Standing::Keep,
        Err(why) => {
            tracing::debug!(module = v.module, version = v.version, why, "Damaged zip");
            Standing::Other
        }
    })
}

/// The hash of a zip's contents, and the identity of its packed form, if that is a separate form.
fn packed(
    file: &Arc<File>,
    size: u64,
    v: &ModVersion,
) -> std::result::Result<(H1, Option<ContentId>), String> {
    let directory = Directory::read(file, size, v)?;
    if directory.stored_len().is_none() {
        return Ok((directory.hash(file)?, None));
    }
    let mut zip = StoredZip::new(file.clone(), directory);
    let mut hasher = ContentHasher::blake3();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match zip.read(&mut buffer).map_err(|e| e.to_string())? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let h1 = zip.h1().ok_or("it was not read to its end")??;
    Ok((h1, Some(hasher.finish())))
}

fn small_stays(sums: &Sums, dir: &Dir, name: &[u8], file: &ModFile, bytes: &[u8]) -> Result<bool> {
    if bytes.is_empty() || !fits(file, bytes.len() as u64) {
        return Ok(false);
    }
    Ok(match file {
        ModFile(v, Part::ZipHash) => {
            let zip = &name[..name.len() - b"hash".len()];
            match read_ziphash(dir, name)? {
                Some(h1) if dir.stat(zip)?.is_some_and(|s| s.is_file()) => {
                    !matches!(sums.of_zip(&v.module, &v.version, h1), Verdict::Wrong(_))
                }
                _ => false,
            }
        }
        ModFile(v, Part::Mod) => wrong_mod(sums, v, bytes).is_none(),
        ModFile(v, Part::Info) => wrong_info(v, bytes).is_none(),
        // It is read completely.
        ModFile(_, Part::Zip) => true,
    })
}

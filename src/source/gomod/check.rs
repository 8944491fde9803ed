//! The last check of staged modules before `go` can see them: Go itself checks zips only when it downloads them, so
//! an unchecked module would be built.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    MAX_MOD_BYTES, MAX_SMALL_BYTES,
    dirhash::H1,
    gosum::Sums,
    path::{self, ModFile, ModVersion, Part},
    read_small, read_ziphash, wrong_info, wrong_mod, wrong_zip,
    zip::Directory,
};
use crate::{
    entry::EntryPath,
    fs::{Dir, missing_is_none},
    source::{Result, stable::open_parent, threads::in_threads},
};

/// The staged files of one version.
struct Version<'a> {
    name: ModVersion,
    parts: Vec<(Part, &'a EntryPath)>,
}

/// Returns the files that must not be placed: all of a version, if one of them is wrong.
pub(super) fn check_staged(
    root: &Path,
    sums: &Sums,
    staged: &Dir,
    paths: &[EntryPath],
) -> Result<Vec<(EntryPath, String)>> {
    let root = Dir::open_if_there(root)?;
    let mut refused = Vec::new();
    let mut versions: BTreeMap<&[u8], Version<'_>> = BTreeMap::new();
    for path in paths {
        if let Some(ModFile(name, part)) = path::parse(path.as_bytes()) {
            let stem = &path.as_bytes()[..path.as_bytes().len() - part.suffix().len()];
            let parts = Vec::new();
            let version = versions.entry(stem).or_insert(Version { name, parts });
            version.parts.push((part, path));
        } else {
            let why = "it is not a file of Go's module cache".to_owned();
            refused.push((path.clone(), why));
        }
    }
    let versions: Vec<Version<'_>> = versions.into_values().collect();
    refused.extend(in_threads(&versions, 4, |versions| {
        let mut refused = Vec::new();
        for version in versions {
            if let Some((bad, why)) = check(version, root.as_ref(), sums, staged)? {
                refused.extend(version.parts.iter().map(|(part, path)| {
                    let why = if *part == bad {
                        why.clone()
                    } else {
                        format!("its {} is refused: {why}", bad.suffix())
                    };
                    ((*path).clone(), why)
                }));
            }
        }
        Ok(refused)
    })?);
    refused.sort_unstable();
    Ok(refused)
}

/// The first wrong part of a staged version, and the reason.
fn check(
    version: &Version<'_>,
    root: Option<&Dir>,
    sums: &Sums,
    staged: &Dir,
) -> Result<Option<(Part, String)>> {
    let Some((_, any)) = version.parts.first() else {
        return Ok(None);
    };
    let Some(here) = missing_is_none(open_parent(staged, any))? else {
        return Ok(Some((version.parts[0].0, "it is not staged".into())));
    };
    let there = match root {
        Some(root) => missing_is_none(open_parent(root, any))?,
        None => None,
    };
    let name_of = |part: Part| {
        let staged = version.parts.iter().find(|(p, _)| *p == part);
        staged.map(|(_, path)| path.name())
    };
    for (part, path) in &version.parts {
        let name = path.name();
        let why = match part {
            Part::Zip => {
                let beside = match (name_of(Part::ZipHash), &there) {
                    (Some(hash), _) => read_ziphash(&here, hash)?,
                    (None, Some(there)) => read_ziphash(there, name)?,
                    (None, None) => None,
                };
                match hash_zip(&here, name, &version.name)? {
                    Ok(h1) => wrong_zip(sums, &version.name, h1, beside),
                    Err(why) => Some(why),
                }
            }
            Part::ZipHash => match read_ziphash(&here, name)? {
                None => Some("it is not an h1: hash".into()),
                // Staged together: the zip is compared with it.
                Some(_) if name_of(Part::Zip).is_some() => None,
                Some(h1) => lone_hash(sums, &version.name, there.as_ref(), name, h1)?,
            },
            Part::Mod => match read_small(&here, name, MAX_MOD_BYTES)? {
                Some(bytes) => wrong_mod(sums, &version.name, &bytes),
                None => Some("it is missing or too long".into()),
            },
            Part::Info => match read_small(&here, name, MAX_SMALL_BYTES)? {
                Some(bytes) => wrong_info(&version.name, &bytes),
                None => Some("it is missing or too long".into()),
            },
        };
        if let Some(why) = why {
            return Ok(Some((*part, why)));
        }
    }
    Ok(None)
}

/// The hash of a zip in `dir`; `Err` with the reason if Go could not use it.
fn hash_zip(
    dir: &Dir,
    name: &[u8],
    version: &ModVersion,
) -> Result<std::result::Result<H1, String>> {
    let Some(stat) = dir.stat(name)?.filter(crate::fs::Stat::is_file) else {
        return Ok(Err("there is no such zip".into()));
    };
    let file = Arc::new(dir.open_file(name)?);
    Ok(Directory::read(&file, stat.size, version).and_then(|d| d.hash(&file)))
}

/// The reason why a `.ziphash` in the cache must not be carried, if any. If go.sum does not know the version, only the zip next
/// to it can tell.
pub(super) fn wrong_ziphash(
    sums: &Sums,
    version: &ModVersion,
    dir: &Dir,
    name: &[u8],
    h1: H1,
) -> Result<Option<String>> {
    match sums.listed_zip(version) {
        Some(_) => Ok(wrong_zip(sums, version, h1, None)),
        None => lone_hash(sums, version, Some(dir), name, h1),
    }
}

/// Checks a `.ziphash` without its zip: with it, Go assumes that zip and extracted tree are complete, so it must match an
/// existing zip.
fn lone_hash(
    sums: &Sums,
    version: &ModVersion,
    there: Option<&Dir>,
    name: &[u8],
    h1: H1,
) -> Result<Option<String>> {
    let zip = &name[..name.len() - b"hash".len()];
    let found = match there {
        Some(dir) => hash_zip(dir, zip, version)?,
        None => Err("there is no such zip".into()),
    };
    Ok(match found {
        Ok(found) => wrong_zip(sums, version, found, Some(h1)),
        Err(why) => Some(format!("it comes without its zip: {why}")),
    })
}

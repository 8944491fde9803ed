//! What is in the place of an output: a file, or the folder in which `go run` and `go tool` keep a program.
//!
//! Such a folder (Go 1.24, `PutExecutable` in `cmd/go/internal/cache/cache.go`) is named like an output and holds exactly one
//! file, the program under its own name. Go uses it wherever it would use a file, whatever the name, and checks the size alone. A
//! folder with more files is a miss for Go; an empty one, which an interrupted link leaves, is filled by the next.

use std::io::Read as _;

use super::{action::Action, path};
use crate::{
    digest::{Sha256, Sha256Hasher},
    entry::EntryPath,
    fs::{self, Dir, Stat, missing_is_none},
    source::Result,
};

/// What is in the place of an output.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or an empty folder.
    Nothing,
    /// A regular file.
    File(Stat),
    /// A folder with a program.
    Program(Program),
    /// A folder with anything else.
    Folder,
    /// A link, a fifo.
    Other,
}

/// A program in its folder.
#[derive(Debug)]
pub(super) struct Program {
    folder: Dir,
    /// Its name.
    pub(super) name: Box<[u8]>,
    /// Its metadata.
    pub(super) stat: Stat,
}

impl Found {
    /// Examines `name` in `shard`.
    pub(super) fn at(shard: &Dir, name: &[u8]) -> fs::Result<Self> {
        match shard.stat(name)? {
            None => Ok(Self::Nothing),
            Some(stat) if stat.is_file() => Ok(Self::File(stat)),
            // It may have been deleted meanwhile.
            Some(stat) if stat.is_dir() => match missing_is_none(shard.open_dir(name))? {
                Some(folder) => Self::of_folder(folder),
                None => Ok(Self::Nothing),
            },
            Some(_) => Ok(Self::Other),
        }
    }

    /// Examines the place of an output below `root`.
    pub(super) fn below(root: &Dir, output: Sha256) -> fs::Result<Self> {
        let place = path::output_path(output);
        match root.open_parent_if_there(&place)? {
            Some(shard) => Self::at(&shard, place.name()),
            None => Ok(Self::Nothing),
        }
    }

    fn of_folder(folder: Dir) -> fs::Result<Self> {
        let mut names = folder.list()?;
        let Some(only) = names.pop() else {
            return Ok(Self::Nothing);
        };
        if !names.is_empty() {
            return Ok(Self::Folder);
        }
        match folder.stat(&only.name)? {
            Some(stat) if stat.is_file() => Ok(Self::Program(Program {
                folder,
                name: only.name,
                stat,
            })),
            _ => Ok(Self::Folder),
        }
    }

    /// The path under which the output that `action` names is carried. Go checks the same, by the size.
    ///
    /// # Errors
    /// It cannot be that output, with the reason.
    pub(super) fn path_for(&self, action: &Action) -> std::result::Result<EntryPath, String> {
        let place = path::output_path(action.output);
        let (stat, path) = match self {
            Self::File(stat) => (stat, place),
            Self::Program(program) => {
                let path = place.join(&program.name).map_err(|e| e.to_string())?;
                if path::parse(path.as_bytes()).is_none() {
                    return Err("its program has a temporary name of cachectl".into());
                }
                (&program.stat, path)
            }
            Self::Nothing => return Err("its output is missing".into()),
            Self::Folder => {
                return Err("its output is a folder that does not hold exactly one program".into());
            }
            Self::Other => return Err("its output is not a regular file".into()),
        };
        if stat.size == action.size {
            Ok(path)
        } else {
            Err(format!(
                "its output has {} bytes, {} expected",
                stat.size, action.size
            ))
        }
    }
}

impl Program {
    /// Returns true if its owner may run it: Go does not check that, and `go run` fails without it.
    pub(super) fn is_executable(&self) -> bool {
        self.stat.mode() & 0o100 != 0
    }

    /// Reads it and compares it with its size and digest.
    pub(super) fn is(&self, size: u64, id: Sha256) -> Result<bool> {
        Ok(self.stat.size == size && hash(&self.folder, &self.name)? == id)
    }
}

/// The SHA-256 of a file.
pub(super) fn hash(dir: &Dir, name: &[u8]) -> Result<Sha256> {
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

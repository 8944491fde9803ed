//! Files of secrets: read whole, line by line, with a warning if others can read them. All calls block.

use std::{
    io::{self, Read as _},
    path::Path,
};

use tracing::warn;

use super::{ANONYMOUS, Error, Result};
use crate::fs;

/// Largest file of users or tokens.
const MAX_BYTES: u64 = 4 << 20;
/// Longest name of a user.
const MAX_NAME_BYTES: usize = 255;

/// Reads a secret file's text; `what` names it in messages.
///
/// # Errors
/// A file that is missing, cannot be read, is over 4 MiB or is not UTF-8.
pub(super) fn read(path: &Path, what: &str) -> Result<String> {
    let bytes =
        open_and_read(path).map_err(|e| Error::new(format!("cannot use the {what} file: {e}")))?;
    String::from_utf8(bytes).map_err(|_| {
        Error::new(format!(
            "cannot use the {what} file `{}`: it is not UTF-8",
            path.display()
        ))
    })
}

fn open_and_read(path: &Path) -> fs::Result<Vec<u8>> {
    let failed = |e| fs::Error::new("read", path, e);
    let file = std::fs::File::open(path).map_err(|e| fs::Error::new("open", path, e))?;
    let mode = fs::stat_file(&file).map_err(failed)?.mode();
    // Access by the group may be intended: Kubernetes gives the files of a secret to the pod's `fsGroup`.
    if mode & 0o007 != 0 {
        warn!(path = %path.display(), mode = format_args!("{mode:o}"), "A file with secrets is world-readable; run chmod 600 on it");
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is longer than {MAX_BYTES} bytes"),
        )));
    }
    Ok(bytes)
}

/// The significant lines, with their numbers from 1; blank ones and comments (`#`) are left out.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// An error about one line; the line itself is not shown, since it may be a secret.
pub(super) fn wrong_line(path: &Path, line: usize, why: impl std::fmt::Display) -> Error {
    Error::new(format!("`{}`, line {line}: {why}", path.display()))
}

/// Checks the name of a principal.
pub(super) fn check_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.is_empty() {
        Err("the name is empty")
    } else if name.len() > MAX_NAME_BYTES {
        Err("the name is longer than 255 bytes")
    } else if name.chars().any(|c| c.is_control() || c == ':') {
        Err("the name holds a `:` or a control character")
    } else if name == ANONYMOUS || name == "*" {
        Err("`anonymous` and `*` are reserved: rules use them for everybody")
    } else {
        Ok(())
    }
}

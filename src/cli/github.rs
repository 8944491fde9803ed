//! Outputs of a GitHub Actions step, written to the file that `$GITHUB_OUTPUT` names.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{output::printable, part::Verb, summary::Summary};
use crate::config::Env;

/// Appends `digest` and, after an import, `cache-hit` and `cache-matched-key`; does nothing if the variable is not set.
///
/// As with `actions/cache`, `cache-hit` is true only for exactly the requested key; `cache-matched-key` is the key that was found.
///
/// # Errors
/// In words, for a warning: a cache problem must not fail a build.
pub(crate) fn append(env: &Env, summary: &Summary) -> Result<(), String> {
    let Some(path) = env.os("GITHUB_OUTPUT").map(PathBuf::from) else {
        return Ok(());
    };
    let mut lines = String::new();
    if summary.verb == Verb::Import {
        lines.push_str(if summary.exact() {
            "cache-hit=true\n"
        } else {
            "cache-hit=false\n"
        });
        // A line end in a key would start another output.
        let key = summary.matched_key().map(printable);
        let _ = writeln!(lines, "cache-matched-key={}", key.unwrap_or_default());
    }
    let digest = summary.digest().map(ToString::to_string);
    let _ = writeln!(lines, "digest={}", digest.unwrap_or_default());
    write(&path, &lines).map_err(|e| {
        format!(
            "cannot write outputs to $GITHUB_OUTPUT ({}): {e}",
            path.display()
        )
    })
}

/// Appends, and never waits: a pipe that nobody reads, or whose reader has stopped, is an error.
fn write(path: &Path, lines: &str) -> io::Result<()> {
    let no_wait = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let mut file = OpenOptions::new()
        .append(true)
        .read(path.is_file())
        .create(true)
        .custom_flags(no_wait.bits().cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_fifo() || kind.is_char_device() {
        // Some steps leave their last line unterminated.
        let end = if kind.is_file() && !ends_a_line(&mut file)? {
            "\n"
        } else {
            ""
        };
        return file.write_all(format!("{end}{lines}").as_bytes());
    }
    Err(io::Error::other("it is neither a file nor a pipe"))
}

/// Returns true if appended text starts on a new line.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == [b'\n'])
}

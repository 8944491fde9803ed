//! Patterns of excluded paths, similar to `.gitignore`.
//!
//! - without a `/` (except at the end) a pattern matches any name at any depth: `*.o`, `node_modules`;
//! - with a `/` at its start or in it, it is the path from the root: `/out`, `docs/*.pdf`;
//! - with a `/` at the end it matches folders only: `tmp/`;
//! - `*` and `?` stop at a `/`, `**` does not: `a/**/b`, `logs/**`; `[a-z]` and `{a,b}` match alternatives; `\` makes the next
//!   character literal;
//! - a matching folder is not entered, so nothing below it can be included again; there is no `!`.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Error, Result};
use crate::entry::EntryPath;

/// Compiled patterns; the default excludes nothing.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    any: GlobSet,
    folders: GlobSet,
}

impl Excludes {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// `Invalid`, with the invalid pattern.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self> {
        let (mut any, mut folders) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let (glob, only_folders) = compile(pattern.as_ref())?;
            if only_folders {
                folders.add(glob);
            } else {
                any.add(glob);
            }
        }
        let build = |b: GlobSetBuilder| {
            b.build()
                .map_err(|e| Error::Invalid(format!("cannot use the exclude patterns: {e}")))
        };
        Ok(Self {
            any: build(any)?,
            folders: build(folders)?,
        })
    }

    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.folders.is_empty()
    }

    /// Returns true if the file or folder at `path` itself is left out; the caller has already checked the folders above it.
    pub fn leaves_out(&self, path: &[u8], is_dir: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let candidate = Candidate::new(Path::new(OsStr::from_bytes(path)));
        self.any.is_match_candidate(&candidate)
            || (is_dir && self.folders.is_match_candidate(&candidate))
    }

    /// Returns true if the file or folder at `path` is left out, by itself or by a folder above it.
    pub fn covers(&self, path: &EntryPath, is_dir: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let bytes = path.as_bytes();
        let above = bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .any(|(at, _)| self.leaves_out(&bytes[..at], true));
        above || self.leaves_out(bytes, is_dir)
    }
}

/// The glob for a pattern, and whether it matches folders only.
fn compile(pattern: &str) -> Result<(Glob, bool)> {
    let refuse = |why: &str| {
        Error::Invalid(format!(
            "cannot use the exclude pattern `{}`: {why}",
            pattern.escape_debug()
        ))
    };
    if pattern.starts_with('!') {
        return Err(refuse(
            "`!` is not supported (write `\\!` for a name that starts with it)",
        ));
    }
    let (body, only_folders) = match pattern.strip_suffix('/') {
        Some(body) => (body, true),
        None => (pattern, false),
    };
    let glob = match body.strip_prefix('/') {
        Some(rest) => rest.to_owned(),
        None if body.contains('/') => body.to_owned(),
        None => format!("**/{body}"),
    };
    if body.is_empty() || glob.is_empty() {
        return Err(refuse("it is empty"));
    }
    if glob.split('/').any(|n| matches!(n, "" | "." | "..")) {
        return Err(refuse("it has an empty, `.` or `..` name"));
    }
    let glob = GlobBuilder::new(&glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|e| refuse(&e.kind().to_string()))?;
    Ok((glob, only_folders))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(pattern: &str, path: &[u8], is_dir: bool) -> bool {
        Excludes::new(&[pattern]).unwrap().leaves_out(path, is_dir)
    }

    #[test]
    fn a_pattern_without_slash_matches_at_any_depth() {
        assert!(out("*.o", b"x.o", false));
        assert!(out("*.o", b"a/b/x.o", false));
        assert!(out("node_modules", b"a/node_modules", true));
        assert!(!out("node_modules", b"a/node_modules2", true));
        assert!(out("*", b".hidden", false));
    }

    #[test]
    fn a_pattern_with_slash_is_anchored() {
        assert!(out("/out", b"out", true));
        assert!(!out("/out", b"a/out", true));
        assert!(out("docs/*.pdf", b"docs/a.pdf", false));
        assert!(!out("docs/*.pdf", b"docs/b/a.pdf", false));
        assert!(!out("docs/*.pdf", b"x/docs/a.pdf", false));
    }

    #[test]
    fn a_slash_at_the_end_means_folders() {
        assert!(out("tmp/", b"a/tmp", true));
        assert!(!out("tmp/", b"a/tmp", false));
        assert!(out("/a/tmp/", b"a/tmp", true));
    }

    #[test]
    fn two_stars_cross_folders() {
        assert!(out("a/**/b", b"a/b", false));
        assert!(out("a/**/b", b"a/x/y/b", false));
        assert!(out("logs/**", b"logs/x/y", false));
        assert!(!out("logs/**", b"logs", true));
    }

    #[test]
    fn names_need_not_be_utf8() {
        assert!(out("*.o", b"\xff\xfe.o", false));
        assert!(out("?.o", b"\xff.o", false));
    }

    #[test]
    fn covers_looks_at_the_folders_above() {
        let e = Excludes::new(&["tmp/"]).unwrap();
        let p = |p: &str| EntryPath::new(p.as_bytes()).unwrap();
        assert!(e.covers(&p("a/tmp/x/y"), false));
        assert!(!e.covers(&p("a/tmp"), false));
        assert!(!e.covers(&p("a/tmpx/y"), false));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for bad in ["", "/", "!x", "a//b", "../x", "a/./b", "[", "a/{b"] {
            let e = Excludes::new(&[bad]).unwrap_err().to_string();
            assert!(e.contains("exclude pattern"), "{bad}: {e}");
        }
        assert!(!Excludes::default().leaves_out(b"x", false));
    }
}

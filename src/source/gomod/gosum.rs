//! The project's checksums: `go.sum` and similar files, lines of `module version[/go.mod] hash` (<https://go.dev/ref/mod#go-sum-files>).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{dirhash::H1, path::ModVersion};
use crate::{
    fs,
    source::{Error, Result},
};

/// Longest checksum file that is read: a few hundred thousand modules.
const MAX_SUM_BYTES: u64 = 64 << 20;

/// The project's verdict on a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The project lists none.
    Unlisted,
    /// It is the listed one.
    Right,
    /// The file lists another one.
    Wrong(H1),
}

/// All checksums of a project.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// By module and version (`v1.2.3` or `v1.2.3/go.mod`).
    lines: HashMap<(String, String), Vec<H1>>,
}

impl Sums {
    /// Reads the files; those that do not exist are left out.
    ///
    /// # Errors
    /// A file cannot be read: continuing would trust content that the file may forbid.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self> {
        let mut sums = Self::default();
        for path in files {
            if let Some(bytes) = fs::read_if_there(path, MAX_SUM_BYTES)? {
                sums.add(path, &bytes)?;
            }
        }
        Ok(sums)
    }

    fn add(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        for (at, line) in String::from_utf8_lossy(bytes).lines().enumerate() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [module, version, hash] = words[..] else {
                if words.is_empty() {
                    continue;
                }
                return Err(Error::Invalid(format!(
                    "malformed line {} in `{}`: Go refuses it too",
                    at + 1,
                    path.display()
                )));
            };
            // Ignore hashes of an unknown kind.
            if let Some(h1) = H1::parse(hash.as_bytes()) {
                self.lines
                    .entry((module.to_owned(), version.to_owned()))
                    .or_default()
                    .push(h1);
            }
        }
        Ok(())
    }

    /// Checks the hash of a module's files; all lines for it must agree, as Go requires.
    pub(super) fn of_zip(&self, module: &str, version: &str, h1: H1) -> Verdict {
        self.judge(&(module.to_owned(), version.to_owned()), h1)
    }

    /// The hash of a module's files that the project requires.
    pub(super) fn listed_zip(&self, v: &ModVersion) -> Option<H1> {
        let key = (v.module.clone(), v.version.clone());
        self.lines.get(&key)?.first().copied()
    }

    /// Checks the hash of a `.mod` file.
    pub(super) fn of_go_mod(&self, module: &str, version: &str, h1: H1) -> Verdict {
        self.judge(&(module.to_owned(), format!("{version}/go.mod")), h1)
    }

    fn judge(&self, key: &(String, String), h1: H1) -> Verdict {
        match self.lines.get(key).map(Vec::as_slice) {
            None | Some([]) => Verdict::Unlisted,
            Some(all) => match all.iter().find(|have| **have != h1) {
                Some(other) => Verdict::Wrong(*other),
                None => Verdict::Right,
            },
        }
    }

    /// Returns true if the project needs that version, or at least its `go.mod`.
    pub(super) fn names(&self, module: &str, version: &str) -> bool {
        let has = |v: String| self.lines.contains_key(&(module.to_owned(), v));
        has(version.to_owned()) || has(format!("{version}/go.mod"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(text: &str) -> Result<Sums> {
        let mut sums = Sums::default();
        sums.add(Path::new("go.sum"), text.as_bytes())?;
        Ok(sums)
    }

    #[test]
    fn lines_for_zip_and_go_mod_are_told_apart() {
        let (a, b) = (H1::of_go_mod(b"a"), H1::of_go_mod(b"b"));
        let s = sums(&format!(
            "example.com/m v1.0.0 {a}\nexample.com/m v1.0.0/go.mod {b}\n\nexample.com/o v2.0.0/go.mod {b}\n"
        ))
        .unwrap();
        assert_eq!(s.of_zip("example.com/m", "v1.0.0", a), Verdict::Right);
        assert_eq!(s.of_zip("example.com/m", "v1.0.0", b), Verdict::Wrong(a));
        assert_eq!(s.of_go_mod("example.com/m", "v1.0.0", b), Verdict::Right);
        assert_eq!(s.of_zip("example.com/o", "v2.0.0", a), Verdict::Unlisted);
        assert!(s.names("example.com/o", "v2.0.0"));
        assert!(!s.names("example.com/o", "v2.0.1"));
    }

    #[test]
    fn lines_that_contradict_each_other_fit_nothing() {
        let (a, b) = (H1::of_go_mod(b"a"), H1::of_go_mod(b"b"));
        let s = sums(&format!("m.io/x v1.0.0 {a}\nm.io/x v1.0.0 {b}\n")).unwrap();
        assert_eq!(s.of_zip("m.io/x", "v1.0.0", a), Verdict::Wrong(b));
        assert_eq!(s.of_zip("m.io/x", "v1.0.0", b), Verdict::Wrong(a));
    }

    #[test]
    fn malformed_lines_are_errors_and_foreign_hashes_are_not() {
        assert!(sums("m.io/x v1.0.0\n").is_err());
        let s = sums("m.io/x v1.0.0 h9:abc\n").unwrap();
        let any = H1::of_go_mod(b"");
        assert_eq!(s.of_zip("m.io/x", "v1.0.0", any), Verdict::Unlisted);
        assert!(Sums::read(&["/nonexistent/go.sum".into()]).is_ok());
    }
}

//! The meaning of paths below `cache/download`.
//!
//! `<escaped module>/@v/<escaped version>.<info|mod|zip|ziphash>` (`cmd/go/internal/modfetch/cache.go`, `golang.org/x/mod/module`
//! for the escaping).
//!
//! `sumdb/<database>`, the answers of checksum databases, is not carried. Only the databases' keys show whether an answer is
//! right, and Go fails on a wrong one instead of asking again: anyone who can write a snapshot could make builds fail. Without
//! these answers Go asks a database again, for modules that no `go.sum` lists and for toolchains.

use super::versions;

/// The download tree, below the module cache's root.
pub(super) const DOWNLOAD: &[u8] = b"cache/download/";
/// The folder with the answers of checksum databases.
const SUMDB: &[u8] = b"cache/download/sumdb";

/// Returns true for the folder with the answers of checksum databases, and for paths in it.
pub(super) fn is_of_sumdb(path: &[u8]) -> bool {
    let rest = path.strip_prefix(SUMDB);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The files of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Zip,
    ZipHash,
    Mod,
    Info,
}

impl Part {
    /// The suffix of its name, with the dot.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Zip => ".zip",
            Self::ZipHash => ".ziphash",
            Self::Mod => ".mod",
            Self::Info => ".info",
        }
    }

    const ALL: [Self; 4] = [Self::Zip, Self::ZipHash, Self::Mod, Self::Info];
}

/// One version of one module, with unescaped names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModVersion {
    pub(super) module: String,
    pub(super) version: String,
}

impl ModVersion {
    /// The common prefix of all names in its zip.
    pub(super) fn prefix(&self) -> String {
        format!("{}@{}/", self.module, self.version)
    }

    /// Returns true if it is a Go toolchain.
    pub(super) fn is_toolchain(&self) -> bool {
        self.module == "golang.org/toolchain"
    }
}

/// A carried file: its version and part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModFile(pub(super) ModVersion, pub(super) Part);

/// Parses a path below the module cache's root; `None` for paths that are not carried.
pub(super) fn parse(path: &[u8]) -> Option<ModFile> {
    let rest = std::str::from_utf8(path.strip_prefix(DOWNLOAD)?).ok()?;
    let (module, file) = rest.split_once("/@v/")?;
    let (version, part) = Part::ALL
        .iter()
        .find_map(|p| Some((file.strip_suffix(p.suffix())?, *p)))?;
    Some(ModFile(mod_version(module, version)?, part))
}

fn mod_version(module: &str, version: &str) -> Option<ModVersion> {
    let (module, version) = (unescape(module)?, unescape(version)?);
    (is_module_path(&module) && versions::is_canonical(&version))
        .then_some(ModVersion { module, version })
}

/// Undoes the escaping of upper-case letters: `!x` is `X`; a bare upper-case letter or `!` is refused.
fn unescape(s: &str) -> Option<String> {
    let mut out = String::with_capacity(s.len());
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => out.push(
                chars
                    .next()
                    .filter(char::is_ascii_lowercase)?
                    .to_ascii_uppercase(),
            ),
            c if c.is_ascii_uppercase() || !c.is_ascii() => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// Returns true for a valid module path (`module.CheckPath`, without its rules for Windows and for major versions).
fn is_module_path(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    first.contains('.')
        && !first.starts_with('-')
        && path.split('/').all(|e| {
            !e.is_empty()
                && !e.starts_with('.')
                && !e.ends_with('.')
                && e.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rest: &str) -> Option<ModFile> {
        parse(&[DOWNLOAD, rest.as_bytes()].concat())
    }

    #[test]
    fn files_of_versions_are_read_with_their_escapes() {
        let ModFile(mv, part) = at("github.com/!burnt!sushi/toml/@v/v1.0.0-!r!c1.ziphash").unwrap();
        assert_eq!(mv.prefix(), "github.com/BurntSushi/toml@v1.0.0-RC1/");
        assert_eq!(part, Part::ZipHash);
        for good in [
            "golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip",
            "gopkg.in/yaml.v2/@v/v2.4.0.mod",
            "example.com/a_b~c/v2/@v/v2.0.0+incompatible.info",
        ] {
            assert!(at(good).is_some(), "{good}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "github.com/a/b/@v/list",
            "github.com/a/b/@v/v1.0.0.lock",
            "github.com/a/b/@v/v1.0.0.partial",
            "github.com/a/b/@v/v1.0.0.zip123.tmp",
            "github.com/a/b/@v/v1.0.zip",
            "github.com/a/b/@v/master.info",
            "github.com/a/b/@v/v1.0.0+meta.info",
            "github.com/a/b/@v/x/v1.0.0.zip",
            "github.com/a/@v/b/@v/v1.0.0.zip",
            "github.com/A/b/@v/v1.0.0.zip",
            "github.com/!a!/b/@v/v1.0.0.zip",
            "github.com/!1/b/@v/v1.0.0.zip",
            "nodot/b/@v/v1.0.0.zip",
            "github.com/.git/@v/v1.0.0.zip",
            "github.com/a b/@v/v1.0.0.zip",
            "@v/v1.0.0.zip",
            "sumdb/sum.golang.org/lookup/github.com/!azure/x@v1.0.0",
            "sumdb/sum.golang.org/lookup/github.com/a/@v/v1.0.0.zip",
            "sumdb/sum.golang.org/tile/8/0/000",
            "sumdb/sum.golang.org/tile/8/2/x001/x234/067.p/13",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
        for (path, is_of) in [
            ("cache/download/sumdb", true),
            ("cache/download/sumdb/s.org/tile/8/0/001", true),
            ("cache/download/sumdb.org/m/@v/v1.0.0.zip", false),
        ] {
            assert_eq!(is_of_sumdb(path.as_bytes()), is_of, "{path}");
        }
        assert_eq!(parse(b"cache/vcs/abc/@v/v1.0.0.zip"), None);
        assert_eq!(parse(b"example.com/m@v1.0.0/go.mod"), None);
        assert_eq!(parse(b"cache/download/\xff.com/@v/v1.0.0.zip"), None);
    }
}

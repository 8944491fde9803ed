//! What a path below `cache/download` stands for.
//!
//! `<escaped module>/@v/<escaped version>.<info|mod|zip|ziphash>`, and below `sumdb/<database>` the answers of a checksum database:
//! `lookup/<escaped module>@<escaped version>` and `tile/8/<level>/<number>[.p/<width>]` (`cmd/go/internal/modfetch/cache.go` and
//! `sumdb.go`, `golang.org/x/mod/module` for the escaping, `golang.org/x/mod/sumdb/tlog` for tiles).

use super::versions;

/// Where all of it lies below the module cache's root.
pub(super) const DOWNLOAD: &[u8] = b"cache/download/";

/// The files of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Zip,
    ZipHash,
    Mod,
    Info,
}

impl Part {
    /// The end of its name, with the dot.
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

/// One version of one module, names as people write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModVersion {
    pub(super) module: String,
    pub(super) version: String,
}

impl ModVersion {
    /// What every name in its zip starts with.
    pub(super) fn prefix(&self) -> String {
        format!("{}@{}/", self.module, self.version)
    }

    /// Says whether it is a Go toolchain.
    pub(super) fn is_toolchain(&self) -> bool {
        self.module == "golang.org/toolchain"
    }
}

/// A file that is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModFile {
    /// A file of a version.
    Version(ModVersion, Part),
    /// What a checksum database said of a version.
    Lookup(ModVersion),
    /// A tile of a checksum database, that many hashes wide: 32 bytes each.
    Tile(u16),
}

/// Takes a path below the module cache's root apart; `None` for all that is not carried.
pub(super) fn parse(path: &[u8]) -> Option<ModFile> {
    let rest = std::str::from_utf8(path.strip_prefix(DOWNLOAD)?).ok()?;
    if let Some(rest) = rest.strip_prefix("sumdb/") {
        return parse_sumdb(rest);
    }
    let (module, file) = rest.split_once("/@v/")?;
    let (version, part) = Part::ALL
        .iter()
        .find_map(|p| Some((file.strip_suffix(p.suffix())?, *p)))?;
    Some(ModFile::Version(mod_version(module, version)?, part))
}

fn mod_version(module: &str, version: &str) -> Option<ModVersion> {
    let (module, version) = (unescape(module)?, unescape(version)?);
    (is_module_path(&module) && versions::is_canonical(&version))
        .then_some(ModVersion { module, version })
}

fn parse_sumdb(rest: &str) -> Option<ModFile> {
    if let Some((db, looked_up)) = rest.split_once("/lookup/") {
        let (module, version) = looked_up.rsplit_once('@')?;
        return is_module_path(db)
            .then(|| mod_version(module, version))?
            .map(ModFile::Lookup);
    }
    let (db, tile) = rest.split_once("/tile/8/")?;
    let (level, number) = tile.split_once('/')?;
    let (number, width) = match number.split_once(".p/") {
        Some((n, w)) => (n, plain_number(w, 255).filter(|w| *w > 0)?),
        None => (number, 256),
    };
    plain_number(level, 63)?;
    let mut groups = number.split('/').rev();
    let is_group = |g: &str| g.len() == 3 && g.bytes().all(|b| b.is_ascii_digit());
    let last = groups.next()?;
    let whole = is_group(last) && groups.all(|g| g.strip_prefix('x').is_some_and(is_group));
    (whole && number.len() <= 40 && is_module_path(db)).then_some(ModFile::Tile(width))
}

/// A decimal number without leading zeros, at most `max`.
fn plain_number(s: &str, max: u16) -> Option<u16> {
    let n: u16 = s.parse().ok()?;
    (n <= max && n.to_string() == s).then_some(n)
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

/// Says whether it can be the path of a module (`module.CheckPath`, without its rules for Windows and for major versions).
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
        let ModFile::Version(mv, part) =
            at("github.com/!burnt!sushi/toml/@v/v1.0.0-!r!c1.ziphash").unwrap()
        else {
            panic!()
        };
        assert_eq!(mv.prefix(), "github.com/BurntSushi/toml@v1.0.0-RC1/");
        assert_eq!(part, Part::ZipHash);
        for good in [
            "golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip",
            "gopkg.in/yaml.v2/@v/v2.4.0.mod",
            "example.com/a_b~c/v2/@v/v2.0.0+incompatible.info",
            "sumdb/sum.golang.org/lookup/github.com/!azure/x@v1.0.0",
            "sumdb/sum.golang.org/tile/8/0/000",
            "sumdb/sum.golang.org/tile/8/2/x001/x234/067.p/13",
            "sumdb/sum.example.com/path/tile/8/0/x001/067.p/255",
        ] {
            assert!(at(good).is_some(), "{good}");
        }
        assert_eq!(at("sumdb/s.org/tile/8/0/001"), Some(ModFile::Tile(256)));
        assert_eq!(at("sumdb/s.org/tile/8/0/001.p/7"), Some(ModFile::Tile(7)));
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
            "sumdb/sum.golang.org/latest",
            "sumdb/sum.golang.org/lookup/github.com/a/b",
            "sumdb/sum.golang.org/lookup/github.com/a/b@v1",
            "sumdb/sum.golang.org/tile/8/0/1",
            "sumdb/sum.golang.org/tile/8/0/001.p/0",
            "sumdb/sum.golang.org/tile/8/0/001.p/256",
            "sumdb/sum.golang.org/tile/8/0/001.p/07",
            "sumdb/sum.golang.org/tile/8/64/001",
            "sumdb/sum.golang.org/tile/8/data/001",
            "sumdb/sum.golang.org/tile/9/0/001",
            "sumdb/sum.golang.org/tile/8/0/001/002",
            "sumdb/nodot/tile/8/0/001",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
        assert_eq!(parse(b"cache/vcs/abc/@v/v1.0.0.zip"), None);
        assert_eq!(parse(b"example.com/m@v1.0.0/go.mod"), None);
        assert_eq!(parse(b"cache/download/\xff.com/@v/v1.0.0.zip"), None);
    }
}

//! A settings file → a layer of values with their lines.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Error, Result,
    table::{Shape, Table},
    value::{Layer, Origin, Raw},
};
use crate::fs;

/// Largest settings file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A settings file that was not named explicitly and cannot be read, for instance because a container's user has no access to its
/// `HOME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The file.
    pub path: PathBuf,
    /// The system's error message.
    pub why: String,
    /// It exists, so there are unknown settings; if false, its existence could not be checked.
    pub is_there: bool,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_there {
            "cannot read the settings in"
        } else {
            "cannot look for settings in"
        };
        write!(f, "{what} {}: {}", self.path.display(), self.why)
    }
}

/// Reads a file; `None` if there is none. Blocks.
///
/// # Errors
/// A file that cannot be read or parsed, and unknown keys, with the line and the nearest valid name.
pub fn read(table: &Table, path: &Path) -> Result<Option<Layer>> {
    parsed(table, path, fs::read_if_there(path, MAX_FILE_BYTES))
}

/// The same for a file that was not named explicitly: if the system does not allow reading it, that is not a user error, and it
/// is recorded in `unread`.
///
/// # Errors
/// As in [`read`], for the content of a file that was read.
pub(super) fn read_unnamed(
    table: &Table,
    path: &Path,
    unread: &mut Vec<Unread>,
) -> Result<Option<Layer>> {
    match fs::read_if_there(path, MAX_FILE_BYTES) {
        Err(e) if e.kind() != io::ErrorKind::InvalidData => {
            unread.push(Unread {
                path: path.to_owned(),
                why: e.source.to_string(),
                // If its existence cannot be checked, treat it as missing.
                is_there: path.symlink_metadata().is_ok(),
            });
            Ok(None)
        }
        read => parsed(table, path, read),
    }
}

fn parsed(table: &Table, path: &Path, read: fs::Result<Option<Vec<u8>>>) -> Result<Option<Layer>> {
    let Some(bytes) = read.map_err(|e| Error::new(format!("cannot read the settings: {e}")))?
    else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::new(format!("{}: is not UTF-8: {e}", path.display())))?;
    parse(table, path, text).map(Some)
}

/// Reads a file's text; `path` is for messages and relative paths.
pub fn parse(table: &Table, path: &Path, text: &str) -> Result<Layer> {
    let document = DeTable::parse(text).map_err(|e| {
        // Not the error's own Display: it quotes the line, which may contain a secret.
        let line = e.span().map_or(1, |s| line_of(text, s.start));
        Error::new(format!(
            "{}:{line}: is not TOML: {}",
            path.display(),
            e.message()
        ))
    })?;
    let mut reader = Reader {
        keys: table,
        path,
        text,
        layer: Layer::default(),
    };
    reader.table("", document.get_ref())?;
    Ok(reader.layer)
}

struct Reader<'a> {
    keys: &'a Table,
    path: &'a Path,
    text: &'a str,
    layer: Layer,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path.display(), line_of(self.text, offset))
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) -> Result<()> {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let inside = format!("{full}.");
            match value.get_ref() {
                DeValue::Table(inner) if prefix.is_empty() && self.keys.has_group(&inside) => {
                    self.table(&inside, inner)?;
                }
                _ => self.key(&full, name.span().start, value)?,
            }
        }
        Ok(())
    }

    fn key(&mut self, name: &str, offset: usize, value: &Spanned<DeValue<'_>>) -> Result<()> {
        let Some(key) = self.keys.find(name) else {
            let e = Error::new(format!("{}: unknown key `{}`", self.at(offset), clip(name)));
            return Err(match self.keys.nearest_key(name) {
                Some(near) => e.hint(format!("did you mean `{near}`?")),
                None => e.hint(self.keys.lookup),
            });
        };
        let raw = raw(key.shape, value.get_ref()).map_err(|expected| {
            Error::new(format!(
                "{}: `{name}` takes {expected}, not {} {}",
                self.at(value.span().start),
                article(value.get_ref().type_str()),
                value.get_ref().type_str()
            ))
        })?;
        let origin = Origin::File {
            path: self.path.to_owned(),
            line: line_of(self.text, offset),
        };
        self.layer.set(key, raw, origin);
        Ok(())
    }
}

/// The value, or what was expected instead.
fn raw(shape: Shape, value: &DeValue<'_>) -> std::result::Result<Raw, &'static str> {
    let one = |s: &str| Ok(Raw::One(s.to_owned()));
    match (shape, value) {
        (Shape::List | Shape::Rules, DeValue::Array(items)) => items
            .iter()
            .map(|v| v.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map(Raw::Many)
            .ok_or("an array of texts"),
        (Shape::List | Shape::Rules, DeValue::String(s)) => Ok(Raw::Many(vec![s.to_string()])),
        (Shape::List | Shape::Rules, _) => Err("an array of texts"),
        (Shape::Flag, DeValue::Boolean(b)) => one(&b.to_string()),
        (Shape::Flag, _) => Err("true or false"),
        (Shape::Count | Shape::Size | Shape::Rate | Shape::Days, DeValue::Integer(n))
            if n.radix() == 10 =>
        {
            one(&n.as_str().replace('_', ""))
        }
        (Shape::Count, _) => Err("a whole number"),
        (_, DeValue::String(s)) => one(s),
        (Shape::Size, _) => Err("a size such as \"2GB\""),
        (Shape::Rate, _) => Err("a rate such as \"50MB/s\""),
        (Shape::Days, _) => Err("days such as \"7d\""),
        (Shape::Time, _) => Err("a time such as \"10m\""),
        _ => Err("a text"),
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

fn clip(name: &str) -> String {
    name.chars()
        .take(80)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The line, from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    1 + before.matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::TABLE;

    fn refused(text: &str) -> (String, String) {
        let e = parse(&TABLE, Path::new("c.toml"), text).unwrap_err();
        (e.message, e.hint.unwrap_or_default())
    }

    #[test]
    fn unknown_key_is_refused_with_its_line_and_the_nearest() {
        let (message, hint) = refused("store = \"disk:/a\"\n\nmax_agee = \"7d\"\n");
        assert_eq!(message, "c.toml:3: unknown key `max_agee`");
        assert_eq!(hint, "did you mean `max_age`?");
        let (message, hint) = refused("[s3]\nstorage_clas = \"X\"\n");
        assert_eq!(message, "c.toml:2: unknown key `s3.storage_clas`");
        assert_eq!(hint, "did you mean `s3.storage_class`?");
        assert_eq!(refused("[s4]\nregion = 1").0, "c.toml:1: unknown key `s4`");
    }

    #[test]
    fn wrong_type_is_refused_with_what_is_expected() {
        assert_eq!(
            refused("strict = \"yes\"").0,
            "c.toml:1: `strict` takes true or false, not a string"
        );
        assert_eq!(
            refused("budget = 10").0,
            "c.toml:1: `budget` takes a time such as \"10m\", not an integer"
        );
        assert_eq!(
            refused("store = [\"a\"]").0,
            "c.toml:1: `store` takes a text, not an array"
        );
        assert_eq!(
            refused("[store]\na = 1").0,
            "c.toml:1: `store` takes a text, not a table"
        );
    }

    #[test]
    fn broken_toml_names_the_line_and_quotes_nothing() {
        let (message, _) = refused("jobs = 2\nstore = \"s3://user:hunter2@b\n");
        assert!(message.starts_with("c.toml:2: is not TOML:"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn values_know_their_lines() {
        let layer = parse(&TABLE, Path::new("/x/c.toml"), "# a\nexclude = [\"*.o\", \"t/\"]\nca_bundle = \"ca.pem\"\nmax_size = 5_000_000\n[prune]\nkeep = 3\n").unwrap();
        assert_eq!(layer.list("exclude"), ["*.o", "t/"]);
        assert_eq!(
            layer.path("ca_bundle").unwrap().unwrap(),
            Path::new("/x/ca.pem")
        );
        assert_eq!(layer.size("max_size").unwrap(), Some(5_000_000));
        assert_eq!(layer.count("prune.keep").unwrap(), Some(3));
        assert_eq!(
            layer.get("prune.keep").unwrap().1.to_string(),
            "/x/c.toml:6"
        );
    }
}

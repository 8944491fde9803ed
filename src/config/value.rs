//! One value: its text, origin and meaning.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use super::{Error, Result, table::Key};
use crate::redact::Secret;

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Not set.
    Default,
    /// A line of a settings file that was only found in the working directory.
    Checkout {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A line of a settings file that was named, or of the user's own.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Checkout { path, line } | Self::File { path, line } => {
                write!(f, "{}:{line}", path.display())
            }
            Self::Env(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// An unparsed value; may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Raw {
    /// One text.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raw(…)")
    }
}

/// Values of one layer (file, environment, flags), or of all of them merged, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer(BTreeMap<&'static str, (Raw, Origin)>);

impl Layer {
    /// Sets a key; the last call wins.
    pub fn set(&mut self, key: &'static Key, raw: Raw, origin: Origin) {
        self.0.insert(key.name, (raw, origin));
    }

    /// Overrides values by those of `above`.
    pub fn overlay(&mut self, above: Self) {
        self.0.extend(above.0);
    }

    /// Splits the values into those selected by `which`, and the others.
    #[must_use]
    pub fn partition(self, which: impl Fn(&str, &Raw) -> bool) -> (Self, Self) {
        let (yes, no) = self
            .0
            .into_iter()
            .partition(|(key, (raw, _))| which(key, raw));
        (Self(yes), Self(no))
    }

    /// The same values, with the origin of a file that was only found in the working directory.
    #[must_use]
    pub fn of_checkout(mut self) -> Self {
        for (_, origin) in self.0.values_mut() {
            if let Origin::File { path, line } = origin {
                *origin = Origin::Checkout {
                    path: std::mem::take(path),
                    line: *line,
                };
            }
        }
        self
    }

    /// The same, but with the values of `other` (or none, if it has none) for the keys selected by `which`.
    #[must_use]
    pub fn with(&self, other: &Self, which: impl Fn(&str) -> bool) -> Self {
        let ours = self.0.iter().filter(|(key, _)| !which(key));
        let theirs = other.0.iter().filter(|(key, _)| which(key));
        Self(
            ours.chain(theirs)
                .map(|(key, set)| (*key, set.clone()))
                .collect(),
        )
    }

    /// Keys of a settings file that the environment overrides with another value in `whole`: the key, its place in the file, the
    /// variable.
    pub(super) fn hidden_in(&self, whole: &Self) -> Vec<(&'static str, Origin, String)> {
        let keys = self.0.iter().filter_map(|(key, (raw, origin))| {
            let (other, by) = whole.0.get(key)?;
            match by {
                Origin::Env(name) if other != raw => Some((*key, origin.clone(), name.clone())),
                _ => None,
            }
        });
        keys.collect()
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<(&Raw, &Origin)> {
        self.0.get(name).map(|(raw, origin)| (raw, origin))
    }

    /// A single text, and its origin.
    pub fn written(&self, name: &str) -> Result<Option<(String, Origin)>> {
        match self.get(name) {
            None => Ok(None),
            Some((Raw::One(text), origin)) => Ok(Some((text.clone(), origin.clone()))),
            Some((Raw::Many(_), origin)) => Err(Error::new(format!(
                "`{name}` takes one value, not a list ({origin})"
            ))),
        }
    }

    /// A single text.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        Ok(self.written(name)?.map(|(text, _)| text))
    }

    /// A URL; it is checked where it is used.
    pub fn url(&self, name: &str) -> Result<Option<String>> {
        self.text(name)
    }

    /// A text that is never shown.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>> {
        Ok(self.text(name)?.map(Secret::new))
    }

    /// The result of `read` for the key's value, or else for its default.
    pub(super) fn or_default<T>(
        &self,
        name: &'static str,
        default: &str,
        read: impl Fn(&Self, &str) -> Result<Option<T>>,
    ) -> Result<T> {
        if let Some(value) = read(self, name)? {
            return Ok(value);
        }
        let default = (Raw::One(default.to_owned()), Origin::Default);
        let default = Self(BTreeMap::from([(name, default)]));
        read(&default, name)?.ok_or_else(|| default.refused(name, "has no value"))
    }

    /// A text that `parse` understands; `expected` completes "expected …".
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some((text, origin)) = self.written(name)? else {
            return Ok(None);
        };
        parse(text.trim()).map(Some).ok_or_else(|| {
            let shown = crate::redact::value(&text);
            Error::new(format!("`{name}` cannot be `{shown}` ({origin})"))
                .hint(format!("expected {expected}"))
        })
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.parsed(name, "true or false", flag)
    }

    /// A number of at least 1.
    pub fn count(&self, name: &str) -> Result<Option<usize>> {
        self.parsed(name, "a whole number from 1 on", |s| {
            s.parse().ok().filter(|n| *n > 0)
        })
    }

    /// A number of bytes.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        self.parsed(name, SIZE, size)
    }

    /// Bytes per second.
    pub fn rate(&self, name: &str) -> Result<Option<u64>> {
        self.parsed(name, RATE, |s| {
            size(s.strip_suffix("/s").unwrap_or(s)).filter(|n| *n > 0)
        })
    }

    /// A span of time.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.parsed(name, "a time such as 90s, 10m or 1h30m", duration)
    }

    /// A span of time that is not zero.
    pub fn nonzero_duration(&self, name: &str) -> Result<Option<Duration>> {
        self.parsed(name, "a time above zero such as 10s or 1m", |s| {
            duration(s).filter(|d| !d.is_zero())
        })
    }

    /// Whole days.
    pub fn days(&self, name: &str) -> Result<Option<u32>> {
        self.parsed(name, "whole days such as 7d or 2weeks", days)
    }

    /// The value of one of several allowed words.
    pub fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(name, &all.join(" or "), |s| {
            words.iter().find(|(word, _)| *word == s).map(|(_, it)| *it)
        })
    }

    /// A path; one in the file is relative to the file's folder.
    pub fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        Ok(self.written(name)?.map(|(text, origin)| match origin {
            Origin::Checkout { path, .. } | Origin::File { path, .. } => path
                .parent()
                .map_or_else(|| text.clone().into(), |p| p.join(&text)),
            _ => text.into(),
        }))
    }

    /// Several texts; a single text is a list of one. In a variable they are separated by commas or line breaks.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.several(name, &[',', '\n'])
    }

    /// As [`Self::list`], for texts that contain commas: in a variable they are separated by semicolons or line breaks.
    pub fn rules(&self, name: &str) -> Vec<String> {
        self.several(name, &[';', '\n'])
    }

    fn several(&self, name: &str, separators: &[char]) -> Vec<String> {
        match self.get(name) {
            None => Vec::new(),
            Some((Raw::Many(all), _)) => all.clone(),
            Some((Raw::One(text), Origin::Env(_))) => text
                .split(separators)
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect(),
            Some((Raw::One(text), _)) => vec![text.clone()],
        }
    }

    /// An error about the value of `name`, with its origin; `why` completes "`name` …".
    pub fn refused(&self, name: &str, why: impl fmt::Display) -> Error {
        let origin = self.get(name).map_or(&Origin::Default, |(_, o)| o);
        Error::new(format!("`{name}` {why} ({origin})"))
    }
}

/// Parses yes or no, in common spellings.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The expected form of a size.
const SIZE: &str =
    "a size with a unit, such as 500MB, 2GiB or 512B; without a unit it is bytes, 1048576 at least";
/// The expected form of a rate.
const RATE: &str = "bytes per second with a unit, such as 50MB or 8MiB/s; without a unit it is bytes, 1048576 at least";
/// A smaller number without a unit is hardly meant as bytes.
const LEAST_BARE: f64 = 1_048_576.0;

/// Parses a size: a number with a decimal (`kB MB GB`) or binary unit (`KiB MiB GiB`). Without a unit it is in bytes, and at
/// least 1 MiB: `5` was probably meant as megabytes.
pub fn size(text: &str) -> Option<u64> {
    if text.parse().is_ok_and(|bare: f64| bare < LEAST_BARE) {
        return None;
    }
    text.parse::<bytesize::ByteSize>().ok().map(|b| b.as_u64())
}

/// A span of time: `90s`, `10m`, `1h30m`, `7d`; `0` alone is zero.
pub fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Whole days: a bare number, or a span that is a multiple of a day.
pub fn days(text: &str) -> Option<u32> {
    const DAY: u64 = 24 * 60 * 60;
    if let Ok(days) = text.parse() {
        return Some(days);
    }
    let span = duration(text)?;
    let whole = span.subsec_nanos() == 0 && span.as_secs() % DAY == 0;
    u32::try_from(span.as_secs() / DAY).ok().filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_know_both_families_of_units() {
        assert_eq!(size("2GB"), Some(2_000_000_000));
        assert_eq!(size("2 GiB"), Some(2 << 30));
        assert_eq!(size("17B"), Some(17));
        for bad in ["", "GB", "-1", "10x", "NaN", "inf"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn small_sizes_and_rates_need_a_unit() {
        for bare in ["0", "5", "50", "1048575", "1e3", "0.5", " 5"] {
            assert_eq!(size(bare), None, "{bare}");
        }
        assert_eq!(size("1048576"), Some(1 << 20));
        assert_eq!(size("0B"), Some(0));
    }

    #[test]
    fn days_are_whole() {
        assert_eq!(days("7"), Some(7));
        assert_eq!(days("2weeks"), Some(14));
        assert_eq!(days("12h"), None);
        assert_eq!(days("24h"), Some(1));
        assert_eq!(days("9999999999999d"), None);
    }

    #[test]
    fn durations_need_units() {
        assert_eq!(duration("1h30m"), Some(Duration::from_mins(90)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("10"), None);
    }

    #[test]
    fn flags_are_words() {
        assert_eq!(flag("Yes"), Some(true));
        assert_eq!(flag("0"), Some(false));
        assert_eq!(flag("maybe"), None);
    }
}

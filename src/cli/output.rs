//! Standard output, and the formatting of numbers and names for people.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use serde_json::Value;

use super::error::{CommandError, Result};
use crate::{digest::Digest, ops, redact::is_unfit, telemetry::commands};

/// Writes data; a reader that has closed the pipe is not an error. Removes anything that a CI system would take for a command.
///
/// # Errors
/// When standard output fails for another reason, such as a full disk.
pub(crate) fn data(text: &str) -> Result<()> {
    raw(&commands::defused(text))
}

/// Writes data unchanged: a script or page that cachectl generated.
///
/// # Errors
/// As [`data`].
pub(crate) fn raw(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::failed(format!(
            "cannot write to standard output: {e}"
        ))),
        _ => Ok(()),
    }
}

/// Writes one JSON object and a line break.
pub(crate) fn object(value: &Value) -> Result<()> {
    raw(&commands::defused_json(&format!("{value:#}\n")))
}

/// Writes to standard error, ignoring errors: there is nowhere to report them.
pub(crate) fn note(text: &str) {
    let text = commands::defused(text);
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `12.3 MB`, by thousands.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be shown as 1000.0
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.04s`, `1.2s`, `83s`.
pub(crate) fn seconds(d: Duration) -> String {
    let s = d.as_secs_f64();
    if s < 1.0 {
        format!("{s:.2}s")
    } else if s < 60.0 {
        format!("{s:.1}s")
    } else {
        format!("{s:.0}s")
    }
}

/// `24h`, `3h 10m`, `40s`: whole minutes from a minute on, rounded up.
pub(crate) fn rough(d: Duration) -> String {
    let secs = d.as_secs() + u64::from(d.subsec_nanos() > 0);
    if secs < 60 {
        return format!("{secs}s");
    }
    let minutes = secs.div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, m) => format!("{m}m"),
        (h, 0) => format!("{h}h"),
        (h, m) => format!("{h}h {m}m"),
    }
}

/// Text from a store or a path, without terminal control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_unfit(c) { '\u{fffd}' } else { c })
        .collect()
}

/// `sha256:4f1c2d3e4f50`: enough to tell snapshots apart.
pub(crate) fn short(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}:{}", digest.algorithm(), &hex[..hex.len().min(12)])
}

/// The caches of tags, as users wrote them, once each: a cache's side tags belong to it.
pub(crate) fn names(tags: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for tag in tags {
        let name = printable(&ops::in_words(tag));
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// `1 entry`, `2 entries`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Texts, one per line.
pub(crate) fn lines(texts: impl Iterator<Item = String>) -> String {
    texts.fold(String::new(), |all, text| all + &text + "\n")
}

/// Widest column in which cells are aligned, in characters.
const MAX_COLUMN: usize = 48;

/// Aligns columns; `right` marks those of numbers. The first row is the heading.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|r| r.get(c));
        let widths = cells.map(|s| s.chars().count());
        // A long cell shifts its own row; it does not widen all others.
        widths.filter(|w| *w <= MAX_COLUMN).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let gap = widths[c].saturating_sub(cell.chars().count());
            let (before, after) = if right.contains(&c) {
                (gap, 0)
            } else {
                (0, gap)
            };
            let _ = write!(line, "{:before$}{cell}{:after$}  ", "", "");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_into_the_right_unit() {
        let shown: Vec<_> = [0, 999, 1000, 999_949, 999_950, 1_500_000, u64::MAX]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(
            shown,
            [
                "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 MB", "18.4 EB"
            ]
        );
    }

    #[test]
    fn table_lines_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            table(&[row("NAME", "SIZE"), row("ä", "1")], &[1]),
            "NAME  SIZE\nä        1\n"
        );
        let long = "k".repeat(600);
        let text = table(&[row("KEY", "SIZE"), row(&long, "1"), row("k", "2")], &[1]);
        assert_eq!(text, format!("KEY  SIZE\n{long}     1\nk       2\n"));
    }

    #[test]
    fn a_cache_is_named_once_and_not_by_its_tags() {
        let tags = [
            "gobuild.m.default..w1lgmiiusk72k0igi",
            "gobuild.m.default.",
            "gomod.m.default.",
            "team/app:latest",
        ];
        assert_eq!(
            names(&tags.map(str::to_owned)),
            [
                "gobuild m (scope default)",
                "gomod m (scope default)",
                "team/app:latest"
            ]
        );
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\n\u{202e}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}"
        );
    }
}

//! The few lines of `go.mod` and `go.work` that matter to a cache: the module's path, Go's version, the workspace's modules.
//!
//! Grammar: <https://go.dev/ref/mod#go-mod-file-grammar> and `#go-work-file-grammar`.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use super::GoEnv;

/// Longest module or workspace file that is read (`MaxGoMod` of Go).
pub const MAX_MOD_BYTES: u64 = 16 << 20;

/// Maximum number of workspace modules that are read.
const MAX_USES: usize = 1000;

/// The words of one line without its comment; quoted words lose their quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with("//") {
        let word;
        (word, rest) = match rest.chars().next() {
            // Paths and versions need no escapes; a word with an escape is used literally.
            Some(q @ ('"' | '`')) => rest[1..].split_once(q).unwrap_or((&rest[1..], "")),
            Some('(' | ')') => rest.split_at(1),
            _ => {
                let end = rest
                    .find(|c: char| c.is_whitespace() || c == '(' || c == ')')
                    .unwrap_or(rest.len());
                rest.split_at(rest.find("//").map_or(end, |at| at.min(end)))
            }
        };
        words.push(word.to_owned());
        rest = rest.trim_start();
    }
    words
}

/// The arguments of each `verb` line, including lines within `verb ( … )` blocks.
fn directives(text: &str, verb: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut block: Option<bool> = None;
    for line in text.lines() {
        let mut w = words(line);
        match block {
            Some(ours) => match w.first().map(String::as_str) {
                Some(")") => block = None,
                Some(_) if ours => found.push(w),
                _ => {}
            },
            None if w.last().is_some_and(|l| l == "(") => {
                block = Some(w[0] == verb);
            }
            None if w.first().is_some_and(|f| f == verb) => {
                w.remove(0);
                found.push(w);
            }
            None => {}
        }
    }
    found
}

fn first(text: &str, verb: &str) -> Option<String> {
    directives(text, verb)
        .into_iter()
        .next()?
        .into_iter()
        .next()
        .filter(|w| !w.is_empty())
}

fn read(path: &Path) -> Option<String> {
    let bytes = crate::fs::read_if_there(path, MAX_MOD_BYTES).ok()??;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The path in the `module` line of a module file; `None` if there is no such file or line.
pub fn module_path(go_mod: &Path) -> Option<String> {
    first(&read(go_mod)?, "module")
}

/// The folders of a workspace file's `use` lines, in its order, absolute.
pub fn used_folders(go_work: &Path) -> Vec<PathBuf> {
    let base = go_work.parent().unwrap_or(Path::new("/"));
    directives(&read(go_work).unwrap_or_default(), "use")
        .into_iter()
        .filter_map(|w| w.into_iter().next())
        .take(MAX_USES)
        .map(|dir| base.join(dir))
        .collect()
}

/// The default name of a cache of this project: the main module's path.
///
/// In a workspace it is the path of the workspace's first module, regardless of the folder in which the command runs.
pub fn default_name(env: &GoEnv) -> Option<String> {
    if let Some(work) = &env.gowork {
        let named = used_folders(work)
            .iter()
            .find_map(|dir| module_path(&dir.join("go.mod")));
        if named.is_some() {
            return named;
        }
    }
    module_path(env.gomod.as_deref()?)
}

/// The files with the project's checksums: `go.sum`, in a workspace also `go.work.sum` and the `go.sum` of each module that it
/// uses. They need not exist.
pub fn sum_files(env: &GoEnv) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = env.gomod.iter().map(|m| m.with_extension("sum")).collect();
    if let Some(work) = &env.gowork {
        files.push(work.with_extension("work.sum"));
        files.extend(used_folders(work).into_iter().map(|d| d.join("go.sum")));
    }
    files.sort();
    files.dedup();
    files
}

/// The release that Go switches to for this project: the newest of its own, the `go` line and the `toolchain` line.
///
/// `setting` is the user's `GOTOOLCHAIN` (`cmd/go/internal/toolchain/select.go`, `Select`).
pub(super) fn toolchain(env: &GoEnv, setting: &str) -> String {
    let (min, mode) = match setting {
        "auto" | "path" => ("local", setting),
        other => other.split_once('+').unwrap_or((other, "")),
    };
    let mut best = match min {
        "" | "local" => env.goversion.clone(),
        named => named.to_owned(),
    };
    if !matches!(mode, "auto" | "path") {
        return best;
    }
    let file = env.gowork.as_deref().or(env.gomod.as_deref());
    let Some(text) = file.and_then(read) else {
        return best;
    };
    let line = first(&text, "toolchain");
    if line.as_deref() == Some("default") {
        return best;
    }
    let wanted = [line, first(&text, "go").map(|v| release_of_go_line(&v))];
    for candidate in wanted.into_iter().flatten() {
        if compare_releases(&candidate, &best) == Ordering::Greater {
            best = candidate;
        }
    }
    best
}

/// The release of a `go` line: since 1.21 a bare `1.N` means the release `1.N.0`.
fn release_of_go_line(version: &str) -> String {
    let minor = version
        .strip_prefix("1.")
        .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|n| n.parse::<u32>().ok());
    match minor {
        Some(n) if n >= 21 => format!("go{version}.0"),
        _ => format!("go{version}"),
    }
}

/// Orders names of releases (`go1.21rc2` < `go1.21.0` < `go1.21.3`); an invalid name is older than all.
fn compare_releases(a: &str, b: &str) -> Ordering {
    release_key(a).cmp(&release_key(b))
}

/// The numbers of a release, then its stage: beta, rc, release.
fn release_key(name: &str) -> Option<([u32; 3], u32, u32)> {
    let name = name.strip_prefix("go")?;
    // "go1.26.8-custom" is "go1.26.8".
    let name = name.split(['-', ' ']).next().unwrap_or(name);
    let (numbers, stage, nth) = if let Some((n, k)) = name.split_once("rc") {
        (n, 1, k.parse().ok()?)
    } else if let Some((n, k)) = name.split_once("beta") {
        (n, 0, k.parse().ok()?)
    } else {
        (name, 2, 0)
    };
    let mut key = [0; 3];
    let mut parts = numbers.split('.');
    for slot in &mut key {
        match parts.next() {
            Some(p) => *slot = p.parse().ok()?,
            None => break,
        }
    }
    parts.next().is_none().then_some((key, stage, nth))
}

/// The toolchains that the project may run with, as versions of `golang.org/toolchain`, without the platform: `v0.0.1-go1.26.8`.
pub fn toolchain_versions(env: &GoEnv) -> Vec<String> {
    if env.goversion.is_empty() {
        Vec::new()
    } else {
        vec![format!("v0.0.1-{}", env.goversion)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_drop_comments_and_quotes() {
        for (line, want) in [
            ("module example.com/a // b", vec!["module", "example.com/a"]),
            (
                "module \"example.com/a\"//x",
                vec!["module", "example.com/a"],
            ),
            ("\tmodule\t`example.com/a`", vec!["module", "example.com/a"]),
            ("use (", vec!["use", "("]),
            ("use(", vec!["use", "("]),
            (")", vec![")"]),
            ("// module x", vec![]),
            ("", vec![]),
            ("\"open", vec!["open"]),
        ] {
            assert_eq!(words(line), want, "{line}");
        }
    }

    #[test]
    fn first_module_line_wins_quoted_or_not() {
        for (text, want) in [
            (
                "// c\nmodule example.com/a\n\ngo 1.26\n",
                Some("example.com/a"),
            ),
            (
                "module \"example.com/q\"\nmodule other",
                Some("example.com/q"),
            ),
            ("module (\n\texample.com/b\n)\n", Some("example.com/b")),
            ("require example.com/x v1.0.0\n", None),
            ("", None),
        ] {
            assert_eq!(first(text, "module").as_deref(), want, "{text}");
        }
    }

    #[test]
    fn releases_are_ordered_as_go_does() {
        let names = [
            "nonsense",
            "go1.20",
            "go1.21beta1",
            "go1.21rc1",
            "go1.21rc2",
            "go1.21.0",
            "go1.21.10",
            "go1.26.8",
        ];
        for pair in names.windows(2) {
            assert_eq!(
                compare_releases(pair[0], pair[1]),
                Ordering::Less,
                "{pair:?}"
            );
        }
        assert_eq!(release_of_go_line("1.26"), "go1.26.0");
        assert_eq!(release_of_go_line("1.18"), "go1.18");
        assert_eq!(release_of_go_line("1.26rc1"), "go1.26rc1");
    }
}

//! Versions of modules: which are canonical, how they are ordered, and the `@v/list` that Go keeps of them.
//!
//! Semantic versions as `golang.org/x/mod/semver` has them; the list as `rewriteVersionList` in `cmd/go/internal/modfetch/cache.go` writes it.

use std::cmp::Ordering;

/// A parsed version; numbers stay text, since they may be long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version<'a> {
    numbers: [&'a str; 3],
    prerelease: &'a str,
    build: &'a str,
}

fn is_number(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

fn is_plain_number(s: &str) -> bool {
    is_number(s) && (s.len() == 1 || !s.starts_with('0'))
}

fn is_identifier(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Parses `vX.Y.Z[-prerelease][+build]`, all three numbers given.
fn parse(v: &str) -> Option<Version<'_>> {
    let v = v.strip_prefix('v')?;
    let (v, build) = v.split_once('+').map_or((v, None), |(v, b)| (v, Some(b)));
    let (v, pre) = v.split_once('-').map_or((v, None), |(v, p)| (v, Some(p)));
    let mut parts = v.split('.');
    let numbers = [parts.next()?, parts.next()?, parts.next()?];
    if parts.next().is_some() || !numbers.iter().all(|n| is_plain_number(n)) {
        return None;
    }
    // A number with a leading zero is not a valid prerelease identifier.
    let pre_is_fine = pre.is_none_or(|p| {
        p.split('.')
            .all(|i| is_identifier(i) && (!is_number(i) || is_plain_number(i)))
    });
    let build_is_fine = build.is_none_or(|b| b.split('.').all(is_identifier));
    (pre_is_fine && build_is_fine).then_some(Version {
        numbers,
        prerelease: pre.unwrap_or(""),
        build: build.unwrap_or(""),
    })
}

/// Returns true if Go keeps files of that version: it must be complete, and without build metadata other than `+incompatible`.
pub(super) fn is_canonical(v: &str) -> bool {
    parse(v).is_some_and(|p| matches!(p.build, "" | "incompatible"))
}

fn compare_numbers(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn compare_prereleases(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => return Ordering::Equal,
        // A release is newer than its prereleases.
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let (x, y) = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => (x, y),
        };
        let order = match (is_number(x), is_number(y)) {
            (true, true) => compare_numbers(x, y),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Orders two versions as `semver.Sort` does: by precedence, equal ones by their text; invalid ones come first.
fn compare(a: &str, b: &str) -> Ordering {
    let by_precedence = match (parse(a), parse(b)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(x), Some(y)) => x
            .numbers
            .iter()
            .zip(y.numbers)
            .map(|(m, n)| compare_numbers(m, n))
            .find(|o| *o != Ordering::Equal)
            .unwrap_or_else(|| compare_prereleases(x.prerelease, y.prerelease)),
    };
    by_precedence.then_with(|| a.cmp(b))
}

/// The content of `@v/list`, from the names of all files in its folder: every canonical version that has a `.mod`, in order.
///
/// Versions stay escaped, as in the file names: Go does not unescape them either.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut versions: Vec<&str> = names
        .filter_map(|n| std::str::from_utf8(n).ok()?.strip_suffix(".mod"))
        .filter(|v| is_canonical(v))
        .collect();
    versions.sort_by(|a, b| compare(a, b));
    let mut text = versions.join("\n").into_bytes();
    if !text.is_empty() {
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_versions_are_told_from_others() {
        for v in [
            "v0.0.0",
            "v1.2.3-pre.1",
            "v1.2.3-0.20200101000000-abcdef012345",
            "v2.0.0+incompatible",
            "v0.0.1-go1.26.8.linux-amd64",
            "v1.2.3--",
            "v99999999999999999999.0.0",
        ] {
            assert!(is_canonical(v), "{v}");
        }
        for v in [
            "",
            "v",
            "1.2.3",
            "v1",
            "v1.2",
            "v1.2.3.4",
            "v01.2.3",
            "v1.2.3-",
            "v1.2.3-a..b",
            "v1.2.3-01",
            "v1.2.3+meta",
            "v1.2.3+",
            "v1.2.3_",
            "master",
            "v1.2.3-é",
        ] {
            assert!(!is_canonical(v), "{v}");
        }
    }

    #[test]
    fn versions_are_ordered_as_semver_does() {
        // Semantic Versioning 2.0.0, 11.4, and more.
        let order = [
            "v0.0.0-20200101000000-abcdef012345",
            "v0.9.10",
            "v1.0.0-0.20200101000000-abcdef012345",
            "v1.0.0-alpha",
            "v1.0.0-alpha.1",
            "v1.0.0-alpha.beta",
            "v1.0.0-beta",
            "v1.0.0-beta.2",
            "v1.0.0-beta.11",
            "v1.0.0-rc.1",
            "v1.0.0",
            "v1.0.0+incompatible",
            "v1.2.0",
            "v1.10.0",
            "v10.0.0",
        ];
        for pair in order.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    #[test]
    fn the_list_names_canonical_versions_with_a_mod_file() {
        let names = [
            &b"list"[..],
            b"v1.10.0.mod",
            b"v1.2.0.mod",
            b"v1.2.0.zip",
            b"v1.3.0.info",
            b"master.mod",
            b".mod",
            b"v1.0.0-pre.mod",
            b"v9.0.0.mod1234.tmp",
            b"\xff.mod",
        ];
        assert_eq!(list(names.into_iter()), b"v1.0.0-pre\nv1.2.0\nv1.10.0\n");
        assert!(list(std::iter::empty()).is_empty());
    }
}

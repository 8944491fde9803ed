//! Suggestions for mistyped names.

/// The candidate with the fewest edits to `wrong`, if it is near enough to be a likely correction.
///
/// Near: at most a third of its letters differ, and at least one edit is always allowed. Ties go to the first.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = folded(wrong);
    candidates
        .into_iter()
        .map(|c| (edits(&wrong, &folded(c)), c))
        .filter(|(d, c)| *d <= (c.len() / 3).max(1))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Returns true if `wrong` is `name` mistyped, rather than another word that looks like it.
///
/// At most a quarter of the letters of the shorter one differ, and at least one edit is always allowed. The plural of a single
/// word is not a mistyped singular, nor the reverse (`JOB` and `JOBS`, `KEYS` and `KEY`); this exception does not apply to names
/// of several words.
pub fn is_slip(wrong: &str, name: &str) -> bool {
    let (wrong, name) = (folded(wrong), folded(name));
    let is_plural = |many: &str, one: &str| many.strip_suffix('s') == Some(one);
    if !name.contains('_') && (is_plural(&wrong, &name) || is_plural(&name, &wrong)) {
        return false;
    }
    edits(&wrong, &name) <= (wrong.len().min(name.len()) / 4).max(1)
}

fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// Number of insertions, removals, replacements and swaps of neighbours between two words.
fn edits(a: &str, b: &str) -> usize {
    // Names are short; a hostile one must not cost a quadratic table.
    let a: Vec<char> = a.chars().take(128).collect();
    let b: Vec<char> = b.chars().take(128).collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["max_age", "max_size", "store", "scope"];

    #[test]
    fn nearest_finds_slips_swaps_and_dashes() {
        assert_eq!(nearest("max_agee", NAMES), Some("max_age"));
        assert_eq!(nearest("max-size", NAMES), Some("max_size"));
        assert_eq!(nearest("sotre", NAMES), Some("store"));
        assert_eq!(nearest("SCOPE", NAMES), Some("scope"));
    }

    #[test]
    fn nearest_does_not_guess_wildly() {
        assert_eq!(nearest("zzzzzz", NAMES), None);
        assert_eq!(nearest("", NAMES), None);
        assert_eq!(nearest(&"x".repeat(100_000), NAMES), None);
    }
}

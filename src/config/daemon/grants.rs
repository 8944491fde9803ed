//! Parsing of `auth.grants` rules: `ci,node-* = team/** : pull,push`.

use crate::serve::auth::{Action, Rule};

/// The expected form, for a hint.
pub(super) const EXPECTED: &str =
    "expected NAMES = REPOSITORIES : ACTIONS, such as `ci,node-* = team/** : pull,push`";

/// Reads one rule; names and patterns are checked where they are compiled.
pub(super) fn parse(text: &str) -> Result<Rule, String> {
    let (principals, rest) = text
        .split_once('=')
        .ok_or_else(|| "it has no `=`".to_owned())?;
    // Names may be URIs, so split at the last colon.
    let (repositories, actions) = rest
        .rsplit_once(':')
        .ok_or_else(|| "it has no `:` before the actions".to_owned())?;
    Ok(Rule {
        principals: words(principals, "names")?,
        repositories: words(repositories, "repositories")?,
        actions: self::actions(actions)?,
    })
}

fn words(text: &str, what: &str) -> Result<Vec<String>, String> {
    // A comma within `{a,b}` belongs to the pattern.
    let mut depth = 0_usize;
    let words: Vec<String> = text
        .split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(|word| word.trim().to_owned())
        .collect();
    if words.iter().any(String::is_empty) {
        return Err(format!("one of its {what} is empty"));
    }
    Ok(words)
}

fn actions(text: &str) -> Result<Vec<Action>, String> {
    if text.trim() == "*" {
        return Ok(vec![Action::Pull, Action::Push, Action::Delete]);
    }
    words(text, "actions")?
        .iter()
        .map(|word| match word.as_str() {
            "pull" => Ok(Action::Pull),
            "push" => Ok(Action::Push),
            "delete" => Ok(Action::Delete),
            other => Err(format!("`{other}` is not an action")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_names_repositories_and_actions() {
        let rule = parse("ci, node-* = team/**,{a,b}/x : pull, push").unwrap();
        assert_eq!(rule.principals, ["ci", "node-*"]);
        assert_eq!(rule.repositories, ["team/**", "{a,b}/x"]);
        assert_eq!(rule.actions, [Action::Pull, Action::Push]);
        let all = parse("spiffe://cluster/ci=**:*").unwrap();
        assert_eq!(all.principals, ["spiffe://cluster/ci"]);
        assert_eq!(all.actions.len(), 3);
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (text, why) in [
            ("ci : pull", "it has no `=`"),
            ("ci = team", "it has no `:` before the actions"),
            ("ci,, = a : pull", "one of its names is empty"),
            ("ci = a : write", "`write` is not an action"),
            ("ci = a :", "one of its actions is empty"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text}");
        }
    }
}

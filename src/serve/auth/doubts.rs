//! Rules that cannot have the intended effect: for a name without an account, or a repository that cannot exist.

use super::{ANONYMOUS, accounts::Accounts, config::Config, policy};

/// Warnings about the rules.
pub(super) fn of_rules(config: &Config, accounts: &Accounts) -> Vec<String> {
    let mut doubts = Vec::new();
    for rule in &config.grants {
        for text in &rule.principals {
            if !config.names_by_certificate && !is_somebody(text, accounts) {
                doubts.push(format!("no user or token is called `{text}`"));
            }
        }
        for pattern in &rule.repositories {
            if let Some(why) = matches_nothing(pattern) {
                doubts.push(format!("`{pattern}` matches no repository: {why}"));
            }
        }
    }
    doubts.dedup();
    doubts
}

fn is_somebody(text: &str, accounts: &Accounts) -> bool {
    let is_meant = |name| policy::is_meant(text, name);
    text == ANONYMOUS || accounts.names().any(is_meant)
}

/// Why a pattern cannot match any name of a repository: these are lower-case words with `.`, `_` and `-`, between single
/// slashes (distribution spec, "Pulling manifests"). Patterns that could match, but match no existing repository, are fine.
fn matches_nothing(pattern: &str) -> Option<String> {
    if pattern.starts_with('/') || pattern.ends_with('/') || pattern.contains("//") {
        return Some("a name neither begins nor ends with `/`, nor has two in a row".to_owned());
    }
    let mut in_class = false;
    for c in pattern.chars() {
        match c {
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            // Characters of names, and those that patterns have in addition.
            'a'..='z' | '0'..='9' | '.' | '_' | '-' | '/' | '*' | '?' | '{' | '}' | ',' | '\\' => {}
            ':' => return Some("a name contains neither a host with a port nor a tag".to_owned()),
            'A'..='Z' => return Some("a name is lower case".to_owned()),
            c => return Some(format!("a name contains no `{}`", c.escape_debug())),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::{Action, Rule};

    fn config(principals: &[&str], repositories: &[&str]) -> Config {
        let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Config {
            grants: vec![Rule {
                principals: own(principals),
                repositories: own(repositories),
                actions: vec![Action::Pull],
            }],
            ..Config::default()
        }
    }

    #[test]
    fn rules_for_nobody_and_for_no_repository_are_doubted() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        std::fs::write(&tokens, "ci 0123456789abcdef0123456789abcdef\n").unwrap();
        let with = |principals: &[&str], repositories: &[&str]| {
            let config = Config {
                tokens: Some(tokens.clone()),
                ..config(principals, repositories)
            };
            of_rules(&config, &Accounts::read(&config).unwrap())
        };
        let fine = ["**", "team/{a,b}/[A-Z]x", "*/cache", "a-b_c.d/e?"];
        assert!(with(&["ci", "c*", "*", "anonymous"], &fine).is_empty());
        assert_eq!(with(&["cl"], &["**"]), ["no user or token is called `cl`"]);
        for (pattern, why) in [
            ("Team/**", "lower case"),
            ("/team/**", "begins"),
            ("team/", "ends"),
            ("a//b", "two in a row"),
            ("host:5000/team/**", "port"),
            ("team/app:latest", "tag"),
            ("team app", "` `"),
        ] {
            let doubts = with(&["ci"], &[pattern]);
            assert!(doubts.len() == 1 && doubts[0].contains(why), "{doubts:?}");
        }
    }

    #[test]
    fn whose_certificates_are_verified_may_be_called_anything() {
        let config = Config {
            names_by_certificate: true,
            ..config(&["node-7"], &["**"])
        };
        assert!(of_rules(&config, &Accounts::default()).is_empty());
    }
}

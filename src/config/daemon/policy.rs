//! The repositories to which a policy applies.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::config::{Layer, Result};

/// Reads `on`, `off` or a list of patterns, as in `auth.grants`: `*` stops at a `/`, `**` does not. Default: on.
pub(super) fn repositories(layer: &Layer, name: &str) -> Result<GlobSet> {
    let mut texts = layer.list(name);
    if layer.get(name).is_none() {
        texts.push("on".to_owned());
    }
    let patterns: Vec<&str> = match texts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["on" | "true"] => vec!["**"],
        ["off" | "false"] => Vec::new(),
        ref patterns => patterns.to_vec(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        if pattern.is_empty() || matches!(pattern, "on" | "off") {
            return Err(layer
                .refused(name, format!("cannot hold `{pattern}` among patterns"))
                .hint("expected on, off, or patterns of repositories such as team/**"));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|e| layer.refused(name, format!("holds no pattern: {e}")))?;
        set.add(glob);
    }
    set.build()
        .map_err(|e| layer.refused(name, format!("cannot be used: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, Raw, daemon::TABLE};

    fn policy(texts: &[&str]) -> Result<GlobSet> {
        let mut layer = Layer::default();
        let raw = Raw::Many(texts.iter().map(|t| (*t).to_owned()).collect());
        let key = TABLE.find("buildkit.merge").unwrap();
        layer.set(key, raw, Origin::Flag("--x".to_owned()));
        repositories(&layer, key.name)
    }

    #[test]
    fn on_is_all_and_off_is_none() {
        let default = repositories(&Layer::default(), "buildkit.merge").unwrap();
        for (policy, has) in [
            (default, true),
            (policy(&["on"]).unwrap(), true),
            (policy(&["off"]).unwrap(), false),
        ] {
            assert_eq!(policy.is_match("team/app"), has);
        }
    }

    #[test]
    fn patterns_stop_at_slashes_unless_doubled() {
        let some = policy(&["team/**", "*/cache"]).unwrap();
        for (repository, has) in [
            ("team/a/b", true),
            ("x/cache", true),
            ("x/y/cache", false),
            ("teams/a", false),
        ] {
            assert_eq!(some.is_match(repository), has, "{repository}");
        }
    }

    #[test]
    fn switches_and_patterns_do_not_mix() {
        for bad in [&["on", "team/**"][..], &["a["], &[""]] {
            assert!(policy(bad).is_err(), "{bad:?}");
        }
    }
}

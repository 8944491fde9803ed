//! The list of all settings of the daemon, from the lines that define them: the single table behind the file, the environment,
//! the flags, `--help`, the start's report and the reference.

use std::sync::LazyLock;

use super::{
    Tls,
    settings::{Config, Otlp, parts},
};
use crate::config::{
    keys as cli, remote,
    table::{Key, Table, TakesEffect},
};

/// Prefix of the daemon's own variables.
pub const PREFIX: &str = "CACHECTLD_";

/// The variable that names the settings file.
pub const CONFIG_VARIABLE: &str = "CACHECTLD_CONFIG";

/// The daemon's settings.
pub static TABLE: Table = Table {
    prefix: PREFIX,
    config_variable: CONFIG_VARIABLE,
    trust_variable: None,
    not_ours: &[],
    lookup: "docs/cachectld-config.md lists all keys; `cachectld --check-config` shows them",
    document: "docs/cachectld-config.md",
    keys: || &KEYS,
};

/// All settings, in display order: names without a dot first, as TOML requires.
static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let of = |rows: &[&[Key]], prefixes: &'static [&'static str]| -> Vec<Key> {
        let keys = rows.iter().copied().flatten();
        keys.map(|key| Key { prefixes, ..*key }).collect()
    };
    // The CLI has the same settings for reaching a remote store: its variables are used if ours are not set.
    let shared = |rows: &'static [Key]| {
        let shared = of(&[rows], &[PREFIX, cli::PREFIX]);
        shared.into_iter().map(Key::for_daemon)
    };
    let own = |rows: &[&[Key]]| of(rows, &[PREFIX]);
    own(&[Config::ROWS])
        .into_iter()
        .chain(shared(remote::LINK))
        .chain(own(&[Tls::ROWS, parts::AUTH, parts::BUILDKIT, Otlp::ROWS]))
        .chain(shared(remote::S3_ROWS))
        .chain(shared(remote::REGISTRY_ROWS))
        .collect()
});

/// Returns true if a key takes effect at a reload; the others need a restart.
pub fn is_live(key: &str) -> bool {
    TABLE
        .find(key)
        .is_some_and(|key| key.takes_effect == TakesEffect::AtReload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique_and_none_is_foreign() {
        let mut names: Vec<String> = TABLE.keys().iter().flat_map(Key::variables).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|n| !TABLE.is_foreign(n)));
    }

    #[test]
    fn keys_of_a_group_stand_together_and_last() {
        let groups: Vec<&str> = TABLE
            .keys()
            .iter()
            .map(|k| k.name.split_once('.').map_or("", |(group, _)| group))
            .collect();
        let mut once = groups.clone();
        once.dedup();
        assert_eq!(
            once,
            ["", "tls", "auth", "buildkit", "otlp", "s3", "registry"]
        );
    }

    #[test]
    fn a_service_of_the_same_name_is_foreign() {
        for v in [
            "CACHECTLD_PORT",
            "CACHECTLD_SERVICE_HOST",
            "CACHECTLD_PORT_5000_TCP",
        ] {
            assert!(TABLE.is_foreign(v), "{v}");
        }
        assert!(!TABLE.is_foreign("CACHECTLD_STOER"));
    }

    #[test]
    fn only_what_reaches_a_store_is_shared_with_the_cli() {
        let find = |name| TABLE.find(name).unwrap().variables().collect::<Vec<_>>();
        assert_eq!(
            find("s3.region"),
            ["CACHECTLD_S3_REGION", "CACHECTL_S3_REGION"]
        );
        assert_eq!(find("store"), ["CACHECTLD_STORE"]);
    }
}

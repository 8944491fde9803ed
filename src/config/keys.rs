//! The list of all settings of the CLI, from the lines that define them: the one table that the file, the environment, the flags,
//! `cachectl env` and the reference follow.

use std::sync::LazyLock;

use super::{
    remote,
    settings::{Config, Prune},
    table::{Key, Table},
};

/// What all our variables start with.
pub const PREFIX: &str = "CACHECTL_";

/// The variable that names the settings file; not a key, since the file cannot say where it is.
pub const CONFIG_VARIABLE: &str = "CACHECTL_CONFIG";

/// The variable that makes a `cachectl.toml` in the working directory count in full.
pub const TRUST_VARIABLE: &str = "CACHECTL_TRUST_CHECKOUT";

/// The CLI's settings.
pub static TABLE: Table = Table {
    prefix: PREFIX,
    config_variable: CONFIG_VARIABLE,
    trust_variable: Some(TRUST_VARIABLE),
    // Of this project's own Makefile and tests, which may be exported around a run.
    not_ours: &["CACHECTL_TOOLS", "CACHECTL_E2E", "CACHECTL_FUZZ_SECONDS"],
    lookup: "docs/config.md lists all keys; `cachectl env` shows them",
    document: "docs/config.md",
    keys: || &KEYS,
};

/// All settings, in the order in which they are shown.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let rows = [
        Config::ROWS,
        remote::LINK,
        remote::S3_ROWS,
        remote::REGISTRY_ROWS,
        Prune::ROWS,
    ];
    let keys = rows.into_iter().flatten().map(|key| Key {
        prefixes: &[PREFIX],
        ..*key
    });
    keys.collect()
});

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    TABLE.find(name)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;

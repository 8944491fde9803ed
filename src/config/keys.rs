//! The list of all settings of the CLI, from the lines that define them: the single table behind the file, the environment, the
//! flags, `cachectl env` and the reference.

use std::sync::LazyLock;

use super::{
    remote,
    settings::{Config, Prune},
    table::{Key, Table},
};

/// Prefix of all our variables.
pub const PREFIX: &str = "CACHECTL_";

/// The variable that names the settings file; not a key, since the file cannot say where it is.
pub const CONFIG_VARIABLE: &str = "CACHECTL_CONFIG";

/// The variable that makes all keys of a `cachectl.toml` in the working directory take effect.
pub const TRUST_VARIABLE: &str = "CACHECTL_TRUST_CHECKOUT";

/// The CLI's settings.
pub static TABLE: Table = Table {
    prefix: PREFIX,
    config_variable: CONFIG_VARIABLE,
    trust_variable: Some(TRUST_VARIABLE),
    // Variables of this project's own Makefile and tests, which may be exported around a run.
    not_ours: &["CACHECTL_TOOLS", "CACHECTL_E2E", "CACHECTL_FUZZ_SECONDS"],
    lookup: "docs/config.md lists all keys; `cachectl env` shows them",
    document: "docs/config.md",
    keys: || &KEYS,
};

/// All settings, in display order.
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

//! Finds the daemon's settings file, and puts its settings together.

use std::path::{Path, PathBuf};

use super::{keys, settings::Config};
use crate::config::{Env, Layer, Loaded, Result, load::layers};

/// Name of the settings file.
pub const FILE_NAME: &str = "cachectld.toml";

/// Where it is looked for after the user's folder.
const SYSTEM_DIR: &str = "/etc/cachectl";

/// Reads the file, the environment and `flags`, and checks them. Blocks.
///
/// The file is `config_flag`, else `$CACHECTLD_CONFIG`, else `cachectld.toml` in `$XDG_CONFIG_HOME/cachectl`, else that in
/// `/etc/cachectl`; the first that there is, and only that. Not one in the working directory: a daemon has none that means
/// anything.
///
/// # Errors
/// A file that was named and is not there; unknown keys and `CACHECTLD_*` variables; values that cannot be, alone or together.
pub fn load(env: &Env, config_flag: Option<&Path>, flags: Layer) -> Result<Loaded<Config>> {
    let places: Vec<PathBuf> = env
        .config_dir()
        .into_iter()
        .chain([PathBuf::from(SYSTEM_DIR)])
        .map(|dir| dir.join(FILE_NAME))
        .collect();
    let table = &keys::TABLE;
    let (file, layer) = layers(table, env, &places, config_flag, flags)?;
    Ok(Loaded {
        config: Config::from_layer(&layer, env)?,
        layer,
        file,
        table,
    })
}

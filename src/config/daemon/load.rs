//! Finds the daemon's settings file, and combines its settings.

use std::path::{Path, PathBuf};

use super::{keys, settings::Config};
use crate::config::{
    Env, Error, Layer, Loaded, Origin, Raw, Result,
    found::{self, Checkout},
    load::overlaid,
};

/// Name of the settings file.
pub const FILE_NAME: &str = "cachectld.toml";

/// The folder that is searched after the user's folder.
const SYSTEM_DIR: &str = "/etc/cachectl";

/// Reads the file, the environment and `flags`, and checks them. Blocks.
///
/// The file is `config_flag`, else `$CACHECTLD_CONFIG`, else `cachectld.toml` in `$XDG_CONFIG_HOME/cachectl`, else that in
/// `/etc/cachectl`; only the first that exists. The working directory is not searched: for a daemon it is arbitrary, and in a CI
/// job a stranger may have written its files.
///
/// # Errors
/// A named file that does not exist; a user's own file that is part of a CI job's checkout; unknown keys, and mistyped
/// `CACHECTLD_*` variables; values that are invalid, alone or together.
pub fn load(env: &Env, config_flag: Option<&Path>, flags: Layer) -> Result<Loaded<Config>> {
    let places: Vec<PathBuf> = env
        .config_dir()
        .into_iter()
        .chain([PathBuf::from(SYSTEM_DIR)])
        .map(|dir| dir.join(FILE_NAME))
        .collect();
    let table = &keys::TABLE;
    let files = if let Some(named) = found::named(table, env, config_flag)? {
        named
    } else {
        let first = found::first_of(table, &places)?;
        refuse_checkout(env, first.file.as_deref())?;
        first
    };
    let written = files.layer.clone();
    let found = overlaid(table, env, files, flags)?;
    Ok(Loaded {
        config: Config::from_layer(&found.layer, env)?,
        hidden: written.hidden_in(&found.layer),
        layer: found.layer,
        file: found.file,
        checkout: Checkout::default(),
        unknown: found.unknown,
        unread: found.unread,
        table,
    })
}

/// Refuses a user's own file that is part of a CI job's checkout, for instance because the job's `HOME` is its workspace:
/// ignoring it would not be what the daemon's user wants, and using it would let the author of a pull request configure the
/// daemon.
fn refuse_checkout(env: &Env, file: Option<&Path>) -> Result<()> {
    let (Some(file), true) = (file, env.is_ci()) else {
        return Ok(());
    };
    let Ok(folder) = std::env::current_dir() else {
        return Ok(());
    };
    if !found::lies_in_checkout(&folder, file) {
        return Ok(());
    }
    let file = file.display();
    Err(Error::new(format!(
        "{file} is part of this CI job's checkout, so a pull request may have written it"
    ))
    .hint(format!(
        "if you trust it, start with --config {file} or set {}",
        keys::CONFIG_VARIABLE
    )))
}

/// A key whose value has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// Where it is set now.
    pub origin: Origin,
    /// Whether it takes effect without a restart.
    pub live: bool,
}

impl Loaded<Config> {
    /// The keys with different values in `new`, in the table's order.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let raw = |set: &Self, key| -> Option<Raw> { set.layer.get(key).map(|(r, _)| r.clone()) };
        let keys = keys::TABLE.keys().iter().map(|k| k.name);
        keys.filter(|key| raw(self, key) != raw(new, key))
            .map(|key| Change {
                key,
                origin: new
                    .layer
                    .get(key)
                    .map_or(Origin::Default, |(_, o)| o.clone()),
                live: keys::is_live(key),
            })
            .collect()
    }

    /// These settings, with the values from `new` for keys that may change while the daemon runs.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn renewed(&self, new: &Self, env: &Env) -> Result<Self> {
        let layer = self.layer.with(&new.layer, keys::is_live);
        Ok(Self {
            config: Config::from_layer(&layer, env)?,
            layer,
            file: new.file.clone(),
            checkout: Checkout::default(),
            unknown: Vec::new(),
            unread: Vec::new(),
            hidden: Vec::new(),
            table: self.table,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::daemon::TABLE;

    fn with(pairs: &[(&str, &str)]) -> Loaded<Config> {
        let env: Env = [("HOME", "/h")].into_iter().collect();
        let mut layer = Layer::default();
        for (name, value) in pairs {
            let key = TABLE.find(name).unwrap();
            layer.set(key, Raw::One((*value).to_owned()), Origin::Default);
        }
        Loaded {
            config: Config::from_layer(&layer, &env).unwrap(),
            layer,
            file: None,
            checkout: Checkout::default(),
            unknown: Vec::new(),
            unread: Vec::new(),
            hidden: Vec::new(),
            table: &TABLE,
        }
    }

    #[test]
    fn only_what_may_change_while_it_runs_is_renewed() {
        let env: Env = [("HOME", "/h")].into_iter().collect();
        let old = with(&[("store", "disk:/a"), ("max_requests", "7"), ("log", "warn")]);
        let new = with(&[("store", "disk:/b"), ("upload_ttl", "1h"), ("log", "debug")]);
        let changed: Vec<_> = old
            .changes(&new)
            .into_iter()
            .map(|c| (c.key, c.live))
            .collect();
        let want = [
            ("store", false),
            ("log", true),
            ("max_requests", true),
            ("upload_ttl", true),
        ];
        assert_eq!(changed, want);
        let renewed = old.renewed(&new, &env).unwrap();
        assert_eq!(renewed.config.store.0, "disk:/a");
        assert_eq!(renewed.config.log, "debug");
        assert_eq!(renewed.config.max_requests, 512);
        assert_eq!(renewed.config.upload_ttl.as_secs(), 3600);
        // What waits for a restart is said again at the next reload.
        let again: Vec<_> = renewed.changes(&new).into_iter().map(|c| c.key).collect();
        assert_eq!(again, ["store"]);
    }
}

//! Reads the environment (the only place that does), finds the settings file, and merges the layers.

use std::path::{Path, PathBuf};

use super::{
    Error, Result,
    env::Env,
    file::Unread,
    found::{self, Checkout, Found},
    keys,
    settings::Config,
    table::{Shape, Table},
    value::{self, Layer, Origin, Raw},
};

/// Settings, and the layers they come from.
#[derive(Clone)]
pub struct Loaded<C = Config> {
    /// The settings.
    pub config: C,
    /// The layers, merged.
    pub layer: Layer,
    /// The file that was named, or the user's own.
    pub file: Option<PathBuf>,
    /// The files found in the working directory, and their ignored values.
    pub checkout: Checkout,
    /// Variables with our prefix that are neither settings nor mistyped settings: those of other programs.
    pub unknown: Vec<String>,
    /// Files that were not named explicitly and could not be read.
    pub unread: Vec<Unread>,
    /// Keys of the file that a variable overrides with another value: the key, its place in the file, the variable.
    pub hidden: Vec<(&'static str, Origin, String)>,
    /// The table of all settings.
    pub table: &'static Table,
}

impl<C> std::fmt::Debug for Loaded<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Settings may be secrets.
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

impl Env {
    /// The environment of this process.
    pub fn capture() -> Self {
        std::env::vars_os().collect()
    }
}

/// Reads the files, the environment and `flags`, and checks them. Blocks.
///
/// The file is `config_flag`, else `$CACHECTL_CONFIG`. Without either, `cachectl.toml` in `folder` overrides the one in
/// `$XDG_CONFIG_HOME/cachectl`, but only for keys that a checkout may set ([`found`]).
///
/// # Errors
/// A named file that does not exist; unknown keys; mistyped `CACHECTL_*` variables ([`Table::meant_env`]), and with `strict` all
/// unknown ones; invalid values.
pub fn load(env: &Env, folder: &Path, config_flag: Option<&Path>, flags: Layer) -> Result<Loaded> {
    let table = &keys::TABLE;
    let found = match found::named(table, env, config_flag)? {
        Some(named) => named,
        None => found::here_and_own(table, env, folder)?,
    };
    let found = overlaid(table, env, found, flags)?;
    let config = Config::from_layer(&found.layer, &found.checkout.ignored, env)?;
    if config.strict {
        refuse_unknown(table, &found.unknown)?;
    }
    Ok(Loaded {
        config,
        unknown: found.unknown,
        unread: found.unread,
        layer: found.layer,
        file: found.file,
        checkout: found.checkout,
        // Jobs override a shared file by variables: `cachectl env` shows the effective values.
        hidden: Vec::new(),
        table,
    })
}

/// The files' values, overridden by the environment and `flags`.
pub(super) fn overlaid(table: &Table, env: &Env, files: Found, flags: Layer) -> Result<Found> {
    let (mut above, unknown) = env_layer(table, env)?;
    above.overlay(flags);
    let Found {
        file,
        mut checkout,
        mut layer,
        unread,
        ..
    } = files;
    // A file's value that a higher layer overrides would not have been used anyway, and switching off a flag that is not on
    // changes nothing.
    let flag = |raw: &Raw| match raw {
        Raw::One(text) => value::flag(text),
        Raw::Many(_) => None,
    };
    let is_off = |key: &str| {
        layer
            .get(key)
            .is_none_or(|(raw, _)| flag(raw) != Some(true))
    };
    (_, checkout.ignored) = checkout.ignored.partition(|key, raw| {
        let by_default = table.find(key).is_some_and(|k| k.default == "false");
        above.get(key).is_some() || by_default && flag(raw) == Some(false) && is_off(key)
    });
    layer.overlay(above);
    Ok(Found {
        file,
        checkout,
        layer,
        unknown,
        unread,
    })
}

/// Refuses variables that are not settings.
fn refuse_unknown(table: &Table, unknown: &[String]) -> Result<()> {
    let Some(name) = unknown.first() else {
        return Ok(());
    };
    Err(unknown_variable(name).hint(format!("unset it; {} lists all variables", table.document)))
}

fn unknown_variable(name: &str) -> Error {
    Error::new(format!(
        "unknown environment variable `{}`",
        name.escape_default()
    ))
}

/// The values from the environment, and the variables with our prefix that belong to other programs: `CACHECTL_VERSION` is a
/// common name for the version to install. A mistyped setting is refused: `CACHECTL_READONLY` must not let a job write.
fn env_layer(table: &Table, env: &Env) -> Result<(Layer, Vec<String>)> {
    let mut layer = Layer::default();
    let mut unknown = Vec::new();
    for name in env.names_with(table.prefix) {
        let name = name.to_string_lossy();
        if name != table.config_variable
            && table.trust_variable != Some(&*name)
            && !table.is_foreign(&name)
            && table.find_env(&name).is_none()
        {
            match table.meant_env(&name) {
                Some(near) => {
                    return Err(unknown_variable(&name).hint(format!("did you mean `{near}`?")));
                }
                None => unknown.push(name.into_owned()),
            }
        }
    }
    for key in table.keys() {
        let Some(name) = key.variables().find(|name| env.os(name).is_some()) else {
            continue;
        };
        let text = env
            .get(&name)
            .ok_or_else(|| Error::new(format!("`{name}` is not UTF-8")))?;
        layer.set(key, Raw::One(text.to_owned()), Origin::Env(name));
    }
    Ok((layer, unknown))
}

/// One setting, as shown by `cachectl env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Name of the key.
    pub key: &'static str,
    /// Its value, without secrets; the description of the default if it is not set.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl<C> Loaded<C> {
    /// Returns true if the value of that key comes from a flag.
    pub fn is_flag(&self, key: &str) -> bool {
        matches!(self.layer.get(key), Some((_, Origin::Flag(_))))
    }

    /// Keys that a settings file in the working directory sets but may not set, with their place, in the table's order.
    pub fn ignored(&self) -> Vec<(&'static str, &Origin)> {
        let keys = self.table.keys().iter();
        keys.filter_map(|key| Some((key.name, self.checkout.ignored.get(key.name)?.1)))
            .collect()
    }

    /// Every key with its value and where that came from, in the table's order.
    pub fn rows(&self) -> Vec<Row> {
        self.table
            .keys()
            .iter()
            .map(|key| {
                let (value, origin) = match self.layer.get(key.name) {
                    None => (key.default.to_owned(), Origin::Default),
                    Some((raw, origin)) => {
                        let shown = |text: &String| match key.shape {
                            Shape::Url => crate::redact::url(text),
                            Shape::Secret => "(set, not shown)".to_owned(),
                            _ => crate::redact::value(text),
                        };
                        let shown = match raw {
                            Raw::One(text) => shown(text),
                            Raw::Many(all) => all.iter().map(shown).collect::<Vec<_>>().join(", "),
                        };
                        (shown, origin.clone())
                    }
                };
                Row {
                    key: key.name,
                    value,
                    origin,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::found::FILE_NAME;

    fn env(pairs: &[(&str, &str)]) -> Env {
        [("HOME", "/home/u")].iter().chain(pairs).copied().collect()
    }

    fn load_in(folder: &Path, pairs: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded> {
        let mut layer = Layer::default();
        for (name, value) in flags {
            let key = keys::find(name).unwrap();
            layer.set(
                key,
                Raw::One((*value).to_owned()),
                Origin::Flag(format!("--{name}")),
            );
        }
        load(&env(pairs), folder, None, layer)
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join(FILE_NAME),
            "jobs = 3\nconcurrency = 3\nmax_age = 3\n",
        )
        .unwrap();
        let loaded = load_in(
            dir.path(),
            &[("CACHECTL_CONCURRENCY", "4"), ("CACHECTL_MAX_AGE", "4d")],
            &[("max_age", "5")],
        )
        .unwrap();
        assert_eq!(
            (
                loaded.config.jobs,
                loaded.config.concurrency,
                loaded.config.max_age_days
            ),
            (3, 4, 5)
        );
        let origin = |key: &str| {
            let rows = loaded.rows();
            rows.into_iter()
                .find(|r| r.key == key)
                .unwrap()
                .origin
                .to_string()
        };
        assert!(origin("jobs").ends_with("cachectl.toml:1"));
        assert_eq!(origin("concurrency"), "$CACHECTL_CONCURRENCY");
        assert_eq!(origin("max_age"), "--max_age");
        assert_eq!(origin("bandwidth"), "default");
    }

    #[test]
    fn unknown_variable_is_refused_with_the_nearest() {
        let e = load_in(Path::new("/nonexistent"), &[("CACHECTL_STOER", "x")], &[]).unwrap_err();
        assert_eq!(e.message, "unknown environment variable `CACHECTL_STOER`");
        assert_eq!(e.hint.as_deref(), Some("did you mean `CACHECTL_STORE`?"));
    }

    #[test]
    fn empty_and_foreign_variables_count_as_not_set() {
        let loaded = load_in(
            Path::new("/nonexistent"),
            &[
                ("CACHECTL_STORE", ""),
                ("CACHECTL_NONSENSE", ""),
                ("CACHECTL_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ],
            &[],
        )
        .unwrap();
        let store = ("disk:/home/u/.cache/cachectl".to_owned(), Origin::Default);
        assert_eq!(loaded.config.store, Some(store));
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let e = load(
            &env(&[("CACHECTL_CONFIG", "/nonexistent/c.toml")]),
            Path::new("/"),
            None,
            Layer::default(),
        )
        .unwrap_err();
        assert_eq!(
            e.message,
            "/nonexistent/c.toml does not exist ($CACHECTL_CONFIG)"
        );
    }

    #[test]
    fn values_that_cannot_be_name_their_origin() {
        let e = load_in(
            Path::new("/nonexistent"),
            &[("CACHECTL_BUDGET", "10x")],
            &[],
        )
        .unwrap_err();
        assert_eq!(e.message, "`budget` cannot be `10x` ($CACHECTL_BUDGET)");
        assert!(e.hint.unwrap().contains("10m"));
    }

    #[test]
    fn rows_hide_secrets_of_urls() {
        let loaded = load_in(
            Path::new("/nonexistent"),
            &[
                ("CACHECTL_STORE", "oci://bob:hunter2@reg.example/x"),
                ("CACHECTL_REGISTRY_PASSWORD", "hunter2"),
            ],
            &[],
        )
        .unwrap();
        let shown = format!("{:?} {loaded:?} {:?}", loaded.rows(), loaded.layer);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

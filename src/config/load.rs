//! Reads the environment (the only place that does), finds the settings file, and lays the layers over each other.

use std::path::{Path, PathBuf};

use super::{
    Error, Result,
    env::Env,
    file, keys,
    settings::Config,
    table::{Shape, Table},
    value::{Layer, Origin, Raw},
};

/// Name of the settings file.
pub const FILE_NAME: &str = "cachectl.toml";

/// Settings, and what they were made of.
#[derive(Clone)]
pub struct Loaded<C = Config> {
    /// The settings.
    pub config: C,
    /// The layers, merged.
    pub layer: Layer,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What can be set.
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

/// Reads the file, the environment and `flags`, and checks them. Blocks.
///
/// The file is `config_flag`, else `$CACHECTL_CONFIG`, else `cachectl.toml` in `folder`, else that in
/// `$XDG_CONFIG_HOME/cachectl`; the first that there is, and only that.
///
/// # Errors
/// A file that was named and is not there; unknown keys and `CACHECTL_*` variables; values that cannot be.
pub fn load(env: &Env, folder: &Path, config_flag: Option<&Path>, flags: Layer) -> Result<Loaded> {
    let user = env.config_dir().map(|dir| dir.join(FILE_NAME));
    let places = [Some(folder.join(FILE_NAME)), user];
    let places: Vec<PathBuf> = places.into_iter().flatten().collect();
    let table = &keys::TABLE;
    let (file, layer) = layers(table, env, &places, config_flag, flags)?;
    Ok(Loaded {
        config: Config::from_layer(&layer, env)?,
        layer,
        file,
        table,
    })
}

/// The file, the environment and `flags` of a program, laid over each other; the file is the one that is named, else the first
/// of `places` that there is.
pub(super) fn layers(
    table: &Table,
    env: &Env,
    places: &[PathBuf],
    config_flag: Option<&Path>,
    flags: Layer,
) -> Result<(Option<PathBuf>, Layer)> {
    let (file, mut layer) = file_layer(table, env, places, config_flag)?;
    layer.overlay(env_layer(table, env)?);
    layer.overlay(flags);
    Ok((file, layer))
}

fn file_layer(
    table: &Table,
    env: &Env,
    places: &[PathBuf],
    config_flag: Option<&Path>,
) -> Result<(Option<PathBuf>, Layer)> {
    let variable = table.config_variable;
    let named = config_flag
        .map(|path| (path.to_owned(), "--config".to_owned()))
        .or_else(|| Some((env.os(variable)?.into(), format!("${variable}"))));
    if let Some((path, by)) = named {
        let layer = file::read(table, &path)?
            .ok_or_else(|| Error::new(format!("{} does not exist ({by})", path.display())))?;
        return Ok((Some(path), layer));
    }
    for path in places {
        if let Some(layer) = file::read(table, path)? {
            return Ok((Some(path.clone()), layer));
        }
    }
    Ok((None, Layer::default()))
}

fn env_layer(table: &Table, env: &Env) -> Result<Layer> {
    let mut layer = Layer::default();
    for name in env.names_with(table.prefix) {
        let name = name.to_string_lossy();
        if name != table.config_variable
            && !table.is_foreign(&name)
            && table.find_env(&name).is_none()
        {
            let e = Error::new(format!(
                "unknown environment variable `{}`",
                name.escape_default()
            ));
            return Err(match table.nearest_env(&name) {
                Some(near) => e.hint(format!("did you mean `{near}`?")),
                None => e.hint(format!("unset it; {} lists all variables", table.document)),
            });
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
    Ok(layer)
}

/// One setting as `cachectl env` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Name of the key.
    pub key: &'static str,
    /// Its value, without secrets; the words of the default where it is not set.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl<C> Loaded<C> {
    /// Every key with its value and where that came from, in the table's order.
    pub fn rows(&self) -> Vec<Row> {
        self.table
            .keys()
            .iter()
            .map(|key| {
                let (value, origin) = match self.layer.get(key.name) {
                    None => (key.default.to_owned(), Origin::Default),
                    Some((raw, origin)) => {
                        let text = match raw {
                            Raw::One(text) => text.clone(),
                            Raw::Many(all) => all.join(", "),
                        };
                        let shown = match key.shape {
                            Shape::Url => crate::redact::url(&text),
                            Shape::Secret => "(set, not shown)".to_owned(),
                            _ => text,
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
        assert_eq!(loaded.config.store.0, "disk:/home/u/.cache/cachectl");
        assert_eq!(loaded.config.store.1, Origin::Default);
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

//! The settings as the program uses them: typed, checked, with defaults.

use std::{path::PathBuf, time::Duration};

use super::{
    Error, Result,
    env::Env,
    remote::{Link, Registry, S3},
    value::{Layer, Origin},
};

/// Longest name, scope or key, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// All settings. What each means is said in [`super::keys::KEYS`].
#[derive(Clone)]
pub struct Config {
    /// URL of the store, and where it came from; may hold secrets.
    pub store: (String, Origin),
    /// Name of the cache.
    pub name: Option<String>,
    /// Scope, and where it came from; `None`: from the CI system.
    pub scope: Option<(String, Origin)>,
    /// Branch whose scope is `default`.
    pub default_branch: Option<String>,
    /// Key; empty for the head.
    pub key: String,
    /// Prefixes of keys.
    pub restore_keys: Vec<String>,
    /// Globs of what is not carried.
    pub exclude: Vec<String>,
    /// Carry extended attributes.
    pub xattrs: bool,
    /// Carry owners.
    pub owner: bool,
    /// Days without use after which entries of Go caches leave.
    pub max_age_days: u32,
    /// Bytes of a snapshot's packs.
    pub max_size: Option<u64>,
    /// Write nothing to the store.
    pub read_only: bool,
    /// Trouble is an error.
    pub strict: bool,
    /// A miss is exit code 3.
    pub require_hit: bool,
    /// Budget of an operation; `None`: the verb's own, zero: none.
    pub budget: Option<Duration>,
    /// Longest silence of a request.
    pub stall: Duration,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time that one request is tried again.
    pub retry_for: Duration,
    /// Threads.
    pub jobs: usize,
    /// Requests in flight.
    pub concurrency: usize,
    /// Bytes per second.
    pub bandwidth: Option<u64>,
    /// Extra certificate authorities.
    pub ca_bundle: Option<PathBuf>,
    /// Folder of the node indexes; `None` without a home.
    pub state_dir: Option<PathBuf>,
    /// Folder for spools.
    pub temp_dir: PathBuf,
    /// Log filter.
    pub log: Option<String>,
    /// What only S3 knows.
    pub s3: S3,
    /// What only registries know.
    pub registry: Registry,
    /// What only `prune` does.
    pub prune: Prune,
}

/// Settings of `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// Age after which names go.
    pub max_age: Option<Duration>,
    /// Bytes that the store may have.
    pub max_size: Option<u64>,
    /// Newest keys that stay.
    pub keep: Option<usize>,
    /// How long a blob must have been unreachable.
    pub grace: Duration,
}

impl Config {
    /// Checks merged layers and fills in what they do not say.
    pub(super) fn from_layer(layer: &Layer, env: &Env) -> Result<Self> {
        let text = |name| Ok(layer.text(name)?.map(|(text, _)| text));
        let link = Link::from_layer(layer)?;
        Ok(Self {
            store: store(layer, env, "CACHECTL_STORE")?,
            name: label(layer, "name")?.map(|(name, _)| name),
            scope: label(layer, "scope")?,
            default_branch: text("default_branch")?,
            key: match layer.text("key")? {
                // An empty flag, as a script makes of an absent input.
                Some((text, _)) if text.is_empty() => String::new(),
                _ => label(layer, "key")?.map_or_else(String::new, |(key, _)| key),
            },
            restore_keys: layer.list("restore_keys"),
            exclude: layer.list("exclude"),
            xattrs: layer.flag("xattrs")?.unwrap_or(false),
            owner: layer.flag("owner")?.unwrap_or(false),
            max_age_days: layer.days("max_age")?.unwrap_or(7),
            max_size: layer.size("max_size")?,
            read_only: layer.flag("read_only")?.unwrap_or(false),
            strict: layer.flag("strict")?.unwrap_or(false),
            require_hit: layer.flag("require_hit")?.unwrap_or(false),
            budget: layer.duration("budget")?,
            stall: link.stall,
            connect_timeout: link.connect_timeout,
            retry_for: link.retry_for,
            jobs: layer
                .count("jobs")?
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from)),
            concurrency: layer.count("concurrency")?.unwrap_or(16),
            bandwidth: link.bandwidth,
            ca_bundle: link.ca_bundle,
            state_dir: layer.path("state_dir")?.or_else(|| env.state_dir()),
            temp_dir: layer.path("temp_dir")?.unwrap_or_else(|| env.temp_dir()),
            log: text("log")?,
            s3: S3::from_layer(layer)?,
            registry: Registry::from_layer(layer)?,
            prune: Prune {
                max_age: layer.duration("prune.max_age")?,
                max_size: layer.size("prune.max_size")?,
                keep: layer.count("prune.keep")?,
                grace: layer
                    .duration("prune.grace")?
                    .unwrap_or(Duration::from_hours(24)),
            },
        })
    }
}

/// The store's URL: as it is set, else the folder that the CLI and a daemon of the same user share.
/// `variable` would set it.
pub(super) fn store(layer: &Layer, env: &Env, variable: &str) -> Result<(String, Origin)> {
    if let Some(written) = layer.text("store")? {
        return Ok(written);
    }
    let dir = env.cache_dir().ok_or_else(|| {
        Error::new("no store is set, and without $HOME or $XDG_CACHE_HOME there is no default one")
            .hint(format!(
                "set {variable} or --store, for example to disk:/var/cache/cachectl"
            ))
    })?;
    let dir = dir.to_str().ok_or_else(|| {
        Error::new(format!(
            "the default store's path is not UTF-8: {}",
            dir.display()
        ))
        .hint(format!("set {variable} or --store"))
    })?;
    Ok((format!("disk:{dir}"), Origin::Default))
}

/// A name, scope or key: not empty, short, and fit to be printed.
fn label(layer: &Layer, name: &str) -> Result<Option<(String, Origin)>> {
    let Some((text, origin)) = layer.text(name)? else {
        return Ok(None);
    };
    let why = if text.is_empty() {
        "cannot be empty"
    } else if text.len() > MAX_NAME_BYTES {
        "is longer than 1024 bytes"
    } else if text.chars().any(char::is_control) {
        "holds control characters"
    } else {
        return Ok(Some((text, origin)));
    };
    Err(Error::new(format!("`{name}` {why} ({origin})")))
}

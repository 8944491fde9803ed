//! The settings as the program uses them: typed, checked, with defaults.

use std::{path::PathBuf, time::Duration};

use super::{
    Error, Result,
    env::Env,
    remote::{Link, Registry, S3},
    value::{Layer, Origin},
};

/// Most threads of a command, and most requests that it has in flight: a settings file of the checkout may ask for any number.
const MAX_JOBS: usize = 256;
const MAX_CONCURRENCY: usize = 1024;

/// Longest name, scope or key, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// All settings. What each means is said in [`super::keys::KEYS`].
#[derive(Clone)]
pub struct Config {
    /// URL of the store, and where it came from; may hold secrets. `None`: nothing names one but a file in the working
    /// directory, which does not count, and another store is not what anybody meant; or there is no home for the default one.
    pub store: Option<(String, Origin)>,
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
    /// Checks merged layers and fills in what they do not say; `ignored` is what a file said that does not count.
    pub(super) fn from_layer(layer: &Layer, ignored: &Layer, env: &Env) -> Result<Self> {
        let text = |name| Ok(layer.text(name)?.map(|(text, _)| text));
        let link = Link::from_layer(layer)?;
        Ok(Self {
            store: match written_store(layer)? {
                None if ["store", "daemon"].iter().any(|k| ignored.get(k).is_some()) => None,
                // For want of a home there is none, which is the environment's doing: a command that needs one says so.
                None => default_store(env, "CACHECTL_STORE")?,
                written => written,
            },
            name: label(layer, "name")?.map(|(name, _)| name),
            scope: label(layer, "scope")?,
            default_branch: text("default_branch")?,
            key: match layer.text("key")? {
                // A command that printed nothing: taken for no key, it would be a hit of something else.
                Some((text, Origin::Flag(flag))) if text.is_empty() => {
                    return Err(Error::new(format!("{flag} is empty")).hint(
                        "check the command that makes the key; without a key, leave the flag out",
                    ));
                }
                Some((text, _)) if text.is_empty() => String::new(),
                _ => label(layer, "key")?.map_or_else(String::new, |(key, _)| key),
            },
            restore_keys: restore_keys(layer)?,
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
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from))
                .min(MAX_JOBS),
            concurrency: layer
                .count("concurrency")?
                .unwrap_or(16)
                .min(MAX_CONCURRENCY),
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
    match written_store(layer)? {
        Some(written) => Ok(written),
        None => default_store(env, variable)?.ok_or_else(|| {
            Error::new(NO_HOME).hint(format!(
                "set {variable} or --store, for example to disk:/var/cache/cachectl"
            ))
        }),
    }
}

fn written_store(layer: &Layer) -> Result<Option<(String, Origin)>> {
    let store = layer.text("store")?;
    let store = store.map(|(url, origin)| (from_folder(url, &origin), origin));
    // The daemon's own table has no `daemon`.
    choose(store, layer.text("daemon")?)
}

/// The URL of a folder or socket whose path is relative to that of the file it stands in, as all paths of a file are.
fn from_folder(url: String, origin: &Origin) -> String {
    let folder = match origin {
        Origin::Checkout { path, .. } | Origin::File { path, .. } => path.parent(),
        _ => None,
    };
    let named = url.split_once(':').filter(|(scheme, path)| {
        let has_path = matches!(*scheme, "disk" | "oci-layout" | "cachectld");
        has_path && !path.is_empty() && !path.starts_with(['/', '~'])
    });
    match (folder, named) {
        (Some(folder), Some((scheme, path))) => {
            format!("{scheme}:{}", folder.join(path).display())
        }
        _ => url,
    }
}

/// Why there is no store at all.
pub const NO_HOME: &str =
    "no store is set, and without $HOME or $XDG_CACHE_HOME there is no default one";

/// `None` without a home.
fn default_store(env: &Env, variable: &str) -> Result<Option<(String, Origin)>> {
    let Some(dir) = env.cache_dir() else {
        return Ok(None);
    };
    let dir = dir.to_str().ok_or_else(|| {
        Error::new(format!(
            "the default store's path is not UTF-8: {}",
            dir.display()
        ))
        .hint(format!("set {variable} or --store"))
    })?;
    Ok(Some((format!("disk:{dir}"), Origin::Default)))
}

/// The store that is written, or the daemon that takes its place: a job's runner sets that in the environment, where there may be
/// a store for other uses. What is nearer to the command wins.
fn choose(
    store: Option<(String, Origin)>,
    daemon: Option<(String, Origin)>,
) -> Result<Option<(String, Origin)>> {
    let is_set = |(text, _): &(String, Origin)| !text.is_empty();
    let (store, (daemon, said)) = match (store, daemon) {
        (store, None) => return Ok(store),
        // A variable that was empty in `--daemon "$D"`: what else is set counts, and without that it is a mistake like `--store ''`.
        (store, Some(daemon)) if !is_set(&daemon) => {
            let is_flag = matches!(daemon.1, Origin::Flag(_));
            return Ok(store.or(Some(daemon).filter(|_| is_flag)));
        }
        (store, Some(daemon)) => (store.filter(is_set), daemon),
    };
    match &store {
        Some((_, Origin::Flag(flag))) if matches!(said, Origin::Flag(_)) => {
            return Err(Error::new(format!("{flag} and {said} name two stores")));
        }
        Some((_, origin)) if nearness(origin) > nearness(&said) => return Ok(store),
        _ => {}
    }
    let url = daemon_url(&daemon).map(|url| from_folder(url, &said));
    let url = url.ok_or_else(|| {
        let shown = crate::redact::url(&daemon);
        Error::new(format!("`daemon` cannot be `{shown}` ({said})"))
            .hint("expected the path of its socket, http://HOST:PORT or https://HOST")
    })?;
    Ok(Some((url, said)))
}

fn nearness(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Checkout { .. } => 2,
        Origin::Env(_) => 3,
        Origin::Flag(_) => 4,
    }
}

/// The store's URL of a daemon that is named by its socket's path, by a URL, or as the daemon itself says where it listens.
fn daemon_url(text: &str) -> Option<String> {
    if text.starts_with("cachectld") && text.contains(':') {
        return Some(text.to_owned());
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Some(format!("cachectld+{text}"));
    }
    let path = text.strip_prefix("unix:").unwrap_or(text);
    // A relative path is one of the working directory. With a colon it is rather a host and port, or a URL of something else.
    let is_path = path.starts_with(['/', '.']) || !path.contains(':');
    is_path.then(|| format!("cachectld:{path}"))
}

/// Prefixes of keys: one that no key can begin with would never be found, without a word.
fn restore_keys(layer: &Layer) -> Result<Vec<String>> {
    let all = layer.list("restore_keys");
    if all.iter().any(|key| key.chars().any(char::is_control)) {
        return Err(layer
            .refused("restore_keys", "holds control characters")
            .hint("give several prefixes as one --restore-key each"));
    }
    Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;

    type Written = (String, Origin);

    fn flag(text: &str) -> Written {
        (text.to_owned(), Origin::Flag("--x".to_owned()))
    }

    fn env(text: &str) -> Written {
        (text.to_owned(), Origin::Env("X".to_owned()))
    }

    fn chosen(store: impl Into<Option<Written>>, daemon: impl Into<Option<Written>>) -> String {
        choose(store.into(), daemon.into())
            .unwrap()
            .map_or_else(String::new, |(url, _)| url)
    }

    #[test]
    fn a_daemon_takes_the_place_of_a_store_that_is_not_nearer() {
        assert_eq!(chosen(env("disk:/a"), env("/d.sock")), "cachectld:/d.sock");
        assert_eq!(chosen(env("disk:/a"), flag("/d.sock")), "cachectld:/d.sock");
        assert_eq!(chosen(flag("disk:/a"), env("/d.sock")), "disk:/a");
        assert_eq!(chosen(None, env("/d.sock")), "cachectld:/d.sock");
        assert_eq!(chosen(env("disk:/a"), None), "disk:/a");
        assert_eq!(chosen(flag("disk:/a"), flag("")), "disk:/a");
        assert_eq!(chosen(flag(""), flag("/d.sock")), "cachectld:/d.sock");
        // Nothing but an empty flag: that is no URL, of whichever of them.
        for (store, daemon) in [(Some(flag("")), None), (None, Some(flag("")))] {
            assert_eq!(choose(store, daemon).unwrap(), Some(flag("")));
        }
        assert_eq!(choose(None, Some(env(""))).unwrap(), None);
        let two = choose(Some(flag("disk:/a")), Some(flag("/d.sock"))).unwrap_err();
        assert!(two.message.contains("two stores"), "{}", two.message);
    }

    #[test]
    fn a_daemon_is_named_in_many_ways() {
        for (text, url) in [
            ("/run/d.sock", "cachectld:/run/d.sock"),
            ("./d.sock", "cachectld:./d.sock"),
            ("wb/d.sock", "cachectld:wb/d.sock"),
            ("d.sock", "cachectld:d.sock"),
            ("unix:/run/d.sock", "cachectld:/run/d.sock"),
            ("cachectld:d.sock", "cachectld:d.sock"),
            ("http://h:5000", "cachectld+http://h:5000"),
            ("https://h", "cachectld+https://h"),
            ("cachectld+https://h", "cachectld+https://h"),
        ] {
            assert_eq!(daemon_url(text).as_deref(), Some(url));
        }
        for text in ["h:5000", "s3://b"] {
            assert_eq!(daemon_url(text), None);
        }
    }

    #[test]
    fn relative_paths_of_a_file_are_those_of_its_folder() {
        let file = Origin::File {
            path: "/etc/cachectl/c.toml".into(),
            line: 1,
        };
        let within = |url: &str, origin: &Origin| from_folder(url.to_owned(), origin);
        for (url, want) in [
            ("disk:store", "disk:/etc/cachectl/store"),
            ("cachectld:d.sock", "cachectld:/etc/cachectl/d.sock"),
            ("disk:/srv/x", "disk:/srv/x"),
            ("disk:~/x", "disk:~/x"),
            ("s3://b/p", "s3://b/p"),
        ] {
            assert_eq!(within(url, &file), want);
        }
        let env = Origin::Env("CACHECTL_STORE".to_owned());
        assert_eq!(within("disk:store", &env), "disk:store");
    }
}

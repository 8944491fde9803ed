//! The settings as the program uses them: typed, checked, with defaults.

use std::{path::PathBuf, time::Duration};

use super::{
    Error, Result,
    env::Env,
    remote,
    table::Flag,
    value::{Layer, Origin},
};
use crate::store::open::Options;

/// Maximum threads of a command, and maximum requests in flight: a settings file in the checkout may request any number.
const MAX_JOBS: usize = 256;
const MAX_CONCURRENCY: usize = 1024;

/// Levels above take more memory for their tables than all other buffers together.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=12;
const LEVEL: i32 = 3;

/// Longest name, scope or key, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The commands that take a flag.
const NAMED: &[&str] = &["export", "import", "env"];
const CARRIED: &[&str] = &["export", "import"];
const EXPORT: &[&str] = &["export"];
const IMPORT: &[&str] = &["import"];
const PRUNE: &[&str] = &["prune"];

settings! {
    /// All settings of the CLI.
    ///
    /// `store` comes with its origin; it may contain secrets. It is `None` if only an ignored file in the working directory names
    /// a store (the default one would not be what the author wanted), or if there is no home for the default store.
    #[derive(Clone)]
    pub struct Config by of_command, fn read(layer, ignored: &Layer, env: &Env) {
        store: Option<(String, Origin)>, "store" = (Url: store_unless_ignored(layer, ignored, env)?)
            else "disk:$XDG_CACHE_HOME/cachectl", Ignored, Flag::new("store")
            => "where caches are kept: disk:/path, oci-layout:/path, s3://bucket/prefix?region=…&endpoint=…, oci://host/repository, cachectld:/socket";
        "daemon" = (Url) else "none", Ignored, Flag::new("daemon").value("DAEMON")
            => "a daemon to use instead of a store: its socket's path, http://host:port or https://host";
        name: Option<String>, "name" = (Text: label(layer, "name")?.map(|(name, _)| name))
            else "for Go caches the main module's path", Counts, Flag::new("name").of(NAMED).value("NAME")
            => "name of the cache; folders need one";
        scope: Option<(String, Origin)>, "scope" = (Text: label(layer, "scope")?)
            else "from the CI system, else `default`", Ignored, Flag::new("scope").of(NAMED).value("SCOPE")
            => "whose cache it is: the scope that is written, and read first";
        default_branch: Option<String>, "default_branch" = text else "from the CI system, else main or master", Ignored
            => "branch whose scope is `default`, which every other scope may read";
        key: String, "key" = (Text: key(layer)?) else "none, the name's head", Counts, Flag::new("key").of(NAMED).value("KEY")
            => "key of the snapshot, such as a lock file's hash";
        restore_keys: Vec<String>, "restore_keys" = (List: restore_keys(layer)?)
            else "none", Counts, Flag::new("restore-key").of(IMPORT).value("PREFIX")
            => "fall back to the newest key with this prefix; several are tried in order";
        exclude: Vec<String>, "exclude" = list else "none", Counts, Flag::new("exclude").of(CARRIED).value("GLOB")
            => "leave out paths in a folder that match this glob, relative to the folder: `*.o`, `/out`, `tmp/`, `a/**/b`";
        xattrs: bool, "xattrs" = flag or "false", Counts, Flag::new("xattrs").of(CARRIED)
            => "carry extended attributes of a folder's files";
        owner: bool, "owner" = flag or "false", Ignored, Flag::new("owner").of(CARRIED)
            => "carry and restore owner and group of a folder's files";
        max_age_days: u32, "max_age" = days or "7d", Counts, Flag::new("max-age").of(EXPORT)
            => "drop entries of a Go cache that were not used for this many days";
        max_size: Option<u64>, "max_size" = size else "no limit", Counts, Flag::new("max-size").of(EXPORT)
            => "keep the stored packs of a snapshot below this size: of Go caches the least recently used entries are dropped, a folder above it is not stored";
        level: Option<i32>, "level" = (Text: level(layer)?) else "3", Counts, Flag::new("level").of(EXPORT).value("LEVEL")
            => "zstd level of what is stored, 1 to 12; auto: 3 or, while packs wait for a slow link, higher";
        read_only: bool, "read_only" = flag or "false", OnlyTrue, Flag::new("read-only")
            => "never write to the store: `export` does nothing; for untrusted jobs";
        strict: bool, "strict" = flag or "false", Counts, Flag::new("strict").of(CARRIED)
            => "treat cache problems and partial hits as errors (exit code 1)";
        require_hit: bool, "require_hit" = flag or "false", Counts, Flag::new("require-hit").of(IMPORT)
            => "end with exit code 3 on a miss";
        budget: Option<Duration>, "budget" = duration else "10m for an import, 30m for an export", Counts, Flag::new("budget")
            => "time limit for the operation; 0: no limit";
        jobs: usize, "jobs" = (Count: jobs(layer)?)
            else "the processors that this process may use", Counts, Flag::new("jobs").short('j')
            => "threads that pack, hash and unpack, 256 at most";
        concurrency: usize, "concurrency" = count or "16", Counts, Flag::new("concurrency").advanced()
            => "requests in flight at once, 1024 at most";
        state_dir: Option<PathBuf>, "state_dir" = (Path: layer.path("state_dir")?.or_else(|| env.state_dir()))
            else "$XDG_STATE_HOME/cachectl", Ignored
            => "folder of the node indexes, which spare an export from reading unchanged files";
        temp_dir: PathBuf, "temp_dir" = (Path: layer.path("temp_dir")?.unwrap_or_else(|| env.temp_dir()))
            else "$TMPDIR, else /var/tmp", Ignored
            => "folder for unfinished packs, where the store has none of its own";
        log: Option<String>, "log" = text else "error; -v info, -vv debug, -vvv trace", Ignored
            => "what is logged to standard error, as target=level,…";
    } and {
        /// How remote stores are reached.
        remote: Options = remote::options(layer, env)?,
        /// Settings of `prune`.
        prune: Prune = Prune::read(layer)?,
    }
}

settings! {
    /// Settings of `prune`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Prune by of_command, fn read(layer) {
        max_age: Option<Duration>, "prune.max_age" = duration else "no limit", Ignored, Flag::new("max-age").of(PRUNE)
            => "delete names that were not published for this long";
        max_size: Option<u64>, "prune.max_size" = size else "no limit", Ignored, Flag::new("max-size").of(PRUNE)
            => "delete the oldest names until the store is below this size";
        keep: Option<usize>, "prune.keep" = count else "all", Ignored, Flag::new("keep").of(PRUNE)
            => "keep the N newest keys of each name and scope, and the N newest tags of each other repository";
        grace: Duration, "prune.grace" = duration or "24h", Ignored, Flag::new("grace").of(PRUNE)
            => "delete blobs once they have been unreachable for this long";
    }
}

impl Config {
    /// Checks the merged layers and fills in defaults; `ignored` has the ignored values of files.
    pub(super) fn from_layer(layer: &Layer, ignored: &Layer, env: &Env) -> Result<Self> {
        let read = Self::read(layer, ignored, env)?;
        Ok(Self {
            jobs: read.jobs.min(MAX_JOBS),
            concurrency: read.concurrency.min(MAX_CONCURRENCY),
            ..read
        })
    }
}

/// The level; `None` for `auto`.
fn level(layer: &Layer) -> Result<Option<i32>> {
    let parse = |text: &str| match text {
        "auto" => Some(None),
        number => number
            .parse()
            .ok()
            .filter(|level| LEVELS.contains(level))
            .map(Some),
    };
    let written = layer.parsed("level", "1 to 12, or auto", parse)?;
    Ok(written.unwrap_or(Some(LEVEL)))
}

fn jobs(layer: &Layer) -> Result<usize> {
    let all = || std::thread::available_parallelism().map_or(2, usize::from);
    Ok(layer.count("jobs")?.unwrap_or_else(all))
}

/// The key; empty for the head.
fn key(layer: &Layer) -> Result<String> {
    match layer.written("key")? {
        // Probably a command that printed nothing: treating it as "no key" would hit another snapshot.
        Some((text, Origin::Flag(flag))) if text.is_empty() => {
            Err(Error::new(format!("{flag} is empty"))
                .hint("check the command that makes the key; without a key, leave the flag out"))
        }
        Some((text, _)) if text.is_empty() => Ok(text),
        _ => Ok(label(layer, "key")?.map_or_else(String::new, |(key, _)| key)),
    }
}

fn store_unless_ignored(
    layer: &Layer,
    ignored: &Layer,
    env: &Env,
) -> Result<Option<(String, Origin)>> {
    match written_store(layer)? {
        None if ["store", "daemon"].iter().any(|k| ignored.get(k).is_some()) => Ok(None),
        // Without a home there is none, which is a problem of the environment: a command that needs a store reports it.
        None => default_store(env, "CACHECTL_STORE"),
        written => Ok(written),
    }
}

/// The store's URL: as set, else the folder that the CLI and a daemon of the same user share. `variable` is the one that would
/// set it.
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
    let store = layer.written("store")?;
    let store = store.map(|(url, origin)| (from_folder(url, &origin), origin));
    // The daemon's own table has no `daemon`.
    choose(store, layer.written("daemon")?)
}

/// The URL of a folder or socket; like all paths in a file, its path is relative to the file's folder.
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

/// The message if there is no store at all.
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

/// The configured store, or the daemon to use instead: a job's runner sets the daemon in the environment, where there may also be
/// a store for other uses. The source with the higher precedence wins.
fn choose(
    store: Option<(String, Origin)>,
    daemon: Option<(String, Origin)>,
) -> Result<Option<(String, Origin)>> {
    let is_set = |(text, _): &(String, Origin)| !text.is_empty();
    let (store, (daemon, said)) = match (store, daemon) {
        (store, None) => return Ok(store),
        // An empty variable in `--daemon "$D"`: use the other setting; without one it is an error like `--store ''`.
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

/// The store URL for a daemon that is given by its socket's path, by a URL, or in the form in which the daemon itself reports its
/// listeners.
fn daemon_url(text: &str) -> Option<String> {
    if text.starts_with("cachectld") && text.contains(':') {
        return Some(text.to_owned());
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Some(format!("cachectld+{text}"));
    }
    let path = text.strip_prefix("unix:").unwrap_or(text);
    // A relative path is relative to the working directory. With a colon it is more likely a host and port, or another URL.
    let is_path = path.starts_with(['/', '.']) || !path.contains(':');
    is_path.then(|| format!("cachectld:{path}"))
}

/// Prefixes of keys: refuses those that no key can begin with, since they would silently never match.
fn restore_keys(layer: &Layer) -> Result<Vec<String>> {
    let all = layer.list("restore_keys");
    if all.iter().any(|key| key.chars().any(char::is_control)) {
        return Err(layer
            .refused("restore_keys", "contains control characters")
            .hint("give several prefixes as one --restore-key each"));
    }
    Ok(all)
}

/// A name, scope or key: not empty, not too long, and printable.
fn label(layer: &Layer, name: &str) -> Result<Option<(String, Origin)>> {
    let Some((text, origin)) = layer.written(name)? else {
        return Ok(None);
    };
    let why = if text.is_empty() {
        "cannot be empty"
    } else if text.len() > MAX_NAME_BYTES {
        "is longer than 1024 bytes"
    } else if text.chars().any(char::is_control) {
        "contains control characters"
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

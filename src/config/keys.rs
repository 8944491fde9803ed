//! The list of all settings of the CLI: the one table that the file, the environment, the flags, `cachectl env` and the
//! reference follow.

pub use super::table::{Flag, Key, Shape};
use super::table::{
    InCheckout::{self, Counts, Ignored, OnlyTrue},
    Table,
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
    keys: || KEYS,
};

/// The commands that take a flag.
const NAMED: &[&str] = &["export", "import", "env"];
const CARRIED: &[&str] = &["export", "import"];
const EXPORT: &[&str] = &["export"];
const IMPORT: &[&str] = &["import"];
const PRUNE: &[&str] = &["prune"];

const fn key(
    name: &'static str,
    shape: Shape,
    flag: Option<Flag>,
    in_checkout: InCheckout,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key {
        name,
        shape,
        flag,
        default,
        about,
        prefixes: &[PREFIX],
        in_checkout,
    }
}

/// All settings, in the order in which they are shown.
pub static KEYS: &[Key] = &[
    key(
        "store",
        Shape::Url,
        Some(Flag::new("store")),
        Ignored,
        "disk:$XDG_CACHE_HOME/cachectl",
        "where caches are kept: disk:/path, oci-layout:/path, s3://bucket/prefix?region=…&endpoint=…, oci://host/repository, cachectld:/socket",
    ),
    key(
        "daemon",
        Shape::Url,
        Some(Flag::new("daemon").value("DAEMON")),
        Ignored,
        "none",
        "a daemon that takes the place of the store: its socket's path, cachectld+http://host:port or cachectld+https://host",
    ),
    key(
        "name",
        Shape::Text,
        Some(Flag::new("name").of(NAMED).value("NAME")),
        Counts,
        "for Go caches the main module's path",
        "name of the cache; folders need one",
    ),
    key(
        "scope",
        Shape::Text,
        Some(Flag::new("scope").of(NAMED).value("SCOPE")),
        Ignored,
        "from the CI system, else `default`",
        "whose cache it is: the scope that is written, and read first",
    ),
    key(
        "default_branch",
        Shape::Text,
        None,
        Ignored,
        "from the CI system, else main or master",
        "branch whose scope is `default`, which every other scope may read",
    ),
    key(
        "key",
        Shape::Text,
        Some(Flag::new("key").of(NAMED).value("KEY")),
        Counts,
        "none, the name's head",
        "key of the snapshot, such as a lock file's hash",
    ),
    key(
        "restore_keys",
        Shape::List,
        Some(Flag::new("restore-key").of(IMPORT).value("PREFIX")),
        Counts,
        "none",
        "fall back to the newest key with this prefix; several are tried in order",
    ),
    key(
        "exclude",
        Shape::List,
        Some(Flag::new("exclude").of(CARRIED).value("GLOB")),
        Counts,
        "none",
        "leave out paths in a folder that match this glob, relative to the folder: `*.o`, `/out`, `tmp/`, `a/**/b`",
    ),
    key(
        "xattrs",
        Shape::Flag,
        Some(Flag::new("xattrs").of(CARRIED)),
        Counts,
        "false",
        "carry extended attributes of a folder's files",
    ),
    key(
        "owner",
        Shape::Flag,
        Some(Flag::new("owner").of(CARRIED)),
        Ignored,
        "false",
        "carry and restore owner and group of a folder's files",
    ),
    key(
        "max_age",
        Shape::Days,
        Some(Flag::new("max-age").of(EXPORT)),
        Counts,
        "7d",
        "drop entries of a Go cache that were not used for this many days",
    ),
    key(
        "max_size",
        Shape::Size,
        Some(Flag::new("max-size").of(EXPORT)),
        Counts,
        "no limit",
        "keep the stored packs of a snapshot below this size: of Go caches what was used longest ago leaves first, a folder above it is not stored",
    ),
    key(
        "read_only",
        Shape::Flag,
        Some(Flag::new("read-only")),
        OnlyTrue,
        "false",
        "never write to the store: `export` does nothing, for jobs that are not trusted",
    ),
    key(
        "strict",
        Shape::Flag,
        Some(Flag::new("strict").of(CARRIED)),
        Counts,
        "false",
        "treat trouble with the cache, or a partial hit, as an error (exit code 1)",
    ),
    key(
        "require_hit",
        Shape::Flag,
        Some(Flag::new("require-hit").of(IMPORT)),
        Counts,
        "false",
        "end with exit code 3 on a miss",
    ),
    key(
        "budget",
        Shape::Time,
        Some(Flag::new("budget")),
        Counts,
        "10m for an import, 30m for an export",
        "longest time that the operation may take; 0: no limit",
    ),
    key(
        "stall",
        Shape::Time,
        Some(Flag::new("stall").advanced()),
        Counts,
        "10s",
        "longest time without a byte before a request is given up and tried again",
    ),
    key(
        "connect_timeout",
        Shape::Time,
        Some(Flag::new("connect-timeout").advanced()),
        Counts,
        "5s",
        "longest time to connect to a remote store",
    ),
    key(
        "retry_for",
        Shape::Time,
        Some(Flag::new("retry-for").advanced()),
        Counts,
        "20s",
        "longest time that one request is tried again",
    ),
    key(
        "jobs",
        Shape::Count,
        Some(Flag::new("jobs").short('j')),
        Counts,
        "the processors that this process may use",
        "threads that pack, hash and unpack, 256 at most",
    ),
    key(
        "concurrency",
        Shape::Count,
        Some(Flag::new("concurrency").advanced()),
        Counts,
        "16",
        "requests in flight at once, 1024 at most",
    ),
    key(
        "bandwidth",
        Shape::Rate,
        Some(Flag::new("bandwidth").advanced()),
        Counts,
        "no limit",
        "bytes per second to and from the store, all requests together, such as 50MB/s",
    ),
    key(
        "ca_bundle",
        Shape::Path,
        Some(Flag::new("ca-bundle").value("FILE").advanced()),
        Ignored,
        "none",
        "PEM file of certificate authorities to trust besides the system's",
    ),
    key(
        "state_dir",
        Shape::Path,
        None,
        Ignored,
        "$XDG_STATE_HOME/cachectl",
        "folder of the node indexes, which spare an export from reading unchanged files",
    ),
    key(
        "temp_dir",
        Shape::Path,
        None,
        Ignored,
        "$TMPDIR, else /var/tmp",
        "folder for unfinished packs, where the store has none of its own",
    ),
    key(
        "log",
        Shape::Text,
        None,
        Ignored,
        "error; -v info, -vv debug, -vvv trace",
        "what is logged to standard error, as target=level,…",
    ),
    key(
        "s3.region",
        Shape::Text,
        None,
        Ignored,
        "from the AWS configuration",
        "region, where the URL names none",
    ),
    key(
        "s3.endpoint",
        Shape::Url,
        None,
        Ignored,
        "AWS",
        "endpoint of another S3 server, where the URL names none",
    ),
    key(
        "s3.path_style",
        Shape::Flag,
        None,
        Ignored,
        "true at endpoints that are not AWS's",
        "put the bucket into the path, not into the host name",
    ),
    key(
        "s3.anonymous",
        Shape::Flag,
        None,
        Ignored,
        "false",
        "send no credentials",
    ),
    key(
        "s3.sse",
        Shape::Text,
        None,
        Ignored,
        "the bucket's own",
        "server-side encryption: AES256 or aws:kms",
    ),
    key(
        "s3.sse_kms_key_id",
        Shape::Text,
        None,
        Ignored,
        "the account's own",
        "KMS key of `aws:kms`",
    ),
    key(
        "s3.storage_class",
        Shape::Text,
        None,
        Ignored,
        "the bucket's own",
        "storage class of what is written, such as STANDARD_IA",
    ),
    key(
        "s3.acl",
        Shape::Text,
        None,
        Ignored,
        "none",
        "canned ACL of what is written, such as bucket-owner-full-control",
    ),
    key(
        "s3.checksum",
        Shape::Text,
        None,
        Ignored,
        "auto: at AWS only",
        "when uploads carry a checksum for the server to check: auto, always or never",
    ),
    key(
        "s3.part_bytes",
        Shape::Size,
        None,
        Ignored,
        "16MiB",
        "size of one part of a big upload",
    ),
    key(
        "s3.part_concurrency",
        Shape::Count,
        None,
        Ignored,
        "8",
        "parts of one upload on their way at once",
    ),
    key(
        "registry.username",
        Shape::Text,
        None,
        Ignored,
        "from docker's configuration",
        "name to log in with; `<token>` makes the password an identity token",
    ),
    key(
        "registry.password",
        Shape::Secret,
        None,
        Ignored,
        "from docker's configuration",
        "password or token to log in with",
    ),
    key(
        "registry.password_file",
        Shape::Path,
        None,
        Ignored,
        "none",
        "file that holds the password",
    ),
    key(
        "registry.insecure",
        Shape::Flag,
        None,
        Ignored,
        "false",
        "speak plain http to hosts other than loopback too",
    ),
    key(
        "registry.chunk_bytes",
        Shape::Size,
        None,
        Ignored,
        "4MiB",
        "size of one piece, for registries that take big blobs in pieces only",
    ),
    key(
        "registry.mount_from",
        Shape::List,
        None,
        Ignored,
        "none",
        "repositories of the same registry whose blobs are mounted instead of sent",
    ),
    key(
        "prune.max_age",
        Shape::Time,
        Some(Flag::new("max-age").of(PRUNE)),
        Ignored,
        "no limit",
        "delete names that were not published for this long",
    ),
    key(
        "prune.max_size",
        Shape::Size,
        Some(Flag::new("max-size").of(PRUNE)),
        Ignored,
        "no limit",
        "delete the oldest names until the store is below this size",
    ),
    key(
        "prune.keep",
        Shape::Count,
        Some(Flag::new("keep").of(PRUNE)),
        Ignored,
        "all",
        "keep the N newest keys of each name and scope, and the N newest tags of each other repository",
    ),
    key(
        "prune.grace",
        Shape::Time,
        Some(Flag::new("grace").of(PRUNE)),
        Ignored,
        "24h",
        "delete blobs once they have been unreachable for this long",
    ),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    TABLE.find(name)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;

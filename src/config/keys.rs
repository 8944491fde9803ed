//! The list of all settings of the CLI: the one table that the file, the environment, the flags, `cachectl env` and the
//! reference follow.

use super::table::Table;
pub use super::table::{Key, Shape};

/// What all our variables start with.
pub const PREFIX: &str = "CACHECTL_";

/// The variable that names the settings file; not a key, since the file cannot say where it is.
pub const CONFIG_VARIABLE: &str = "CACHECTL_CONFIG";

/// The CLI's settings.
pub static TABLE: Table = Table {
    prefix: PREFIX,
    config_variable: CONFIG_VARIABLE,
    // Of this project's own Makefile and tests, which may be exported around a run.
    not_ours: &["CACHECTL_TOOLS", "CACHECTL_E2E", "CACHECTL_FUZZ_SECONDS"],
    lookup: "docs/config.md lists all keys; `cachectl env` shows them",
    document: "docs/config.md",
    keys: || KEYS,
};

const fn key(
    name: &'static str,
    shape: Shape,
    flag: Option<&'static str>,
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
    }
}

/// All settings, in the order in which they are shown.
pub static KEYS: &[Key] = &[
    key(
        "store",
        Shape::Url,
        Some("store"),
        "disk:$XDG_CACHE_HOME/cachectl",
        "where caches are kept: disk:/path, oci-layout:/path, s3://bucket/prefix?region=…&endpoint=…, oci://host/repository, cachectld:/socket",
    ),
    key(
        "daemon",
        Shape::Url,
        Some("daemon"),
        "none",
        "a daemon that takes the place of the store: its socket, cachectld+http://host:port or cachectld+https://host",
    ),
    key(
        "name",
        Shape::Text,
        Some("name"),
        "Go caches: the main module's path",
        "name of the cache; folders need one",
    ),
    key(
        "scope",
        Shape::Text,
        Some("scope"),
        "from the CI system, else `default`",
        "whose cache it is: the scope that is written, and read first",
    ),
    key(
        "default_branch",
        Shape::Text,
        None,
        "from the CI system, else main or master",
        "branch whose scope is `default`, which every other scope may read",
    ),
    key(
        "key",
        Shape::Text,
        Some("key"),
        "none: the name's head",
        "key of the snapshot, such as a lock file's hash",
    ),
    key(
        "restore_keys",
        Shape::List,
        Some("restore-key"),
        "none",
        "prefixes of keys that do as well, in order, the newest first within one",
    ),
    key(
        "exclude",
        Shape::List,
        Some("exclude"),
        "none",
        "globs of paths in a folder that are not carried",
    ),
    key(
        "xattrs",
        Shape::Flag,
        Some("xattrs"),
        "false",
        "carry extended attributes of a folder's files",
    ),
    key(
        "owner",
        Shape::Flag,
        Some("owner"),
        "false",
        "carry and restore owner and group of a folder's files",
    ),
    key(
        "max_age",
        Shape::Days,
        Some("max-age"),
        "7d",
        "entries of a Go cache leave after so many days without use",
    ),
    key(
        "max_size",
        Shape::Size,
        Some("max-size"),
        "no limit",
        "packs of one snapshot stay below this; of Go caches what was used longest ago leaves first, a folder above it is not exported",
    ),
    key(
        "read_only",
        Shape::Flag,
        Some("read-only"),
        "false",
        "never write to the store: for jobs that are not trusted",
    ),
    key(
        "strict",
        Shape::Flag,
        Some("strict"),
        "false",
        "trouble with the cache is an error, exit code 1, not a miss",
    ),
    key(
        "require_hit",
        Shape::Flag,
        Some("require-hit"),
        "false",
        "a miss ends with exit code 3",
    ),
    key(
        "budget",
        Shape::Time,
        Some("budget"),
        "10m for an import, 30m for an export; 0: no limit",
        "longest time that an operation may take",
    ),
    key(
        "stall",
        Shape::Time,
        Some("stall"),
        "10s",
        "longest time without a byte before a request is given up and tried again",
    ),
    key(
        "connect_timeout",
        Shape::Time,
        Some("connect-timeout"),
        "5s",
        "longest time to connect to a remote store",
    ),
    key(
        "retry_for",
        Shape::Time,
        Some("retry-for"),
        "20s",
        "longest time that one request is tried again",
    ),
    key(
        "jobs",
        Shape::Count,
        Some("jobs"),
        "the processors that this process may use",
        "threads that pack, hash and unpack",
    ),
    key(
        "concurrency",
        Shape::Count,
        Some("concurrency"),
        "16",
        "requests in flight at once",
    ),
    key(
        "bandwidth",
        Shape::Rate,
        Some("bandwidth"),
        "no limit",
        "bytes per second to and from the store, all requests together",
    ),
    key(
        "ca_bundle",
        Shape::Path,
        Some("ca-bundle"),
        "none",
        "PEM file of certificate authorities to trust besides the system's",
    ),
    key(
        "state_dir",
        Shape::Path,
        None,
        "$XDG_STATE_HOME/cachectl",
        "folder of the node indexes, which spare an export from reading unchanged files",
    ),
    key(
        "temp_dir",
        Shape::Path,
        None,
        "$TMPDIR, else /var/tmp",
        "folder for unfinished packs, where the store has none of its own",
    ),
    key(
        "log",
        Shape::Text,
        None,
        "error; -v info, -vv debug, -vvv trace",
        "what is logged to standard error, as target=level,…",
    ),
    key(
        "s3.region",
        Shape::Text,
        None,
        "from the AWS configuration",
        "region, where the URL names none",
    ),
    key(
        "s3.endpoint",
        Shape::Url,
        None,
        "AWS",
        "endpoint of another S3 server, where the URL names none",
    ),
    key(
        "s3.path_style",
        Shape::Flag,
        None,
        "true at endpoints that are not AWS's",
        "put the bucket into the path, not into the host name",
    ),
    key(
        "s3.anonymous",
        Shape::Flag,
        None,
        "false",
        "send no credentials",
    ),
    key(
        "s3.sse",
        Shape::Text,
        None,
        "the bucket's own",
        "server-side encryption: AES256 or aws:kms",
    ),
    key(
        "s3.sse_kms_key_id",
        Shape::Text,
        None,
        "the account's own",
        "KMS key of `aws:kms`",
    ),
    key(
        "s3.storage_class",
        Shape::Text,
        None,
        "the bucket's own",
        "storage class of what is written, such as STANDARD_IA",
    ),
    key(
        "s3.acl",
        Shape::Text,
        None,
        "none",
        "canned ACL of what is written, such as bucket-owner-full-control",
    ),
    key(
        "s3.checksum",
        Shape::Text,
        None,
        "auto: at AWS only",
        "when uploads carry a checksum for the server to check: auto, always or never",
    ),
    key(
        "s3.part_bytes",
        Shape::Size,
        None,
        "16MiB",
        "size of one part of a big upload",
    ),
    key(
        "s3.part_concurrency",
        Shape::Count,
        None,
        "8",
        "parts of one upload on their way at once",
    ),
    key(
        "registry.username",
        Shape::Text,
        None,
        "from docker's configuration",
        "name to log in with; `<token>` makes the password an identity token",
    ),
    key(
        "registry.password",
        Shape::Secret,
        None,
        "from docker's configuration",
        "password or token to log in with",
    ),
    key(
        "registry.password_file",
        Shape::Path,
        None,
        "none",
        "file that holds the password",
    ),
    key(
        "registry.insecure",
        Shape::Flag,
        None,
        "false",
        "speak plain http to hosts other than loopback too",
    ),
    key(
        "registry.chunk_bytes",
        Shape::Size,
        None,
        "4MiB",
        "size of one piece, for registries that take big blobs in pieces only",
    ),
    key(
        "registry.mount_from",
        Shape::List,
        None,
        "none",
        "repositories of the same registry whose blobs are mounted instead of sent",
    ),
    key(
        "prune.max_age",
        Shape::Time,
        Some("max-age"),
        "no limit",
        "`prune`: names not published for so long go",
    ),
    key(
        "prune.max_size",
        Shape::Size,
        Some("max-size"),
        "no limit",
        "`prune`: oldest names go until the store is below this",
    ),
    key(
        "prune.keep",
        Shape::Count,
        Some("keep"),
        "all",
        "`prune`: so many newest keys of each name and scope stay",
    ),
    key(
        "prune.grace",
        Shape::Time,
        Some("grace"),
        "24h",
        "`prune`: blobs go once they have been unreachable for so long",
    ),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    TABLE.find(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(Key::env).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }

    #[test]
    fn service_links_of_kubernetes_are_foreign() {
        for v in [
            "CACHECTL_SERVICE_HOST",
            "CACHECTL_SERVICE_PORT",
            "CACHECTL_SERVICE_PORT_HTTP",
            "CACHECTL_PORT",
            "CACHECTL_PORT_5000_TCP",
            "CACHECTL_PORT_5000_TCP_ADDR",
            "CACHECTL_REGISTRY_PORT_5000_TCP_PROTO",
        ] {
            assert!(TABLE.is_foreign(v), "{v}");
        }
        for v in ["CACHECTL_SCOPE", "CACHECTL_STOER", "CACHECTL_PORT_X_TCP"] {
            assert!(!TABLE.is_foreign(v), "{v}");
        }
        assert!(KEYS.iter().all(|k| !TABLE.is_foreign(&k.env())));
    }

    #[test]
    fn nearest_names_are_whole() {
        assert_eq!(
            TABLE.nearest_env("CACHECTL_STOER").as_deref(),
            Some("CACHECTL_STORE")
        );
        assert_eq!(TABLE.nearest_env("CACHECTL_QWERTYUIOP"), None);
        assert_eq!(TABLE.nearest_key("storage_class"), Some("s3.storage_class"));
    }
}

//! The list of all settings of the daemon: the one table that the file, the environment, the flags, `--help`, the start's
//! report and the reference follow.

use std::sync::LazyLock;

use crate::config::{
    keys as cli,
    table::{Flag, InCheckout, Key, Shape, Table},
};

/// What the daemon's own variables start with.
pub const PREFIX: &str = "CACHECTLD_";

/// The variable that names the settings file.
pub const CONFIG_VARIABLE: &str = "CACHECTLD_CONFIG";

/// The daemon's settings.
pub static TABLE: Table = Table {
    prefix: PREFIX,
    config_variable: CONFIG_VARIABLE,
    trust_variable: None,
    not_ours: &[],
    lookup: "docs/cachectld-config.md lists all keys; `cachectld --check-config` shows them",
    document: "docs/cachectld-config.md",
    keys: || &KEYS,
};

/// How a remote store is reached: what the CLI has too, with the same meaning, so its variables count where ours are not set.
const SHARED: [&str; 5] = [
    "bandwidth",
    "ca_bundle",
    "connect_timeout",
    "retry_for",
    "stall",
];

/// All settings, in the order in which they are shown.
static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let is_shared = |k: &&Key| {
        SHARED.contains(&k.name) || k.name.starts_with("s3.") || k.name.starts_with("registry.")
    };
    let shared = cli::KEYS.iter().filter(is_shared).map(|key| Key {
        flag: None,
        prefixes: &[PREFIX, cli::PREFIX],
        in_checkout: InCheckout::Ignored,
        ..*key
    });
    // Groups stay together: what has no dot in its name first, as TOML wants it.
    let (plain, grouped): (Vec<Key>, Vec<Key>) = shared.partition(|k| !k.name.contains('.'));
    let (own_plain, own_grouped) =
        OWN.split_at(OWN.iter().take_while(|k| !k.name.contains('.')).count());
    [own_plain, &plain, own_grouped, &grouped].concat()
});

/// Says whether a key takes effect at a reload; the others need a restart.
pub fn is_live(key: &str) -> bool {
    const LIVE: [&str; 13] = [
        "allow_path",
        "allowed_hosts",
        "client_stall",
        "drain_timeout",
        "external_url",
        "incomplete_images",
        "log",
        "max_connections",
        "max_requests",
        "max_upload_bytes",
        "max_uploads",
        "scrub_every",
        "upload_ttl",
    ];
    LIVE.contains(&key) || key.starts_with("auth.") || key.starts_with("buildkit.")
}

const fn key(
    name: &'static str,
    shape: Shape,
    flag: Option<Flag>,
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
        // A daemon's file is not looked for in a checkout.
        in_checkout: InCheckout::Ignored,
    }
}

/// What only the daemon has; what has no dot in its name comes first.
static OWN: &[Key] = &[
    key(
        "store",
        Shape::Url,
        Some(Flag::new("store")),
        "disk:$XDG_CACHE_HOME/cachectl",
        "where blobs and tags are kept: disk:/path, oci-layout:/path, s3://bucket/prefix?region=…&endpoint=…, oci://host/repository",
    ),
    key(
        "front",
        Shape::Path,
        Some(Flag::new("front")),
        "none",
        "folder that is kept in front of a remote store",
    ),
    key(
        "front_max_size",
        Shape::Size,
        Some(Flag::new("front-max-size")),
        "20GiB",
        "bytes that the folder in front may have; what was used longest ago leaves first, what the remote store lacks stays",
    ),
    key(
        "mode",
        Shape::Text,
        Some(Flag::new("mode")),
        "write-through",
        "with a folder in front: write-through (acknowledged when the remote store has it) or write-back (when the local queue has it)",
    ),
    key(
        "listen",
        Shape::List,
        Some(Flag::new("listen").value("ADDRESS")),
        "127.0.0.1:5000",
        "addresses of the doors: IP:PORT or localhost:PORT, port 0 for any; http:// or https:// in front where it is not to follow from tls.cert; `none`",
    ),
    key(
        "socket",
        Shape::Path,
        Some(Flag::new("socket")),
        "$XDG_RUNTIME_DIR/cachectld.sock, else cachectld.sock in state_dir",
        "unix socket with the same doors; `none`",
    ),
    key(
        "socket_mode",
        Shape::Text,
        Some(Flag::new("socket-mode")),
        "0600",
        "mode of the unix socket, in octal digits up to 0777: who may connect may do everything",
    ),
    key(
        "socket_group",
        Shape::Text,
        Some(Flag::new("socket-group")),
        "the daemon's own",
        "group of the unix socket, by name or number",
    ),
    key(
        "admin_listen",
        Shape::List,
        Some(Flag::new("admin-listen").value("ADDRESS")),
        "none: with the doors",
        "addresses that serve only probes and metrics, in plain http and to everybody, and take them away from the doors",
    ),
    key(
        "external_url",
        Shape::Url,
        Some(Flag::new("external-url")),
        "what each request says in Host",
        "URL at which clients see this daemon, such as https://cache.example",
    ),
    key(
        "allowed_hosts",
        Shape::List,
        None,
        "none besides loopback addresses, localhost, this machine's name and external_url's",
        "host names, without ports, by which clients at loopback addresses may call this daemon while they are trusted or `anonymous` may do anything",
    ),
    key(
        "state_dir",
        Shape::Path,
        Some(Flag::new("state")),
        "$XDG_STATE_HOME/cachectld",
        "folder for what must survive a restart: unfinished uploads, the queue, the key of tokens; one daemon each",
    ),
    key(
        "log",
        Shape::Text,
        Some(Flag::new("log")),
        "info",
        "what is logged to standard error: a level, or target=level,…",
    ),
    key(
        "log_format",
        Shape::Text,
        Some(Flag::new("log-format")),
        "text on a terminal, else json",
        "how log lines are written: text or json",
    ),
    key(
        "concurrency",
        Shape::Count,
        None,
        "512",
        "operations at the store at once",
    ),
    key(
        "max_connections",
        Shape::Count,
        Some(Flag::new("max-connections")),
        "1024, or what the limit of open files allows",
        "connections at once; more wait until others end",
    ),
    key(
        "max_requests",
        Shape::Count,
        None,
        "512",
        "requests answered at once, each of which takes up to half a MiB of memory; more wait up to 30s, then get 429",
    ),
    key(
        "client_stall",
        Shape::Time,
        None,
        "10m",
        "longest silence of a client that is uploading (408), or does not read its response (connection closed)",
    ),
    key(
        "max_uploads",
        Shape::Count,
        None,
        "2000",
        "unfinished uploads of one principal, or of one address without login; one more drops an empty one, else one that rested over 90 s, else it gets 403",
    ),
    key(
        "max_upload_bytes",
        Shape::Size,
        None,
        "64GiB",
        "bytes of all unfinished uploads of one principal, or of one address without login; one more drops an empty one, else one that rested over 90 s, else it gets 403",
    ),
    key(
        "hold",
        Shape::Time,
        None,
        "2m",
        "longest time that a request for bytes, or a push, waits for a store that is away; then it fails",
    ),
    key(
        "incomplete_images",
        Shape::Text,
        None,
        "refuse",
        "an image is pushed whose config or a layer is not stored, or with another size: refuse, or warn (log and `Warning` header)",
    ),
    key(
        "upload_ttl",
        Shape::Time,
        Some(Flag::new("upload-ttl")),
        "24h",
        "unfinished uploads are removed when nothing has come for so long",
    ),
    key(
        "scrub_every",
        Shape::Time,
        Some(Flag::new("scrub-every")),
        "1d",
        "blobs on this machine's disk are hashed again when that was not done for so long, and removed if damaged; 0: never",
    ),
    key(
        "drain_timeout",
        Shape::Time,
        Some(Flag::new("drain-timeout")),
        "25s",
        "longest time from SIGTERM to the end, for the requests and then the queue",
    ),
    key(
        "allow_path",
        Shape::Flag,
        Some(Flag::new("allow-path")),
        "false",
        "offer calls that name paths of the daemon's own machine",
    ),
    key(
        "tls.cert",
        Shape::Path,
        Some(Flag::new("tls-cert")),
        "none: plain http",
        "PEM file of the certificate, followed by those above it; read again on SIGHUP",
    ),
    key(
        "tls.key",
        Shape::Path,
        Some(Flag::new("tls-key")),
        "none",
        "PEM file of the certificate's private key",
    ),
    key(
        "tls.client_ca",
        Shape::Path,
        Some(Flag::new("tls-client-ca")),
        "none: no client is asked",
        "PEM file of the authorities whose client certificates are believed; the name in one is a principal",
    ),
    key(
        "tls.client_auth",
        Shape::Text,
        None,
        "optional",
        "with tls.client_ca: whether clients may or must show a certificate: optional or required",
    ),
    key(
        "tls.handshake_timeout",
        Shape::Time,
        None,
        "10s",
        "longest time for a TLS handshake",
    ),
    key(
        "auth.htpasswd",
        Shape::Path,
        Some(Flag::new("htpasswd")),
        "none",
        "file of users and bcrypt hashes, as `htpasswd -B` writes it",
    ),
    key(
        "auth.tokens",
        Shape::Path,
        Some(Flag::new("tokens")),
        "none",
        "file of static tokens, `name token` on each line: bearer tokens, and the name's password",
    ),
    key(
        "auth.grants",
        Shape::Rules,
        None,
        "pull and push everywhere, for whoever has shown a name",
        "who may do what, each as `ci,node-* = team/** : pull,push`; actions are pull, push, delete or `*`; `anonymous` is everybody",
    ),
    key(
        "auth.anonymous",
        Shape::Text,
        None,
        "none",
        "what everybody may do everywhere: none, pull or push (which is pull and push)",
    ),
    key(
        "auth.insecure_no_auth",
        Shape::Flag,
        Some(Flag::new("insecure-no-auth")),
        "false",
        "listen on the network although nobody has to show who they are",
    ),
    key(
        "auth.trust_local",
        Shape::Text,
        None,
        "loopback while nothing of auth.* is set and only local clients can connect, else unix",
        "clients that need not show who they are and may do everything: nobody, unix or loopback",
    ),
    key(
        "auth.offer",
        Shape::List,
        None,
        "bearer",
        "ways to log in that a 401 offers, in order: bearer, basic",
    ),
    key(
        "auth.service",
        Shape::Text,
        None,
        "cachectld",
        "name of this service in tokens",
    ),
    key(
        "auth.token_life",
        Shape::Time,
        None,
        "5m",
        "how long a token is good for; from 1m to 24h",
    ),
    key(
        "auth.refresh_life",
        Shape::Time,
        None,
        "30d",
        "how long a refresh token is good for, which `docker login` stores; 0: none are given",
    ),
    key(
        "auth.remember_password",
        Shape::Time,
        None,
        "5m",
        "how long a password that was right is not computed again",
    ),
    key(
        "auth.signing_key",
        Shape::Path,
        None,
        "a random one in state_dir",
        "file with the secret that signs tokens, at least 32 bytes; daemons behind one name need the same",
    ),
    key(
        "auth.previous_signing_key",
        Shape::Path,
        None,
        "none",
        "file with the secret before that, whose tokens are still good",
    ),
    key(
        "auth.trust_forwarded",
        Shape::Flag,
        None,
        "false",
        "believe X-Forwarded-Proto, Forwarded, and the last address in X-Forwarded-For: only behind a proxy that always sets them",
    ),
    key(
        "buildkit.merge",
        Shape::List,
        None,
        "on",
        "tags whose BuildKit cache manifests are merged: on, off, or patterns of repositories such as team/**",
    ),
    key(
        "buildkit.merge_parts",
        Shape::Count,
        None,
        "64",
        "number of distinct manifests, the newest, that are merged into one tag; values above 200 count as 200",
    ),
    key(
        "buildkit.merge_age",
        Shape::Time,
        None,
        "14d",
        "manifests that were pushed longer ago leave a merged tag",
    ),
    key(
        "buildkit.shrink_guard",
        Shape::Text,
        None,
        "warn",
        "where nothing is merged, an export that would replace a cache by a small part of it: off, warn or refuse",
    ),
    key(
        "otlp.endpoint",
        Shape::Url,
        None,
        "none: nothing is sent",
        "collector of traces and metrics, OTLP over gRPC, such as http://127.0.0.1:4317",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique_and_none_is_foreign() {
        let mut names: Vec<String> = TABLE.keys().iter().flat_map(Key::variables).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|n| !TABLE.is_foreign(n)));
    }

    #[test]
    fn keys_of_a_group_stand_together_and_last() {
        let groups: Vec<&str> = TABLE
            .keys()
            .iter()
            .map(|k| k.name.split_once('.').map_or("", |(group, _)| group))
            .collect();
        let mut once = groups.clone();
        once.dedup();
        assert_eq!(
            once,
            ["", "tls", "auth", "buildkit", "otlp", "s3", "registry"]
        );
    }

    #[test]
    fn a_service_of_the_same_name_is_foreign() {
        for v in [
            "CACHECTLD_PORT",
            "CACHECTLD_SERVICE_HOST",
            "CACHECTLD_PORT_5000_TCP",
        ] {
            assert!(TABLE.is_foreign(v), "{v}");
        }
        assert!(!TABLE.is_foreign("CACHECTLD_STOER"));
    }

    #[test]
    fn only_what_reaches_a_store_is_shared_with_the_cli() {
        let find = |name| TABLE.find(name).unwrap().variables().collect::<Vec<_>>();
        assert_eq!(
            find("s3.region"),
            ["CACHECTLD_S3_REGION", "CACHECTL_S3_REGION"]
        );
        assert_eq!(find("store"), ["CACHECTLD_STORE"]);
    }
}

//! The daemon's settings as it uses them: typed, checked, with defaults.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::address::Address;
use crate::{
    config::{Env, Layer, Origin, Result, remote, settings, table::Flag},
    ops::cache_tags,
    serve::auth,
    store::{open::Options, tiered::Mode},
};

pub(super) mod parts;

use parts::{Tls, http_url};

const MODES: [(&str, Mode); 2] = [
    ("write-through", Mode::WriteThrough),
    ("write-back", Mode::WriteBack),
];

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

settings! {
    /// All settings of the daemon.
    ///
    /// `store` comes with its origin; it may contain secrets. `listen`, `socket` and `admin_listen` may be none, and `state_dir`
    /// is absolute unless it was set otherwise. `log` is not checked yet.
    #[derive(Clone)]
    pub struct Config by of_daemon, fn read(layer, env: &Env) {
        store: (String, Origin), "store" = (Url: settings::store(layer, env, "CACHECTLD_STORE")?)
            else "disk:$XDG_CACHE_HOME/cachectl", AtRestart, Flag::new("store")
            => "where blobs and tags are kept: disk:/path, oci-layout:/path, s3://bucket/prefix?region=…&endpoint=…, oci://host/repository";
        front: Option<PathBuf>, "front" = path else "none", AtRestart, Flag::new("front")
            => "local cache directory in front of a remote store";
        front_max_size: u64, "front_max_size" = size or "20GiB", AtRestart, Flag::new("front-max-size")
            => "maximum size of the local cache directory; evicts least recently used blobs, never blobs not yet uploaded";
        mode: Mode, "mode" = (choice MODES) or "write-through", AtRestart, Flag::new("mode")
            => "with a local cache directory: write-through (acknowledge when the remote store has the data) or write-back (when the local queue has it)";
        listen: Vec<Address>, "listen" = (List: parts::listen(layer)?)
            else "127.0.0.1:5000", AtRestart, Flag::new("listen").value("ADDRESS")
            => "addresses to listen on: IP:PORT or localhost:PORT, port 0 for any free one; prefix with http:// or https:// to override what tls.cert implies; `none`";
        socket: Option<Socket>, "socket" = (Path: parts::socket(layer, env)?)
            else "$XDG_RUNTIME_DIR/cachectld.sock, else cachectld.sock in state_dir", AtRestart, Flag::new("socket")
            => "unix socket that serves the same APIs; `none`";
        "socket_mode" = (Text) else "0600", AtRestart, Flag::new("socket-mode")
            => "mode of the unix socket, in octal digits up to 0777: everyone who can connect has full rights";
        "socket_group" = (Text) else "the daemon's own", AtRestart, Flag::new("socket-group")
            => "group of the unix socket, by name or number";
        admin_listen: Vec<SocketAddr>, "admin_listen" = (List: parts::admin(layer)?)
            else "none: on the main listeners", AtRestart, Flag::new("admin-listen").value("ADDRESS")
            => "addresses that serve only probes and metrics, over plain http and to everybody; the main listeners then no longer serve them";
        "external_url" = (Url) else "the Host header of each request", AtReload, Flag::new("external-url")
            => "URL at which clients see this daemon, such as https://cache.example";
        "allowed_hosts" = (List) else "none besides loopback addresses, localhost, this machine's name and external_url's", AtReload
            => "host names, without ports, by which clients at loopback addresses may call this daemon while they are trusted or `anonymous` may do anything";
        state_dir: PathBuf, "state_dir" = (Path: parts::state_dir(layer, env)?)
            else "$XDG_STATE_HOME/cachectld", AtRestart, Flag::new("state")
            => "folder for state that must survive a restart: unfinished uploads, the queue, the token key; must not be shared between daemons";
        log: String, "log" = text or "info", AtReload, Flag::new("log")
            => "what is logged to standard error: a level, or target=level,…";
        log_format: Option<LogFormat>, "log_format" = (choice LOG_FORMATS)
            else "text on a terminal, else json", AtRestart, Flag::new("log-format")
            => "how log lines are written: text or json";
        concurrency: usize, "concurrency" = count or "512", AtRestart
            => "concurrent store operations";
        max_connections: Option<usize>, "max_connections" = count
            else "1024, or what the limit of open files allows", AtReload, Flag::new("max-connections")
            => "concurrent connections; more wait until others end";
        max_requests: usize, "max_requests" = count or "512", AtReload
            => "concurrent requests, each of which takes up to half a MiB of memory; more wait up to 30s, then get 429";
        client_stall: Duration, "client_stall" = nonzero_duration or "10m", AtReload
            => "longest time that an uploading client may send nothing (then 408), or that a client may not read its response (then the connection is closed)";
        max_uploads: usize, "max_uploads" = count or "2000", AtReload
            => "unfinished uploads of one principal, or of one address without login; beyond that a new one replaces an empty one, else one that was idle for over 90 s, else it gets 403";
        max_upload_bytes: u64, "max_upload_bytes" = size or "64GiB", AtReload
            => "bytes of all unfinished uploads of one principal, or of one address without login, and of its pushes that wait for an unreachable store; beyond that a new one replaces an empty one, else one that was idle for over 90 s, else it gets 403";
        hold: Duration, "hold" = duration or "2m", AtRestart
            => "longest time that a push or a request for content waits for an unreachable store; then it fails";
        refuse_incomplete_images: bool, "incomplete_images" = (choice [("refuse", true), ("warn", false)]) or "refuse", AtReload
            => "when an image is pushed whose config or layers are missing, or have another size: refuse, or warn (log and `Warning` header)";
        upload_ttl: Duration, "upload_ttl" = nonzero_duration or "24h", AtReload, Flag::new("upload-ttl")
            => "remove unfinished uploads that received no data for this long";
        scrub_every: Duration, "scrub_every" = duration or "1d", AtReload, Flag::new("scrub-every")
            => "hash blobs on this machine's disk again after this long, and remove damaged ones; 0: never";
        drain_timeout: Duration, "drain_timeout" = duration or "25s", AtReload, Flag::new("drain-timeout")
            => "longest time from SIGTERM to exit: first requests finish, then the queue is emptied";
        allow_path: bool, "allow_path" = flag or "false", AtReload, Flag::new("allow-path")
            => "allow calls that name paths on the daemon's own machine";
    } and {
        /// TLS for the addresses that use it.
        tls: Option<Tls> = parts::tls(layer)?,
        /// Access control; checked where its files are read.
        auth: auth::Config = parts::auth(layer)?,
        /// Handling of BuildKit's cache manifests.
        buildkit: cache_tags::Settings = parts::buildkit(layer)?,
        /// Where traces and metrics are sent.
        otlp: Otlp = Otlp::read(layer)?,
        /// How remote stores are reached.
        remote: Options = remote::options(layer, env)?,
    }
}

settings! {
    /// Where traces and metrics are sent.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Otlp by of_daemon, fn read(layer) {
        endpoint: Option<String>, "otlp.endpoint" = (Url: http_url(layer, "otlp.endpoint")?) else "none: nothing is sent", AtRestart
            => "collector of traces and metrics, OTLP over gRPC, such as http://127.0.0.1:4317";
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path; at most 107 bytes.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Its group; `None`: the daemon's own.
    pub group: Option<Group>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// By number.
    Id(u32),
    /// By name, looked up when the socket is created.
    Name(String),
}

impl Config {
    /// Checks merged layers and fills in what they do not say.
    pub(super) fn from_layer(layer: &Layer, env: &Env) -> Result<Self> {
        // Checked first: without a home every daemon lacks it, while the store may be elsewhere.
        parts::state_dir(layer, env)?;
        let config = Self::read(layer, env)?;
        config.check(layer)?;
        Ok(config)
    }

    /// Checks combinations of values that are valid by themselves.
    fn check(&self, layer: &Layer) -> Result<()> {
        if self.listen.is_empty() && self.socket.is_none() {
            return Err(layer
                .refused(
                    "listen",
                    "is `none`, and so is `socket`: nobody could connect",
                )
                .hint("leave one of them"));
        }
        if let Some((name, _)) = [
            ("front_max_size", layer.get("front_max_size").is_some()),
            ("mode", self.mode == Mode::WriteBack),
        ]
        .into_iter()
        .find(|(_, set)| *set && self.front.is_none())
        {
            return Err(layer
                .refused(
                    name,
                    "requires a local cache directory, and `front` is not set",
                )
                .hint("set `front` to a folder too"));
        }
        Ok(())
    }

    /// The effective values of keys whose default depends on the environment, as text without secrets.
    pub fn found(&self) -> Vec<(&'static str, String)> {
        let listen: Vec<String> = self.listen.iter().map(Address::to_string).collect();
        let mut found = vec![
            ("store", crate::redact::url(&self.store.0)),
            ("state_dir", self.state_dir.display().to_string()),
        ];
        if !listen.is_empty() {
            found.push(("listen", listen.join(", ")));
        }
        if let Some(socket) = &self.socket {
            found.push(("socket", socket.path.display().to_string()));
        }
        found
    }
}

#[cfg(test)]
mod tests;

//! The daemon's settings as it uses them: typed, checked, with defaults.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::address::{self, Address};
use crate::{
    config::{
        Env, Error, Layer, Origin, Result,
        remote::{Link, Registry, S3},
        settings,
    },
    ops::cache_tags,
    serve::{admission, auth, registry},
    store::{ingest::Quota, tiered::Mode},
};

mod parts;

const MODES: [(&str, Mode); 2] = [
    ("write-through", Mode::WriteThrough),
    ("write-back", Mode::WriteBack),
];

/// Where the door is without settings.
const DEFAULT_PORT: u16 = 5000;

/// All settings of the daemon.
#[derive(Clone)]
pub struct Config {
    /// URL of the store, and where it came from; may hold secrets.
    pub store: (String, Origin),
    /// Folder that is kept in front of a remote store.
    pub front: Option<PathBuf>,
    /// Bytes that the folder in front may have; `None`: as many as the store itself says.
    pub front_max_size: Option<u64>,
    /// When a write is acknowledged, with a folder in front.
    pub mode: Mode,
    /// How remote stores are reached.
    pub remote: Remote,
    /// Operations at the store at once.
    pub concurrency: usize,
    /// Addresses of the doors; empty: none.
    pub listen: Vec<Address>,
    /// The unix socket; `None`: none.
    pub socket: Option<Socket>,
    /// Addresses for probes and metrics alone; empty: they are among the doors.
    pub admin_listen: Vec<SocketAddr>,
    /// Folder for what must survive a restart. Absolute unless it was set otherwise.
    pub state_dir: PathBuf,
    /// Log filter; not checked yet.
    pub log: String,
    /// How log lines are written; `None`: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// Connections at once; `None`: as many as open files allow, at most 1024.
    pub max_connections: Option<usize>,
    /// Requests at once.
    pub max_requests: usize,
    /// Longest silence of a client in the middle of an upload, or that does not read its response.
    pub client_stall: Duration,
    /// Unfinished uploads of one caller.
    pub max_uploads: usize,
    /// Bytes of them.
    pub max_upload_bytes: u64,
    /// Longest time that a request waits for a store that is away.
    pub hold: Duration,
    /// Whether images are refused whose config or a layer is not stored.
    pub refuse_incomplete_images: bool,
    /// How long an unfinished upload may rest.
    pub upload_ttl: Duration,
    /// How long a blob on the disk goes without being hashed again; zero: for ever.
    pub scrub_every: Duration,
    /// Longest time from SIGTERM to the end.
    pub drain_timeout: Duration,
    /// Whether calls may name paths of this machine.
    pub allow_path: bool,
    /// TLS at the addresses that speak it.
    pub tls: Option<Tls>,
    /// Who may do what; checked where its files are read.
    pub auth: auth::Config,
    /// What is special to BuildKit's cache manifests.
    pub buildkit: cache_tags::Settings,
    /// Where traces and metrics are sent.
    pub otlp: Otlp,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where; at most 107 bytes.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Whose group it gets; `None`: the daemon's own.
    pub group: Option<Group>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// By number.
    Id(u32),
    /// By name, looked up when the socket is made.
    Name(String),
}

/// How remote stores are reached.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Times and rates.
    pub link: Link,
    /// What only S3 knows.
    pub s3: S3,
    /// What only registries know.
    pub registry: Registry,
}

/// TLS at the addresses that speak it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the certificate, followed by those above it.
    pub cert: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the authorities whose client certificates are believed.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_must: bool,
    /// Longest time for a handshake.
    pub handshake_timeout: Duration,
}

/// Where traces and metrics are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Otlp {
    /// URL of the collector; `None`: nothing is sent.
    pub endpoint: Option<String>,
}

impl Config {
    /// Checks merged layers and fills in what they do not say.
    pub(super) fn from_layer(layer: &Layer, env: &Env) -> Result<Self> {
        let text = |name| Ok(layer.text(name)?.map(|(text, _)| text));
        let tls = parts::tls(layer)?;
        let state_dir = match layer.path("state_dir")? {
            Some(dir) => dir,
            None => env.daemon_state_dir().ok_or_else(|| {
                Error::new("no state folder is set, and without $HOME or $XDG_STATE_HOME there is no default one")
                    .hint("set CACHECTLD_STATE_DIR or --state, for example to /var/lib/cachectld")
            })?,
        };
        let config = Self {
            store: settings::store(layer, env, "CACHECTLD_STORE")?,
            front: layer.path("front")?,
            front_max_size: layer.size("front_max_size")?,
            mode: layer.choice("mode", &MODES)?.unwrap_or(Mode::WriteThrough),
            remote: Remote {
                link: Link::from_layer(layer)?,
                s3: S3::from_layer(layer)?,
                registry: Registry::from_layer(layer)?,
            },
            concurrency: layer.count("concurrency")?.unwrap_or(512),
            listen: address::addresses(layer, "listen", tls.is_some())?.unwrap_or_else(|| {
                vec![Address {
                    socket: ([127, 0, 0, 1], DEFAULT_PORT).into(),
                    tls: tls.is_some(),
                }]
            }),
            socket: parts::socket(layer, env, &state_dir)?,
            admin_listen: parts::admin(layer)?,
            log: text("log")?.unwrap_or_else(|| "info".to_owned()),
            log_format: layer.choice(
                "log_format",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            )?,
            max_connections: layer.count("max_connections")?,
            max_requests: layer.count("max_requests")?.unwrap_or(admission::REQUESTS),
            client_stall: layer
                .nonzero_duration("client_stall")?
                .unwrap_or(admission::CLIENT_STALL),
            max_uploads: layer
                .count("max_uploads")?
                .unwrap_or(Quota::DEFAULT.uploads),
            max_upload_bytes: layer
                .size("max_upload_bytes")?
                .unwrap_or(Quota::DEFAULT.bytes),
            hold: layer.duration("hold")?.unwrap_or(registry::HOLD),
            refuse_incomplete_images: layer
                .choice("incomplete_images", &[("refuse", true), ("warn", false)])?
                .unwrap_or(true),
            upload_ttl: layer
                .nonzero_duration("upload_ttl")?
                .unwrap_or(Duration::from_hours(24)),
            scrub_every: layer
                .duration("scrub_every")?
                .unwrap_or(Duration::from_hours(24)),
            drain_timeout: layer
                .duration("drain_timeout")?
                .unwrap_or(Duration::from_secs(25)),
            allow_path: layer.flag("allow_path")?.unwrap_or(false),
            auth: parts::auth(layer)?,
            buildkit: parts::buildkit(layer)?,
            otlp: Otlp {
                endpoint: parts::http_url(layer, "otlp.endpoint")?,
            },
            state_dir,
            tls,
        };
        config.check(layer)?;
        Ok(config)
    }

    /// Checks what is right alone and wrong together.
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
                    "is about a folder in front of the store, and there is none",
                )
                .hint("set `front` to a folder too"));
        }
        Ok(())
    }

    /// What holds for keys whose default depends on where the daemon runs, as text without secrets.
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

impl Env {
    /// The daemon's folder for what must survive a restart: `$XDG_STATE_HOME/cachectld`.
    fn daemon_state_dir(&self) -> Option<PathBuf> {
        Some(self.state_dir()?.with_file_name("cachectld"))
    }
}

#[cfg(test)]
mod tests;

//! The daemon's settings as it uses them: typed, checked, with defaults.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    address::{self, Address},
    grants,
    policy::Repositories,
};
use crate::{
    config::{
        Env, Error, Layer, Origin, Result,
        remote::{Link, Registry, S3},
        settings,
    },
    serve::auth::{self, Action, Rule, Scheme, TrustLocal},
};

/// Longest path of a unix socket: `sun_path` has 108 bytes, the last of which is zero (unix(7)).
const MAX_SOCKET_BYTES: usize = 107;
/// Where the door is without settings.
const DEFAULT_PORT: u16 = 5000;

/// All settings of the daemon.
#[derive(Clone)]
pub struct Config {
    /// URL of the store, and where it came from; may hold secrets.
    pub store: (String, Origin),
    /// Folder that is kept in front of a remote store.
    pub front: Option<PathBuf>,
    /// Bytes that the folder in front may have; `None`: no limit.
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
    /// How long an unfinished upload may rest.
    pub upload_ttl: Duration,
    /// Longest time from SIGTERM to the end.
    pub drain_timeout: Duration,
    /// Whether calls may name paths of this machine.
    pub allow_path: bool,
    /// TLS at the addresses that speak it.
    pub tls: Option<Tls>,
    /// Who may do what; checked where its files are read.
    pub auth: auth::Config,
    /// What is special to BuildKit's cache manifests.
    pub buildkit: BuildKit,
    /// Where traces and metrics are sent.
    pub otlp: Otlp,
}

/// When a write is acknowledged (design §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When the remote store has it.
    WriteThrough,
    /// Blobs when the local queue has them; tags when the remote store has them, as long as it can be reached.
    WriteBack,
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

/// Policies for BuildKit's cache manifests (design §8).
#[derive(Debug, Clone)]
pub struct BuildKit {
    /// Repositories whose tags are merged.
    pub merge: Repositories,
    /// Distinct manifests that one tag keeps.
    pub merge_parts: usize,
    /// How long a manifest stays part of a tag.
    pub merge_age: Duration,
    /// What is done, where nothing is merged, about a cache that would be replaced by a small part of it.
    pub shrink_guard: ShrinkGuard,
}

/// What is done about a cache that would be replaced by a small part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShrinkGuard {
    /// Nothing.
    Off,
    /// It is logged and counted.
    Warn,
    /// It is refused.
    Refuse,
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
        let tls = tls(layer)?;
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
            mode: match layer.choice("mode", &["write-through", "write-back"])? {
                Some("write-back") => Mode::WriteBack,
                _ => Mode::WriteThrough,
            },
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
            socket: socket(layer, env, &state_dir)?,
            admin_listen: admin(layer)?,
            log: text("log")?.unwrap_or_else(|| "info".to_owned()),
            log_format: match layer.choice("log_format", &["text", "json"])? {
                Some("text") => Some(LogFormat::Text),
                Some(_) => Some(LogFormat::Json),
                None => None,
            },
            max_connections: layer.count("max_connections")?,
            max_requests: layer.count("max_requests")?.unwrap_or(512),
            upload_ttl: layer
                .nonzero_duration("upload_ttl")?
                .unwrap_or(Duration::from_hours(24)),
            drain_timeout: layer
                .duration("drain_timeout")?
                .unwrap_or(Duration::from_secs(25)),
            allow_path: layer.flag("allow_path")?.unwrap_or(false),
            auth: auth(layer)?,
            buildkit: buildkit(layer)?,
            otlp: Otlp {
                endpoint: http_url(layer, "otlp.endpoint")?,
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

fn admin(layer: &Layer) -> Result<Vec<SocketAddr>> {
    let found = address::addresses(layer, "admin_listen", false)?.unwrap_or_default();
    Ok(found.iter().map(|a| a.socket).collect())
}

fn socket(layer: &Layer, env: &Env, state_dir: &std::path::Path) -> Result<Option<Socket>> {
    if layer
        .text("socket")?
        .is_some_and(|(t, _)| t == address::NONE)
    {
        return Ok(None);
    }
    let run = || env.absolute("XDG_RUNTIME_DIR").filter(|dir| dir.is_dir());
    let path = match layer.path("socket")? {
        Some(path) => path,
        None => run()
            .unwrap_or_else(|| state_dir.to_owned())
            .join("cachectld.sock"),
    };
    if path.as_os_str().len() > MAX_SOCKET_BYTES {
        return Err(layer
            .refused(
                "socket",
                format!(
                    "cannot be {}: the path of a unix socket has at most {MAX_SOCKET_BYTES} bytes",
                    path.display()
                ),
            )
            .hint("set a shorter one, such as /run/cachectld.sock, or none"));
    }
    let mode = layer.parsed("socket_mode", "octal digits such as 0660", |text| {
        u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o777)
    })?;
    let group = layer.text("socket_group")?.map(|(group, _)| {
        let id = group.parse().ok();
        id.map_or(Group::Name(group), Group::Id)
    });
    Ok(Some(Socket {
        path,
        mode: mode.unwrap_or(0o600),
        group,
    }))
}

fn tls(layer: &Layer) -> Result<Option<Tls>> {
    let (cert, key) = (layer.path("tls.cert")?, layer.path("tls.key")?);
    let client_ca = layer.path("tls.client_ca")?;
    let client_auth = layer.choice("tls.client_auth", &["optional", "required"])?;
    if client_auth.is_some() && client_ca.is_none() {
        return Err(layer.refused("tls.client_auth", "is set without `tls.client_ca`"));
    }
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) if client_ca.is_some() => {
            return Err(layer
                .refused("tls.client_ca", "is set without `tls.cert`")
                .hint("client certificates need TLS: set `tls.cert` and `tls.key` too"));
        }
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(layer.refused("tls.cert", "is set without `tls.key`")),
        (None, Some(_)) => return Err(layer.refused("tls.key", "is set without `tls.cert`")),
    };
    let timeout = layer.nonzero_duration("tls.handshake_timeout")?;
    Ok(Some(Tls {
        cert,
        key,
        client_ca,
        client_must: client_auth == Some("required"),
        handshake_timeout: timeout.unwrap_or(Duration::from_secs(10)),
    }))
}

fn auth(layer: &Layer) -> Result<auth::Config> {
    let own = auth::Config::default();
    let mut grants = Vec::new();
    for text in layer.rules("auth.grants") {
        grants.push(grants::parse(&text).map_err(|why| {
            layer
                .refused("auth.grants", format!("cannot hold `{text}`: {why}"))
                .hint(grants::EXPECTED)
        })?);
    }
    let everybody = match layer.choice("auth.anonymous", &["none", "pull", "push"])? {
        Some("pull") => &[Action::Pull][..],
        Some("push") => &[Action::Pull, Action::Push],
        _ => &[],
    };
    if !everybody.is_empty() {
        grants.push(Rule {
            principals: vec![auth::ANONYMOUS.to_owned()],
            repositories: vec!["**".to_owned()],
            actions: everybody.to_vec(),
        });
    }
    let trust_local = layer.choice("auth.trust_local", &["nobody", "unix", "loopback"])?;
    let service = layer.text("auth.service")?.map(|(text, _)| text);
    let life = |name, default| Ok(layer.duration(name)?.unwrap_or(default));
    Ok(auth::Config {
        htpasswd: layer.path("auth.htpasswd")?,
        tokens: layer.path("auth.tokens")?,
        grants,
        trust_local: trust_local.map(|word| match word {
            "nobody" => TrustLocal::Nobody,
            "unix" => TrustLocal::Unix,
            _ => TrustLocal::Loopback,
        }),
        insecure_no_auth: layer.flag("auth.insecure_no_auth")?.unwrap_or(false),
        offer: offer(layer)?.unwrap_or(own.offer),
        external_url: http_url(layer, "external_url")?,
        trust_forwarded: layer.flag("auth.trust_forwarded")?.unwrap_or(false),
        service: service.unwrap_or(own.service),
        token_life: life("auth.token_life", own.token_life)?,
        refresh_life: life("auth.refresh_life", own.refresh_life)?,
        remember_password: life("auth.remember_password", own.remember_password)?,
        signing_key: layer.path("auth.signing_key")?,
        previous_signing_key: layer.path("auth.previous_signing_key")?,
    })
}

fn offer(layer: &Layer) -> Result<Option<Vec<Scheme>>> {
    if layer.get("auth.offer").is_none() {
        return Ok(None);
    }
    let schemes = layer
        .list("auth.offer")
        .into_iter()
        .map(|word| match word.as_str() {
            "bearer" => Ok(Scheme::Bearer),
            "basic" => Ok(Scheme::Basic),
            _ => Err(layer
                .refused("auth.offer", format!("cannot hold `{word}`"))
                .hint("expected bearer or basic")),
        });
    schemes.collect::<Result<_>>().map(Some)
}

fn buildkit(layer: &Layer) -> Result<BuildKit> {
    let guard = layer.choice("buildkit.shrink_guard", &["off", "warn", "refuse"])?;
    Ok(BuildKit {
        merge: Repositories::from_layer(layer, "buildkit.merge")?,
        merge_parts: layer.count("buildkit.merge_parts")?.unwrap_or(16),
        merge_age: layer
            .nonzero_duration("buildkit.merge_age")?
            .unwrap_or(Duration::from_hours(14 * 24)),
        shrink_guard: match guard {
            Some("off") => ShrinkGuard::Off,
            Some("refuse") => ShrinkGuard::Refuse,
            _ => ShrinkGuard::Warn,
        },
    })
}

/// A URL of http or https, without a slash at its end.
fn http_url(layer: &Layer, name: &str) -> Result<Option<String>> {
    let Some((text, _)) = layer.text(name)? else {
        return Ok(None);
    };
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') => {
            Ok(Some(text.trim_end_matches('/').to_owned()))
        }
        _ => Err(layer
            .refused(name, "is no URL of http or https")
            .hint("expected one such as https://cache.example")),
    }
}

#[cfg(test)]
mod tests;

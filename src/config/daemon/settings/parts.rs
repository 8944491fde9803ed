//! Groups of settings that belong together.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{Group, Socket};
use crate::{
    config::{
        Env, Error, Layer, Result,
        daemon::{
            address::{self, Address},
            grants, policy,
        },
        table::Flag,
    },
    ops::cache_tags::{Settings as BuildKit, ShrinkGuard},
    serve::auth::{self, Action, Config as Auth, Rule, Scheme, TrustLocal},
};

const DEFAULT_PORT: u16 = 5000;

/// Longest path of a unix socket: `sun_path` has 108 bytes, the last of which is zero (unix(7)).
const MAX_SOCKET_BYTES: usize = 107;

pub(super) fn listen(layer: &Layer) -> Result<Vec<Address>> {
    let tls = layer.get("tls.cert").is_some();
    let default = Address {
        socket: ([127, 0, 0, 1], DEFAULT_PORT).into(),
        tls,
    };
    Ok(address::addresses(layer, "listen", tls)?.unwrap_or_else(|| vec![default]))
}

pub(super) fn state_dir(layer: &Layer, env: &Env) -> Result<PathBuf> {
    let default = || Some(env.state_dir()?.with_file_name("cachectld"));
    layer.path("state_dir")?.or_else(default).ok_or_else(|| {
        Error::new(
            "no state folder is set, and without $HOME or $XDG_STATE_HOME there is no default one",
        )
        .hint("set CACHECTLD_STATE_DIR or --state, for example to /var/lib/cachectld")
    })
}

pub(super) fn admin(layer: &Layer) -> Result<Vec<SocketAddr>> {
    let found = address::addresses(layer, "admin_listen", false)?.unwrap_or_default();
    Ok(found.iter().map(|a| a.socket).collect())
}

pub(super) fn socket(layer: &Layer, env: &Env) -> Result<Option<Socket>> {
    if layer.text("socket")?.as_deref() == Some(address::NONE) {
        return Ok(None);
    }
    let run = env.absolute("XDG_RUNTIME_DIR").filter(|dir| dir.is_dir());
    let path = match (layer.path("socket")?, run) {
        (Some(path), _) => path,
        (None, Some(run)) => run.join("cachectld.sock"),
        (None, None) => state_dir(layer, env)?.join("cachectld.sock"),
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
    let group = layer.text("socket_group")?.map(|group| {
        let id = group.parse().ok();
        id.map_or(Group::Name(group), Group::Id)
    });
    Ok(Some(Socket {
        path,
        mode: mode.unwrap_or(0o600),
        group,
    }))
}

settings! {
    /// TLS for the addresses that use it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Tls by of_daemon, fn read(layer) {
        cert: PathBuf, "tls.cert" = (Path: layer.path("tls.cert")?.unwrap_or_default())
            else "none: plain http", AtRestart, Flag::new("tls-cert")
            => "PEM certificate chain, leaf first; read again on SIGHUP";
        key: PathBuf, "tls.key" = (Path: layer.path("tls.key")?.unwrap_or_default()) else "none", AtRestart, Flag::new("tls-key")
            => "PEM file of the certificate's private key";
        client_ca: Option<PathBuf>, "tls.client_ca" = path else "none: no client certificate is requested", AtRestart, Flag::new("tls-client-ca")
            => "PEM file of the authorities whose client certificates are trusted; the name in a certificate is a principal";
        client_must: bool, "tls.client_auth" = (choice [("optional", false), ("required", true)]) or "optional", AtRestart
            => "with tls.client_ca: whether a client certificate is optional or required";
        handshake_timeout: Duration, "tls.handshake_timeout" = nonzero_duration or "10s", AtRestart
            => "longest time for a TLS handshake";
    }
}

pub(super) fn tls(layer: &Layer) -> Result<Option<Tls>> {
    let is_set = |name| layer.get(name).is_some();
    for (name, needed) in [
        ("tls.client_auth", "tls.client_ca"),
        ("tls.cert", "tls.key"),
        ("tls.key", "tls.cert"),
        ("tls.client_ca", "tls.cert"),
    ] {
        if is_set(name) && !is_set(needed) {
            let refused = layer.refused(name, format!("is set without `{needed}`"));
            return Err(match name {
                "tls.client_ca" => {
                    refused.hint("client certificates need TLS: set `tls.cert` and `tls.key` too")
                }
                _ => refused,
            });
        }
    }
    is_set("tls.cert").then(|| Tls::read(layer)).transpose()
}

const LOCAL: [(&str, TrustLocal); 3] = [
    ("nobody", TrustLocal::Nobody),
    ("unix", TrustLocal::Unix),
    ("loopback", TrustLocal::Loopback),
];

settings! {
    /// Access control.
    fn auth(layer) -> Auth, rows AUTH by of_daemon {
        htpasswd, "auth.htpasswd" = path else "none", AtReload, Flag::new("htpasswd")
            => "file of users and bcrypt hashes, as `htpasswd -B` writes it";
        tokens, "auth.tokens" = path else "none", AtReload, Flag::new("tokens")
            => "file of static tokens, `name token` on each line: bearer tokens, and the name's password";
        grants, "auth.grants" = (Rules: all_grants(layer)?) else "pull and push everywhere, for everyone who has logged in", AtReload
            => "access rules such as `ci,node-* = team/** : pull,push`; actions are pull, push, delete or `*`; `anonymous` is everybody";
        "auth.anonymous" = (Text) else "none", AtReload
            => "what everybody may do everywhere: none, pull or push (which is pull and push)";
        insecure_no_auth, "auth.insecure_no_auth" = flag or "false", AtReload, Flag::new("insecure-no-auth")
            => "allow network listeners without authentication";
        trust_local, "auth.trust_local" = (choice LOCAL)
            else "loopback if no auth.* is set and only local clients can connect, else unix", AtReload
            => "clients with full rights that need not log in: nobody, unix or loopback";
        offer, "auth.offer" = (List: offer(layer)?) else "bearer", AtReload
            => "authentication schemes that a 401 offers, in order: bearer, basic";
        service, "auth.service" = text or "cachectld", AtReload
            => "name of this service in tokens";
        token_life, "auth.token_life" = duration or "5m", AtReload
            => "how long a token is valid; from 1m to 24h";
        refresh_life, "auth.refresh_life" = duration or "30d", AtReload
            => "how long a refresh token, which `docker login` stores, is valid; 0: none are issued";
        remember_password, "auth.remember_password" = duration or "5m", AtReload
            => "how long a verified password is remembered instead of being hashed again";
        signing_key, "auth.signing_key" = path else "a random one in state_dir", AtReload
            => "file with the secret that signs tokens, at least 32 bytes; daemons behind one name need the same";
        previous_signing_key, "auth.previous_signing_key" = path else "none", AtReload
            => "file with the previous secret, whose tokens are still valid";
        trust_forwarded, "auth.trust_forwarded" = flag or "false", AtReload
            => "trust X-Forwarded-Proto, Forwarded, and the last address in X-Forwarded-For: only behind a proxy that always sets them";
    } and {
        external_url = http_url(layer, "external_url")?,
        allowed_hosts = layer.list("allowed_hosts"),
        names_by_certificate = layer.get("tls.client_ca").is_some(),
    }
}

/// The rules, including those for everybody.
fn all_grants(layer: &Layer) -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for text in layer.rules("auth.grants") {
        all.push(grants::parse(&text).map_err(|why| {
            let shown = crate::redact::value(&text);
            layer
                .refused("auth.grants", format!("cannot hold `{shown}`: {why}"))
                .hint(grants::EXPECTED)
        })?);
    }
    let rights = [
        ("none", &[][..]),
        ("pull", &[Action::Pull]),
        ("push", &[Action::Pull, Action::Push]),
    ];
    let everybody = layer.choice("auth.anonymous", &rights)?.unwrap_or(&[]);
    if !everybody.is_empty() {
        all.push(Rule {
            principals: vec![auth::ANONYMOUS.to_owned()],
            repositories: vec!["**".to_owned()],
            actions: everybody.to_vec(),
        });
    }
    Ok(all)
}

fn offer(layer: &Layer) -> Result<Vec<Scheme>> {
    if layer.get("auth.offer").is_none() {
        return Ok(vec![Scheme::Bearer]);
    }
    let schemes = layer
        .list("auth.offer")
        .into_iter()
        .map(|word| match word.as_str() {
            "bearer" => Ok(Scheme::Bearer),
            "basic" => Ok(Scheme::Basic),
            word => Err(layer
                .refused(
                    "auth.offer",
                    format!("cannot hold `{}`", crate::redact::value(word)),
                )
                .hint("expected bearer or basic")),
        });
    schemes.collect()
}

const GUARDS: [(&str, ShrinkGuard); 3] = [
    ("off", ShrinkGuard::Off),
    ("warn", ShrinkGuard::Warn),
    ("refuse", ShrinkGuard::Refuse),
];

settings! {
    /// Handling of BuildKit's cache manifests.
    fn buildkit(layer) -> BuildKit, rows BUILDKIT by of_daemon {
        merge, "buildkit.merge" = (List: policy::repositories(layer, "buildkit.merge")?) else "on", AtReload
            => "tags whose BuildKit cache manifests are merged: on, off, or patterns of repositories such as team/**";
        max_parts, "buildkit.merge_parts" = count or "64", AtReload
            => "how many manifests, the newest, are merged into one tag; values above 200 count as 200";
        max_age, "buildkit.merge_age" = nonzero_duration or "14d", AtReload
            => "drop manifests from a merged tag that were pushed longer ago";
        shrink, "buildkit.shrink_guard" = (choice GUARDS) or "warn", AtReload
            => "where tags are not merged: when an export would replace a cache by a small part of it, warn, refuse, or off";
    }
}

/// An http or https URL, without a trailing slash.
pub(super) fn http_url(layer: &Layer, name: &str) -> Result<Option<String>> {
    let Some(text) = layer.text(name)? else {
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
            .refused(name, "is not an http or https URL")
            .hint("expected a URL such as https://cache.example")),
    }
}

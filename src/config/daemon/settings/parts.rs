//! Groups of settings that belong together.

use std::{net::SocketAddr, path::Path, time::Duration};

use super::{Group, Socket, Tls};
use crate::{
    config::{
        Env, Layer, Result,
        daemon::{address, grants, policy},
    },
    ops::cache_tags::{self, ShrinkGuard},
    serve::auth::{self, Action, Rule, Scheme, TrustLocal},
};

/// Longest path of a unix socket: `sun_path` has 108 bytes, the last of which is zero (unix(7)).
const MAX_SOCKET_BYTES: usize = 107;

pub(super) fn admin(layer: &Layer) -> Result<Vec<SocketAddr>> {
    let found = address::addresses(layer, "admin_listen", false)?.unwrap_or_default();
    Ok(found.iter().map(|a| a.socket).collect())
}

pub(super) fn socket(layer: &Layer, env: &Env, state_dir: &Path) -> Result<Option<Socket>> {
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

pub(super) fn tls(layer: &Layer) -> Result<Option<Tls>> {
    let (cert, key) = (layer.path("tls.cert")?, layer.path("tls.key")?);
    let client_ca = layer.path("tls.client_ca")?;
    let client_must = layer.choice(
        "tls.client_auth",
        &[("optional", false), ("required", true)],
    )?;
    if client_must.is_some() && client_ca.is_none() {
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
        client_must: client_must.unwrap_or(false),
        handshake_timeout: timeout.unwrap_or(Duration::from_secs(10)),
    }))
}

pub(super) fn auth(layer: &Layer) -> Result<auth::Config> {
    let own = auth::Config::default();
    let mut grants = Vec::new();
    for text in layer.rules("auth.grants") {
        grants.push(grants::parse(&text).map_err(|why| {
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
        grants.push(Rule {
            principals: vec![auth::ANONYMOUS.to_owned()],
            repositories: vec!["**".to_owned()],
            actions: everybody.to_vec(),
        });
    }
    let local = [
        ("nobody", TrustLocal::Nobody),
        ("unix", TrustLocal::Unix),
        ("loopback", TrustLocal::Loopback),
    ];
    let service = layer.text("auth.service")?.map(|(text, _)| text);
    let life = |name, default| Ok(layer.duration(name)?.unwrap_or(default));
    Ok(auth::Config {
        htpasswd: layer.path("auth.htpasswd")?,
        tokens: layer.path("auth.tokens")?,
        grants,
        trust_local: layer.choice("auth.trust_local", &local)?,
        insecure_no_auth: layer.flag("auth.insecure_no_auth")?.unwrap_or(false),
        offer: offer(layer)?.unwrap_or(own.offer),
        external_url: http_url(layer, "external_url")?,
        allowed_hosts: layer.list("allowed_hosts"),
        trust_forwarded: layer.flag("auth.trust_forwarded")?.unwrap_or(false),
        service: service.unwrap_or(own.service),
        token_life: life("auth.token_life", own.token_life)?,
        refresh_life: life("auth.refresh_life", own.refresh_life)?,
        remember_password: life("auth.remember_password", own.remember_password)?,
        signing_key: layer.path("auth.signing_key")?,
        previous_signing_key: layer.path("auth.previous_signing_key")?,
        names_by_certificate: layer.get("tls.client_ca").is_some(),
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
            word => Err(layer
                .refused(
                    "auth.offer",
                    format!("cannot hold `{}`", crate::redact::value(word)),
                )
                .hint("expected bearer or basic")),
        });
    schemes.collect::<Result<_>>().map(Some)
}

pub(super) fn buildkit(layer: &Layer) -> Result<cache_tags::Settings> {
    let guards = [
        ("off", ShrinkGuard::Off),
        ("warn", ShrinkGuard::Warn),
        ("refuse", ShrinkGuard::Refuse),
    ];
    let shrink = layer.choice("buildkit.shrink_guard", &guards)?;
    Ok(cache_tags::Settings {
        merge: policy::repositories(layer, "buildkit.merge")?,
        max_parts: layer.count("buildkit.merge_parts")?.unwrap_or(64),
        max_age: layer
            .nonzero_duration("buildkit.merge_age")?
            .unwrap_or(Duration::from_hours(14 * 24)),
        shrink: shrink.unwrap_or(ShrinkGuard::Warn),
    })
}

/// A URL of http or https, without a slash at its end.
pub(super) fn http_url(layer: &Layer, name: &str) -> Result<Option<String>> {
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

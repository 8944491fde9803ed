//! What a `401` tells the client about how to authenticate: `WWW-Authenticate` (RFC 9110 §11.6.1), one header for each scheme.
//!
//! containerd prefers Bearer to Basic in any order (`core/remotes/docker/auth/parse.go`); others take the first.

use axum::http::{
    HeaderMap, HeaderValue, Uri, header::HOST, request::Parts, uri::Authority as Host,
};

use super::{
    Error, Result,
    access::Access,
    config::{Config, Scheme},
    forwarded::client_spoke_https,
    grant::{Action, Actions},
    peer::{Peer, Transport},
    principal::Need,
};

/// Path of the token endpoint, below the external URL.
pub const TOKEN_PATH: &str = "/token";
/// What a user sees when asked for a password.
pub(super) const BASIC: &str = "Basic realm=\"cachectld\"";

/// What was wrong with the credentials (RFC 6750 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// There were none.
    Nothing,
    /// The token is not one of this daemon, or it has expired.
    Token,
    /// They are valid, but grant something else.
    Scope,
}

/// What challenges are made from.
pub(super) struct Challenger {
    schemes: Vec<Scheme>,
    service: String,
    external_url: Option<String>,
    trust_forwarded: bool,
}

impl Challenger {
    /// Of the schemes in `offered`, only those are used with which a client can succeed.
    ///
    /// # Errors
    /// An invalid external URL.
    pub(super) fn new(config: &Config, bearer: bool, basic: bool) -> Result<Self> {
        let can = |scheme: &Scheme| match scheme {
            Scheme::Bearer => bearer,
            Scheme::Basic => basic,
        };
        Ok(Self {
            schemes: config.offer.iter().copied().filter(can).collect(),
            service: config.service.clone(),
            external_url: config.external_url.as_deref().map(external).transpose()?,
            trust_forwarded: config.trust_forwarded,
        })
    }

    /// Returns true if there is no challenge to offer.
    pub(super) fn is_empty(&self) -> bool {
        self.schemes.is_empty()
    }

    /// The challenges for a request that needs `needs`.
    pub(super) fn challenges(
        &self,
        request: &Parts,
        peer: &Peer,
        needs: &[Need<'_>],
        wrong: Wrong,
    ) -> Vec<HeaderValue> {
        self.schemes
            .iter()
            .filter_map(|scheme| match scheme {
                Scheme::Basic => Some(HeaderValue::from_static(BASIC)),
                Scheme::Bearer => self.bearer(request, peer, needs, wrong),
            })
            .collect()
    }

    fn bearer(
        &self,
        request: &Parts,
        peer: &Peer,
        needs: &[Need<'_>],
        wrong: Wrong,
    ) -> Option<HeaderValue> {
        let realm = self.realm(request, peer)?;
        let scope = match scope(needs) {
            none if none.is_empty() => none,
            scope => format!(",scope=\"{scope}\""),
        };
        let error = match wrong {
            Wrong::Nothing => "",
            Wrong::Token => ",error=\"invalid_token\"",
            Wrong::Scope => ",error=\"insufficient_scope\"",
        };
        let service = &self.service;
        let text = format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}{error}");
        HeaderValue::from_str(&text).ok()
    }

    /// The token endpoint as this client sees it; `None` if the client does not send a host.
    fn realm(&self, request: &Parts, peer: &Peer) -> Option<String> {
        if let Some(url) = &self.external_url {
            return Some(format!("{url}{TOKEN_PATH}"));
        }
        let host = host(&request.uri, &request.headers)?;
        let forwarded = self
            .trust_forwarded
            .then(|| client_spoke_https(&request.headers));
        let https = forwarded
            .flatten()
            .unwrap_or(peer.transport == Transport::Tls);
        let scheme = if https { "https" } else { "http" };
        Some(format!("{scheme}://{host}{TOKEN_PATH}"))
    }
}

/// Host and port: `:authority` of HTTP/2, else `Host`. It becomes part of a quoted string, so anything else is rejected.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Host> {
    let named = match uri.authority() {
        Some(authority) => authority.clone(),
        None => headers.get(HOST)?.to_str().ok()?.parse().ok()?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    named.as_str().bytes().all(plain).then_some(named)
}

/// All needs, optional ones too; a push includes pull, so that one token is enough for the whole push.
fn scope(needs: &[Need<'_>]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    let mut access = Access::default();
    for need in needs.iter().filter(|n| n.repository.bytes().all(plain)) {
        if need.catalog {
            access.add_catalog();
            continue;
        }
        let actions = match need.action {
            Action::Push => Actions::of(&[Action::Pull, Action::Push]),
            other => Actions::of(&[other]),
        };
        access.add(&need.repository, actions);
    }
    access.to_scopes()
}

/// Checks the external URL and removes a trailing `/`.
fn external(url: &str) -> Result<String> {
    let wrong = || {
        Error::new(format!(
            "`auth.external_url` is not a URL such as https://cache.example: `{}`",
            crate::redact::url(url)
        ))
    };
    let parsed: Uri = url.parse().map_err(|_| wrong())?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]/~".contains(&b);
    let http = matches!(parsed.scheme_str(), Some("http" | "https"));
    if !http || parsed.host().is_none_or(str::is_empty) || !url.bytes().all(plain) {
        return Err(wrong());
    }
    Ok(url.trim_end_matches('/').to_owned())
}

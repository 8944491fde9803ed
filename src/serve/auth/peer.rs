//! The other end of a connection, as far as the connection itself identifies it.

use std::{net::IpAddr, sync::Arc};

use axum::http::{Extensions, HeaderMap};

use crate::serve::admission::Key;
/// Headers that proxies add to forwarded requests. Each of them only reduces trust, so it does not matter who wrote it.
const FORWARDED: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-real-ip",
];

/// Where the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    /// At our unix socket: the file's mode and group decide who can connect.
    Unix,
    /// On this machine (or in this pod).
    Loopback,
    /// Anywhere else.
    Remote,
}

/// How the bytes are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Not at all.
    Plain,
    /// TLS that is terminated here.
    Tls,
}

/// The other end of a connection; the daemon puts it into each request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub kind: PeerKind,
    /// How it is protected.
    pub transport: Transport,
    /// The name in its certificate, verified by TLS; `None` without one.
    pub certificate: Option<Arc<str>>,
    /// Its address; `None` at the unix socket, and if it is unknown.
    pub address: Option<IpAddr>,
}

impl Peer {
    /// At a unix socket.
    pub fn unix() -> Self {
        Self::plain(PeerKind::Unix)
    }

    /// At an address, without TLS.
    pub fn tcp(ip: IpAddr) -> Self {
        // A socket for both address families shows 127.0.0.1 as ::ffff:127.0.0.1.
        let kind = if ip.to_canonical().is_loopback() {
            PeerKind::Loopback
        } else {
            PeerKind::Remote
        };
        Self {
            address: Some(ip),
            ..Self::plain(kind)
        }
    }

    fn plain(kind: PeerKind) -> Self {
        Self {
            kind,
            transport: Transport::Plain,
            certificate: None,
            address: None,
        }
    }

    /// The same over TLS, with the name in the verified client certificate, if any.
    #[must_use]
    pub fn over_tls(mut self, certificate: Option<Arc<str>>) -> Self {
        self.transport = Transport::Tls;
        self.certificate = certificate;
        self
    }

    /// The peer of a request; if none was set, the least trusted one.
    pub fn of(extensions: &Extensions) -> Self {
        let found = extensions.get::<Self>().cloned();
        found.unwrap_or_else(|| Self::plain(PeerKind::Remote))
    }

    /// Which caller the connection is accounted to.
    pub fn key(&self) -> Key {
        match self.address {
            Some(ip) => Key::address(ip),
            None if self.kind == PeerKind::Unix => Key::Socket,
            None => Key::Unknown,
        }
    }

    /// Which caller a request is accounted to, until its sender is authenticated. With `trust_forwarded` this is the last
    /// address in `X-Forwarded-For`, which the proxy in front of us has written; the earlier ones can be forged.
    pub(super) fn caller(&self, headers: &HeaderMap, trust_forwarded: bool) -> Key {
        let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
        let forwarded = forwarded.filter(|_| trust_forwarded);
        let last = forwarded.and_then(|v| v.to_str().ok()?.rsplit(',').next());
        let ip = last.and_then(|ip| ip.trim().parse().ok());
        ip.map_or_else(|| self.key(), Key::address)
    }

    /// Where the client is: a proxy on this machine that forwards requests acts for a client elsewhere.
    pub(super) fn origin(&self, headers: &HeaderMap) -> PeerKind {
        if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
            PeerKind::Remote
        } else {
            self.kind
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(Peer::tcp(ip.parse().unwrap()).kind, PeerKind::Loopback);
        }
        for ip in ["10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "::", "fe80::1"] {
            assert_eq!(Peer::tcp(ip.parse().unwrap()).kind, PeerKind::Remote);
        }
    }

    #[test]
    fn request_without_a_peer_is_remote() {
        assert_eq!(Peer::of(&Extensions::new()).kind, PeerKind::Remote);
    }

    #[test]
    fn forwarded_address_counts_only_from_a_trusted_proxy_and_only_the_last() {
        let key = |ip: &str| Key::address(ip.parse().unwrap());
        let peer = Peer::tcp("192.0.2.1".parse().unwrap());
        let mut headers = HeaderMap::new();
        assert_eq!(peer.caller(&headers, true), key("192.0.2.1"));
        for forwarded in ["10.9.9.9", "10.0.0.1, 10.0.0.2"] {
            headers.append("x-forwarded-for", forwarded.parse().unwrap());
        }
        assert_eq!(peer.caller(&headers, true), key("10.0.0.2"));
        assert_eq!(peer.caller(&headers, false), key("192.0.2.1"));
        headers.append("x-forwarded-for", "unknown".parse().unwrap());
        assert_eq!(peer.caller(&headers, true), key("192.0.2.1"));
        assert_eq!(Peer::unix().caller(&headers, false), Key::Socket);
    }

    #[test]
    fn whoever_is_forwarded_is_remote() {
        assert_eq!(Peer::unix().origin(&HeaderMap::new()), PeerKind::Unix);
        for name in FORWARDED {
            let headers = [(name.parse().unwrap(), "x".parse().unwrap())];
            let headers: HeaderMap = headers.into_iter().collect();
            assert_eq!(Peer::unix().origin(&headers), PeerKind::Remote, "{name}");
        }
    }
}
